"""A history given for scoring is merged as a split merges: repeats of an item change nothing, whatever the model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from chosen_in_test import chosen
from conftest import Said
from fedrec.data.clients import Clients
from fedrec.errors import InputError
from fedrec.estimators.estimator import estimator
from runs_in_test import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

ITEMS = 12
ONCE = [5, 0, 2, 1]


@pytest.fixture(scope="module", params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    settings = {key: value for key, value in MODELS[request.param].items() if key != "name"}
    data = fr.synthetic(users=40, items=ITEMS, interactions_per_user=5, seed=2, ratings=True)
    return estimator(MODELS[request.param]["name"])(**settings, plan={"split": "none@rows"}).fit(data)


def history(items: list[int], ids: list[Any], **more: Any) -> pl.DataFrame:
    rows = {"user_id": ["v"] * len(items), "item_id": [ids[item] for item in items], "rating": [3.0] * len(items)}
    return pl.DataFrame({**rows, **more})


@pytest.mark.parametrize("repeats", chosen([3000], [1, 40, 3000]))
def test_repeats_in_a_history_change_no_recommendation(model: Any, repeats: int) -> None:
    catalog = model.opened.data.catalog
    ids = catalog.items.series.to_list()
    once, often = history(ONCE, ids), history([2] * repeats + ONCE, ids)
    assert often.unique(["user_id", "item_id"], keep="last", maintain_order=True).equals(once)
    expected = model.recommend(["v"], ITEMS, history=once, include_seen=True)
    assert expected.height == ITEMS
    read = fr.interactions_from(often, catalog=catalog)
    for given in (often, read):
        assert model.recommend(["v"], ITEMS, history=given, include_seen=True).equals(expected)
        (batch,) = model.recommend_batches(["v"], ITEMS, history=given, include_seen=True)
        assert batch.equals(expected)
    assert model.recommend(["v"], ITEMS, history=often).equals(model.recommend(["v"], ITEMS, history=once))


def test_the_latest_of_repeats_counts_where_times_are_known(model: Any) -> None:
    ids = model.opened.data.catalog.items.series.to_list()
    often = history([0, 2, 1, 0], ids, timestamp=[4, 3, 2, 1])
    once = history([1, 2, 0], ids, timestamp=[2, 3, 4])
    assert model.recommend(["v"], 4, history=often).equals(model.recommend(["v"], 4, history=once))


def test_the_command_merges_repeats_of_a_history(tmp_path: Path, fedrec: Callable[..., Said]) -> None:
    data = fr.synthetic(users=40, items=ITEMS, interactions_per_user=5, seed=2)
    fr.MF(embedding_size=4, rounds=2).fit(data).save(tmp_path / "run")
    ids = data.catalog.items.series.to_list()
    said = []
    for name, items in (("once", ONCE), ("often", [2] * 3000 + ONCE)):
        history(items, ids).write_csv(tmp_path / f"{name}.csv")
        found = fedrec("recommend", tmp_path / "run", "--user", "v", "--history", tmp_path / f"{name}.csv", "--json")
        assert found.code == 0
        said.append(json.loads(found.out)["recommendations"])
    assert said[0] == said[1] != []


def test_what_is_not_distinct_is_no_split_and_positions_outside_the_catalog_are_no_interactions() -> None:
    data = fr.synthetic(users=40, items=ITEMS, interactions_per_user=5, seed=2)
    twice = data.items.copy()
    twice[1] = twice[0]
    repeated = fr.Interactions(data.users, data.catalog, data.indptr, twice)
    with pytest.raises(InputError, match="distinct"):
        fr.Split(repeated, np.zeros(len(data), dtype=np.int8), "given")
    for item in (-1, ITEMS):
        wrong = data.items.copy()
        wrong[3] = item
        with pytest.raises(InputError, match="positions in the catalog"):
            fr.Interactions(data.users, data.catalog, data.indptr, wrong)
    back = data.indptr.copy()
    back[1] = back[2] + 1
    with pytest.raises(InputError, match="one after the other"):
        fr.Interactions(data.users, data.catalog, back, data.items)
    clients = Clients.of(data, np.zeros(data.n_users, dtype=np.uint64))
    with pytest.raises(InputError, match="positions in the catalog"):
        Clients(clients.indptr, clients.items, None, None, clients.keys, ITEMS - 1,
                clients.excluded_indptr, clients.excluded_items)  # fmt: skip
