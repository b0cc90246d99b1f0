"""What a finished model of other users is worth to a small data set: MovieLens 1M to MovieLens 100K, by title and year.

    python benchmarks/transfer.py                          # 6 to 661 training users, three seeds
    python benchmarks/transfer.py --users 66,198 --seeds 0
    python benchmarks/transfer.py --model ials --users 6,19,66,198

Of the users of MovieLens 100K, 20 % are tested as new users (a fifth of their items is to be found from the others),
10 % decide on validation, and some of the rest train. `auto` chooses the strength and whether to follow the source at
all. The permuted source, whose items are exchanged at random, is the control: it must be left out.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import fedrec as fr
from fedrec.data.interactions import Interactions
from fedrec.data.splits import HISTORY, TEST, TRAIN, VALID, Split
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.transfer import Taken
from fedrec.runs.training import train_here
from fedrec.runs.transferring import with_transfer

METRIC = "ndcg@10"


def split_of(data: Interactions, users: int, seed: int) -> Split:
    """Test and validation users with a fifth of their items held out, and so many training users."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(data.n_users)
    tested, chosen = int(0.2 * data.n_users), int(0.3 * data.n_users)
    kept = np.sort(order[: chosen + users])
    held = np.full(data.n_users, TRAIN, dtype=np.int8)
    held[order[:tested]], held[order[tested:chosen]] = TEST, VALID
    some = data.take_users(kept)
    owners = held[kept][some.rows_of_users()]
    found = rng.random(len(some)) < 0.2
    part = np.where(owners == TRAIN, TRAIN, np.where(found, owners, HISTORY)).astype(np.int8)
    return Split(some, part, "new users", 0)


def trained(plan: Plan, split: Split, taken: Taken | None) -> tuple[float, float, dict[str, Any]]:
    """NDCG@10 of the test users, its standard error, and what the trials said."""
    run = Run(plan, None)
    engine = LocalEngine.of_split(split, plan)
    coordinator, result = train_here(engine, split.data, run, taken=taken)
    found = coordinator.evaluate(result.state, result.round, "test", [METRIC], "full")[METRIC]
    return found.value, found.standard_error or 0.0, run.ledger.of_kind("round")[-1].get("transfer", {})


def permuted(taken: Taken, seed: int) -> Taken:
    """The same weights between other items, or factors of others."""
    order = np.random.default_rng(1000 + seed).permutation(len(taken.items))
    square = taken.weights.shape[0] == taken.weights.shape[1]
    return replace(taken, weights=np.ascontiguousarray(taken.weights[np.ix_(order, order) if square else order]))


def main() -> None:
    """Print a row for each number of users, seed and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", default="6,19,66,198,661")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--model", choices=("ease", "ials"), default="ease")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    asked = parser.parse_args()
    estimator = fr.EASE() if asked.model == "ease" else fr.IALS()
    source = estimator.fit(fr.load_data("ml-1m-sequences"), progress=False).opened
    data = fr.load_data("ml-100k").without_values()
    base = {"data": {"source": "ml-100k"}, "model": {"name": asked.model}, "evaluation": {"metrics": [METRIC]}}
    alone = Plan.make(base)
    following = Plan.make(base | {"transfer": {"run": "ml-1m-sequences", "match": "title"}})
    rows = []
    for users in map(int, asked.users.split(",")):
        for seed in map(int, asked.seeds.split(",")):
            split = split_of(data, users, seed)
            auto, found = with_transfer(following.resolve(split.data, "0" * 64), data.catalog, source)
            assert found is not None
            for way, plan, taken in (
                ("alone", alone.resolve(split.data, "0" * 64), None),
                ("auto", auto, found.taken),
                ("permuted", auto, permuted(found.taken, seed)),
            ):
                began = time.process_time()
                value, error, said = trained(plan, split, taken)
                spent = round(time.process_time() - began, 1)
                rows.append({"users": users, "seed": seed, "way": way, "value": value, "error": error, **said})
                best = max(said.get("tried", ()), key=lambda each: each["gain"], default=None)
                shown = "" if best is None else f"gain {best['gain']:+.4f} ± {best['standard_error']:.4f}"
                strength = "" if best is None else f"strength {said['strength']}"
                print(
                    f"{users:4} {seed} {way:9} {value:.4f} ± {error:.4f}  {shown:24} {strength:16} {spent} CPU s",
                    flush=True,
                )
    for users in sorted({row["users"] for row in rows}):
        means = {
            way: np.mean([row["value"] for row in rows if (row["users"], row["way"]) == (users, way)])
            for way in ("alone", "auto", "permuted")
        }
        print(f"{users:4} users: " + ", ".join(f"{way} {value:.4f}" for way, value in means.items()))
    if asked.out is not None:
        asked.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
