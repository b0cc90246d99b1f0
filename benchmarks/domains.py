"""What histories of one domain say of another: Amazon books and films, whose users are linked at their own client.

    python benchmarks/domains.py                 # both ways, three seeds
    python benchmarks/domains.py --seeds 0 --linked 0.1
    python benchmarks/domains.py --ratings       # what new users will say of an item, instead of which they take

Split `cross-domain` makes a fifth of the linked users cold, and leaves five items of the target to another fifth.
`alone` is `ease` of the target's items only; users without any get the most popular ones. `--linked` hides the source
from all but a share of the users who train, to show what few linked users do. `--ratings` predicts ratings of the cold
users: by the mean of the item, by that and what users make of it elsewhere, and by `biased-mf` over both domains.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

import fedrec as fr
from fedrec.data.catalog import Catalog
from fedrec.data.domains import items_of_domain
from fedrec.data.interactions import Interactions
from fedrec.data.splits import TEST, TRAIN, Split

METRIC = "ndcg@10"


def joined(ratings: bool = False) -> Interactions:
    """Books and films of everybody, with a catalog that says which is which."""
    folder = Path(os.environ["FEDREC_DATA"]) / "amazon-books-movies"
    columns = ["user_id", "item_id", *(["rating"] if ratings else [])]
    types = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64}
    tables = {
        domain: pl.read_csv(folder / f"{domain}.inter", separator="\t", schema_overrides=types).select(columns)
        for domain in ("books", "movies")
    }
    items = [each.select("item_id", domain=pl.lit(name)).unique("item_id") for name, each in tables.items()]
    return fr.interactions_from(pl.concat(list(tables.values())), catalog=Catalog.of(pl.concat(items)))


def fewer(split: Split, target: np.ndarray, share: float, seed: int) -> Split:
    """The split with the source's items only for a share of the users who train on both domains."""
    of_target, owners = target[split.data.items], split.data.rows_of_users()
    trains = np.zeros(split.data.n_users, dtype=bool)
    trains[owners[of_target & (split.part == TRAIN)]] = True
    drawn = np.random.default_rng(seed).random(split.data.n_users) < share
    keep = of_target | (drawn | ~trains)[owners]
    return Split(split.data.where(keep), split.part[keep], split.method, split.merged)


def groups(split: Split, target: np.ndarray) -> dict[str, np.ndarray]:
    """Positions of users who have items of both domains, by what was held out of the target's: all of it (`cold`), all
    but five (`few`), or a fifth."""
    of_target = target[split.data.items]

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(split.data.rows_of_users()[rows], minlength=split.data.n_users)

    whole, held = count(of_target), count(of_target & (split.part == TEST))
    linked = (whole > 0) & (whole < split.data.lengths)
    cold = linked & (held == whole)
    few = linked & ~cold & (whole - held == 5) & (held > np.floor(0.2 * whole + 0.5))
    return {"cold": np.flatnonzero(cold), "few": np.flatnonzero(few), "others": np.flatnonzero(linked & ~cold & ~few)}


def rows(data: Interactions, name: str, seed: int, linked: float) -> Iterator[tuple[str, str, float, int, float]]:
    """Each model, group of users, its metric, how many users there are, and CPU seconds of training."""
    target = items_of_domain(data.catalog, name)
    split = fr.cross_domain(data, name, seed=seed)
    if linked < 1:
        split = fewer(split, target, linked, seed)
    inside, chosen = target[split.data.items], groups(split, target)
    # The same users, parts and items; nobody has anything of the other domain.
    bare = Split(split.data.where(inside), split.part[inside], split.method)
    for way, training in (("alone", bare), ("joint", split)):
        began = time.process_time()
        model = fr.EASE(target=name).fit(training, progress=False)
        spent = time.process_time() - began
        for group, positions in chosen.items():
            found = fr.evaluate(model, training.take_users(positions), METRIC)
            yield way, group, found["value"][0], found["users"][0], spent


def rating_rows(data: Interactions, name: str, seed: int) -> Iterator[tuple[str, float, float]]:
    """Each way to predict ratings of cold users, its MAE and its RMSE."""
    target = items_of_domain(data.catalog, name)
    split = fr.cross_domain(data, name, seed=seed)
    cold = groups(split, target)["cold"]
    inside, owners, trains = target[split.data.items], split.data.rows_of_users(), split.part == TRAIN
    asked = (split.part == TEST) & np.isin(owners, cold)
    mean, of_items = _biases(split, trains & inside)
    elsewhere = _user_biases(split, trains & ~inside, *_biases(split, trains & ~inside))
    here = _user_biases(split, trains & inside, mean, of_items)
    slope = (elsewhere * here).sum() / (elsewhere**2)[here != 0].sum()
    items = mean + of_items[split.data.items[asked]]
    for way, predicted in (("item", items), ("item and user", items + slope * elsewhere[owners[asked]])):
        wrong = np.clip(predicted, 1.0, 5.0) - split.data.values[asked]
        yield way, float(np.abs(wrong).mean()), float(np.sqrt((wrong**2).mean()))
    model = fr.BiasedMF().fit(split, progress=False)
    found = fr.evaluate(model, split.take_users(cold), ["mae", "rmse"])
    yield "biased-mf", found["value"][0], found["value"][1]


def _biases(split: Split, rows: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean rating, and by how much each item is above it [items], damped by five ratings."""
    items, values, size = split.data.items[rows], split.data.values[rows], split.data.n_items
    mean = float(values.mean())
    counts = np.bincount(items, minlength=size)
    return mean, np.bincount(items, weights=values - mean, minlength=size) / (counts + 5)


def _user_biases(split: Split, rows: np.ndarray, mean: float, of_items: np.ndarray) -> np.ndarray:
    """By how much each user is above the items that the user rates [users], damped likewise."""
    owners, size = split.data.rows_of_users()[rows], split.data.n_users
    above = split.data.values[rows] - mean - of_items[split.data.items[rows]]
    return np.bincount(owners, weights=above, minlength=size) / (np.bincount(owners, minlength=size) + 5)


def _means(data: Interactions, name: str, seeds: str) -> Iterator[tuple[str, float, float]]:
    """`rating_rows`, averaged over seeds."""
    for each in zip(*(rating_rows(data, name, int(seed)) for seed in seeds.split(",")), strict=True):
        yield each[0][0], float(np.mean([row[1] for row in each])), float(np.mean([row[2] for row in each]))


def main() -> None:
    """Print a row for each target, way and group: the mean over seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--linked", type=float, default=1.0)
    parser.add_argument("--ratings", action="store_true")
    asked = parser.parse_args()
    data = joined(asked.ratings)
    for name in ("books", "movies"):
        if asked.ratings:
            for way, *errors in _means(data, name, asked.seeds):
                print(f"{name:7} {way:14} mae {errors[0]:.4f}  rmse {errors[1]:.4f}", flush=True)
            continue
        found: dict[tuple[str, str], list[tuple[float, int, float]]] = {}
        for seed in map(int, asked.seeds.split(",")):
            for way, group, *rest in rows(data, name, seed, asked.linked):
                found.setdefault((way, group), []).append((rest[0], rest[1], rest[2]))
        for (way, group), values in found.items():
            mean, users, spent = np.mean(values, axis=0)
            print(f"{name:7} {way:6} {group:7} {METRIC} {mean:.4f}  {users:5.0f} users  {spent:.1f} CPU s", flush=True)


if __name__ == "__main__":
    main()
