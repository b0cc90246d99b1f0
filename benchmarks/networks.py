"""Networks beside closed forms: accuracy of both protocols, rounds, bytes and seconds on the same split, in one run.

    python benchmarks/networks.py                            # MovieLens 100K and 1M, found through FEDREC_DATA
    python benchmarks/networks.py --data ml-100k --models ease,autoencoder --seeds 1

Leave-last-out; test histories are train and validation. `sampled:99` is the exact expectation over 99 items that the
user never touched, `full` ranks the whole catalog. Seconds are processor seconds of the whole training, which other
work on the machine disturbs less than those of the clock. Ratios are to the first model of the list.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import fedrec as fr
from fedrec.data.digests import digest_of
from fedrec.data.splits import Split
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.reports import measured_bytes
from fedrec.runs.training import train_here

MODELS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("ease", "ials", "spectral", "autoencoder", "lightgcn", "blend")},
    "neumf": {"name": "neumf"},
    "neumf-private": {"name": "neumf", "user": "private"},
    "two-tower": {"name": "two-tower"},
}
"""Models with the settings that differ from their defaults."""
METRICS = {"sampled:99": ["hr@10", "ndcg@10"], "full": ["ndcg@10"]}
COLUMNS = ("HR@10", "NDCG@10", "full NDCG@10", "MiB up", "seconds")


def measured(split: Split, name: str, seed: int) -> tuple[int, list[float]]:
    """Rounds, and figures in the order of `COLUMNS`, of one training."""
    settings = {"data": {"source": "memory"}, "split": "none", "model": MODELS[name], "seed": seed}
    before = time.process_time()
    plan = Plan.make(settings).resolve(split.data, digest_of(split.data))
    run = Run(plan, None)
    coordinator, trained = train_here(LocalEngine.of_split(split, plan), split.data, run)
    seconds = time.process_time() - before
    values: list[float] = []
    for protocol, metrics in METRICS.items():
        found = coordinator.evaluate(trained.state, trained.round, "test", metrics, protocol)
        values += [found[metric].value for metric in metrics]
    moved = measured_bytes(run, trained)["plain_per_node"]["up"]
    return trained.rounds, [*values, moved / 2**20, seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k,ml-1m-sequences")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print("| data | model | rounds | " + " | ".join(COLUMNS) + " | HR@10, ratio | NDCG@10, ratio | full, ratio |")
    print("|---" * (len(COLUMNS) + 6) + "|")
    for source in options.data.split(","):
        split, first = fr.leave_last_out(fr.load_data(source)), None
        for name in options.models.split(","):
            runs = [measured(split, name, seed) for seed in range(1, options.seeds + 1)]
            mean, sd = (part(np.array([values for _, values in runs]), axis=0) for part in (np.mean, np.std))
            first = mean if first is None else first
            cells = [f"{value:.4f} ± {off:.4f}" for value, off in zip(mean[:3], sd[:3], strict=True)]
            cells += [f"{mean[3]:,.1f}", f"{mean[4]:,.1f}", *(f"{ratio:.3f}" for ratio in (mean / first)[:3])]
            print(f"| {source} | `{name}` | {runs[0][0]} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
