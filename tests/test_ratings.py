"""Explicit ratings: the model against pooled NumPy, its errors against formulas and an oracle, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from fedrec.aggregation.sums import Sum
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.ranks import score_list
from fedrec.federation.measuring import measuring_spec
from fedrec.federation.plan import Plan
from fedrec.kernels.ratings import bias_rows, solve_rated, solve_raters
from fedrec.models.factors.biased_mf import BiasedMF
from fedrec.models.registry import MODELS, model_class
from fedrec.models.values import rating_scale
from fedrec.rating import mae, predict, rmse
from fedrec.runs.training import Placement, train_run
from runs_in_test import assert_same

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

DATA = fr.synthetic(users=150, items=40, interactions_per_user=12, seed=4, ratings=True)
SPLIT = fr.ratio(DATA, 0.8, seed=1)
SMALL: dict[str, Any] = {"embedding_size": 5, "rounds": 4}


def dense(data: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Ratings and a mask of those observed, [users, items]."""
    ratings, observed = np.zeros((data.n_users, data.n_items)), np.zeros((data.n_users, data.n_items), dtype=bool)
    assert data.values is not None
    ratings[data.rows_of_users(), data.items] = data.values
    observed[data.rows_of_users(), data.items] = True
    return ratings, observed


def predictions(model: Any, data: Interactions = DATA) -> np.ndarray:
    opened = model.opened
    found = opened.engine.shards[0].predictions(
        opened.trained.state.shared, opened.trained.round, np.arange(data.n_users)
    )
    return np.concatenate([scores for _, scores in found])


# --- kernels against plain NumPy ---


def ridge(x: np.ndarray, targets: np.ndarray, pulls: np.ndarray) -> np.ndarray:
    return np.linalg.solve(x.T @ x + np.diag(pulls), x.T @ targets)


@pytest.mark.parametrize("d", [0, 1, 7, 8, 16])
def test_kernels_are_ridge_regressions(d: int) -> None:
    rng = np.random.default_rng(d)
    table = rng.normal(0, 0.5, (30, 1 + d)).astype(np.float32)
    lengths = np.array([3, 0, 100, 1, 12])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    items = rng.integers(0, 30, indptr[-1]).astype(np.int32)
    values = rng.integers(1, 6, indptr[-1]).astype(np.float32)
    users, ratings, biases = np.empty((5, 1 + d)), values.astype(np.float64), table[:, 0].astype(np.float64)
    solve_raters(indptr, items, values, table, 3.4, 0.3, 0.7, 0.5, users)
    squares, rows = np.empty((5, (d + 1) * (d + 2) // 2)), np.empty((5, d + 1))
    residuals = np.empty(len(items), dtype=np.float32)
    bias_rows(indptr, values, users, 3.4, squares, rows, residuals)
    upper = np.triu_indices(1 + d)
    targets = np.empty((5, 1 + d))
    for user in range(5):
        own = slice(indptr[user], indptr[user + 1])
        x = np.hstack([np.ones((lengths[user], 1)), table[items[own], 1:].astype(np.float64)])
        pulls = lengths[user] ** 0.5 * np.array([0.3] + [0.7] * d)
        expected = ridge(x, ratings[own] - 3.4 - biases[items[own]], pulls) if lengths[user] else np.zeros(1 + d)
        np.testing.assert_allclose(users[user], expected, atol=1e-9)
        one = np.append(1.0, users[user, 1:])
        np.testing.assert_allclose(rows[user], one)
        np.testing.assert_allclose(squares[user], np.outer(one, one)[upper])
        np.testing.assert_allclose(residuals[own], ratings[own] - 3.4 - users[user, 0], atol=1e-6)
        squares[user] = (x.T @ x)[upper]  # as if this user were an item
        targets[user] = x.T @ (ratings[own] - 3.0)
    solved = np.full((5, 1 + d), 7.0, dtype=np.float32)
    solve_rated(squares, targets, 0.3, 0.7, 0.5, 4.0, solved)
    for user in range(5):
        own = slice(indptr[user], indptr[user + 1])
        x = np.hstack([np.ones((lengths[user], 1)), table[items[own], 1:].astype(np.float64)])
        pulls = lengths[user] ** 0.5 * np.array([0.3] + [0.7] * d)
        expected = ridge(x, ratings[own] - 3.0, pulls) if lengths[user] else np.full(1 + d, 7.0)
        np.testing.assert_allclose(solved[user], expected, atol=1e-5)


# --- the model ---


def pooled(data: Interactions, model: BiasedMF, table: np.ndarray) -> np.ndarray:
    """Predictions [users, items] of alternating least squares in NumPy on pooled ratings, from the same start."""
    ratings, observed = dense(data)
    counts = observed.sum(0)
    mean = ratings[observed].mean()
    items = table.astype(np.float64)
    items[counts == 0] = 0.0
    sums = ((ratings - mean) * observed).sum(0)
    items[:, 0] = np.where(counts > 0, sums / np.maximum(counts + model.bias_reg * counts**model.nu, 1e-9), 0.0)
    pull = np.array([model.bias_reg] + [model.reg] * model.embedding_size)

    def solved(left: np.ndarray, targets: np.ndarray, mask: np.ndarray, old: np.ndarray) -> np.ndarray:
        new = old.copy()
        for row in np.flatnonzero(mask.any(1)):
            own = mask[row]
            x = np.hstack([np.ones((own.sum(), 1)), left[own, 1:]])
            new[row] = ridge(x, targets[row, own] - mean - left[own, 0], own.sum() ** model.nu * pull)
        return new

    nobody = np.zeros((data.n_users, 1 + model.embedding_size))
    for _ in range(model.rounds - 1):
        users = solved(items, ratings, observed, nobody)
        items = solved(users, ratings.T, observed.T, items)
    users = solved(items, ratings, observed, nobody)
    found: np.ndarray = mean + users[:, :1] + items[:, 0] + users[:, 1:] @ items[:, 1:].T
    return found


@pytest.mark.parametrize("settings", [{}, {"nu": 1.0, "reg": 0.1, "bias_reg": 0.05}, {"embedding_size": 0}], ids=str)
def test_rounds_are_sweeps_of_the_pooled_algorithm(settings: dict[str, Any]) -> None:
    model = fr.BiasedMF(**(SMALL | settings)).fit(DATA)
    recommender = model.opened.model
    start = recommender.start(DATA.catalog, {}, KeyedSource.from_seed(0).child("start"))
    expected = pooled(DATA, recommender, start.shared["items"])
    np.testing.assert_allclose(predictions(model), expected, atol=2e-4)


def test_on_data_of_biases_alone_they_are_found() -> None:
    rng = np.random.default_rng(0)
    users, items = rng.uniform(-1, 1, 80), rng.uniform(-1, 1, 60)
    rows = [(u, i, 5.5 + users[u] + items[i]) for u in range(80) for i in range(60) if (u + i) % 3]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    settings = {"lowest": 0, "highest": 11, "reg": 1e-3, "bias_reg": 1e-6, "nu": 1.0}
    model = fr.BiasedMF(embedding_size=0, **settings).fit(table)
    unseen = [(u, i) for u in range(80) for i in range(60) if not (u + i) % 3]
    asked = pl.DataFrame(unseen, schema=["user_id", "item_id"], orient="row")
    found = model.predict(asked)
    np.testing.assert_allclose(found["rating"], [5.5 + users[u] + items[i] for u, i in unseen], atol=1e-3)


def test_no_client_goes_beyond_the_bounds_of_sums() -> None:
    """Little regularisation, and ratings as unlike as may be."""
    rng = np.random.default_rng(1)
    table = DATA.to_frame().with_columns(rating=pl.Series(rng.choice([1.0, 5.0], len(DATA))))
    for nu in (0.0, 1.0):
        model = fr.BiasedMF(embedding_size=6, rounds=6, reg=1e-3, bias_reg=1e-3, nu=nu).fit(table)
        shared = model.shared
        clients = model.opened.engine.shards[0].everyone()
        rows = model.opened.model._users(shared, clients)
        assert (rows**2).sum(1).max() <= model.opened.model.largest_row(DATA.n_items)
        assert np.isfinite(predictions(model)).all()


@pytest.mark.parametrize("nodes", [3, 7])
def test_runs_of_several_nodes_are_that_of_one(nodes: int, tmp_path: Path) -> None:
    source = "synthetic:users=150,items=40,interactions_per_user=12,seed=4,ratings=true"
    plan = Plan.make({"data": {"source": source}, "model": {"name": "biased-mf", **SMALL}, "split": "ratio:0.8"})
    one, many = train_run(plan, tmp_path / "one"), train_run(plan, tmp_path / "many", Placement(nodes, "by:region"))
    assert_same(tmp_path / "many", tmp_path / "one")
    assert many["metrics"] == one["metrics"]
    assert set(one["metrics"]["test"]) == {"rmse", "mae"}


def test_a_warm_start_goes_on_from_what_was_learned() -> None:
    first = fr.BiasedMF(**SMALL).fit(SPLIT.train)
    again = fr.BiasedMF(**(SMALL | {"rounds": 1})).fit(SPLIT.train, warm_start=first)
    np.testing.assert_allclose(again.shared["items"], first.shared["items"], atol=1e-6)


def test_who_and_what_has_no_ratings_is_predicted_by_the_formula() -> None:
    model = fr.BiasedMF(**SMALL).fit(DATA)
    mean, table = model.shared["mean"][0], model.shared["items"]
    item = int(np.argmax(np.bincount(DATA.items)))
    known = DATA.catalog.items[item]
    asked = {"user_id": [999, 1, 999], "item_id": [known, 99_999, 99_999]}
    with pytest.warns(UserWarning, match="predicted as"):
        found = model.predict(asked, unknown="warn", unknown_items="warn")["rating"]
    assert found.to_list() == model.predict(asked, unknown="ignore", unknown_items="ignore")["rating"].to_list()
    user = model.opened.model._users(model.shared, model.opened.engine.shards[0].everyone())[0]
    np.testing.assert_allclose(found, [mean + table[item, 0], mean + user[0], mean], atol=1e-5)
    with pytest.raises(InputError, match="1 unknown user: 999"):
        model.predict(asked)
    with pytest.raises(InputError, match="1 unknown item: 99999"):
        model.predict(asked, unknown="ignore")


# --- predictions ---


def test_predictions_come_row_by_row_in_the_order_asked_and_on_the_scale() -> None:
    model, three = fr.BiasedMF(**SMALL).fit(DATA), fr.BiasedMF(**SMALL).fit(DATA, nodes=3)
    rng = np.random.default_rng(3)
    users, items = rng.integers(0, DATA.n_users, 500), rng.integers(0, DATA.n_items, 500)
    asked = {"user": DATA.users.take(users), "movieId": DATA.catalog.items.take(items), "rating": np.full(500, 9.0)}
    found = model.predict(asked)
    assert found.columns == ["user_id", "item_id", "rating"]
    assert found["user_id"].equals(asked["user"].alias("user_id"))
    assert found["item_id"].equals(asked["movieId"].alias("item_id"))
    np.testing.assert_array_equal(found["rating"], np.clip(predictions(model), 1, 5)[users, items])
    assert three.predict(asked).equals(found)
    assert predict(model, asked).equals(found)
    frame = model.predict(pd.DataFrame({"user_id": users[:3] + 1, "item_id": items[:3] + 1}))
    assert isinstance(frame, pd.DataFrame)
    np.testing.assert_array_equal(frame["rating"], found["rating"][:3])


def test_predictions_of_what_a_split_holds_out_do_not_look_at_it() -> None:
    model = fr.BiasedMF(**SMALL).fit(SPLIT)
    test = SPLIT.test.to_frame()
    predicted = model.predict(test)["rating"]
    found = fr.evaluate(model, SPLIT)["value"]
    assert rmse(test["rating"], predicted) == pytest.approx(found[0], rel=1e-5)
    assert mae(test["rating"], predicted) == pytest.approx(found[1], rel=1e-5)


def test_only_models_of_ratings_predict_them() -> None:
    for name in MODELS:
        assert model_class(name).traits.reads_ratings == (rating_scale(model_class(name)()) is not None)
    with pytest.raises(InputError, match="'popularity' ranks items and predicts no ratings; biased-mf predicts them"):
        fr.Popularity().fit(DATA).predict({"user_id": [1], "item_id": [1]})
    with pytest.raises(InputError, match="metric rmse: model 'popularity' ranks items"):
        fr.evaluate(fr.Popularity().fit(SPLIT.train), SPLIT, "rmse")
    with pytest.raises(PlanError, match="metric mae: model 'ease' ranks items"):
        fr.EASE(plan={"evaluation": {"metrics": ["mae"]}})


def test_the_command_predicts_a_file_of_pairs(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    fr.BiasedMF(**SMALL).fit(DATA).save(tmp_path / "run")
    (tmp_path / "pairs.csv").write_text("who,what,note\n3,7,a\n1,2,b\n3,7,c\n")
    columns = ("--columns", "user_id=who,item_id=what")
    expected = fr.load_model(tmp_path / "run").predict({"user_id": [3, 1, 3], "item_id": [7, 2, 7]})
    for name in ("p.parquet", "p.csv"):
        to = str(tmp_path / name)
        said = fedrec("predict", str(tmp_path / "run"), "--pairs", str(tmp_path / "pairs.csv"), "--to", to, *columns)
        assert said.code == 0, said.err
        table = pl.read_parquet(to) if name.endswith("parquet") else pl.read_csv(to)
        assert table["item_id"].to_list() == [7, 2, 7]
        np.testing.assert_allclose(table["rating"], expected["rating"], atol=1e-6)
    (tmp_path / "pairs.csv").write_text("user,item\n3,7\n1,\n")
    said = fedrec("predict", str(tmp_path / "run"), "--pairs", str(tmp_path / "pairs.csv"), "--to", "-")
    assert said.code == 2
    assert "pairs.csv, line 3: item_id is missing" in said.err


# --- errors of ratings ---


def test_rmse_and_mae_are_those_of_all_ratings_together() -> None:
    for nodes in (1, 4):
        model = fr.BiasedMF(**SMALL).fit(SPLIT, nodes=nodes)
        found = fr.evaluate(model, SPLIT)
        assert found["metric"].to_list() == ["rmse", "mae"]
        test = SPLIT.test.to_frame()
        asked = fr.BiasedMF(**SMALL).fit(SPLIT).opened
        shard = asked.with_split(SPLIT).shards[0]
        scores = np.concatenate(
            [s for _, _, s in shard.scores(model.shared, asked.trained.round, SPLIT.history("test"), np.arange(150))]
        )
        held = SPLIT.test
        predicted = np.clip(scores[held.rows_of_users(), held.items], 1, 5)
        np.testing.assert_allclose(found["value"], [rmse(test["rating"], predicted), mae(test["rating"], predicted)],
                                   rtol=1e-5)  # fmt: skip
        errors = predicted - test["rating"].to_numpy()
        for name, each in (("rmse", errors**2), ("mae", np.abs(errors))):
            totals = np.bincount(held.rows_of_users(), weights=each, minlength=150)
            lengths, n = held.lengths.astype(float), (held.lengths > 0).sum()
            ratio = totals.sum() / lengths.sum()
            se = np.sqrt(n / (n - 1) * ((totals - ratio * lengths) ** 2).sum()) / lengths.sum()
            se = se / (2 * np.sqrt(ratio)) if name == "rmse" else se
            assert found.row(by_predicate=pl.col("metric") == name)[2] == pytest.approx(se, rel=1e-3)


def test_errors_fit_into_their_ring_for_any_catalog_and_number_of_clients() -> None:
    for items, clients in ((10, 1024), (10**6, 2**20), (10**7, 2**32), (40, 2**32)):
        assert isinstance(measuring_spec(parse_metrics("rmse"), items, clients).nbytes, int)
        assert Sum.zeros(measuring_spec(parse_metrics("rmse"), items, clients), 0).arrays["errors"].dtype == np.int64


def test_less_error_is_better_wherever_something_is_chosen() -> None:
    grid = {"reg": [0.001, 1.4, 1000.0]}
    found = fr.tune(fr.BiasedMF, SPLIT_OF_THREE, grid, rounds=4)
    assert found.table.columns[:2] == ["reg", "rmse"]
    assert found.table.filter("chosen")["rmse"].item() == found.table["rmse"].min()
    plan = {"evaluation": {"every": 1, "keep": "best"}}
    model = fr.BiasedMF(embedding_size=8, rounds=8, reg=0.01, plan=plan).fit(SPLIT_OF_THREE)
    kept = fr.evaluate(model, SPLIT_OF_THREE, part="valid")["value"][0]
    last = fr.BiasedMF(embedding_size=8, rounds=8, reg=0.01).fit(SPLIT_OF_THREE)
    assert kept < fr.evaluate(last, SPLIT_OF_THREE, part="valid")["value"][0]


SPLIT_OF_THREE = fr.ratio(DATA, 0.7, seed=3)


def test_cutoffs_belong_to_lists() -> None:
    assert [str(metric) for metric in parse_metrics("rmse,MAE,ndcg_graded@5")] == ["rmse", "mae", "ndcg_graded@5"]
    with pytest.raises(InputError, match="rmse has no cutoff; write rmse"):
        parse_metrics("rmse@10")
    with pytest.raises(InputError, match="needs a whole cutoff"):
        parse_metrics("ndcg_graded")


def test_plain_errors_say_what_is_wrong() -> None:
    assert rmse([1, 2], [1, 4]) == pytest.approx(np.sqrt(2))
    assert mae([1, 2], [1, 4]) == 1.0
    for wrong in (([1], [1, 2]), ([], []), ([1], [float("nan")]), (["a"], [1])):
        with pytest.raises(InputError, match="actual and predicted"):
            rmse(*wrong)  # type: ignore[arg-type]


# --- graded relevance ---


@pytest.mark.parametrize("k", [1, 3, 10])
def test_graded_ndcg_is_that_of_ir_measures(k: int) -> None:
    rng = np.random.default_rng(k)
    for name, gain in (("ndcg_graded", lambda v: v), ("ndcg_exponential", lambda v: 2**v - 1)):
        for _ in range(20):
            scores = rng.permutation(25).astype(float)
            held = rng.choice(25, rng.integers(1, 12), replace=False)
            seen = np.setdiff1d(rng.choice(25, 6, replace=False), held)
            values = rng.integers(0, 6, len(held))
            qrels = [ir_measures.Qrel("u", f"{i}", int(gain(int(v)))) for i, v in zip(held, values, strict=True)]
            run = [ir_measures.ScoredDoc("u", f"{i}", s) for i, s in enumerate(scores) if i not in seen]
            expected = ir_measures.calc_aggregate([ir_measures.nDCG @ k], qrels, run)[ir_measures.nDCG @ k]
            found = score_list(scores.tolist(), held.tolist(), f"{name}@{k}", seen.tolist(), gains=values.tolist())
            assert found == pytest.approx(expected, abs=1e-6)


def test_graded_ndcg_of_equal_values_is_ndcg_and_of_ties_its_expectation() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, 30).astype(float).tolist()
    held = [3, 9, 14, 20]
    for k in (2, 7, 30):
        plain = score_list(scores, held, f"ndcg@{k}")
        for name in ("ndcg_graded", "ndcg_exponential"):
            assert score_list(scores, held, f"{name}@{k}", gains=[3.0] * 4) == pytest.approx(plain)
    unlike = [1.0, 4.0, 0.0, 2.0]
    drawn = []
    for _ in range(4000):
        jitter = (np.array(scores) + rng.uniform(0, 0.5, 30)).tolist()
        drawn.append(score_list(jitter, held, "ndcg_graded@7", gains=unlike))
    assert score_list(scores, held, "ndcg_graded@7", gains=unlike) == pytest.approx(np.mean(drawn), abs=0.01)
    assert score_list(scores, held, "ndcg_exponential@7", gains=[1e4, 1e4 - 1, 0, 3]) > 0
    assert score_list(scores, held, "ndcg_graded@7", gains=[0.0, -1.0, np.nan, 0.0]) == 0.0


def test_graded_relevance_needs_values_and_whole_lists() -> None:
    plain = fr.leave_last_out(fr.synthetic(users=60, items=30, interactions_per_user=8))
    with pytest.raises(InputError, match="read from ratings, and the data has none; take ndcg"):
        fr.evaluate(fr.Popularity().fit(plain.train), plain, "ndcg_graded@5")
    with pytest.raises(PlanError, match=r"not defined under sampled:9.*or ndcg@5"):
        fr.evaluate(fr.Popularity().fit(SPLIT.train), SPLIT, "ndcg_graded@5", protocol="sampled:9")
    found = fr.evaluate(fr.Popularity().fit(SPLIT.train), SPLIT, "ndcg_graded@5,ndcg@5")["value"]
    assert 0 < found[0] != found[1]


# --- what is refused ---


def test_ratings_outside_the_scale_are_named_with_the_scale_of_the_data() -> None:
    table = {"user": [1, 2, 2], "item": ["a", "a", "b"], "rating": [1.0, 0.5, 3.0]}
    with pytest.raises(InputError, match=r"0\.5, of user 2 with item 'a'\. The data has ratings from 0\.5 to 3"):
        fr.BiasedMF().fit(table)
    assert fr.BiasedMF(lowest=0.5, highest=3).fit(table).predict(table)["rating"].is_between(0.5, 3).all()
    with pytest.raises(InputError, match="predicts ratings, but the data has no ratings"):
        fr.BiasedMF().fit({"user": [1, 2], "item": [1, 2]})
    with pytest.raises(PlanError, match=r"highest \(1\) must be above lowest \(1\)"):
        fr.BiasedMF(highest=1)
    with pytest.raises(PlanError, match="reads values as ratings, not as weights"):
        fr.BiasedMF(weights="linear")
    with pytest.raises(PlanError, match="has no form under differential privacy"):
        fr.BiasedMF(plan={"privacy": {"epsilon": 3.0, "delta": 1e-5}})


def test_a_federation_says_the_scale() -> None:
    settings: dict[str, Any] = {"data": {"source": "x"}, "model": {"name": "biased-mf"}}
    with pytest.raises(PlanError, match="model: a federation needs lowest and highest"):
        Plan.make(settings).agree(DATA.catalog, 1024)
    settings["model"] |= {"lowest": 1, "highest": 5}
    assert Plan.make(settings).agree(DATA.catalog, 1024).evaluation.metrics == ("rmse", "mae")
