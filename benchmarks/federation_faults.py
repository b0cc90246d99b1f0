"""What happens to a training when processes of its federation are killed, frozen, slowed or cut off.

python benchmarks/federation_faults.py [--times 3] [--faults A,B] [--phases A,B] [--secure] [--to FILE.json]

One server and four nodes run as real processes with real certificates on this machine. In each run one thing happens to
one of them, in one phase. Afterwards every committed round is held against the local engine over just the nodes that
the ledger names; a run that stopped must have said why. Prints a table, and what processes are left at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np

import fedrec as fr
import tables
from fedrec.data.partitions import partition
from fedrec.deploy.demo import Stage, staged
from fedrec.errors import FedrecError
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.messages import Frame, Request, open_request
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, is_run, read_plan
from fedrec.network.nvflare.post import NvflarePost
from fedrec.network.post import Failure
from fedrec.network.waiting import Waiting
from fedrec.node.private_rows import PrivateRows
from fedrec.record.keys import SigningKey
from fedrec.record.ledger import Ledger
from fedrec.runs.federated import train_federated

MARK = "FEDREC_STUDY"
NODES = 4
VICTIM = "node-1"
LIMIT = 420.0
PLAN = {
    "data": {"source": "synthetic:users=400,items=120,interactions_per_user=14,seed=3"},
    "model": {"name": "mf", "embedding_size": 8, "rounds": 3},
    "seed": 5,
}
PHASES = {
    "round": ("contribute", 1),
    "keys of a secure aggregation": ("mask", 5),
    "upload of a secure aggregation": ("mask", 7),
    "opening of a secure aggregation": ("mask", 9),
    "opening": ("open", 0),
    "end": ("finish", 0),
    "measuring": ("evaluate", 0),
}


def processes(mark: str) -> dict[int, tuple[int, str]]:
    """Parent and command of every process that was started with this mark in its environment, this one left out."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() not in (path / "environ").read_bytes().split(b"\0"):
                continue
            state = (path / "stat").read_text().rpartition(")")[2].split()
            if int(path.name) != os.getpid() and state[0] != "Z":
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(path.name)] = int(state[1]), command
    return found


@dataclass
class Scene:
    """A stage, and what can be done to it.

    Args:
        stage: with its processes.
        mark: of its processes.
    """

    stage: Stage
    mark: str
    undo: list[Callable[[], None]] = field(default_factory=list)

    def pid(self, name: str) -> int:
        """Of a node's process, or the server's."""
        return self.stage.processes[name].pid

    def below(self, pid: int) -> list[int]:
        """The children of a process, and theirs."""
        there = processes(self.mark)
        found, new = [], [pid]
        while new:
            new = [child for child, (parent, _) in there.items() if parent in new]
            found += new
        return found

    def road(self, name: str) -> int:
        """NVFlare's own process beside a node's, or the server's."""
        return self.below(self.pid(name))[0]

    def jobs(self, name: str) -> list[int]:
        """NVFlare's job processes at a node, or at the server."""
        return self.below(self.road(name))

    def start(self, name: str) -> None:
        """Start what is not running."""
        process = self.stage.processes.get(name)
        if process is None or process.poll() is not None:
            (self.stage.start_server if name == "server" else lambda: self.stage.start_node(name))()

    def later(self, seconds: float, what: Callable[[], None]) -> None:
        """Do it in a while, or at the end of the run if that is earlier."""
        turn, done = threading.Lock(), []

        def once() -> None:
            with turn:
                if not done:
                    done.append(True)
                    what()

        timer = threading.Timer(seconds, once)
        timer.daemon = True
        timer.start()
        self.undo.append(lambda: (timer.cancel(), once())[-1])

    def heal(self) -> None:
        """Put everything back in order."""
        for step in self.undo:
            step()
        self.undo.clear()
        for name in ("server", *(f"node-{place}" for place in range(NODES))):
            self.start(name)
        self.stage.wait([f"node-{place}" for place in range(NODES)], 180.0)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def node_killed(scene: Scene) -> None:
    process = scene.stage.processes[VICTIM]
    process.kill()
    process.wait()
    scene.later(2.0, lambda: scene.start(VICTIM))


def node_killed_for_good(scene: Scene) -> None:
    process = scene.stage.processes[VICTIM]
    process.kill()
    process.wait()


def _stopped(scene: Scene, pids: list[int], seconds: float) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def go_on() -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    scene.later(seconds, go_on)


def node_frozen(scene: Scene) -> None:
    _stopped(scene, [scene.pid(VICTIM)], 30.0)


def node_frozen_for_good(scene: Scene) -> None:
    _stopped(scene, [scene.pid(VICTIM)], 10_000.0)


def cut_off(scene: Scene) -> None:
    road = scene.road(VICTIM)
    _stopped(scene, [road, *scene.below(road)], 40.0)


def node_slowed(scene: Scene) -> None:
    pid, end = scene.pid(VICTIM), threading.Event()

    def slow() -> None:
        with contextlib.suppress(ProcessLookupError):
            while not end.is_set():
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.09)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.01)

    threading.Thread(target=slow, daemon=True).start()
    scene.undo.append(end.set)


def job_killed(scene: Scene) -> None:
    for pid in scene.jobs(VICTIM):
        _kill(pid)


def road_killed(scene: Scene) -> None:
    _kill(scene.road(VICTIM))


def servers_job_killed(scene: Scene) -> None:
    for pid in scene.jobs("server"):
        _kill(pid)


def server_killed(scene: Scene) -> None:
    process = scene.stage.processes["server"]
    process.kill()
    process.wait()
    scene.later(3.0, lambda: scene.start("server"))


def server_frozen(scene: Scene) -> None:
    road = scene.road("server")
    _stopped(scene, [road, *scene.below(road)], 40.0)


def back_with_another_version(scene: Scene) -> None:
    node_killed_for_good(scene)
    stage = scene.stage
    words = ["node", "start", "--kit", str(stage.federation.path / "kits" / VICTIM), "--config",
             str(stage.folder / VICTIM / "node.toml")]  # fmt: skip
    changed = "import fedrec, sys; fedrec.__version__ = '9.9.9'; from fedrec.cli.main import run; run()"
    with (stage.folder / f"{VICTIM}.txt").open("ab") as output:
        stage.processes[VICTIM] = subprocess.Popen(
            [sys.executable, "-c", changed, *words], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )

    def restore() -> None:
        process = stage.processes[VICTIM]
        process.terminate()
        process.wait(30)

    scene.undo.append(restore)


def nothing(scene: Scene) -> None:
    return


FAULTS: dict[str, Callable[[Scene], None]] = {
    "nothing": nothing,
    "node killed, back in 2 s": node_killed,
    "node killed for good": node_killed_for_good,
    "node frozen for 30 s": node_frozen,
    "node frozen for good": node_frozen_for_good,
    "node slowed 10 times": node_slowed,
    "cut off for 40 s": cut_off,
    "node's job process killed": job_killed,
    "node's NVFlare killed": road_killed,
    "server's job process killed": servers_job_killed,
    "server killed, back in 3 s": server_killed,
    "server frozen for 40 s": server_frozen,
    "node back with another version": back_with_another_version,
}


class Watched:
    """A post that strikes when a node is about to get a certain request, and times every question.

    Args:
        post: the real one.
        public: key of the coordinator.
        kind, nth: of the request.
        strike: what happens then; `after` the frame went out, or before.
    """

    def __init__(
        self, post: NvflarePost, public: Any, kind: str, nth: int, strike: Callable[[], None], after: bool
    ) -> None:
        self._post, self._public, self._kind, self._nth = post, public, kind, nth
        self._strike, self._after = strike, after
        self._count = 0
        self.struck = False
        self.overtime = 0.0

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        now = False
        if VICTIM in frames:
            request, _ = open_request(frames[VICTIM].whole(), self._public, 1 << 34)
            now = request.kind == self._kind and self._count == self._nth
            self._count += request.kind == self._kind
        if now and not self.struck:
            self.struck = True
            if self._after:
                threading.Timer(0.003, self._strike).start()
            else:
                self._strike()
        began = time.monotonic()
        answers = self._post.ask(frames, seconds, enough)
        self.overtime = max(self.overtime, time.monotonic() - began - seconds)
        return answers

    def close(self) -> None:
        """The real post lives on."""


@dataclass
class Result:
    """What became of one run."""

    fault: str
    phase: str
    outcome: str
    seconds: float
    overtime: float
    without: int
    jobs: int
    reason: str = ""

    def __str__(self) -> str:
        return (
            f"{self.fault} | {self.phase} | {self.outcome} | {self.seconds:.0f} s, {self.overtime:.1f} s over, "
            f"{self.without} rounds without it, {self.jobs} new jobs {self.reason[:1500]}"
        )


def assemble(post: NvflarePost, key: SigningKey) -> None:
    """Wait until every node answers, so that the next run begins with everybody."""
    until = time.monotonic() + 120.0
    while time.monotonic() < until:
        if post._relay is not None and len(post._relay.reached) < NODES:
            post._end_job()
        names = [f"node-{place}" for place in range(NODES)]
        frames = {name: Request("hello", "0" * 16, name, time.time_ns()).sign(key) for name in names}
        if all(isinstance(answer, bytes) for answer in post.ask(frames, 5.0).values()):
            return
        time.sleep(2.0)


def one(
    scene: Scene, post: NvflarePost, said: list[str], data: Mapping[str, Any], fault: str, phase: str, secure: bool,
    after: bool,
) -> Result:  # fmt: skip
    """One run in which one thing happens; then everything is put in order."""
    kind, nth = PHASES[phase]
    members = scene.stage.federation.members
    folder = scene.stage.folder / f"run-{uuid.uuid4().hex[:8]}"
    watched = Watched(post, members.key.public(), kind, nth, lambda: FAULTS[fault](scene), after)
    assemble(post, members.key)
    waiting = Waiting(deadline=20.0, max_retries=3, pause=1.0, reconnect_timeout=60.0)
    plan = Plan.make(PLAN)
    said.clear()
    error: FedrecError | None = None
    report: dict[str, Any] = {}
    began = time.monotonic()
    box: list[Any] = []

    def train() -> None:
        try:
            box.append(train_federated(plan, folder, members, watched, secure, waiting, tell=said.append))
        except FedrecError as problem:
            box.append(problem)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    thread.join(LIMIT)
    seconds = time.monotonic() - began
    jobs = sum("a new" in line and "is started" in line for line in said)
    if thread.is_alive():
        return Result(fault, phase, "HANGS", seconds, watched.overtime, 0, jobs)
    if isinstance(box[0], FedrecError):
        error = box[0]
    else:
        report = box[0]
    scene.heal()
    outcome, without = held_against_local(scene, folder, data, report, error)
    if not watched.struck and fault != "nothing":
        outcome = f"not struck: {outcome}"
    why = f"{error}; what was told: {' / '.join(said)}" if error is not None else ""
    return Result(fault, phase, outcome, seconds, watched.overtime, without, jobs, why)


def held_against_local(
    scene: Scene, folder: Path, data: Mapping[str, Any], report: Mapping[str, Any], error: FedrecError | None
) -> tuple[str, int]:
    """Whether all that was committed is right, and rounds without the victim."""
    from federation_in_test import Replayed, assert_same_rows

    if not is_run(folder):
        return ("stopped, nothing committed" if error is not None and str(error) else "WRONG: no run and no reason"), 0
    plan = read_plan(folder)
    ledger = Ledger(folder / "ledger.jsonl", rooted=True)
    rounds = ledger.of_kind("round")
    if [line["round"] for line in rounds] != list(range(len(rounds))):
        return "WRONG: rounds", 0
    twin_nodes = Replayed(SimpleNamespace(plan=plan, data=data, measured={}), [line["nodes"] for line in rounds])  # type: ignore[arg-type]
    twin_run = Run(plan, None)
    model = plan.build_model()
    catalog = next(iter(data.values())).catalog
    done = bool(report)
    Coordinator(model, catalog, twin_nodes, twin_run, False).train(None if done else max(1, len(rounds)))
    for line, due in zip(rounds, twin_run.ledger.of_kind("round"), strict=False):
        if (line["model"], line["cohort"]) != (due["model"], due["cohort"]):
            return f"WRONG SUM in round {line['round']}", 0
    without = sum(VICTIM not in line["nodes"] for line in rounds)
    if not done:
        return ("stopped with a reason" if error is not None and str(error) else "WRONG: no reason"), without
    number = json.loads((folder / "private" / "federation.json").read_bytes())["number"]
    for node in twin_nodes.nodes:
        if node.name not in report["federation"]["unreached"]:
            home = scene.stage.folder / node.name / "home" / "runs" / number / "private" / node.name
            rows = PrivateRows.open(home)
            assert_same_rows(None if rows is None else rows.arrays, node.private(), node.name)
    missed = report["federation"]["unreached"]
    return ("right" if not missed else f"right, {', '.join(missed)} without the model"), without


def coordinator_killed(scene: Scene, times: int, secure: bool, seed: int) -> list[Result]:
    """`fedrec train` is killed after a while, again and again, and resumed until it is done."""
    dice = random.Random(seed)
    federation = scene.stage.federation
    plan = scene.stage.folder / "plan.yaml"
    plan.write_text(Plan.make(PLAN).to_yaml())
    found, whole = [], None
    for attempt in range(times + 1):
        folder = scene.stage.folder / f"killed-{secure}-{attempt}"
        command = [sys.executable, "-m", "fedrec", "train", "--federation", str(federation.path), "--plan", str(plan),
                   "--out", str(folder), *(["--secure"] if secure else [])]  # fmt: skip
        resumed = [*command[:6], "--out", str(folder), "--resume"]
        deaths, began, said = 0, time.monotonic(), ""
        while True:
            process = subprocess.Popen(
                resumed if is_run(folder) else command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            try:
                if attempt == 0 or deaths >= 3:
                    said = process.communicate(timeout=LIMIT)[1].decode()
                    break
                _wait_for_a_chance(folder, process, dice)
                process.kill()
                said = process.communicate()[1].decode()
                deaths += process.returncode == -signal.SIGKILL
                if process.returncode == 0:
                    break
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                said = "HANGS"
                break
        seconds = time.monotonic() - began
        if process.returncode != 0:
            found.append(Result("coordinator killed", f"{deaths} times", "HANGS" if said == "HANGS" else "STOPPED",
                                seconds, 0.0, 0, 0, said[-300:]))  # fmt: skip
            continue
        files = {name: (folder / name).read_bytes() for name in ("model/shared.safetensors", "ledger.jsonl")}
        whole = whole or files
        everybody = all(
            len(line["nodes"]) == NODES for line in Ledger(folder / "ledger.jsonl", rooted=True).of_kind("round")
        )
        equal = files == whole
        outcome = "same bytes" if equal else "WRONG" if everybody else "others took part"
        found.append(Result("coordinator killed", f"{deaths} times", outcome, seconds, 0.0, 0, 0))
        print(f"  coordinator killed {deaths} times: {outcome}, {seconds:.0f} s", flush=True)
    return found


def _wait_for_a_chance(folder: Path, process: subprocess.Popen[bytes], dice: random.Random) -> None:
    """Until the run has come to a drawn place: before it is one, or so many lines of its ledger and a moment more."""
    lines = dice.randrange(-1, 5)
    until = time.monotonic() + 60.0
    while time.monotonic() < until and process.poll() is None:
        ledger = folder / "ledger.jsonl"
        if lines < 0 or (ledger.exists() and ledger.read_bytes().count(b"\n") >= lines):
            break
        time.sleep(0.002)
    time.sleep(dice.random() * (3.0 if lines < 0 else 0.15))


@contextlib.contextmanager
def scene_of(folder: Path, secure: bool) -> Iterator[tuple[Scene, dict[str, Any]]]:
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    data = fr.load_data(PLAN["data"]["source"])
    places = partition(data, "hash", NODES, 5)
    mine = {f"node-{place}": data.take_users(np.flatnonzero(places == place)) for place in range(NODES)}
    with staged(folder, data, places, 1024, secure) as stage:
        scene = Scene(stage, mark)
        try:
            yield scene, mine
        finally:
            for step in scene.undo:
                step()
    time.sleep(3.0)
    left = processes(mark)
    print(f"processes left behind: {len(left)}")
    for pid, (_, command) in left.items():
        print(f"  {pid}: {command[:150]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--phases", default=",".join(PHASES))
    parser.add_argument("--coordinator", type=int, default=0, help="how many runs whose coordinator is killed")
    parser.add_argument("--secure", action="store_true")
    parser.add_argument("--to", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fedrec-faults-"))
    results: list[Result] = []
    said: list[str] = []
    chosen = [name for name in FAULTS if any(name.startswith(part) for part in options.faults.split(","))]
    phases = [name for name in PHASES if any(name.startswith(part) for part in options.phases.split(","))]
    with scene_of(folder, options.secure) as (scene, data):
        if options.coordinator:
            results += coordinator_killed(scene, options.coordinator, options.secure, seed=1)
        federation = scene.stage.federation
        post = NvflarePost(federation.path, federation.admin_kit, start=120.0, tell=said.append)
        try:
            for turn in range(options.times):
                for phase in phases:
                    if "secure" in phase and not options.secure:
                        continue
                    for fault in chosen:
                        result = one(scene, post, said, data, fault, phase, options.secure, after=turn % 2 == 1)
                        results.append(result)
                        print(f"  {result}", flush=True)
                        if options.to is not None:
                            options.to.write_text(json.dumps([vars(one) for one in results], indent=1))
                        if result.outcome == "HANGS":
                            return
        finally:
            post.close()
    print(summary(results))


def summary(results: list[Result]) -> str:
    """Runs by fault: outcomes and times."""
    by_fault: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_fault[result.fault].append(result)
    rows = []
    for fault, all_of in by_fault.items():
        outcomes: dict[str, int] = defaultdict(int)
        for result in all_of:
            outcomes[result.outcome] += 1
        rows.append([
            fault, len(all_of), "; ".join(f"{count} {name}" for name, count in sorted(outcomes.items())),
            f"{np.median([result.seconds for result in all_of]):.0f} / {max(result.seconds for result in all_of):.0f}",
            f"{max(result.overtime for result in all_of):.1f}",
        ])  # fmt: skip
    header = ["what happened", "runs", "outcome", "seconds (median / most)", "over deadline, s"]
    whole = [header, ["---"] * len(header), *rows]
    return "\n".join(tables.line([str(cell) for cell in row]) for row in whole)


if __name__ == "__main__":
    main()
