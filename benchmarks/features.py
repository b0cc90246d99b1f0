"""Items that nobody has: recall and NDCG at 20 among them, and among all items, by what the catalog says of items.

    python benchmarks/features.py                               # ml-100k, six draws
    python benchmarks/features.py --data ml-1m-sequences --draws 2
    python benchmarks/features.py --epsilon 1 4 --draws 3       # content under differential privacy
    python benchmarks/features.py --boosts 1 2 3 4 6            # how many cold items lists of all items hold

A tenth of the items is held out whole for test, another tenth for validation. `chance` is 20 of the cold items at
random; `cosine` is the cosine of the sum of a user's items with each item, without learning; `shuffled` is ease with
the features of other items.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import fedrec as fr
from fedrec.data.features import feature_matrix
from fedrec.data.splits import Split

COLUMNS: dict[str, dict[str, Any]] = {
    "genres": {"genres": "categories"},
    "genres, year": {"genres": "categories", "title": "year"},
    "genres, year, words": {"genres": "categories", "title": ["year", "text"]},
}
METRICS = "recall@20,ndcg@20"


def measured(model: fr.Estimator, split: Split) -> dict[str, float]:
    """The metrics of a model among cold items and among all."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = model.fit(split.train)
        for protocol in ("cold", "full"):
            for name, value, *_ in fr.evaluate(fitted, split, METRICS, protocol=protocol).rows():
                found[f"{name} {protocol}"] = value
    return found


def cosine(split: Split, columns: dict[str, Any]) -> dict[str, float]:
    """What features say without learning, among cold items."""
    features = feature_matrix(split.data.catalog, columns).astype(np.float64)
    cold = np.flatnonzero(split.cold("test"))
    known, wanted = split.history("test"), split.test
    profiles = np.zeros((known.n_users, features.shape[1]))
    np.add.at(profiles, known.rows_of_users(), features[known.items])
    marks = np.zeros((wanted.n_users, wanted.n_items), dtype=bool)
    marks[wanted.rows_of_users(), wanted.items] = True
    asked = marks[:, cold].any(axis=1)
    scores, hits = profiles[asked] @ features[cold].T, marks[asked][:, cold]
    top = np.take_along_axis(hits, np.argsort(-scores, axis=1, kind="stable")[:, :20], axis=1)
    discounts = 1 / np.log2(np.arange(2, 22))
    ideal = np.array([discounts[: min(count, 20)].sum() for count in hits.sum(axis=1)])
    recall = float(np.mean(top.sum(axis=1) / hits.sum(axis=1)))
    return {"recall@20 cold": recall, "ndcg@20 cold": float(np.mean(top @ discounts / ideal))}


def shuffled(split: Split) -> Split:
    """The same interactions with the features of other items."""
    catalog = split.data.catalog
    assert catalog.features is not None
    mixed = fr.Catalog(catalog.items, catalog.features.sample(fraction=1.0, shuffle=True, seed=0))
    return replace(split, data=replace(split.data, catalog=mixed))


def rows(
    split: Split, epsilons: Sequence[float], boosts: Sequence[float]
) -> Iterator[tuple[str, str, dict[str, float]]]:
    """What is measured of one draw: features, model, figures."""
    if boosts:
        columns = COLUMNS["genres, year, words"]
        for boost in boosts:
            yield (
                "genres, year, words",
                f"ease, boost {boost:g}",
                measured(fr.EASE(item_features=columns, boost=boost), split),
            )
        return
    for name, columns in COLUMNS.items():
        for epsilon in epsilons:
            plan = {"privacy": {"epsilon": epsilon, "delta": 1 / (10 * split.data.n_users)}}
            yield (
                name,
                f"content, epsilon {epsilon:g}",
                measured(fr.Content(item_features=columns, plan=plan), split),
            )
        if not epsilons:
            yield name, "cosine", cosine(split, columns)
            yield name, "content", measured(fr.Content(item_features=columns), split)
            yield name, "ease", measured(fr.EASE(item_features=columns), split)
    if not epsilons:
        yield "genres, year, words", "ease, shuffled", measured(fr.EASE(item_features=columns), shuffled(split))
        yield "none", "chance", {"recall@20 cold": 20 / float(split.cold("test").sum())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[])
    parser.add_argument("--boosts", type=float, nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    data, began = fr.load_data(asked.data), time.process_time()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(asked.draws):
        split = fr.cold_items(data, 0.1, seed=seed)
        for features, model, figures in rows(split, asked.epsilon, asked.boosts):
            found.setdefault((features, model), []).append(figures)
    table = [
        {"features": features, "model": model, **{key: float(np.mean([one[key] for one in each])) for key in each[0]}}
        for (features, model), each in found.items()
    ]
    if asked.json:
        print(json.dumps({"data": asked.data, "draws": asked.draws, "rows": table}))
        return
    print("| features | model | cold: recall@20 / NDCG@20 | all items: recall@20 / NDCG@20 |\n|---|---|---|---|")
    for row in table:
        cells = [
            " / ".join(
                f"{row[f'{name} {protocol}']:.3f}"[1:] for name in METRICS.split(",") if f"{name} {protocol}" in row
            )
            for protocol in ("cold", "full")
        ]
        print(f"| {row['features']} | {row['model']} | {cells[0]} | {cells[1]} |")
    print(f"\n{asked.data}, {asked.draws} draws, {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
