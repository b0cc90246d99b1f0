"""A model of nothing but what the catalog says of items."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from fedrec.errors import InputError, PlanError
from fedrec.federation.plan import Plan

DATA = fr.synthetic(users=300, items=120, interactions_per_user=12, seed=4)
COLUMNS = {"genres": "categories", "title": "text"}


def scores(model: fr.Estimator, data: fr.Interactions) -> np.ndarray:
    opened = model.opened
    (shard,) = opened.with_split(fr.Split(data, np.zeros(len(data), dtype=np.int8), "none")).shards
    shared, everyone = opened.trained.state.shared, np.arange(data.n_users)
    return np.vstack([part for _, _, part in shard.scores(shared, 0, data, everyone)])


def test_the_map_is_where_the_gradient_of_the_squared_loss_is_zero() -> None:
    model = fr.Content(item_features=COLUMNS, reg=20.0).fit(DATA)
    features = model.opened.agreement.public["features"].astype(np.float64)
    found = model.opened.trained.state.shared["map"].astype(np.float64)
    histories = np.zeros((DATA.n_users, DATA.n_items))
    histories[DATA.rows_of_users(), DATA.items] = 1.0
    profiles = histories @ features
    squares, gram = profiles.T @ profiles, features.T @ features
    wanted = sum(np.outer(profiles[user] - features[item], features[item]) for user, item in np.argwhere(histories))
    reg = 20e-6 * np.trace(squares) * np.trace(gram)
    left = squares @ found @ gram + reg * found - wanted
    assert np.linalg.norm(left) < 1e-4 * np.linalg.norm(wanted)
    np.testing.assert_allclose(scores(model, DATA), profiles @ found @ features.T, rtol=1e-3, atol=1e-4)


def test_items_that_nobody_has_are_recommended_by_what_they_share_with_those_of_the_user() -> None:
    split = fr.cold_items(DATA, 0.15, seed=1)
    model = fr.Content().fit(split)
    found = fr.evaluate(model, split, "recall@5", protocol="cold")["value"][0]
    chance = 5 / split.cold("test").sum()
    assert found > 1.5 * chance
    blind = replace(split, data=replace(DATA, catalog=shuffled(DATA.catalog)))
    assert fr.evaluate(fr.Content().fit(blind), blind, "recall@5", protocol="cold")["value"][0] < 1.3 * chance


def shuffled(catalog: fr.Catalog) -> fr.Catalog:
    assert catalog.features is not None
    return fr.Catalog(catalog.items, catalog.features.sample(fraction=1.0, shuffle=True, seed=1))


def test_cold_items_are_ranked_among_themselves_and_only_where_there_are_some() -> None:
    """A model that knows counts alone knows nothing of items that nobody has: it lands on chance."""
    split = fr.cold_items(DATA, 0.15, seed=1)
    model = fr.Popularity().fit(split.train)
    cold = int(split.cold("test").sum())
    assert fr.evaluate(model, split, "recall@5", protocol="cold")["value"][0] == pytest.approx(5 / cold)
    assert fr.evaluate(model, split, "recall@5")["value"][0] < 1 / cold
    with pytest.raises(InputError, match="protocols cold and known tell items apart that nobody has in training"):
        fr.evaluate(model, fr.given(replace(DATA, part=split.part)), protocol="cold")
    plan = {"data": {"source": "memory"}, "model": {"name": "content"}, "evaluation": {"protocol": "cold"}}
    with pytest.raises(PlanError, match=r"evaluation\.protocol: cold tells items apart .* set split: cold-items:0\.1"):
        Plan.make(plan)
    assert Plan.make(plan | {"split": "cold-items:0.1"}).evaluation.protocol == "cold"


def test_a_saved_model_still_knows_which_items_were_held_out(tmp_path: Path) -> None:
    plan = {"split": "cold-items:0.15", "evaluation": {"protocol": "cold", "metrics": ["recall@5"]}}
    model = fr.Content(plan=plan).fit(DATA)
    measured = model.opened.measure(["recall@5"], "cold", "test")["recall@5"].value
    model.save(tmp_path / "run")
    saved = fr.load_model(tmp_path / "run")
    assert saved.opened.measure(["recall@5"], "cold", "test")["recall@5"].value == measured
    assert saved.recommend([3], n=5).equals(model.recommend([3], n=5))


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("FEDREC_DATA"), reason="FEDREC_DATA does not name the folder of ml-100k")
@pytest.mark.filterwarnings("ignore:ratings")
def test_on_movielens_cold_items_are_found_by_genres_and_year() -> None:
    data = fr.load_data("ml-100k")
    model = fr.Content(item_features={"genres": "categories", "title": "year"})
    found = []
    for seed in range(6):
        split = fr.cold_items(data, 0.1, seed=seed)
        found.append(
            fr.evaluate(model.fit(split.train), split, "recall@20,ndcg@20", protocol="cold")["value"].to_list()
        )
    recall, ndcg = np.mean(found, axis=0)
    assert recall > 0.375
    assert ndcg > 0.30


def test_one_command_trains_on_a_table_of_items_with_titles_and_prices(
    fedrec: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items that nobody bought are in the lists; the run finds its files from any folder, and keeps what they said."""
    monkeypatch.chdir(tmp_path)
    DATA.to_frame().filter(pl.col("item_id") <= 100).write_csv("clicks.csv")
    table = pl.read_ndjson(DATA.catalog.to_json_lines())
    items = table.with_columns(pl.col("genres").list.join("|"), price=pl.int_range(pl.len()) % 7)
    items.write_csv("items.csv")
    train = ("train", "--data", "clicks.csv", "--catalog", "items.csv", "--model", "content", "--out", "run", "--json")
    said = fedrec(*train, "--set", "item_features.genres=categories", "--set", "item_features.price=numbers")
    assert said.code == 0, said.err
    assert json.loads(said.out)["metrics"]["test"]["recall@20"] > 0.3
    listed = json.loads(fedrec("recommend", "run", "--user", "1", "--only", "101,120", "--json").out)
    assert {row["item_id"] for row in listed["recommendations"]} == {101, 120}
    wrong = fedrec(*train[:-2], "other", "--set", "item_features.prize=numbers")
    assert (wrong.code, "no column 'prize'. Did you mean 'price'?" in " ".join(wrong.err.split())) == (2, True)
    without = fedrec("train", "--data", "clicks.csv", "--model", "content", "--out", "none")
    assert (without.code, "--catalog items.csv" in without.err) == (2, True)
