"""fedrec against named peers, in turns, on the same task and in the same minutes: prints ratios.

    python benchmarks/run.py --quick

Run it with an interpreter that has fedrec. Each peer gets a virtual environment of its own under `benchmarks/.venvs`,
made from `benchmarks/constraints-PEER.txt` the first time. Results go to `benchmarks/.work/results.json` and `.md`.
See `docs/benchmarks.md` for what each peer's task includes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.benchmarks.catalogue import benchmark, default_source
from fedrec.benchmarks.timing import Timing, machine
from fedrec.errors import suggestion
from tables import markdown

HERE = Path(__file__).parent
ANSWER = "ANSWER "
SCRIPTS = {
    "loop": "loop.py",
    "loop-lean": "loop.py",
    "pfl": "pfl_rounds.py",
    "flwr": "flwr_rounds.py",
    "implicit": "central.py",
}
NAMES = {
    "loop": "PyTorch, one client after the other, as published",
    "loop-lean": "the same, drawing negatives from one copy",
    "pfl": "pfl 0.6.0",
    "flwr": "flwr[simulation] 1.41.0",
}
OURS_PER_TURN = 5


class Talk:
    """A process that does one piece of work per line and times it by its own clock."""

    def __init__(self, command: list[str]) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        # PYTHONPATH would let our packages into a peer's environment.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.log, text=True, env=environment)
        self._answer()

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                return json.loads(line.removeprefix(ANSWER))
        self.log.seek(0)
        sys.exit(f"{' '.join(self.process.args)} ended:\n{self.log.read()[-3000:]}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()


@contextmanager
def talking(command: list[str]) -> Iterator[Talk]:
    talk = Talk(command)
    try:
        yield talk
    finally:
        talk.close()


def environment(peer: str) -> Path:
    """The interpreter of a peer, in an environment that is made anew when its constraints change."""
    name = peer.partition("-")[0]
    wanted = HERE / f"constraints-{name}.txt"
    folder = HERE / ".venvs" / name
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    ready, python = folder / ".ready", folder / "bin" / "python"
    if not ready.exists() or ready.read_text() != digest:
        tell(f"{peer}: making its environment")
        venv.create(folder, with_pip=True, symlinks=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", wanted], check=True)
        ready.write_text(digest)
    return python


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Pairs:
    """Times of ours and theirs taken in turns, one pair per turn."""

    ours: list[dict[str, Any]]
    theirs: list[dict[str, Any]]

    def facts(self) -> dict[str, Any]:
        """Both medians and the median, least and largest ratio of a pair."""
        ours, theirs = ([turn["seconds"] for turn in side] for side in (self.ours, self.theirs))
        ratios = np.array(theirs) / np.array(ours)
        cpu = None
        if all("cpu" in turn for turn in self.ours + self.theirs):
            cpu = {name: float(np.median([turn["cpu"] for turn in side])) for name, side in vars(self).items()}
        return {
            "ours": Timing(tuple(ours), 0).facts(),
            "theirs": Timing(tuple(theirs), 0).facts(),
            "ratio": {"median": float(np.median(ratios)), "min": float(ratios.min()), "max": float(ratios.max())},
            "cpu_seconds": cpu,
        }


def race_rounds(peer: str, ours: Talk, task: Path, turns: int, clients: int) -> dict[str, Any]:
    """A round of pfedrec, ours and a peer's in turns; a peer's round over some clients counts for all of them."""
    command = [str(environment(peer)), str(HERE / "peers" / SCRIPTS[peer]), str(task)]
    if peer == "flwr":
        command += ["--clients", str(clients)]
    if peer == "loop-lean":
        command.append("--lean")
    everyone = json.loads((task / "task.json").read_text())["users"]
    load = os.getloadavg()[0]
    with talking(command) as theirs:
        tell(f"{peer}: warming up")
        theirs.ask(do="round")
        for _ in range(3):
            ours.ask(do="round")
        mine: list[dict[str, Any]] = []
        yours: list[dict[str, Any]] = []
        for turn in range(turns):
            own = [ours.ask(do="round") for _ in range(OURS_PER_TURN)]
            mine.append(own[-1] | {name: float(np.median([one[name] for one in own])) for name in ("seconds", "cpu")})
            answer = theirs.ask(do="round")
            factor = everyone / answer["clients"]
            yours.append(answer | {name: factor * answer[name] for name in ("seconds", "cpu") if name in answer})
            tell(f"{peer}: turn {turn + 1} of {turns}: ours {mine[-1]['seconds']:.4f} s, "
                 f"theirs {yours[-1]['seconds']:.2f} s")  # fmt: skip
    facts = Pairs(mine, yours).facts()
    return {
        "peer": NAMES[peer],
        "task": "round",
        **facts,
        "turns": turns,
        "clients_run": yours[-1]["clients"],
        "clients": everyone,
        "milliseconds_per_client": round(1000 * facts["theirs"]["median"] / everyone, 3),
        "parts": {"ours": mine[-1]["parts"], "theirs": yours[-1].get("parts")},
        "hr@10": {"ours": mine[-1]["hr@10"], "theirs": yours[-1]["hr@10"], "their_rounds": turns + 1},
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
    }


CENTRAL: list[tuple[str, str, dict[str, Any], dict[str, Any], bool]] = [
    (
        "ALS, implicit 0.7.3 (d 64, 15 iterations)",
        "als",
        {"settings": {"factors": 64, "regularization": 20.0, "alpha": 2.0, "iterations": 15}},
        {"name": "ials"},
        False,
    ),
    (
        "ALS, implicit 0.7.3 (d 64, 8 iterations)",
        "als",
        {"settings": {"factors": 64, "regularization": 20.0, "alpha": 2.0, "iterations": 8}},
        {"name": "ials"},
        False,
    ),
    (
        "ALS, implicit 0.7.3 (d 64, 8 iterations), ours of d 24",
        "als",
        {"settings": {"factors": 64, "regularization": 20.0, "alpha": 2.0, "iterations": 8}},
        {"name": "ials", "embedding_size": 24, "rounds": 5},
        False,
    ),
    (
        "ALS, implicit 0.7.3 (d 32, 15 iterations)",
        "als",
        {"settings": {"factors": 32, "regularization": 10.0, "alpha": 2.0, "iterations": 15}},
        {"name": "ials", "embedding_size": 32},
        False,
    ),
    (
        "ALS, implicit 0.7.3 (d 32, 8 iterations)",
        "als",
        {"settings": {"factors": 32, "regularization": 10.0, "alpha": 2.0, "iterations": 8}},
        {"name": "ials", "embedding_size": 32},
        False,
    ),
    *(
        (
            f"ALS, implicit 0.7.3 (d {d}, 8 iterations), ours with solver cg",
            "als",
            {"settings": {"factors": d, "regularization": 10.0 * d / 32, "alpha": 2.0, "iterations": 8}},
            {"name": "ials", "embedding_size": d, "solver": "cg"},
            False,
        )
        for d in (32, 64, 128)
    ),
    (
        "BPR, implicit 0.7.3 (d 64, 100 iterations)",
        "bpr",
        {"settings": {"factors": 63, "iterations": 100}},
        {"name": "mf"},
        True,
    ),
    (
        "EASE, NumPy float64, 1 BLAS thread",
        "ease",
        {"settings": {"count_factor": 6.0, "threads": 1}},
        {"name": "ease"},
        False,
    ),
    (
        "EASE, NumPy float64, 2 BLAS threads",
        "ease",
        {"settings": {"count_factor": 6.0, "threads": 2}},
        {"name": "ease"},
        False,
    ),
]
"""Name, what the peer does, with which settings, our model, and whether one training of it is long."""


def race_trainings(ours: Talk, task: Path, turns: int, only: str) -> list[dict[str, Any]]:
    """Whole trainings, ours federated and theirs central, in turns, with the accuracy of both; of those with `only` in
    their names."""
    rows = []
    with talking([str(environment("implicit")), str(HERE / "peers" / SCRIPTS["implicit"]), str(task)]) as theirs:
        for name, kind, order, model, long in CENTRAL:
            if only not in name:
                continue
            load, times = os.getloadavg()[0], max(2, turns // 2) if long else turns
            tell(f"{name}: warming up")
            theirs.ask(do=kind, **order)
            ours.ask(do="train", model=model)
            mine, yours = [], []
            for _ in range(times):
                found = ours.ask(do="train", model=model)
                other = theirs.ask(do=kind, **order)
                mine.append({name: found.pop(name) for name in ("seconds", "cpu")})
                yours.append(other)
            quality = ours.ask(do="measure", scores=other["scores"])
            facts = Pairs(mine, yours).facts()
            tell(f"{name}: ours {facts['ours']['median']:.3f} s, theirs {facts['theirs']['median']:.3f} s")
            rows.append(
                {
                    "peer": name,
                    "task": "training",
                    "model": model,
                    "settings": order["settings"],
                    **facts,
                    "turns": times,
                    "our_rounds": found.pop("rounds"),
                    "our_metrics": {key: round(value, 4) for key, value in found.items()},
                    "their_metrics": {key: round(value, 4) for key, value in quality.items()},
                    "load": [round(load, 2), round(os.getloadavg()[0], 2)],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", default=",".join(SCRIPTS), help="which, of loop,loop-lean,pfl,flwr,implicit")
    parser.add_argument("--quick", action="store_true", help="few turns: under eight minutes in all")
    parser.add_argument("--data", help="ml-100k, or data of its size where that is not on this machine")
    parser.add_argument("--clients", type=int, help="Flower runs so many clients instead of all; their time is scaled")
    parser.add_argument("--only", default="", help="central trainings whose names have this in them, such as 'cg'")
    parser.add_argument("--out", type=Path, default=HERE / ".work", help="folder of results.json and results.md")
    given = parser.parse_args()
    peers = [peer.strip() for peer in given.peers.split(",") if peer.strip()]
    for peer in peers:
        if peer not in SCRIPTS:
            parser.error(f"no peer is called {peer!r}{suggestion(peer, SCRIPTS)}")
    source, remark = (given.data, None) if given.data else default_source(benchmark("pfedrec-round"))
    if remark:
        tell(remark)
    given.out.mkdir(parents=True, exist_ok=True)
    for peer in peers:
        environment(peer)
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder)
        with talking([sys.executable, str(HERE / "peers" / "ours.py"), str(task), "--data", source]) as ours:
            turns = {"loop": 3, "loop-lean": 3, "pfl": 5, "flwr": 2}
            if not given.quick:
                turns = {"loop": 7, "loop-lean": 7, "pfl": 15, "flwr": 5}
            settings = json.loads((task / "task.json").read_text())
            for peer in peers:
                if peer != "implicit":
                    rows.append(
                        race_rounds(
                            peer, ours, task, turns[peer], min(given.clients or settings["users"], settings["users"])
                        )
                    )
            if "implicit" in peers:
                rows += race_trainings(ours, task, 5 if given.quick else 15, given.only)
    report = {
        "command": " ".join(["benchmarks/run.py", *sys.argv[1:]]),
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
        "data": {"source": source, **{key: settings[key] for key in ("users", "items", "interactions")}},
        "task": settings,
        "rows": rows,
    }
    (given.out / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    (given.out / "results.md").write_text(markdown(report))
    print(markdown(report))


if __name__ == "__main__":
    main()
