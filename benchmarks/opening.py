"""What it takes to use a finished run: time, peak memory and disk of one command each, in a process of its own.

    python benchmarks/opening.py                       # ease on 20,000 items, whose model is 1.5 GiB
    python benchmarks/opening.py --items 2000 --turns 1

The run is one that `fedrec train` makes, but for one thing: weights of `ease` are drawn at random instead of solved for,
which takes minutes and 8 GiB for 20,000 items, and changes neither a form nor a file. Weights are in the cache of the disk,
as after any training. Seconds are of the whole command, Python and imports included; a run of 400 items shows what of them
is not the model's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import fedrec.models.ease as ease
from fedrec.aggregation.sums import Sum
from fedrec.engines.training import train_run
from fedrec.federation.plan import Plan
from fedrec.models.base import State

MIB = 1 << 20


def main() -> None:
    """Make the runs, use them, print a table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--items", type=int, default=20_000)
    options.add_argument("--users", type=int, default=20_000)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--folder", type=Path, help="where runs are made and found again; a temporary one by default")
    chosen = options.parse_args()
    ease.EASE.step = _drawn  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as temporary:
        home = chosen.folder or Path(temporary)
        runs = [made(home, 400, 300), made(home, chosen.items, chosen.users)]
        model = (runs[1] / "model" / "shared.safetensors").stat().st_size
        whole = sum(path.stat().st_size for path in runs[1].rglob("*") if path.is_file())
        print(f"{chosen.items:,} items, {chosen.users:,} users: model {model / MIB:,.0f} MiB, run folder "
              f"{whole / model:.3f} × the model\n")  # fmt: skip
        print("| command | run | seconds: median (least) | CPU, s | peak memory, MiB | less the model | load |")
        print("|---|---|---|---|---|---|---|")
        for words in (("recommend", "--user", "5"), ("similar", "--item", "5"), ("evaluate",)):
            for run, size in ((runs[0], 0), (runs[1], model)):
                print(row(words, run, size, chosen.turns), flush=True)


def made(home: Path, items: int, users: int) -> Path:
    """A run of `ease` with so many items."""
    folder = home / f"ease-{items}"
    if not folder.exists():
        source = f"synthetic:users={users},items={items},interactions_per_user=40"
        train_run(Plan.make({"data": {"source": source}, "model": {"name": "ease"}}), folder)
    return folder


def row(words: tuple[str, ...], run: Path, model: int, turns: int) -> str:
    """A line of the table."""
    command = [sys.executable, "-m", "fedrec", words[0], str(run), *words[1:], "--json"]
    found = [used(command) for _ in range(turns + 1)][1:]
    seconds, cpu, peak = ([one[place] for one in found] for place in range(3))
    return (
        f"| {' '.join(words)} | {'small' if not model else 'large'} | {statistics.median(seconds):.2f} "
        f"({min(seconds):.2f}) | {statistics.median(cpu):.2f} | {max(peak):,.0f} | "
        f"{max(peak) - model / MIB:,.0f} | {os.getloadavg()[0]:.1f} |"
    )


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


def _drawn(self: ease.EASE, state: State, total: Sum, round: int) -> State:
    """Weights that nobody solved for."""
    n_items = len(state.shared["weights"])
    weights = np.random.default_rng(0).standard_normal((n_items, n_items), dtype=np.float32)
    np.fill_diagonal(weights, 0.0)
    return State({"weights": weights})


if __name__ == "__main__":
    main()
