"""Errors of predicted ratings: biased-mf from sums beside the same loss on pooled data, SGD as Surprise does it, and
biases alone.

    python benchmarks/ratings.py                   # ML-100K, folds of 5 and 80/20 with 3 seeds
    python benchmarks/ratings.py --data ml-1m --seeds 1

Ratings are drawn for the test part whoever they are of, as in Surprise's `KFold` and `train_test_split`. `sgd` is its
`SVD` with default settings (100 factors, 20 epochs, learning rate 0.005, regularisation 0.02), written here in a few
lines; its published figures for ML-100K, 5 folds, are RMSE 0.934 and MAE 0.737. `pooled` is alternating least squares
in NumPy, in float64, with the settings and the start of `biased-mf`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numba
import numpy as np

import fedrec as fr
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.data.splits import TEST, TRAIN, Split
from fedrec.models.factors.biased_mf import BiasedMF
from fedrec.rating import mae, rmse

SCALE = (1.0, 5.0)
Method = Callable[[Split], np.ndarray]


def folds(data: Interactions, count: int, seed: int) -> Iterator[Split]:
    """Every rating is in the test part of one of the splits."""
    places = np.random.default_rng(seed).permutation(len(data)) % count
    for fold in range(count):
        part = np.where(places == fold, np.int8(TEST), np.int8(TRAIN))
        yield Split(data, part, f"fold {fold + 1} of {count}")


def held_out(split: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of user and item, and rating, of what is held out."""
    test = split.test
    assert test.values is not None
    return test.rows_of_users(), test.items, test.values.astype(np.float64)


def federated(nodes: int, **settings: Any) -> Method:
    """biased-mf over so many nodes in this process."""

    def predicted(split: Split) -> np.ndarray:
        model = fr.BiasedMF(lowest=SCALE[0], highest=SCALE[1], **settings).fit(split.train, nodes=nodes)
        users, items, _ = held_out(split)
        pairs = {"user_id": split.data.users.take(users), "item_id": split.data.catalog.items.take(items)}
        found: np.ndarray = model.predict(pairs)["rating"].to_numpy()
        return found

    return predicted


def mean_alone(split: Split) -> np.ndarray:
    """The mean of all ratings for everybody."""
    assert split.train.values is not None
    return np.full(len(split.test), split.train.values.mean())


@numba.njit(cache=False)
def _sgd(users, items, ratings, mean, p, q, b, c, epochs, rate, reg):  # type: ignore[no-untyped-def]
    for _ in range(epochs):
        for row in range(len(users)):
            u, i = users[row], items[row]
            error = ratings[row] - (mean + b[u] + c[i] + np.dot(p[u], q[i]))
            b[u] += rate * (error - reg * b[u])
            c[i] += rate * (error - reg * c[i])
            for k in range(p.shape[1]):
                x, y = p[u, k], q[i, k]
                p[u, k] += rate * (error * y - reg * x)
                q[i, k] += rate * (error * x - reg * y)


def sgd(split: Split) -> np.ndarray:
    """Surprise's SVD."""
    train, rng = split.train, np.random.default_rng(0)
    assert train.values is not None
    order = rng.permutation(len(train))
    ratings, mean = train.values.astype(np.float64)[order], float(train.values.mean())
    p, q = rng.normal(0, 0.1, (train.n_users, 100)), rng.normal(0, 0.1, (train.n_items, 100))
    b, c = np.zeros(train.n_users), np.zeros(train.n_items)
    _sgd(train.rows_of_users()[order], train.items[order], ratings, mean, p, q, b, c, 20, 0.005, 0.02)
    users, items, _ = held_out(split)
    return np.clip(mean + b[users] + c[items] + np.einsum("nd,nd->n", p[users], q[items]), *SCALE)


def pooled(split: Split) -> np.ndarray:
    """Alternating least squares on pooled ratings."""
    model, train = BiasedMF(), split.train
    assert train.values is not None
    users, items, ratings = train.rows_of_users(), train.items.astype(np.int64), train.values.astype(np.float64)
    start = model.start(train.catalog, KeyedSource.from_seed(0).child("start"))
    table, pulls = start.shared["items"].astype(np.float64), np.array([model.bias_reg] + [model.reg] * 16)
    counts, mean = np.bincount(items, minlength=train.n_items), ratings.mean()
    table[counts == 0] = 0.0
    sums = np.bincount(items, weights=ratings - mean, minlength=train.n_items)
    table[:, 0] = sums / np.maximum(counts + model.bias_reg * counts**model.nu, 1e-9)

    def solved(rows: np.ndarray, others: np.ndarray, right: np.ndarray, old: np.ndarray) -> np.ndarray:
        new, order = old.copy(), np.argsort(rows, kind="stable")
        bounds = np.searchsorted(rows[order], np.arange(len(old) + 1))
        for row in range(len(old)):
            own = order[bounds[row] : bounds[row + 1]]
            if len(own):
                x = right[others[own]].copy()
                targets = ratings[own] - mean - x[:, 0]
                x[:, 0] = 1.0
                new[row] = np.linalg.solve(x.T @ x + len(own) ** model.nu * np.diag(pulls), x.T @ targets)
        return new

    nobody = np.zeros((train.n_users, 17))
    for _ in range(model.rounds - 1):
        table = solved(items, users, solved(users, items, table, nobody), table)
    people = solved(users, items, table, nobody)
    asked, wanted, _ = held_out(split)
    found = mean + people[asked, 0] + table[wanted, 0] + np.einsum("nd,nd->n", people[asked, 1:], table[wanted, 1:])
    return np.clip(found, *SCALE)


METHODS: dict[str, Method] = {
    "mean": mean_alone,
    "biased-mf, biases alone": federated(1, embedding_size=0),
    "sgd (Surprise's SVD)": sgd,
    "pooled": pooled,
    "biased-mf": federated(1),
    "biased-mf, 3 nodes": federated(3),
}


def study(name: str, splits: list[Split]) -> list[dict[str, Any]]:
    """A row per method; ratios are to `pooled`."""
    rows: list[dict[str, Any]] = []
    for method, predicted in METHODS.items():
        began, figures = time.perf_counter(), []
        for split in splits:
            ratings, found = held_out(split)[2], predicted(split)
            figures.append((rmse(ratings, found), mae(ratings, found)))
        mean, sd = np.mean(figures, axis=0), np.std(figures, axis=0, ddof=1 if len(figures) > 1 else 0)
        seconds = (time.perf_counter() - began) / len(splits)
        rows.append({"split": name, "method": method, "rmse": mean[0], "mae": mean[1], "sd": list(sd),
                     "seconds": seconds})  # fmt: skip
    base = next(row for row in rows if row["method"] == "pooled")
    for row in rows:
        row["ratio"] = row["rmse"] / base["rmse"]
        print(
            f"{name:12} {row['method']:24} RMSE {row['rmse']:.4f} ± {row['sd'][0]:.4f} ({row['ratio']:.3f} of pooled)  "
            f"MAE {row['mae']:.4f} ± {row['sd'][1]:.4f}  {row['seconds']:.1f} s",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all rows as JSON")
    asked = parser.parse_args()
    data = replace(fr.load_data(asked.data), part=None)
    rows = study("5 folds", list(folds(data, 5, 0)))
    rows += study("80/20", [next(folds(data, 5, seed)) for seed in range(1, asked.seeds + 1)])
    if asked.out is not None:
        asked.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
