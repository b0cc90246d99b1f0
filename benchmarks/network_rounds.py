"""How a round of sasrec grows with cohort, items, window and vector length: seconds and peak memory at a node.

    python benchmarks/network_rounds.py                                        # a table
    python benchmarks/network_rounds.py --picture docs/images/network-rounds.svg

A round is what a node computes: batches, gradients, their sum on the grid. Each quantity is varied with the others
fixed; one thread; of three rounds the fastest counts. Memory is the peak of the process during a round above what it
held before, which Linux tells.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import time
from pathlib import Path

import numpy as np

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Given
from fedrec.models.networks.sasrec import SASRec

BASE = {"cohort": 128, "items": 4000, "window": 50, "embedding_size": 64}
STEPS = (0.5, 1, 2, 4)
NAMES = {"cohort": "clients of a round", "items": "items", "window": "window", "embedding_size": "length of vectors"}
SOURCE = KeyedSource.from_seed(0)


def measured(point: dict[str, int]) -> tuple[float, float]:
    """Seconds, and MiB at the peak, of a round."""
    users, items, window = point["cohort"], point["items"], point["window"]
    model = SASRec(embedding_size=point["embedding_size"], window=window, start_from="random")
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.choice(items, window, replace=False) for _ in range(users)]).astype(np.int32)
    indptr, nobody = np.arange(users + 1, dtype=np.int64) * window, np.zeros(users + 1, dtype=np.int64)
    keys = np.arange(users, dtype=np.uint64) * np.uint64(7919)
    clients = Clients(indptr, rows, None, None, keys, items, nobody, np.empty(0, np.int32))
    state = model.start(Catalog(Identifiers.of(range(items))), {}, SOURCE)
    spec = model.spec(state.shared, 0)
    assert spec is not None
    seconds, peaks = [], []
    for round in range(3):
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        held, began = _memory("VmRSS"), time.process_time()
        total = Sum.zeros(spec.fit(1_000_000), round)
        total.add(model.contribute(Given(round, state.shared, {}, SOURCE.child("round", round)), clients, None)[0])
        seconds.append(time.process_time() - began)
        peaks.append(_memory("VmHWM") - held)
    return min(seconds), float(np.median(peaks))


def _memory(name: str) -> float:
    """A line of the process's state, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def drawn(points: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    """Time and memory over each quantity, with a line in proportion to it through the last point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "fedrec", "svg.fonttype": "none", "font.size": 9}
    figure, axes = plt.subplots(2, len(points), figsize=(11, 5), sharey="row", layout="constrained")
    for column, (name, rows) in enumerate(points.items()):
        across, *figures = (np.array(values) for values in zip(*rows, strict=True))
        for row, (values, label) in enumerate(zip(figures, ("seconds", "MiB"), strict=True)):
            axis = axes[row, column]
            axis.plot(across, values, "o-", color="tab:blue", label="measured")
            axis.plot(across, values[-1] * across / across[-1], ":", color="gray", label="in proportion")
            axis.set_xlim(left=0)
            axis.grid(alpha=0.3)
            if column == 0:
                axis.set_ylabel(f"{label} of a round")
            if row == 1:
                axis.set_xlabel(NAMES[name])
    for axis in axes[:, 0]:
        axis.set_ylim(bottom=0)
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="where to draw the table")
    options = parser.parse_args()
    fr.set_threads(1)
    measured(BASE)
    points: dict[str, list[tuple[int, float, float]]] = {}
    print("| cohort | items | window | embedding_size | seconds | MiB |")
    print("|---" * 6 + "|")
    for name in BASE:
        points[name] = []
        for step in STEPS:
            point = BASE | {name: round(BASE[name] * step)}
            seconds, memory = measured(point)
            points[name].append((point[name], seconds, memory))
            print("| " + " | ".join(map(str, point.values())) + f" | {seconds:.2f} | {memory:.0f} |", flush=True)
    if options.picture is not None:
        drawn(points, options.picture)


if __name__ == "__main__":
    main()
