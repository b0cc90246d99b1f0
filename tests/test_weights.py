"""Values as weights: models against pooled NumPy, equal bits, sums that are kept, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from fedrec.data.interactions import Interactions
from fedrec.data.weights import Weights
from fedrec.federation.plan import Plan
from fedrec.kernels.threads import limit_threads
from fedrec.models.base import Recommender
from fedrec.models.registry import MODELS, model_class
from fedrec.runs.saved import open_run
from fedrec.runs.training import Placement, train_run
from runs_in_test import assert_same

LOG = Weights(form="log", alpha=2.0, epsilon=3.0, most=20.0)
RNG = np.random.default_rng(5)
TABLE = fr.synthetic(users=120, items=40, interactions_per_user=10, seed=2).to_frame().drop("rating", strict=False)
TABLE = TABLE.with_columns(weight=pl.Series(np.floor(RNG.lognormal(1.0, 1.5, TABLE.height)).astype(np.float32)))
DATA = fr.interactions_from(TABLE)
ESTIMATORS: dict[str, Any] = {
    "ease": fr.EASE,
    "ials": fr.IALS,
    "itemknn": fr.ItemKNN,
    "mf": fr.MF,
    "popularity": fr.Popularity,
}


def matrix(data: Interactions, weights: Weights) -> np.ndarray:
    """Weights [users, items] float64 as a pooled matrix."""
    out = np.zeros((data.n_users, data.n_items))
    assert data.values is not None
    out[data.rows_of_users(), data.items] = weights.of(data.values)
    return out


def fitted(name: str, weights: Weights | None = LOG, data: Any = DATA, **settings: Any) -> Any:
    plan = {} if weights is None else {"weights": weights.model_dump()}
    return ESTIMATORS[name](plan=plan, **settings).fit(data)


def scores(model: Any, data: Interactions = DATA) -> np.ndarray:
    opened = model.opened
    shard, trained = opened.engine.shards[0], opened.trained
    chunks = shard.scores(trained.state.shared, trained.round, shard.known, np.arange(data.n_users))
    return np.concatenate([found for _, _, found in chunks])


# --- against pooled data ---


def test_weights_are_their_formulas_and_cut_to_the_largest() -> None:
    values = np.array([0.0, 1.0, 6.0, 1e9])
    np.testing.assert_allclose(LOG.of(values), [1, 1 + 2 * np.log(4 / 3), 1 + 2 * np.log(3), 20], rtol=1e-6)
    assert Weights(form="linear", alpha=0.5, most=50).of(values).tolist() == [1.0, 1.5, 4.0, 50.0]
    assert Weights(form="value").of(values).tolist() == [0.0, 1.0, 6.0, 100.0]


def test_popularity_is_the_sum_of_weights() -> None:
    np.testing.assert_allclose(fitted("popularity").shared["counts"], matrix(DATA, LOG).sum(0), atol=1e-4)


@pytest.mark.parametrize("rank", [None, 40])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_ease_is_the_ridge_regression_of_the_matrix_of_weights(alpha: float, rank: int | None) -> None:
    X = matrix(DATA, LOG)
    pull = (X**2).sum(1) ** -alpha
    gram = (X.T * pull) @ X
    inverse = np.linalg.inv(gram + 30.0 * np.eye(len(gram)))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0.0)
    model = fitted("ease", reg=30.0, alpha=alpha, rank=rank)
    np.testing.assert_allclose(scores(model), X @ expected, atol=2e-4 if rank is None else 5e-2)
    if rank is None:
        np.testing.assert_allclose(model.shared["weights"], expected, atol=1e-6)


def test_itemknn_has_cosines_of_columns_of_weights() -> None:
    X = matrix(DATA, LOG)
    gram = X.T @ X
    norms = np.sqrt(np.diag(gram))
    cosines = gram / (np.outer(norms, norms) + 10.0)
    np.fill_diagonal(cosines, 0.0)
    np.testing.assert_allclose(scores(fitted("itemknn", neighbours=40)), X @ cosines, rtol=1e-4, atol=1e-4)


def test_ials_is_alternating_least_squares_with_confidences_on_pooled_data() -> None:
    settings = {"embedding_size": 5, "rounds": 4, "unobserved_weight": 0.2, "reg": 0.05, "nu": 0.5}
    C = matrix(DATA, LOG)
    X = (C > 0).astype(float)
    first = fr.IALS(**settings, plan={"weights": LOG.model_dump()})
    recommender = first.plan.build_model()
    Y = recommender.start(DATA.catalog, {}, _start_source()).shared["items"].astype(float)

    def solved(confidence: np.ndarray, wanted: np.ndarray, table: np.ndarray) -> np.ndarray:
        base, d = 0.2 * table.T @ table, table.shape[1]
        out = np.zeros((len(confidence), d))
        for row, (c, p) in enumerate(zip(confidence, wanted, strict=True)):
            pull = 0.05 * (p.sum() + 0.2 * len(p)) ** 0.5
            if p.any():
                out[row] = np.linalg.solve((table.T * c) @ table + base + pull * np.eye(d), table.T @ c)
        return out

    for _ in range(4):
        U = solved(C, X, Y)
        Y = solved(C.T, X.T, U)
    U = solved(C, X, Y)
    model = first.fit(DATA)
    np.testing.assert_allclose(model.shared["items"], Y, atol=1e-4)
    np.testing.assert_allclose(scores(model), U @ Y.T, atol=1e-3)


def _start_source() -> Any:
    from fedrec.data.keys import KeyedSource

    return KeyedSource.from_seed(0).child("start")


@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax", "squared"])
def test_weights_of_one_train_mf_to_the_bits_of_no_weights(loss: str) -> None:
    settings = {"embedding_size": 4, "rounds": 3, "loss": loss}
    ones = TABLE.with_columns(weight=pl.lit(1.0))
    weighted = fitted("mf", Weights(form="value"), ones, **settings)
    plain = fitted("mf", None, TABLE.drop("weight"), **settings)
    assert np.array_equal(weighted.shared["items"], plain.shared["items"])
    heavier = fitted("mf", Weights(form="value"), ones.with_columns(weight=pl.lit(2.0)), **settings)
    assert not np.array_equal(heavier.shared["items"], plain.shared["items"])


# --- the same bits ---

BITS: dict[str, dict[str, Any]] = {
    "ease": {"alpha": 0.3},
    "ease-sketch": {"name": "ease", "rank": 9},
    "fedrecon": {"embedding_size": 4, "rounds": 3},
    "ials": {"embedding_size": 5, "rounds": 3},
    "itemknn": {"neighbours": 9},
    "mf": {"embedding_size": 4, "rounds": 4, "batch_size": 3},
    "popularity": {},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "plays.parquet"
    TABLE.write_parquet(path)
    return str(path)


def plan_of(source: str, model: str, **changes: Any) -> Plan:
    settings = {"data": {"source": source}, "model": {"name": model, **BITS[model]}, "weights": "log", "seed": 3}
    return Plan.make(settings | changes)


@pytest.mark.parametrize("model", BITS)
def test_weighted_models_have_the_same_bits_for_any_nodes_and_threads(model: str, source: str, tmp_path: Path) -> None:
    release = [{"step": "cap", "items": 8, "choose": "random"}] if model in ("mf", "ials") else []
    plan = plan_of(source, model, release=release)
    train_run(plan, tmp_path / "alone")
    with limit_threads(1):
        train_run(plan, tmp_path / "three", Placement(3))
    train_run(plan, tmp_path / "masked", Placement(4, secure=True))
    assert_same(tmp_path / "three", tmp_path / "alone")
    assert_same(tmp_path / "masked", tmp_path / "alone")


@pytest.mark.parametrize("model", ["ease", "itemknn", "popularity"])
def test_a_changed_weight_is_a_change_that_a_kept_sum_takes_in(model: str, tmp_path: Path) -> None:
    TABLE.write_parquet(tmp_path / "then.parquet")
    more = pl.when(pl.col("user_id") % 5 == 0).then(pl.col("weight") + 3).otherwise("weight")
    later = TABLE.with_columns(weight=more)
    later.write_parquet(tmp_path / "now.parquet")
    settings = {"keep_sums": True, "split": "none"}
    train_run(plan_of(str(tmp_path / "then.parquet"), model, **settings), tmp_path / "first", Placement(3))
    goes_on = plan_of(str(tmp_path / "now.parquet"), model, **settings, warm_start=str(tmp_path / "first"))
    train_run(goes_on, tmp_path / "second", Placement(2))
    train_run(plan_of(str(tmp_path / "now.parquet"), model, **settings), tmp_path / "anew")
    shared = "model/shared.safetensors"
    assert (tmp_path / "second" / shared).read_bytes() == (tmp_path / "anew" / shared).read_bytes()
    other = plan_of(str(tmp_path / "now.parquet"), model, **settings, warm_start=str(tmp_path / "first"))
    with pytest.raises(fr.PlanError, match=r"weights is .*form='log'.* in the sums that .* kept"):
        train_run(other.model_copy(update={"weights": None}), tmp_path / "unlike")


@pytest.mark.parametrize("model", ["ease", "itemknn", "popularity"])
def test_a_kept_sum_of_a_plan_without_weights_does_not_look_at_values(model: str, tmp_path: Path) -> None:
    TABLE.write_parquet(tmp_path / "then.parquet")
    TABLE.filter(pl.col("user_id") % 7 != 0).with_columns(pl.col("weight") * 2).write_parquet(tmp_path / "now.parquet")
    settings = {"keep_sums": True, "split": "none", "weights": None}
    train_run(plan_of(str(tmp_path / "then.parquet"), model, **settings), tmp_path / "first", Placement(2))
    goes_on = plan_of(str(tmp_path / "now.parquet"), model, **settings, warm_start=str(tmp_path / "first"))
    train_run(goes_on, tmp_path / "second")
    train_run(plan_of(str(tmp_path / "now.parquet"), model, **settings), tmp_path / "anew")
    shared = "model/shared.safetensors"
    assert (tmp_path / "second" / shared).read_bytes() == (tmp_path / "anew" / shared).read_bytes()


# --- what weighs nothing, and what is refused ---


def test_what_weighs_nothing_is_seen_but_is_no_example_and_not_to_be_found() -> None:
    table = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 2, 2, 2, 3, 3, 3],
            "item_id": ["a", "b", "c", "a", "b", "c", "b", "a", "d"],
            "weight": [1.0, 2.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0],
            "timestamp": [1, 2, 3, 1, 2, 3, 1, 2, 3],
        }
    )
    split = fr.leave_last_out(table)
    model = fr.Popularity(plan={"weights": {"form": "value"}}).fit(split)
    assert model.shared["counts"].tolist() == [1.0, 0.0, 0.0, 0.0]
    shard = model.opened.engine.shards[0]
    assert shard.active.tolist() == [0], "users whose interactions all weigh nothing take no part"
    assert model.recommend([3], n=4)["item_id"].to_list() == ["c"], "a, b and d were seen"
    summary = model.opened.measure(["recall@4"], "full", "test")
    assert summary["recall@4"].users == 2, "the last item of user 1 weighs nothing, and nobody looks for it"


@pytest.mark.parametrize(
    ("value", "said"), [(-1.0, "-1, of user 7 with item 'x'"), (float("nan"), "nan, of user 7 with item 'x'")]
)
def test_values_that_cannot_weigh_are_named(value: float, said: str) -> None:
    data = fr.interactions_from({"user_id": [6, 7, 7], "item_id": ["x", "x", "y"], "weight": [1.0, 1.0, 2.0]})
    assert data.values is not None
    data.values[1] = value
    with pytest.raises(fr.InputError, match=said):
        Weights().weighed(data)


def test_data_without_values_has_nothing_to_weigh_by() -> None:
    with pytest.raises(fr.InputError, match=r"the data has no ratings, weights or counts.*repeats: count"):
        fitted("ease", Weights(), TABLE.drop("weight"))


def test_a_history_is_weighed_like_the_data_and_must_have_weights() -> None:
    model = fitted("ease", reg=30.0)
    mine = TABLE.filter(pl.col("user_id") == 3)
    again = model.recommend(history=mine.with_columns(user_id=pl.lit(900)), n=5)
    known = model.recommend([3], n=5)
    assert again["item_id"].to_list() == known["item_id"].to_list()
    np.testing.assert_allclose(again["score"], known["score"], rtol=1e-6)
    with pytest.raises(fr.InputError, match="no ratings, weights or counts"):
        model.recommend(history=mine.drop("weight"), n=5)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_uses_weights_or_refuses_them_and_says_what_it_does(name: str) -> None:
    kind: type[Recommender] = model_class(name)
    settings = {"data": {"source": "synthetic"}, "model": {"name": name}, "weights": "linear"}
    if kind.traits.weights:
        assert Plan.make(settings).build_model().__pydantic_private__["_heaviest"] == 100.0
        return
    does = "reads values as ratings" if kind.traits.reads_ratings else "counts every interaction once"
    with pytest.raises(fr.PlanError, match=f"model '{name}' {does}"):
        Plan.make(settings)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"form": "value", "alpha": 2}, "form value does not use alpha"),
        ({"form": "linear", "epsilon": 2}, "form linear does not use epsilon"),
        ({"form": "cubic"}, "form"),
        ({"most": 0}, "most"),
        ({"mots": 5}, "'weights.mots' is not a setting. Did you mean 'most'"),
    ],
)
def test_settings_of_weights_that_mean_nothing_are_plan_errors(weights: dict[str, Any], said: str) -> None:
    with pytest.raises(fr.PlanError, match=said):
        Plan.make({"data": {"source": "synthetic"}, "model": {"name": "ease"}, "weights": weights})


def test_users_of_tiny_weights_do_not_count_without_limit() -> None:
    settings = {"data": {"source": "synthetic"}, "model": {"name": "ease", "alpha": 1.5}}
    with pytest.raises(fr.PlanError, match="alpha must not exceed 1"):
        Plan.make(settings | {"weights": "value"})
    assert Plan.make(settings).build_model()


def test_a_plan_without_weights_does_not_name_them() -> None:
    plan = Plan.make({"data": {"source": "synthetic"}, "model": {"name": "ease"}})
    assert "weights" not in plan.to_yaml()
    assert Plan.make(plan.model_dump() | {"weights": "log"}).weights == Weights(form="log")


def test_a_run_says_how_many_weights_were_cut(source: str, tmp_path: Path) -> None:
    plan = plan_of(source, "popularity", weights={"form": "value", "most": 4})
    report = train_run(plan, tmp_path / "run")
    weights = TABLE["weight"].to_numpy()
    assert report["weights"] == {"cut": int(np.sum(weights > 4)), "nothing": int(np.sum(weights == 0)), "most": 4.0}
    with pytest.warns(UserWarning, match=f"{report['weights']['cut']:,} weights .* reduced to 4"):
        fr.Popularity(plan={"weights": {"form": "value", "most": 4}}).fit(TABLE)
    again = open_run(tmp_path / "run")
    assert again.plan.weights == Weights(form="value", most=4)
