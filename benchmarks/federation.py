"""What a federation costs on this machine: real processes, NVFlare, mutual TLS; and what the cost model predicted.

    python benchmarks/federation.py                # 2, 5, 10 and 20 nodes, ease and mf, plain and secure: 20 minutes
    python benchmarks/federation.py --nodes 2,5    # fewer; other points of the report stay as they are

Every node is its owner's process and NVFlare's two; all share this machine, so nodes wait for each other's cores.
Bytes are those of frames as the coordinator counts them, and beside them what the sockets carried, with TLS and all
else. Results go to `benchmarks/.work/federation.json` and `.md`. All processes are stopped at the end, also after
Ctrl-C. `fedrec bench transport` times a sum of 1 MB alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cost_model import predicted
from federation_tables import markdown
from fedrec.benchmarks.timing import machine
from fedrec.data.catalog import Catalog
from fedrec.data.partitions import partition
from fedrec.data.sources import load_source
from fedrec.deploy.demo import Stage, staged
from processes import Watch, interruptible, stop

HERE = Path(__file__).parent
USERS, ITEMS, LENGTH = 8_000, 1_000, 50
SOURCE = f"synthetic:users={USERS},items={ITEMS},interactions_per_user={LENGTH}"
WARM, ROUNDS = 3, 15
MODELS = {"ease": {}, "mf": {"rounds": ROUNDS, "embedding_size": 64}}
N_MAX = 8192


@contextmanager
def federation(nodes: int, source: str, folder: Path) -> Iterator[tuple[Stage, Watch, float]]:
    """Nodes and server, connected; with the seconds that took."""
    data = load_source(source).interactions
    places = partition(data, "hash", nodes, 0)
    owners: dict[str, list[int]] = {}
    began = time.perf_counter()
    with staged(folder, data, places, N_MAX) as stage:
        up = time.perf_counter() - began
        for name, process in stage.processes.items():
            owners["coordinator" if name == "server" else name] = [process.pid]
        roots = [pid for pids in owners.values() for pid in pids]
        try:
            with Watch(owners, stage.federation.port) as watch:
                yield stage, watch, up
        finally:
            left = stop(roots)
            if left:
                print(f"had to be killed: {', '.join(sorted(set(left)))}", file=sys.stderr)


def train(
    stage: Stage, watch: Watch, name: str, settings: dict[str, Any], secure: bool, more: list[str]
) -> dict[str, Any]:
    """One run by the ordinary command, in a process of its own; its report, and what was used meanwhile."""
    out = stage.folder / f"{name}-{'secure' if secure else 'plain'}"
    command = [sys.executable, "-m", "fedrec", "train", "--federation", str(stage.federation.path), "--model", name]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command += ["--out", str(out), "--json", "--quiet", *more, *(["--secure"] if secure else [])]
    for use in watch.uses.values():
        use.clear()
    start, began = watch.marks(), time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch.owners["coordinator"].append(process.pid)
    marks: dict[int, Any] = {}
    follower = threading.Thread(target=_follow, args=(out / "progress.jsonl", process, watch, marks), daemon=True)
    follower.start()
    try:
        answer, said = process.communicate(timeout=900)
    finally:
        if process.poll() is None:
            stop([process.pid])
    follower.join()
    watch.look()
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit(f"{name}: {said.strip()}")
    return {"report": json.loads(answer), "start": start, "marks": marks, "end": watch.marks(), "seconds": seconds,
            "rounds": [json.loads(line) for line in (out / "progress.jsonl").read_text().splitlines()]}  # fmt: skip


def _follow(path: Path, process: subprocess.Popen[str], watch: Watch, marks: dict[int, Any]) -> None:
    """Mark what was used when the warm-up is over and when the last round is."""
    while process.poll() is None:
        count = len(path.read_bytes().splitlines()) if path.exists() else 0
        for due in (WARM, ROUNDS):
            if count >= due and due not in marks:
                marks[due] = time.perf_counter(), watch.marks()
        time.sleep(0.02)


def figures(
    nodes: int, name: str, secure: bool, found: dict[str, Any], watch: Watch, catalog: Catalog
) -> dict[str, Any]:
    """One row: medians over nodes and rounds, peaks over nodes."""
    report, start, end = found["report"], found["start"], found["end"]
    members = sorted(report["federation"]["nodes"])
    traffic = report["federation"]["traffic"]
    times = [line["seconds"] for line in found["rounds"]]
    steady = np.diff(times)[WARM - 1 :]
    (_, first), (_, last) = found["marks"].get(WARM, (0, start)), found["marks"].get(ROUNDS, (0, end))
    rounds = ROUNDS - WARM if ROUNDS in found["marks"] and WARM in found["marks"] else 1

    def used(place: int, names: list[str]) -> float:
        return float(np.median([last[one][place] - first[one][place] for one in names])) / rounds

    uses = [watch.uses[one] for one in members]
    most = max(uses, key=lambda use: use.pss)
    coordinator = watch.uses["coordinator"]
    return {
        "nodes": nodes, "model": name, "secure": secure, "rounds": report["rounds"],
        "round_seconds": float(np.median(steady)) if len(steady) else times[0],
        "seconds": found["seconds"], "training_seconds": report["seconds"],
        "node_up": int(np.median([traffic[one]["up"] for one in members])),
        "node_down": int(np.median([traffic[one]["down"] for one in members])),
        "wire_up": int(np.median([end[one][1] - start[one][1] for one in members])),
        "wire_down": int(np.median([end[one][2] - start[one][2] for one in members])),
        "node_cpu": used(0, members), "coordinator_cpu": used(0, ["coordinator"]),
        "node_pss": most.pss, "node_rss": max(use.rss for use in uses), "node_kinds": most.kinds,
        "coordinator_pss": coordinator.pss, "coordinator_rss": coordinator.rss, "coordinator_kinds": coordinator.kinds,
        "metrics": report["metrics"].get("test", {}),
        "predicted": predicted(name, MODELS[name], secure, nodes, catalog, N_MAX),
    }  # fmt: skip


def study(counts: list[int], models: list[str], save: Any) -> list[dict[str, Any]]:
    """All rows; a federation per number of nodes."""
    rows: list[dict[str, Any]] = []
    for nodes in counts:
        folder = Path(tempfile.mkdtemp(prefix=f"fedrec-{nodes}-"))
        try:
            with federation(nodes, SOURCE, folder / "f") as (stage, watch, up):
                for name in models:
                    for secure in (False, True) if nodes >= 3 else (False,):
                        found = train(stage, watch, name, MODELS[name], secure, ["--seed", "0"])
                        row = {
                            **figures(nodes, name, secure, found, watch, stage.federation.catalog),
                            "up_seconds": up,
                            "load": os.getloadavg()[0],
                        }
                        rows.append(row)
                        print(json.dumps(row), file=sys.stderr, flush=True)
                        save(rows)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return rows


def point(row: dict[str, Any]) -> tuple[str, bool, int]:
    """Which of the points of the study a row is."""
    return row["model"], row["secure"], row["nodes"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="2,5,10,20", help="numbers of nodes")
    parser.add_argument("--models", default="ease,mf")
    parser.add_argument("--out", type=Path, default=HERE / ".work")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    place, file = machine(), given.out / "federation.json"
    earlier = json.loads(file.read_text())["rows"] if file.exists() else []

    def save(rows: list[dict[str, Any]]) -> None:
        new = {point(row) for row in rows}
        rows = sorted([*rows, *(row for row in earlier if point(row) not in new)], key=point)
        report = {"machine": place, "source": SOURCE, "rounds": [WARM, ROUNDS], "rows": rows}
        file.write_text(json.dumps(report, indent=1) + "\n")
        (given.out / "federation.md").write_text(markdown(report))

    with interruptible():
        study([int(count) for count in given.nodes.split(",")], given.models.split(","), save)
    print((given.out / "federation.md").read_text())


if __name__ == "__main__":
    main()
