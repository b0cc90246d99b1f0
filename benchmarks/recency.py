"""What decay at scoring time is worth, and what sampled figures make of it.

    python benchmarks/recency.py                           # ML-1M sequences and ML-100K where they are found
    python benchmarks/recency.py --data ml-100k --split temporal:0.8

For every model: NDCG@10 of the test part without decay, and with the decay that validation chose under full ranking.
Each model is trained once: no sum depends on the decay.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import fedrec as fr
from fedrec.data.keys import KeyedSource
from fedrec.data.splits import Split, SplitMethod
from fedrec.estimators.estimator import Estimator

METRIC = "ndcg@10"
DECAYS = [1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3]
PROTOCOLS = ("full", "sampled:99")
MODELS: dict[str, tuple[type[Estimator], dict[str, Any]]] = {
    "popularity": (fr.Popularity, {}),
    "itemknn": (fr.ItemKNN, {}),
    "spectral": (fr.Spectral, {}),
    "ease, rank 256": (fr.EASE, {"rank": 256}),
    "ease": (fr.EASE, {}),
}


def measured(model: Estimator, split: Split) -> dict[str, tuple[float, float]]:
    """NDCG@10 on test and its standard error, by protocol."""
    tables = {protocol: fr.evaluate(model, split, [METRIC], protocol=protocol) for protocol in PROTOCOLS}
    return {name: (table["value"][0], table["standard_error"][0]) for name, table in tables.items()}


def rows_of(data: str, split: Split) -> list[dict[str, Any]]:
    """A row for each model, without decay and with the chosen one."""
    rows = []
    for name, (kind, settings) in MODELS.items():
        began = time.process_time()
        models = {1.0: kind(**settings)}
        if name != "popularity":
            best = fr.tune(kind, split, {"decay": DECAYS}, metric=METRIC, progress=False, **settings)
            models[best.settings["decay"]] = best.best
        for decay, model in models.items():
            figures = measured(model.fit(split), split)
            row = {"data": data, "split": split.method, "model": name, "decay": decay, **figures}
            rows.append(row | {"cpu_seconds": round(time.process_time() - began, 1)})
            shown = ", ".join(f"{protocol} {value:.4f} ± {error:.4f}" for protocol, (value, error) in figures.items())
            print(f"{data:16} {split.method:24.24} {name:15} decay {decay:<5} {shown}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="one data set instead of both")
    parser.add_argument("--split", default="leave-last-out")
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # ratings are not used here
    rows = []
    for data in [asked.data] if asked.data else ["ml-1m-sequences", "ml-100k"]:
        split = SplitMethod.parse(asked.split).apply(fr.load_data(data), KeyedSource.from_seed(0))
        rows += rows_of(data, split)
    if asked.out is not None:
        asked.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
