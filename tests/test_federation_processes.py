"""A federation of real processes on this machine: nodes that die, a coordinator that dies, what may be found where, and
what a node does with jobs that are not fedrec's own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from federation_in_test import Replayed
from fedrec.data.interactions import Interactions
from fedrec.deploy.demo import Stage, staged
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, read_plan
from fedrec.network.nvflare.admin import admin_session
from fedrec.network.nvflare.post import job_files
from fedrec.record.ledger import Ledger

pytest.importorskip("nvflare")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # what NVFlare's own threads warn of

MARK = "FEDREC_TEST_MARK"
CANARY = "canary-7c1e"
TITLE = "The Yellow Bird of 7c1e"
OWN_ITEM = "unlisted-7c1e"
NODES = 3
ROUNDS = 8
TIME, JOB_TIME = 240.0, 60.0


@dataclass
class Scene:
    """Processes, whose users are where, and the mark in the environment of all that was started."""

    stage: Stage
    data: dict[str, Interactions]
    mark: str

    def train(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        """`fedrec train` as a process of its own."""
        plan = [] if "--resume" in words else ["--plan", str(self.stage.folder / "plan")]
        command = [
            "train",
            "--federation",
            str(self.stage.federation.path),
            *plan,
            "--out",
            str(self.run(name)),
            *words,
        ]
        with (self.stage.folder / f"{name}.said").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "fedrec", *command], stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.stage.folder / name

    def said(self, name: str) -> str:
        """What the command printed."""
        return (self.stage.folder / f"{name}.said").read_text(errors="replace")

    def rounds(self, name: str) -> int:
        """How many rounds are committed so far."""
        path = self.run(name) / "ledger.jsonl"
        return path.read_text().count('"kind":"round"') if path.exists() else 0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    made = fr.load_data("synthetic:users=240,items=60,interactions_per_user=12,seed=3").to_frame()
    users = made.select("user_id", "item_id", "timestamp").with_columns(
        pl.format(f"{CANARY}-{{}}", "user_id").alias("user_id")
    )
    data = fr.interactions_from(users.to_dict(as_series=False))
    places = np.arange(data.n_users) % NODES
    mine = {f"node-{place}": data.take_users(np.flatnonzero(places == place)) for place in range(NODES)}
    folder = tmp_path_factory.mktemp("federation")
    plan = {"data": {"source": "federation"}, "model": {"name": "mf", "embedding_size": 4, "rounds": ROUNDS}, "seed": 5}
    (folder / "plan").write_text(Plan.make(plan).to_yaml())
    try:
        with staged(folder, data, places, 1024) as stage:
            yield Scene(stage, mine, mark)
        assert left_running(mark) == {}
    finally:
        del os.environ[MARK]


def left_running(mark: str) -> dict[int, str]:
    """Processes with the mark in their environment, after a moment to end in."""
    until = time.monotonic() + 10.0
    while True:
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                ended = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if f"{MARK}={mark}".encode() in (path / "environ").read_bytes().split(b"\0") and not ended:
                    found[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        found.pop(os.getpid(), None)
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.5)


def assert_right(scene: Scene, name: str) -> list[list[str]]:
    """Every round is the sum over the nodes that the ledger names; returns these."""
    rounds = Ledger(scene.run(name) / "ledger.jsonl", rooted=True).of_kind("round")
    plan = read_plan(scene.run(name))
    assert [line["round"] for line in rounds] == list(range(ROUNDS))
    who = [line["nodes"] for line in rounds]
    agreement = Agreement.of(plan, scene.data["node-0"].catalog)
    twin_run, shown = Run(plan, None), SimpleNamespace(plan=plan, agreement=agreement, data=scene.data, measured={})
    nodes = Replayed(shown, who)  # type: ignore[arg-type]
    Coordinator(agreement, nodes, twin_run, False).train()
    for line, due in zip(rounds, twin_run.ledger.of_kind("round"), strict=True):
        assert (line["model"], line["cohort"]) == (due["model"], due["cohort"]), f"round {line['round']}"
    return who


def until_rounds(scene: Scene, name: str, process: subprocess.Popen[bytes], count: int) -> None:
    until = time.monotonic() + TIME
    while scene.rounds(name) < count:
        assert process.poll() is None, scene.said(name)
        assert time.monotonic() < until, scene.said(name)
        time.sleep(0.005)


def test_no_user_is_found_outside_the_nodes(scene: Scene) -> None:
    """After a secure run: in no log of NVFlare's, in no file of the coordinator's, in no file beside a node's own."""
    process = scene.train("secure", "--secure")
    assert process.wait(TIME) == 0, scene.said("secure")
    assert assert_right(scene, "secure") == [sorted(scene.data)] * ROUNDS
    found = []
    for path in scene.stage.folder.rglob("*"):
        inside = path.relative_to(scene.stage.folder).parts
        own = inside[0] in scene.data and (inside[1:3] in (("home", "runs"), ("home", "models")) or len(inside) == 2)
        if path.is_file() and not own and CANARY.encode() in path.read_bytes():
            found.append(path)
    assert not found
    assert any(CANARY.encode() in path.read_bytes() for path in (scene.stage.folder / "node-0").glob("*.parquet"))


@pytest.mark.exhaustive
def test_a_node_that_is_killed_and_back_changes_only_who_is_in_the_sum(scene: Scene) -> None:
    process = scene.train("killed")
    until_rounds(scene, "killed", process, 2)
    node = scene.stage.processes["node-1"]
    node.send_signal(signal.SIGKILL)
    node.wait()
    scene.stage.start_node("node-1")
    assert process.wait(TIME) == 0, scene.said("killed")
    who = assert_right(scene, "killed")
    assert all({"node-0", "node-2"} <= set(names) for names in who)
    scene.stage.wait(sorted(scene.data))


@pytest.mark.exhaustive
def test_a_coordinator_that_is_killed_goes_on_to_the_same_bytes(scene: Scene) -> None:
    whole = scene.train("whole")
    assert whole.wait(TIME) == 0, scene.said("whole")
    process = scene.train("again")
    until_rounds(scene, "again", process, 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = scene.train("again", "--resume")
    assert again.wait(TIME) == 0, scene.said("again")
    assert_right(scene, "again")
    for name in ("model/shared.safetensors", "model/model.json", "plan.yaml"):
        assert (scene.run("again") / name).read_bytes() == (scene.run("whole") / name).read_bytes(), name


# --- jobs that are not fedrec's own -----------------------------------------------------------------------------------


def ended(session: Any, job: str) -> str:
    """How a job ended."""
    until = time.monotonic() + JOB_TIME
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


def logs(stage: Stage) -> dict[Path, str]:
    """What NVFlare's programs wrote so far at the server and at every node."""
    homes = [stage.federation.path / "nvflare", *(stage.folder / name / "home" for name in stage.federation.nodes)]
    return {path: path.read_text(errors="replace") for home in homes for path in home.rglob("*.txt")}


def test_jobs_with_code_and_jobs_of_other_classes_are_refused_at_the_node(scene: Scene, tmp_path: Path) -> None:
    stage = scene.stage
    nodes = sorted(stage.federation.nodes)[:1]  # as every other node, and each starts a process for a job
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
        before = logs(stage)
        jobs = [session.submit_job(str(folder)) for folder, _ in folders]
        for (folder, words), job in zip(folders, jobs, strict=True):
            status = ended(session, job)
            assert "COMPLETED" not in status, folder.name
            assert not canary.exists(), folder.name
            said = "".join(text[len(before.get(path, "")) :] for path, text in logs(stage).items())
            assert words.lower() in said.lower(), (status, folder.name)
    finally:
        session.close()
    for process in stage.processes.values():
        assert process.poll() is None
