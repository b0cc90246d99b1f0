"""Whether weights help: models with and without them, on plays whose counts are known to tell of taste, and on ratings.

    python benchmarks/weights.py                  # synthetic plays, and ML-100K and Amazon ratings where they are found
    python benchmarks/weights.py --seeds 5

Synthetic plays: a user meets items by their popularity, whatever its taste, and plays those it likes more often (a
Poisson number); to be found are the items it likes best of those it never met. The truth is known, so the figure is of
taste and not of what users happen to meet. Ratings: all are interactions for training; of a fifth held out, those of 4
and more are to be found among the items that the user has not rated.

Settings of every model, with and without weights, are chosen on the validation part of the first seed; figures are of
the test part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fedrec as fr
from fedrec.data.catalog import Catalog
from fedrec.data.digests import digest_of
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.splits import TEST, TRAIN, VALID, Split
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.training import train_here

METRIC = "ndcg@10"
WEIGHTS = [{"form": "log", "alpha": alpha} for alpha in (0.3, 1.0, 3.0, 10.0)] + [{"form": "value"}]
MODELS: dict[str, dict[str, list[Any]]] = {
    "popularity": {},
    "itemknn": {"neighbours": [50, 200]},
    "ease": {"reg": [30.0, 100.0, 300.0, 1000.0, 3000.0]},
    "ials": {"unobserved_weight": [0.1, 0.3, 1.0, 3.0], "reg": [0.003, 0.01, 0.03], "embedding_size": [32]},
}


def plays(seed: int, users: int = 3000, items: int = 500) -> Split:
    """Users who met 40 items each, with counts of plays; five liked items each for validation and test."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(users, 8)) @ rng.normal(size=(8, items)) / np.sqrt(8)
    popularity = (np.arange(items) + 20.0) ** -0.8
    met = np.argsort(rng.exponential(size=(users, items)) / rng.permutation(popularity), axis=1)[:, :40]
    counts = 1.0 + rng.poisson(np.exp(1.2 * np.take_along_axis(taste, met, 1)))
    liked = taste.copy()
    np.put_along_axis(liked, met, -np.inf, 1)
    best = rng.permuted(np.argsort(-liked, axis=1)[:, :10], axis=1)
    found = np.concatenate([met, best], axis=1).astype(np.int32)
    values = np.concatenate([counts, np.ones(best.shape)], axis=1).astype(np.float32)
    part = np.repeat([TRAIN, VALID, TEST], [40, 5, 5]).astype(np.int8)
    indptr = np.arange(users + 1, dtype=np.int64) * found.shape[1]
    catalog = Catalog(Identifiers.of(list(range(items))))
    data = Interactions(Identifiers.of(list(range(users))), catalog, indptr, found.ravel(), values.ravel())
    return Split(data, np.tile(part, users), "liked of those never met")


def rated(source: str) -> Callable[[int], Split]:
    """Ratings: 80 % for training, and of the rest those of 4 and more, half for each part."""

    def split(seed: int) -> Split:
        whole = fr.ratio(replace(fr.load_data(source), part=None), 0.8, seed)
        assert whole.data.values is not None
        keep = (whole.part == TRAIN) | (whole.data.values >= 4)
        return Split(whole.data.where(keep), whole.part[keep], "ratio:0.8, relevant from 4")

    return split


def trials(name: str, weights: list[Any]) -> Iterator[dict[str, Any]]:
    """Settings of a model to choose from."""
    grid = MODELS[name] | {"weights": weights}
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def measured(split: Split, name: str, trial: dict[str, Any], part: str) -> tuple[float, float]:
    """NDCG@10 and its standard error over users."""
    settings = {key: value for key, value in trial.items() if key != "weights"}
    plan: dict[str, Any] = {"data": {"source": "memory"}, "model": {"name": name, **settings}, "split": "none"}
    plan |= {} if trial["weights"] is None else {"weights": trial["weights"]}
    resolved = Plan.make(plan).resolve(split.data, digest_of(split.data))
    coordinator, trained = train_here(LocalEngine.of_split(split, resolved), split.data, Run(resolved, None))
    found = coordinator.evaluate(trained.state, trained.round, part, [METRIC], "full")[METRIC]
    return found.value, found.standard_error or 0.0


def study(name: str, make: Callable[[int], Split], seeds: int) -> list[dict[str, Any]]:
    """A row per model: without weights, with them, and the difference in percent."""
    rows, first = [], make(0)
    for model in MODELS:
        row: dict[str, Any] = {"data": name, "model": model}
        for kind, weights in (("plain", [None]), ("weighted", WEIGHTS)):
            chosen = max(trials(model, weights), key=lambda trial: measured(first, model, trial, "valid")[0])
            figures = [measured(make(seed), model, chosen, "test")[0] for seed in range(seeds)]
            row[kind] = float(np.mean(figures))
            row[f"{kind}_settings"] = {key: value for key, value in chosen.items() if value is not None}
            row[f"{kind}_seeds"] = figures
        row["gain"] = row["weighted"] / row["plain"] - 1
        row["better_in"] = sum(a > b for a, b in zip(row["weighted_seeds"], row["plain_seeds"], strict=True))
        print(
            f"{name:22} {model:12} {row['plain']:.4f} → {row['weighted']:.4f} ({row['gain']:+.1%}, better in "
            f"{row['better_in']} of {seeds})  {json.dumps(row['weighted_settings'])}",
            flush=True,
        )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    asked = parser.parse_args()
    sets: dict[str, Callable[[int], Split]] = {"synthetic plays": plays}
    folder = os.environ.get("FEDREC_DATA")
    for source in ("ml-100k", "amazon-books-movies/movies"):
        if folder is not None and (Path(folder) / source.split("/")[0]).exists():
            sets[source] = rated(source)
    rows = [row for name, make in sets.items() for row in study(name, make, asked.seeds)]
    if asked.out is not None:
        asked.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
