"""Structured fuzzing of all that commands open: runs, models, plans, budgets, federations, owners' nodes.

    PYTHONPATH=src python benchmarks/fuzz_folders.py --mutations 100000 --seed 1
    PYTHONPATH=src python benchmarks/fuzz_folders.py --mutations 1 --first 4711 --seed 1 --show

A small honest folder is copied, changed (`folder_mutations`), and handed to a command, in a process whose memory is
limited and whose connections and writes are watched. A mutation follows from the seed and its number. Counted are:
crashes (signals), tracebacks (anything but an error that is told in words), hangs, memory above ten times the folder
and a fixed amount, connections, and writes anywhere but in the folder, in what it was told to write, and beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
"""For the processes that do the work."""
DATA = "synthetic:users=60,items=40,interactions_per_user=8,seed=1"
SECONDS = 4
"""For a command; training and attacks on it may take as long as their plan says, and are stopped then."""
MEMORY = 300 << 20
"""Bytes that a command may take besides ten times its folder: libraries, caches and threads."""
LONG = ("train", "audit", "verify")
PROBLEMS = ("crash", "traceback", "hang", "memory", "connection", "write")


@dataclass
class Outcome:
    """What came of a mutation.

    Args:
        number: of the mutation.
        kind: of the folder.
        change: what was changed.
        command: what was run on it.
        code: how it ended.
        problems: which of `PROBLEMS` there were.
        told: more about them.
    """

    number: int
    kind: str
    change: str = ""
    command: str = ""
    code: int | None = None
    problems: list[str] = field(default_factory=list)
    told: str = ""


class HangError(BaseException):
    """A command took too long."""


MODELS: dict[str, dict[str, Any]] = {
    "ease": {"name": "ease"},
    "itemknn": {"name": "itemknn", "neighbours": 5},
    "spectral": {"name": "spectral", "rank": 6},
    "ials": {"name": "ials", "embedding_size": 4, "rounds": 2},
    "mf": {"name": "mf", "embedding_size": 4, "rounds": 2, "scaffold": True, "control_rows": 4},
    "gpfedrec": {"name": "gpfedrec", "embedding_size": 4, "rounds": 1, "groups": 2},
    "pfedrec": {"name": "pfedrec", "embedding_size": 4, "rounds": 1},
    "fedrap": {"name": "fedrap", "embedding_size": 4, "rounds": 1, "epochs": 1},
    "autoencoder": {"name": "autoencoder", "embedding_size": 4, "rounds": 5, "batch_size": 40},
    "blend": {"name": "blend", "models": ["popularity", {"name": "mf", "embedding_size": 4, "rounds": 2}]},
}
KINDS = (*(f"run {name}" for name in MODELS), "kept sums", "stopped", "private", "plan", "budget", "node", "federation")


_OFTEN = {"federation": 1, "plan": 10}
"""How often a kind has its turn, of 20: those that take seconds are rarer."""


def make(kind: str, folder: Path) -> None:
    """An honest folder of a kind."""
    from fedrec.federation.plan import Plan
    from fedrec.runs.training import train_run

    def train(**settings: Any) -> None:
        plan = Plan.make({"data": {"source": DATA}, "split": "leave-last-out", **settings})
        with contextlib.suppress(KeyboardInterrupt):
            train_run(plan, folder, watch=stop if kind in ("stopped", "private") else lambda _: None)

    def stop(progress: Any) -> None:
        if progress.round == 1:
            raise KeyboardInterrupt

    if kind.startswith("run "):
        train(model=MODELS[kind[4:]])
    elif kind == "kept sums":
        train(model={"name": "itemknn", "neighbours": 5}, keep_sums=True)
    elif kind == "stopped":
        train(model={"name": "mf", "embedding_size": 4, "rounds": 5, "server_optimiser": "adam"},
              evaluation={"every": 1, "keep": "best"})  # fmt: skip
    elif kind == "private":
        model = {"name": "mf", "embedding_size": 4, "rounds": 5}
        train(model=model, privacy={"epsilon": 20.0, "delta": 1e-4, "users": 60})
    elif kind == "plan":
        folder.mkdir()
        plan = Plan.make({"data": {"source": DATA}, "model": {"name": "mf", "embedding_size": 4, "rounds": 2}})
        (folder / "plan.yaml").write_text(plan.to_yaml())
    elif kind == "budget":
        from fedrec.privacy.budget import Budget, Limits

        folder.mkdir()
        Budget(folder / "budget.jsonl", Limits(4.0, 1e-6, None, None))
    else:
        _make_with_commands(kind, folder)


def _make_with_commands(kind: str, folder: Path) -> None:
    from fedrec.data.sources import load_data

    folder.mkdir()
    load_data(DATA).to_frame().write_csv(folder / "clicks.csv")
    (folder / "items.csv").write_text("item_id\n" + "".join(f"{item}\n" for item in range(40)))
    here = Path.cwd()
    os.chdir(folder)
    try:
        if kind == "node":
            run_command(["node", "init", "shop-a", "--data", "clicks.csv", "--catalog", "items.csv"])
        else:
            run_command(["federation", "init", "fed", "--catalog", "items.csv", "--most-clients", "100", "--host",
                         "localhost"])  # fmt: skip
            run_command(["federation", "invite", "fed", "shop-a", "shop-b"])
    finally:
        os.chdir(here)


def commands(kind: str, folder: Path, out: Path) -> list[list[str]]:
    """What is run on a folder of a kind."""
    path, new = str(folder), str(out / "new")
    if kind == "plan":
        plan = f"{path}/plan.yaml"
        return [["train", "--plan", plan, "--out", new], ["train", "--plan", plan, "--out", new, "--data", DATA],
                ["audit", plan, "--attack", "canaries"]]  # fmt: skip
    if kind == "budget":
        return [["privacy", "budget", f"{path}/budget.jsonl"]]
    if kind == "node":
        return [["node", "check", "--config", f"{path}/node.toml"]]
    if kind == "federation":
        return [["federation", "invite", f"{path}/fed", "shop-c"], ["federation", "remove", f"{path}/fed", "shop-a"]]
    scoring = [
        ["recommend", path, "--user", "1", "-n", "3"],
        ["recommend", path, "--all-users", "--to", str(out / "lists.csv")],
        ["evaluate", path],
        ["similar", path, "--item", "1"],
        ["recommend", path, "--user", "v", "--history", str(out.parent / "history.csv")],
    ]
    if kind in ("stopped", "private"):
        shown = [["privacy", "show", path]] if kind == "private" else []
        return [*[["train", "--resume", "--out", path]] * 3, *shown, ["verify", path], scoring[0]]
    model = "itemknn" if kind == "kept sums" else kind[4:]
    warm = ["train", "--data", DATA, "--model", model, "--from", path, "--out", new, "--set", "seed=0"]
    for key, value in MODELS[model].items():
        warm += ["--set", f"model.{key}={json.dumps(value)}"] if key != "name" else []
    return [*scoring * 2, ["verify", path], ["train", "--resume", "--out", path], warm, warm]


def run_command(words: Sequence[str]) -> int:
    """Run `fedrec` in this process; returns its exit code."""
    from fedrec.cli import main

    sys.argv = ["fedrec", *words]
    try:
        main.run()
    except SystemExit as end:
        return 0 if end.code is None else int(end.code)
    return 0


class Watch:
    """Sees connections and writes of this process."""

    def __init__(self) -> None:
        self.allowed: tuple[str, ...] = ()
        self.on = False
        self.seen: list[tuple[str, str]] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
            self.seen.append(("connection", f"{event} {arguments[-1]!r:.80}"))
            raise ConnectionRefusedError(f"the fuzzer lets nothing connect ({event})")
        if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"):
            if arguments[0] != sys.executable:  # `federation invite` makes its kits in a process of its own
                self.seen.append(("write", f"{event} {arguments[0]!r:.80}"))
        elif event == "open":
            path, _, flags = arguments
            if isinstance(path, str | bytes) and (flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                self._wrote(event, path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate", "os.chmod"):
            for path in arguments[:2] if event == "os.rename" else arguments[:1]:
                if isinstance(path, str | bytes):
                    self._wrote(event, path, entry=event in ("os.remove", "os.rename", "os.symlink"))

    def _wrote(self, event: str, path: str | bytes, entry: bool = False) -> None:
        text = os.fsdecode(path)
        where = os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text)) if entry else None
        place = where or os.path.realpath(text)
        if not place.startswith(self.allowed):
            self.seen.append(("write", f"{event} {place}"))


def peak() -> int:
    """Most bytes that this process had in memory since `forget_peak`."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def forget_peak() -> int:
    """Begin anew to look for the peak; returns the bytes in memory now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def attempt(
    number: int, kind: str, seed: int, honest: Path, work: Path, watch: Watch, begin: Callable[[Outcome], None]
) -> Outcome:
    """Make a mutation, run a command on it, and see what comes of it."""
    from folder_mutations import mutate

    outcome = Outcome(number, kind)
    draw = random.Random(f"{seed}:{number}")
    shutil.rmtree(work, ignore_errors=True)
    folder, outside, out, spare = work / "folder", work / "outside", work / "out", work / "spare"
    shutil.copytree(honest / kind, folder, symlinks=True)
    for made in (outside, out, spare):
        made.mkdir()
    tempfile.tempdir = str(spare)
    (outside / "file").write_bytes(b"somebody else's, without an end of line")
    (work / "history.csv").write_text("user_id,item_id\n" + "v,1\n" * 50 + "v,2\n")
    outcome.change = mutate(folder, outside, draw)
    before = listing(outside)
    words = draw.choice(commands(kind, folder, out))
    outcome.command = " ".join(words[:2])
    begin(outcome)
    size = sum(path.lstat().st_size for path in folder.rglob("*"))
    watch.allowed, watch.seen = tuple(os.path.realpath(path) for path in (folder, out, spare, "/dev/null")), []
    os.chdir(out)
    start = forget_peak()
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS)
    printed = io.StringIO()
    try:
        watch.on = True
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            outcome.code = run_command(words)
    except HangError:
        if words[0] not in LONG:
            outcome.problems.append("hang")
    except BaseException:
        outcome.problems.append("traceback")
        outcome.told = traceback.format_exc(limit=-6)
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        watch.on = False
        os.chdir(honest)
    taken = peak() - start
    if taken > MEMORY + 10 * size:
        outcome.problems.append("memory")
        outcome.told += f"{taken >> 20} MiB for a folder of {size} bytes; "
    for what, told in watch.seen:
        outcome.problems.append(what)
        outcome.told += f"{told}; "
    if listing(outside) != before:
        outcome.problems.append("write")
        outcome.told += f"changed: {set(listing(outside)) ^ set(before)}; "
    outcome.problems = sorted(set(outcome.problems))
    return outcome


def listing(folder: Path) -> list[tuple[str, int, bytes]]:
    """Everything below a folder with its content."""
    found = []
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((str(path), path.lstat().st_mode, content))
    return found


def work(first: int, stop: int, seed: int, kinds: Sequence[str], honest: Path, place: Path, log: Path) -> None:
    """Do mutations `first` to `stop` − 1 in this process, and write down what comes of each."""
    import logging

    def late(*_: object) -> None:
        raise HangError

    logging.disable(logging.CRITICAL)
    os.fsync = lambda handle: None  # type: ignore[assignment]
    signal.signal(signal.SIGALRM, late)
    limit = 6 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch()
    for kind in kinds:  # load what commands load, so that the first mutation does not pay for it
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(honest / kind, place / "folder")
            (place / "out").mkdir()
            (place / "history.csv").write_text("user_id,item_id\nv,1\n")
            os.chdir(place / "out")
            for words in commands(kind, place / "folder", place / "out"):
                run_command(words)
    with log.open("a", buffering=1) as file:

        def begun(outcome: Outcome) -> None:
            file.write(json.dumps(vars(outcome)) + "\n")

        for number in range(first, stop):
            kind = random.Random(f"{seed}:kind:{number}").choices(kinds, [_OFTEN.get(kind, 20) for kind in kinds])[0]
            begun(Outcome(number, kind))
            outcome = attempt(number, kind, seed, honest, place, watch, begun)
            file.write(json.dumps({**vars(outcome), "ended": True}) + "\n")


def supervise(first: int, stop: int, seed: int, kinds: Sequence[str], honest: Path, place: Path) -> Iterator[Outcome]:
    """Do mutations in workers of their own; one that dies names the mutation that killed it."""
    number = first
    while number < stop:
        log = place.with_suffix(".log")
        log.unlink(missing_ok=True)
        last = min(stop, number + 2000)
        options = (number, last, seed, honest, place, log)
        words = [sys.executable, __file__, "--worker", *map(str, options), *kinds]
        with subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**ONE_THREAD, **os.environ}
        ) as process:
            told = _watched(process, log)
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        ended = -1
        for line in lines:
            if line.pop("ended", False):
                ended = line["number"]
                yield Outcome(**line)
        if process.returncode == 0:
            number = last
        elif not lines:
            raise RuntimeError(f"a worker could not begin: {told[-2000:]}")
        else:
            number = lines[-1]["number"] + 1
            if lines[-1]["number"] != ended:
                last_words = lines[-1]["command"].split(" ")[0]
                killed = process.returncode == -signal.SIGKILL
                problems = [] if killed and last_words in LONG else ["hang" if killed else "crash"]
                yield Outcome(**{**lines[-1], "code": process.returncode, "problems": problems, "told": told[-2000:]})


def _watched(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for a worker, and end it when it makes no progress; returns what it printed last."""
    size, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        now = log.stat().st_size if log.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > (15 if now > 0 else 300):
            process.kill()
    assert process.stderr is not None
    return process.stderr.read().decode(errors="replace")


def fuzz(
    mutations: int,
    seed: int,
    kinds: Sequence[str] = KINDS,
    first: int = 0,
    jobs: int = 1,
    told: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Do so many mutations; every outcome, in no order."""
    from concurrent.futures import ThreadPoolExecutor

    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as scratch:
        honest = Path(scratch) / "honest"
        honest.mkdir()
        for kind in kinds:
            make(kind, honest / kind)
        bounds = [first + mutations * job // jobs for job in range(jobs + 1)]

        def part(job: int) -> list[Outcome]:
            found = []
            for outcome in supervise(bounds[job], bounds[job + 1], seed, kinds, honest, Path(scratch) / f"job-{job}"):
                told(outcome)
                found.append(outcome)
            return found

        with ThreadPoolExecutor(jobs) as pool:
            return [outcome for found in pool.map(part, range(jobs)) for outcome in found]


def main() -> None:
    """Read options, fuzz, print a table and what is wrong."""
    if sys.argv[1:2] == ["--worker"]:
        first, stop, seed, honest, place, log, *kinds = sys.argv[2:]
        return work(int(first), int(stop), int(seed), kinds, Path(honest), Path(place), Path(log))
    parser = argparse.ArgumentParser(description="Fuzz the folders that commands open.")
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS), help="comma-separated: " + ", ".join(KINDS))
    parser.add_argument("--show", action="store_true", help="print every outcome")
    options = parser.parse_args()
    began = time.monotonic()

    def told(outcome: Outcome) -> None:
        if outcome.problems or options.show:
            print(f"{outcome.number} {outcome.kind}: {outcome.change} | {outcome.command} | {outcome.code} | "
                  f"{', '.join(outcome.problems)}\n{outcome.told}", flush=True)  # fmt: skip

    found = fuzz(options.mutations, options.seed, options.kinds.split(","), options.first, options.jobs, told)
    counts = Counter((outcome.kind, problem) for outcome in found for problem in outcome.problems)
    print(f"{'kind':14}{'mutations':>10}{'refused':>9}" + "".join(f"{problem:>12}" for problem in PROBLEMS))
    for kind in [*options.kinds.split(","), "all"]:
        of_kind = [outcome for outcome in found if kind in ("all", outcome.kind)]
        refused = sum(outcome.code not in (0, None) for outcome in of_kind)
        columns = (sum(problem in outcome.problems for outcome in of_kind) for problem in PROBLEMS)
        print(f"{kind:14}{len(of_kind):>10}{refused:>9}" + "".join(f"{count:>12}" for count in columns))
    print(f"seed {options.seed}, {time.monotonic() - began:.0f} s")
    sys.exit(bool(counts))


if __name__ == "__main__":
    main()
    sys.exit(0)
