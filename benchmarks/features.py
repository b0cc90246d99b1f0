"""Items that nobody has: recall and NDCG at 20 among them, and among all items, by what the catalog says of items.

    python benchmarks/features.py                               # ml-100k, six draws
    python benchmarks/features.py --data ml-1m-sequences --draws 2
    python benchmarks/features.py --models ease spectral ials autoencoder --sets 'genres, year, words' --draws 3
    python benchmarks/features.py --data ml-1m-sequences --vectors titles.npy --sets 'genres, year, vectors' --draws 1
    python benchmarks/features.py --boosts 1 2 3 4 6 --draws 3  # how many cold items lists of all items hold
    python benchmarks/features.py --epsilon 1 4 --draws 3       # content under differential privacy

Split `cold-items:0.1,0.1`: a tenth of the items is held out whole for test, another tenth for validation, and a tenth
of each user's other interactions for each; with --epsilon, cold items only. Protocol `cold` ranks the cold items among
themselves, `full` ranks all items for both kinds of held-out items, `known` ranks all items for held-out items that
training knows. `chance` is 20 of the cold items at random; `cosine` is the cosine of the sum of a user's items with
each item, without learning; `careful` is the model with boost: careful; `shuffled` is the model with the features of
other items; `alone` is ease without features, which knows no cold items.

`--vectors` takes a NumPy file with one row per item of the catalog, in its order.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

import fedrec as fr
from fedrec.data.features import feature_matrix
from fedrec.data.splits import Split

SETS: dict[str, dict[str, Any]] = {
    "genres": {"genres": "categories"},
    "genres, year": {"genres": "categories", "title": "year"},
    "genres, year, words": {"genres": "categories", "title": ["year", "text"]},
    "genres, year, vectors": {"genres": "categories", "title": "year", "vectors": "vectors"},
    "words": {"title": "text"},
    "vectors": {"vectors": "vectors"},
}
USUAL = tuple(SETS)[:3]
METRICS = "recall@20,ndcg@20"
PROTOCOLS = ("cold", "full", "known")
MODELS = {
    "ease": fr.EASE,
    "spectral": fr.Spectral,
    "ials": fr.IALS,
    "autoencoder": fr.Autoencoder,
    "mf": fr.MF,
    "content": fr.Content,
}


def measured(
    name: str, split: Split, seed: int, settings: dict[str, Any], privacy: dict[str, Any] | None = None
) -> dict[str, float]:
    """The metrics of a model among cold items, among all, and for the others among all."""
    plan: dict[str, Any] = {"split": split.method, "evaluation": {"metrics": METRICS.split(",")[::-1]}}
    if privacy is not None:
        plan["privacy"] = privacy
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted = MODELS[name](seed=seed, plan=plan, **settings).fit(split.data)
        for protocol in PROTOCOLS:
            for metric, value, *_ in fr.evaluate(fitted, split, METRICS, protocol=protocol).rows():
                found[f"{metric} {protocol}"] = value
    if "boost" in fitted.shared:
        found["boost"] = float(fitted.shared["boost"][0])
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


def rows(split: Split, seed: int, asked: argparse.Namespace) -> Iterator[tuple[str, str, dict[str, float]]]:
    """What is measured of one draw: features, model, figures."""
    if not (asked.epsilon or asked.boosts):
        yield "none", "chance", {"recall@20 cold": 20 / float(split.cold("test").sum())}
        yield "none", "alone", measured("ease", split, seed, {})
    for name in asked.sets:
        columns = {"item_features": SETS[name]}
        for epsilon in asked.epsilon:
            privacy = {"epsilon": epsilon, "delta": 1 / (10 * split.data.n_users)}
            yield name, f"content, epsilon {epsilon:g}", measured("content", split, seed, columns, privacy)
        for boost in asked.boosts:
            yield name, f"ease, boost {boost:g}", measured("ease", split, seed, {**columns, "boost": boost})
        if not (asked.epsilon or asked.boosts):
            yield name, "cosine", cosine(split, SETS[name])
            for model in asked.models:
                yield name, model, measured(model, split, seed, columns)
    if asked.careful:
        yield name, f"{model}, careful", measured(model, split, seed, {**columns, "boost": "careful"})
    if not (asked.epsilon or asked.boosts):
        name, columns = asked.sets[-1], {"item_features": SETS[asked.sets[-1]]}
        yield name, f"{asked.models[-1]}, shuffled", measured(asked.models[-1], shuffled(split), seed, columns)


def loaded(asked: argparse.Namespace) -> fr.Interactions:
    """The data, with vectors in its catalog if there are some."""
    data = fr.load_data(asked.data)
    if asked.vectors is None:
        return data
    assert data.catalog.features is not None
    vectors = pl.Series("vectors", np.load(asked.vectors).astype(np.float64).tolist())
    return replace(data, catalog=fr.Catalog(data.catalog.items, data.catalog.features.with_columns(vectors)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=["content", "ease"])
    parser.add_argument("--sets", nargs="+", choices=tuple(SETS), default=list(USUAL))
    parser.add_argument("--careful", action="store_true", help="the last model with boost: careful, too")
    parser.add_argument("--vectors")
    parser.add_argument("--epsilon", type=float, nargs="*", default=[])
    parser.add_argument("--boosts", type=float, nargs="*", default=[])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    if asked.boosts:
        asked.sets = asked.sets[-1:]
    data, began = loaded(asked), time.process_time()
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(asked.draws):
        split = fr.cold_items(data, 0.1, seed=seed, others=0.0 if asked.epsilon else 0.1)
        for features, model, figures in rows(split, seed, asked):
            found.setdefault((features, model), []).append(figures)
    table = [
        {"features": features, "model": model, **{key: float(np.mean([one[key] for one in each])) for key in each[0]}}
        for (features, model), each in found.items()
    ]
    if asked.json:
        print(json.dumps({"data": asked.data, "draws": asked.draws, "rows": table}))
        return
    print("recall@20 / NDCG@20\n\n| features | model | cold | full | known | boost |\n|---|---|---|---|---|---|")
    for row in table:
        cells = [
            " / ".join(f"{row[f'{name} {kind}']:.3f}"[1:] for name in METRICS.split(",") if f"{name} {kind}" in row)
            for kind in PROTOCOLS
        ]
        boost = f"{row['boost']:.1f}" if "boost" in row else ""
        print(f"| {row['features']} | {row['model']} | {' | '.join(cells)} | {boost} |")
    print(f"\n{asked.data}, {asked.draws} draws, {time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
