"""What order is worth: `slit` beside `ease` and popularity, on histories whose last item is to be found.

    python benchmarks/sequences.py                      # ML-1M and ML-100K, those that are found in FEDREC_DATA
    python benchmarks/sequences.py --rank 256           # and the reduced form
    python benchmarks/sequences.py --epsilon 8,4,1      # and the private form on ML-1M
    python benchmarks/sequences.py --temporal           # and ML-100K split by time instead

Leave-last-out, full ranking over the catalog, history masked, mean over all users. Models see the train part alone; a
list for the test item is made from train and validation. Seconds are of the processor: what all nodes and the
coordinator of one process took together, without reading the data.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import fedrec as fr
from fedrec.data.digests import digest_of
from fedrec.data.splits import Split
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.training import train_here

SOURCES = ("ml-1m-sequences", "ml-100k")
METRICS = ["hr@10", "ndcg@10"]
PLAIN: dict[str, dict[str, Any]] = {
    "popularity": {"name": "popularity"},
    "ease": {"name": "ease"},
    "slit, one scale": {"name": "slit", "decays": [0.8]},
    "slit": {"name": "slit"},
    "slit, alpha 1": {"name": "slit", "alpha": 1.0},
    "slit, days": {"name": "slit", "unit": "days"},
}


def measured(split: Split, model: dict[str, Any], privacy: dict[str, Any] | None = None) -> list[str]:
    """Cells of a row: rounds, MiB up, seconds of the processor, and metrics of validation and test."""
    settings: dict[str, Any] = {"data": {"source": "memory"}, "model": model, "split": "none"}
    plan = Plan.make(settings | ({} if privacy is None else {"privacy": privacy}))
    resolved = plan.resolve(split.data, digest_of(split.data))
    engine, before = LocalEngine.of_split(split, resolved), time.process_time()
    coordinator, trained = train_here(engine, split.data, Run(resolved, None))
    seconds = time.process_time() - before
    cells = [f"{trained.round + 1}", f"{seconds:.1f}"]
    for part in ("valid", "test"):
        figures = coordinator.evaluate(trained.state, trained.round, part, METRICS, "full")
        cells += [" / ".join(f"{figures[metric].value:.4f}" for metric in METRICS)]
    return [*cells, f"{figures[METRICS[1]].standard_error or 0.0:.4f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, help="also the form of reduced rank")
    parser.add_argument("--epsilon", default="", help="also the private form, for each epsilon")
    parser.add_argument("--temporal", action="store_true", help="also ML-100K, the newest fifth held out")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", "ratings .or weights. from")
    sets = [(source, "leave-last-out") for source in SOURCES]
    sets += [("ml-100k", "temporal:0.8")] if asked.temporal else []
    print("| data | model | rounds | CPU s | validation, HR@10 / NDCG@10 | test, HR@10 / NDCG@10 | s.e. of NDCG |")
    print("|---|---|---|---|---|---|---|")
    for source, how in sets:
        if not (Path(os.environ.get("FEDREC_DATA", "")) / source).exists():
            print(f"{source} is not found in FEDREC_DATA")
            continue
        data = fr.load_data(source)
        split = fr.leave_last_out(data) if how == "leave-last-out" else fr.temporal(data, 0.8)
        rows: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
            (name, model, None) for name, model in PLAIN.items() if data.times is not None or "unit" not in model
        ]
        if asked.rank is not None:
            rows.append((f"slit, rank {asked.rank}", {"name": "slit", "rank": asked.rank}, None))
        for epsilon in filter(None, asked.epsilon.split(",")):
            if source == SOURCES[0]:
                privacy = {"epsilon": float(epsilon), "delta": 0.1 / data.n_users}
                rows.append((f"slit, epsilon {epsilon}", {"name": "slit"}, privacy))
        title = source if how == "leave-last-out" else f"{source}, {how}"
        for name, model, terms in rows:
            print(f"| {title} | {name} | {' | '.join(measured(split, model, terms))} |", flush=True)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
