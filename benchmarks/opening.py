"""What it takes to use a finished run: time, peak memory and disk of one command each, in a process of its own.

    python benchmarks/opening.py                       # ease on 20,000 items, whose model is 1.5 GiB
    python benchmarks/opening.py --items 2000 --turns 1

The run is one that `fedrec train` makes, but for one thing: weights of `ease` are drawn at random instead of solved
for, which takes minutes and 8 GiB for 20,000 items, and changes neither a form nor a file. Files are in the cache of
the system, as after any training. Seconds are of the whole command; those of a run of 400 items are Python, libraries
and kernels, and what a model adds is beside them.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

MIB = 1 << 20


def main() -> None:
    """Make the runs, use them, print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=20_000)
    options.add_argument("--users", type=int, default=20_000)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--folder", type=Path, help="where runs are made and found again; a temporary one by default")
    options.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.make:
        make(chosen.make, chosen.items, chosen.users)
        return
    with tempfile.TemporaryDirectory() as temporary:
        home = chosen.folder or Path(temporary)
        small, large = made(home, 400, 300), made(home, chosen.items, chosen.users)
        model = (large / "model" / "shared.safetensors").stat().st_size
        whole = sum(path.stat().st_size for path in large.rglob("*") if path.is_file())
        print(f"{chosen.items:,} items, {chosen.users:,} users: model {model / MIB:,.0f} MiB, run folder "
              f"{whole / model:.3f} × the model\n")  # fmt: skip
        print("| command | 400 items, s | CPU, s | MiB | large, s | CPU, s | MiB | of which the model | load |")
        print("|---|---|---|---|---|---|---|---|---|")
        for words in (("recommend", "--user", "5"), ("similar", "--item", "5"), ("evaluate",)):
            cells = [" ".join(words)]
            for run in (small, large):
                cells += measured([sys.executable, "-m", "fedrec", words[0], str(run), *words[1:], "-q"], chosen.turns)
            print(f"| {' | '.join(cells)} | {model / MIB:,.0f} | {os.getloadavg()[0]:.1f} |", flush=True)


def made(home: Path, items: int, users: int) -> Path:
    """A run of `ease` with so many items; a process makes it, as a child's peak of memory begins with its parent's."""
    folder = home / f"ease-{items}"
    if not folder.exists():
        used([sys.executable, __file__, "--make", str(folder), "--items", str(items), "--users", str(users)])
    return folder


def make(folder: Path, items: int, users: int) -> None:
    """Train, with weights that nobody solved for."""
    import numpy as np

    from fedrec.federation.plan import Plan
    from fedrec.models.base import State
    from fedrec.models.linear.ease import EASE
    from fedrec.runs.training import train_run

    def drawn(self: EASE, state: State, total: object, round: int) -> State:
        weights = np.random.default_rng(0).standard_normal((items, items), dtype=np.float32)
        np.fill_diagonal(weights, 0.0)
        return State({"weights": weights})

    EASE.step = drawn  # type: ignore[method-assign]
    source = f"synthetic:users={users},items={items},interactions_per_user=40"
    train_run(Plan.make({"data": {"source": source}, "model": {"name": "ease"}}), folder)


def measured(command: list[str], turns: int) -> list[str]:
    """Seconds, median and least, CPU seconds and peak MiB of a command, after one turn to warm up."""
    found = [used(command) for _ in range(turns + 1)][1:]
    seconds, cpu, peak = ([one[place] for one in found] for place in range(3))
    return [f"{statistics.median(seconds):.2f} ({min(seconds):.2f})", f"{statistics.median(cpu):.2f}",
            f"{max(peak):,.0f}"]  # fmt: skip


def used(command: list[str]) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MiB of a process."""
    began = time.perf_counter()
    with open(os.devnull, "wb") as nowhere:
        process = os.posix_spawn(
            command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
