"""Real processes: what a node does with jobs that are not fedrec's own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from fedrec.data.partitions import partition
from fedrec.deploy.demo import Stage, staged
from fedrec.network.nvflare.admin import admin_session
from fedrec.network.nvflare.post import job_files

_PATIENCE = 60.0


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    data = fr.load_data("synthetic:users=200,items=50,interactions_per_user=10,seed=1")
    folder = tmp_path_factory.mktemp("stage")
    with staged(folder, data, partition(data, "hash", 2, 1), 1024) as running:
        yield running


def ended(session: Any, job: str) -> str:
    """How a job ended."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        status = str(session.get_job_meta(job).get("status"))
        if status.startswith("FINISHED") or "FAILED" in status:
            return status
        time.sleep(0.5)
    session.abort_job(job)
    raise AssertionError(f"job {job} did not end: {status}")


def written(folder: Path, nodes: list[str], **changes: str) -> Path:
    for name, text in {**job_files(nodes, "1"), **changes}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def logs(stage: Stage, name: str) -> str:
    place = stage.folder / name / "home" / "nvflare"
    return "".join(path.read_text(errors="replace") for path in place.rglob("*.txt"))


@pytest.mark.slow
def test_jobs_with_code_and_jobs_of_other_classes_are_refused_at_the_node(stage: Stage, tmp_path: Path) -> None:
    nodes = sorted(stage.federation.nodes)
    canary = tmp_path / "canary"
    code = f"from pathlib import Path\nPath({str(canary)!r}).write_text('ran')\n\n\nclass Mailbox:\n    pass\n"
    client = json.loads(job_files(nodes, "1")["app/config/config_fed_client.json"])
    client["components"][0]["path"] = "intruder.Mailbox"
    with_code = written(
        tmp_path / "code",
        nodes,
        **{"app/custom/intruder.py": code, "app/config/config_fed_client.json": json.dumps(client)},
    )
    client["components"][0]["path"] = "subprocess.Popen"
    client["components"][0]["args"] = {"args": ["touch", str(canary)]}
    other_class = written(tmp_path / "class", nodes, **{"app/config/config_fed_client.json": json.dumps(client)})
    session = admin_session(stage.federation.admin_kit)
    try:
        folders = ((with_code, "BYOC"), (other_class, "not authorized"))
        jobs = [session.submit_job(str(folder)) for folder, _ in folders]
        for (folder, words), job in zip(folders, jobs, strict=True):
            status = ended(session, job)
            assert "COMPLETED" not in status, folder.name
            assert not canary.exists(), folder.name
            said = logs(stage, "server") + "".join(logs(stage, node) for node in nodes)
            server = stage.federation.path / "nvflare"
            said += "".join(path.read_text(errors="replace") for path in server.rglob("*.txt"))
            assert words.lower() in said.lower(), (status, folder.name)
    finally:
        session.close()
    for process in stage.processes.values():
        assert process.poll() is None
