"""`slit` and `sasrec` as one blend: each alone, and together by the weight that validation chooses.

    python benchmarks/blend.py --out both                       # MovieLens 1M as sequences, found through FEDREC_DATA
    python benchmarks/blend.py --out longer --set rounds=3000   # with other settings of sasrec

A run that is there is measured, not trained again.

Leave-last-out, full ranking over the catalog, history masked, mean over all users. Models see the train part alone; a
list for the test item is made from train and validation. Both models are trained in one plan, and each ends with the
arrays that it ends with alone, so that one training gives the rows of all. Seconds are of the processor, over all
threads.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.cli.options import pair, parsed
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run, is_run
from fedrec.models.base import State
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import open_run
from fedrec.runs.training import train_run

METRICS = ["hr@10", "ndcg@10"]
WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Of sasrec, where slit has 1."""


def figures(opened: OpenedRun, model: Mapping[str, Any], arrays: Mapping[str, np.ndarray], part: str) -> list[float]:
    """Metrics of a model with some arrays over the users of a run, and the standard error of the last one."""
    plan = Plan.make(opened.plan.model_dump() | {"model": dict(model)})
    agreement, nodes = Agreement.of(plan, opened.catalog), opened.engine.under(plan)
    coordinator = Coordinator(agreement, nodes, Run(plan, None), nodes.has_valid)
    found = coordinator.evaluate(State(arrays), opened.trained.round, part, METRICS, "full")
    return [*(found[metric].value for metric in METRICS), found[METRICS[-1]].standard_error or 0.0]


def row(name: str, valid: list[float], test: list[float] | None) -> None:
    """Print a row."""
    cells = ["" if values is None else " / ".join(f"{value:.4f}" for value in values[:2]) for values in (valid, test)]
    print(f"| {name} | {' | '.join(cells)} | {'' if test is None else f'{test[2]:.4f}'} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-1m-sequences")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; one that is there is measured")
    parser.add_argument("--set", action="append", default=[], help="a setting of sasrec, as key=value")
    asked = parser.parse_args()
    before = time.process_time()
    if not is_run(asked.out):
        settings = {key: parsed(text) for key, text in (pair(assigned, "--set") for assigned in asked.set)}
        parts = [{"name": "slit"}, {"name": "sasrec", **settings}]
        plan = {"data": {"source": asked.data}, "model": {"name": "blend", "models": parts, "shares": [1, 4]}}
        train_run(Plan.make(plan), asked.out)
        print(f"trained in {time.process_time() - before:.0f} processor seconds, measurement of one weight included")
    opened = open_run(asked.out)
    print("| model | validation, HR@10 / NDCG@10 | test, HR@10 / NDCG@10 | s.e. of NDCG |\n|---|---|---|---|")
    parts = opened.plan.model["models"]
    for place, part in enumerate(parts):
        prefix = f"{place}_"
        shared = opened.trained.state.shared
        own = {name.removeprefix(prefix): shared[name] for name in shared if name.startswith(prefix)}
        row(part["name"], *(figures(opened, part, own, held_out) for held_out in ("valid", "test")))
    found = {}
    for weight in WEIGHTS:
        model = {"name": "blend", "models": parts, "shares": [1, weight]}
        found[weight] = figures(opened, model, opened.trained.state.shared, "valid")
        row(f"1 : {weight:g}", found[weight], None)
    best = max(WEIGHTS, key=lambda weight: found[weight][1])
    model = {"name": "blend", "models": parts, "shares": [1, best]}
    row(f"1 : {best:g}, chosen", found[best], figures(opened, model, opened.trained.state.shared, "test"))


if __name__ == "__main__":
    main()
