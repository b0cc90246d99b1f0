"""Scores of items that nobody has, from those of others and from item features."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from fedrec.errors import PlanError
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.agreed import check_call
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import EvaluationCall
from fedrec.federation.plan import Plan
from fedrec.federation.trials import trials_of
from fedrec.models.cold_items import BOOSTS
from fedrec.models.outline import is_additive
from fedrec.models.registry import build_model

SOURCE = "synthetic:users=300,items=120,interactions_per_user=12,seed=4"
DATA = fr.synthetic(users=300, items=120, interactions_per_user=12, seed=4)
SPLIT = fr.cold_items(DATA, 0.15, seed=1)
COLUMNS = {"genres": "categories", "title": "text"}


def test_columns_of_cold_items_are_kernel_regressions_of_the_columns_of_the_hat() -> None:
    model = fr.EASE(reg=7.0, item_features=COLUMNS, boost=2.0).fit(SPLIT.train)
    plain = fr.EASE(reg=7.0).fit(SPLIT.train)
    weights = model.opened.trained.state.shared["weights"]
    matrix = np.zeros((DATA.n_users, DATA.n_items))
    matrix[SPLIT.train.rows_of_users(), SPLIT.train.items] = 1.0
    warm = matrix.any(axis=0)
    gram = (matrix.T @ matrix)[np.ix_(warm, warm)]
    hat = np.linalg.solve(gram + 7.0 * np.eye(len(gram)), gram)
    features = model.opened.agreement.public["features"].astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kernel = np.exp((unit @ unit.T - 1) / 0.5)
    shares = np.linalg.solve(kernel[np.ix_(warm, warm)] + np.eye(len(gram)), kernel[np.ix_(warm, ~warm)])
    np.testing.assert_allclose(weights[np.ix_(warm, ~warm)], 2.0 * hat @ shares, atol=1e-5)
    assert np.array_equal(weights[:, warm], plain.opened.trained.state.shared["weights"][:, warm])
    assert not weights[~warm].any()


@pytest.mark.parametrize(
    "kind",
    [
        fr.EASE,
        partial(fr.EASE, rank=100),
        partial(fr.Spectral, rank=64),
        partial(fr.IALS, embedding_size=16, rounds=4),
        partial(fr.IALS, embedding_size=16, rounds=9, solver="cg"),
        partial(fr.Autoencoder, embedding_size=16, rounds=8),
        partial(fr.MF, embedding_size=16, rounds=40),
    ],
    ids=["ease", "ease of a rank", "spectral", "ials", "ials by cg", "autoencoder", "mf"],
)
def test_cold_items_are_found_and_all_others_keep_their_scores(kind: Callable[..., fr.EASE]) -> None:
    model = kind(item_features="auto").fit(SPLIT.train, nodes=3)
    plain = kind().fit(SPLIT.train)
    chance = 5 / SPLIT.cold("test").sum()
    assert fr.evaluate(model, SPLIT, "recall@5", protocol="cold")["value"][0] > 1.8 * chance
    assert fr.evaluate(plain, SPLIT, "recall@5", protocol="cold")["value"][0] < 1.3 * chance
    one, other = (each.recommend([7], n=120, include_seen=True) for each in (model, plain))
    cold = DATA.catalog.items.series.filter(pl.Series(SPLIT.drawn != 0))
    warm = [table.filter(~pl.col("item_id").is_in(cold.to_list())).drop("rank") for table in (one, other)]
    assert warm[0].equals(warm[1])


def test_factors_of_cold_items_are_kernel_regressions_of_those_of_others() -> None:
    model = fr.IALS(embedding_size=8, rounds=3, item_features=COLUMNS, boost=2.0).fit(SPLIT.train)
    plain = fr.IALS(embedding_size=8, rounds=3).fit(SPLIT.train)
    cold, items = model.shared["cold"], model.shared["items"]
    assert np.array_equal(cold, np.bincount(SPLIT.train.items, minlength=DATA.n_items) == 0)
    assert np.array_equal(items[~cold], plain.shared["items"][~cold])
    assert np.array_equal(model.shared["gram"], plain.shared["gram"])
    features = model.opened.agreement.public["features"].astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    kernel = np.exp((unit @ unit.T - 1) / 0.5)
    inner = kernel[np.ix_(~cold, ~cold)] + np.eye(int((~cold).sum()))
    predicted = 2.0 * kernel[np.ix_(cold, ~cold)] @ np.linalg.solve(inner, items[~cold].astype(np.float64))
    np.testing.assert_allclose(items[cold], predicted, atol=1e-6)


def test_training_that_goes_on_does_not_learn_from_predicted_factors() -> None:
    """Factors of cold items are predictions: they take no part in a later training."""
    first = fr.IALS(embedding_size=8, rounds=2, item_features=COLUMNS).fit(SPLIT.train)
    plain = fr.IALS(embedding_size=8, rounds=2).fit(SPLIT.train)
    on = fr.IALS(embedding_size=8, rounds=2, item_features=COLUMNS).fit(SPLIT.train, warm_start=first)
    plain_on = fr.IALS(embedding_size=8, rounds=2).fit(SPLIT.train, warm_start=plain)
    cold = on.shared["cold"]
    assert np.array_equal(on.shared["items"][~cold], plain_on.shared["items"][~cold])
    assert cold.any()
    assert on.shared["items"][cold].any()


@pytest.mark.parametrize("kind", [fr.EASE, partial(fr.IALS, embedding_size=8, rounds=2)], ids=["ease", "ials"])
def test_items_of_which_the_catalog_says_nothing_are_scored_as_without_features(kind: Callable[..., fr.EASE]) -> None:
    assert DATA.catalog.features is not None
    genres = DATA.catalog.features["genres"].to_list()
    silent = np.flatnonzero(SPLIT.cold("test"))[0]
    genres[silent] = None
    catalog = fr.Catalog(DATA.catalog.items, pl.DataFrame({"genres": genres}))
    model = kind(item_features={"genres": "categories"}).fit(replace(SPLIT.train, catalog=catalog))
    scores = model.recommend([7], n=120, include_seen=True).filter(pl.col("item_id") == DATA.catalog.items[silent])
    assert scores["score"].to_list() == [0.0]


def test_fedrecon_refuses_features_and_names_mf() -> None:
    with pytest.raises(PlanError, match="leave item_features out, or take mf"):
        fr.FedRecon(item_features="auto")


def test_a_larger_boost_brings_more_cold_items_into_lists_of_all() -> None:
    found = [
        fr.evaluate(fr.EASE(item_features="auto", boost=boost).fit(SPLIT.train), SPLIT, "recall@20")["value"][0]
        for boost in (0.5, 3.0)
    ]
    assert found[1] > 1.5 * found[0]


def test_validation_chooses_the_boost_where_it_asks_for_both_kinds_of_items(
    fedrec: Callable[..., Said], tmp_path: Path
) -> None:
    """The boost of the model is the one with which a model is best on validation, and masked sums find the same one."""
    settings = ("--data", SOURCE, "--model", "ease", "--set", "item_features=auto", "--metrics", "ndcg@10")
    split = ("--split", "cold-items:0.15,0.1")
    chosen = json.loads(fedrec("train", *settings, *split, "--out", str(tmp_path / "run"), "--json").out)["boost"]
    found = {}
    for boost in BOOSTS:
        said = fedrec(
            "train", *settings, *split, "--set", f"boost={boost}", "--out", str(tmp_path / f"{boost}"), "--json"
        )
        found[boost] = json.loads(said.out)["metrics"]["valid"]["ndcg@10"]
    assert chosen["boost"] == max(found, key=lambda boost: found[boost])
    gains = {tried["boost"]: tried["gain"] for tried in chosen["tried"]}
    assert gains == pytest.approx({boost: found[boost] - found[3.0] for boost in BOOSTS if boost != 3.0}, abs=1e-6)
    secure = ("--nodes", "3", "--secure", "--out", str(tmp_path / "secure"), "--json")
    assert json.loads(fedrec("train", *settings, *split, *secure).out)["boost"] == chosen
    usual = fedrec("train", *settings, "--split", "cold-items:0.15", "--out", str(tmp_path / "usual"), "--json")
    assert "boost" not in json.loads(usual.out)


def test_a_careful_boost_costs_known_items_a_twentieth_of_their_figure_at_most(
    fedrec: Callable[..., Said], tmp_path: Path
) -> None:
    settings = ("--data", SOURCE, "--model", "ease", "--split", "cold-items:0.15,0.1", "--metrics", "ndcg@10")
    features = ("--set", "item_features=auto")
    found = {}
    for boost in ("plain", "careful", "1.2", "3"):
        reading = () if boost == "plain" else (*features, "--set", f"boost={boost}")
        run = tmp_path / boost
        said = json.loads(fedrec("train", *settings, *reading, "--out", str(run), "--json").out)
        known = fedrec("evaluate", str(run), "--protocol", "known", "--part", "valid", "--metrics", "ndcg@10", "--json")
        found[boost] = json.loads(known.out)["metrics"]["ndcg@10"]
        if boost == "careful":
            chosen = said["boost"]
    costs = {tried["boost"]: tried["cost"] for tried in chosen["tried"]}
    assert costs[1.2] == pytest.approx(found["plain"] - found["1.2"], abs=1e-6)
    assert costs[3.0] == pytest.approx(found["plain"] - found["3"], abs=1e-6)
    assert chosen["known"] == pytest.approx(found["plain"], abs=0.06)  # less what a model finds that knows nothing
    assert found["plain"] - found["careful"] <= 0.05 * chosen["known"] < costs[3.0]
    gains = {tried["boost"]: tried["gain"] for tried in chosen["tried"]} | {1.0: 0.0}
    spared = [boost for boost, cost in costs.items() if cost <= 0.05 * chosen["known"]]
    assert gains[chosen["boost"]] == max(gains[boost] for boost in (*spared, chosen["boost"]))


def test_trials_by_known_items_are_answered_for_a_careful_boost_only() -> None:
    split, data = "cold-items:0.15,0.1", replace(DATA)
    for boost, protocol in (("auto", "known"), ("careful", "full")):
        plan = {"data": {"source": "memory"}, "split": split}
        plan |= {"model": {"name": "ease", "item_features": "auto", "boost": boost}}
        agreement = Agreement.of(Plan.make(plan).resolve(data, "0" * 64), data.catalog)
        shared = {"weights": np.zeros((1, 1), np.float32), "other.weights": np.zeros((1, 1), np.float32)}
        trial = 1 if boost == "auto" else trials_of(agreement.plan)
        call = EvaluationCall(
            -1, shared, "valid", parse_protocol(protocol), agreement.metrics, agreement.n_max, trial=trial
        )
        with pytest.raises(PlanError, match=f"metrics are asked for by {protocol}; agreed was"):
            check_call(agreement, call, None)


def test_items_that_the_other_part_holds_out_are_no_candidates() -> None:
    """Whoever is asked for test items is not asked about those of validation: a model that ranks these first loses
    nothing."""
    split = fr.cold_items(DATA, 0.15, seed=1, others=0.1)
    model = fr.EASE(item_features="auto", boost=3.0).fit(split.train)
    before = fr.evaluate(model, split, "recall@20")["value"][0]
    weights = model.opened.trained.state.shared["weights"]
    weights[:, split.cold("valid")] += 100.0
    assert fr.evaluate(model, split, "recall@20")["value"][0] == before
    weights[:, split.cold("test")] += 100.0
    assert fr.evaluate(model, split, "recall@20")["value"][0] != before


def test_plans_without_item_features_are_as_they_were_and_private_ones_refuse_them() -> None:
    assert build_model("ease", {}).model_dump() == {"reg": "auto", "alpha": 0.0, "rank": None, "passes": 2}
    chosen = build_model("ease", {"item_features": {"genres": "categories"}}).model_dump()
    assert chosen["item_features"] == {"genres": {"categories": 1.0}}
    assert is_additive(build_model("ease", {"item_features": "auto"}))
    settings = {"data": {"source": "memory"}, "model": {"name": "ease"}}
    resolved = Plan.make(settings).resolve(DATA, "0" * 64)
    assert resolved.features is None
    reading = Plan.make(settings | {"model": {"name": "ease", "item_features": "auto"}}).resolve(DATA, "0" * 64)
    assert reading.features == DATA.catalog.features_digest
    for name in ("ease", "spectral", "ials"):
        model = {"model": {"name": name, "item_features": "auto"}}
        with pytest.raises(PlanError, match=f"{name} under privacy scores no items that nobody has"):
            Plan.make(settings | model | {"privacy": {"epsilon": 2.0, "delta": 1e-4}})


def test_a_new_item_is_scored_on_the_day_it_enters_the_catalog_without_another_sum(
    fedrec: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept sum of the day before, and the features of the new items, make what a training anew would."""
    monkeypatch.chdir(tmp_path)
    DATA.to_frame().filter(pl.col("item_id") <= 100).write_csv("clicks.csv")
    items = pl.read_ndjson(DATA.catalog.to_json_lines())
    items.filter(pl.col("item_id") <= 100).write_parquet("items.parquet")
    train = ("train", "--data", "clicks.csv", "--split", "none", "--model", "ease", "--set", "item_features=auto")
    keep = ("--set", "keep_sums=true", "--catalog", "items.parquet")
    assert fedrec(*train, *keep, "--out", "monday").code == 0
    items.write_parquet("items.parquet")
    said = fedrec(*train, *keep, "--from", "monday", "--out", "tuesday", "--json")
    assert said.code == 0, said.err
    assert fedrec(*train, *keep, "--out", "anew").code == 0
    files = [(tmp_path / run / "model" / "shared.safetensors").read_bytes() for run in ("tuesday", "anew")]
    assert files[0] == files[1]
    listed = json.loads(fedrec("recommend", "tuesday", "--user", "1", "--only", "101,120", "--json").out)
    assert [row["score"] > 0 for row in listed["recommendations"]] == [True, True]


@pytest.mark.real
@pytest.mark.skipif(not os.environ.get("FEDREC_DATA"), reason="FEDREC_DATA does not name the folder of ml-100k")
@pytest.mark.filterwarnings("ignore:ratings")
def test_on_movielens_genres_year_and_words_of_titles_find_cold_items_better_than_a_map_of_features() -> None:
    data = fr.load_data("ml-100k")
    columns = {"genres": "categories", "title": ["year", "text"]}
    found: dict[str, list[float]] = {"ease": [], "content": []}
    for seed in range(4):
        split = fr.cold_items(data, 0.1, seed=seed)
        for model in (fr.EASE(item_features=columns), fr.Content(item_features=columns)):
            fitted = model.fit(split.train)
            table = fr.evaluate(fitted, split, "recall@20", protocol="cold")
            found[fitted.opened.model.name].append(table["value"][0])
    assert np.mean(found["ease"]) > 0.43
    assert np.mean(found["ease"]) > np.mean(found["content"]) + 0.02


def test_a_blend_adds_what_its_models_know_of_cold_items() -> None:
    models = [{"name": "ease", "item_features": "auto"}, {"name": "content", "item_features": COLUMNS}]
    blend = fr.Blend(models=models, shares=[1, 1]).fit(SPLIT.train)
    assert blend.opened.plan.features == DATA.catalog.features_digest
    chance = 5 / SPLIT.cold("test").sum()
    assert fr.evaluate(blend, SPLIT, "recall@5", protocol="cold")["value"][0] > 1.8 * chance


def test_features_of_other_items_change_what_is_scored() -> None:
    """A control: features that say nothing of their items find no cold ones."""
    assert DATA.catalog.features is not None
    shuffled = fr.Catalog(DATA.catalog.items, DATA.catalog.features.sample(fraction=1.0, shuffle=True, seed=3))
    blind = replace(SPLIT, data=replace(DATA, catalog=shuffled))
    model = fr.EASE(item_features="auto").fit(blind.train)
    chance = 5 / SPLIT.cold("test").sum()
    assert fr.evaluate(model, blind, "recall@5", protocol="cold")["value"][0] < 1.3 * chance
