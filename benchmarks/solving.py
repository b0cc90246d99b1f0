"""Seconds of EASE's solve at the coordinator by threads of linear algebra: what `reproducible: false` gains.

    python benchmarks/solving.py --items 5000,10000 --threads 1,2

Numbers of threads take turns, so that all meet the same minutes of the machine; the table has the median turn and, in
brackets, the least. A ratio is of the first number of threads to the others, turn by turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from fedrec.models.linear.ease import solve

REG = 100.0


def gram(items: int, seed: int = 0) -> np.ndarray:
    """XᵀX of random interactions with popular and rare items [items, items] float64."""
    rng = np.random.default_rng(seed)
    popularity = 0.2 / np.sqrt(1.0 + np.arange(items))
    rows = (rng.random((2000, items)) < popularity).astype(np.float32)
    return (rows.T @ rows).astype(np.float64)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", default="5000,10000")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    threads = [int(text) for text in asked.threads.split(",")]
    print(
        "| items | threads | seconds | CPU, s | times as fast (least, most) | largest difference of a weight | load |"
    )
    print("|---|---|---|---|---|---|---|")
    for items in map(int, asked.items.split(",")):
        matrix, first = gram(items), np.empty(0)
        wall: dict[int, list[float]] = {number: [] for number in threads}
        cpu: dict[int, list[float]] = {number: [] for number in threads}
        apart = dict.fromkeys(threads, 0.0)
        before = os.getloadavg()[0]
        for _ in range(asked.turns):
            for number in threads:
                work = matrix.copy()
                with threadpool_limits(number, "blas"):
                    began, worked = time.perf_counter(), time.process_time()
                    weights, _ = solve(work, REG)
                    wall[number].append(time.perf_counter() - began)
                    cpu[number].append(time.process_time() - worked)
                first = weights if not len(first) else first
                apart[number] = max(apart[number], float(np.abs(weights - first).max()))
        load = f"{before:.1f}–{os.getloadavg()[0]:.1f}"
        for number in threads:
            ratios = [one / other for one, other in zip(wall[threads[0]], wall[number], strict=True)]
            print(
                f"| {items:,} | {number} | {statistics.median(wall[number]):.2f} ({min(wall[number]):.2f}) "
                f"| {statistics.median(cpu[number]):.2f} | {statistics.median(ratios):.2f} "
                f"({min(ratios):.2f}, {max(ratios):.2f}) | {apart[number]:.1e} | {load} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
