"""Decay at scoring time: the newest interactions count most, and no sum knows of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import fedrec as fr
from conftest import Said
from fedrec.data.clients import Clients
from fedrec.data.digests import digest_of
from fedrec.data.interactions import Interactions
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.models.base import Given, PrivateTerms
from fedrec.models.linear.recency import decayed
from fedrec.models.registry import build_model
from fedrec.runs.saved import open_run
from fedrec.runs.training import Placement, train_run
from fedrec.runs.tuning import Tuned, choose
from runs_in_test import watched_rounds

DATA = fr.synthetic(users=120, items=60, interactions_per_user=14, seed=3)
MODELS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "ease": (fr.EASE, {}),
    "ease-rank": (fr.EASE, {"rank": 8}),
    "itemknn": (fr.ItemKNN, {"neighbours": 12}),
    "spectral": (fr.Spectral, {"rank": 8, "alpha": 0.5}),
}
SETTINGS = {"ease": {"name": "ease"}, "ease-rank": {"name": "ease", "rank": 8}, "itemknn": {"name": "itemknn"},
            "spectral": {"name": "spectral", "rank": 8}}  # fmt: skip


def clients_of(data: Interactions) -> Clients:
    return Clients.of(data, np.arange(data.n_users, dtype=np.uint64))


def twin(data: Interactions, decay: float) -> NDArray[np.float64]:
    """What each interaction weighs in scores, one after the other."""
    weights = np.ones(len(data)) if data.values is None else data.values.astype(np.float64)
    for start, stop in zip(data.indptr[:-1], data.indptr[1:], strict=True):
        for row in range(start, stop):
            weights[row] *= decay ** (stop - 1 - row)
    return weights


def scored(model: Any, clients: Clients) -> NDArray[np.float32]:
    opened = model.opened
    scores: NDArray[np.float32] = opened.model.score(Given.to_score(model.shared, {}), clients, None)
    return scores


def in_files(data: Interactions, folder: Path) -> str:
    data.to_frame().write_parquet(folder / "data.parquet")
    return str(folder / "data.parquet")


@pytest.mark.parametrize("decay", [0.9, 0.5])
@pytest.mark.parametrize(
    ("name", "weights"),
    [*((name, None) for name in MODELS), *((name, "value") for name in MODELS if name != "spectral")],
)
def test_scores_are_sums_of_rows_times_decay_to_the_age(name: str, decay: float, weights: str | None) -> None:
    kind, settings = MODELS[name]
    values = None if weights is None else np.random.default_rng(1).uniform(0.5, 3.0, len(DATA)).astype(np.float32)
    data = fr.Interactions(DATA.users, DATA.catalog, DATA.indptr, DATA.items, values, DATA.times)
    plan = None if weights is None else {"weights": weights}
    model = kind(**settings, decay=decay, plan=plan).fit(data)
    plain = kind(**settings, plan=plan).fit(data)
    alone = Clients.of(
        fr.Interactions(
            fr.interactions_from({"user": range(60), "item": range(60)}).users,
            DATA.catalog,
            np.arange(61),
            np.arange(60, dtype=np.int32),
        ),
        np.zeros(60, dtype=np.uint64),
    )
    rows = scored(plain, alone).astype(np.float64)  # what an item alone adds to every score
    expected = np.zeros((data.n_users, data.n_items))
    np.add.at(expected, data.rows_of_users(), twin(data, decay)[:, None] * rows[data.items])
    np.testing.assert_allclose(scored(model, clients_of(data)), expected, rtol=2e-5, atol=2e-5)


def test_a_decay_of_one_leaves_clients_and_plans_as_they_are() -> None:
    model, clients = build_model("ease", {}), clients_of(DATA)
    assert model.recent(clients) is clients  # type: ignore[attr-defined]
    assert "decay" not in model.model_dump()
    assert "decay" not in build_model("spectral", {"decay": 1}).privately(PrivateTerms(None, 50)).model_dump()
    plans = [Plan.make({"data": {"source": "x"}, "model": {"name": "ease", **own}}) for own in ({}, {"decay": 1.0})]
    assert [plan.resolve(DATA, "0" * 64).model for plan in plans] == [
        {"name": "ease", "reg": "auto", "alpha": 0.0, "rank": None, "passes": 2}
    ] * 2


def test_a_decay_is_kept_by_the_private_form() -> None:
    for name in ("ease", "itemknn", "spectral"):
        private = build_model(name, {"decay": 0.8}).privately(PrivateTerms(None, 50))
        assert private.model_dump()["decay"] == 0.8


@pytest.mark.parametrize("decay", [0.0, 1.5, -0.5, float("nan")])
def test_a_decay_is_above_0_and_at_most_1(decay: float) -> None:
    with pytest.raises(PlanError, match="decay: input should be"):
        build_model("itemknn", {"decay": decay})


def test_weights_have_the_same_bits_in_histories_of_any_length() -> None:
    whole = decayed(clients_of(DATA), 0.7)
    assert whole.values is not None
    for client in (0, 7, 119):
        alone = decayed(clients_of(DATA).take(np.array([client])), 0.7)
        rows = slice(whole.indptr[client], whole.indptr[client + 1])
        assert alone.items.tobytes() == whole.items[rows].tobytes()
        assert alone.values is not None
        assert alone.values.tobytes() == whole.values[rows].tobytes()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("decay", [1e-300, 1e-9, 0.01, 1 - 1e-12])
def test_scores_are_finite_whatever_the_decay(name: str, decay: float) -> None:
    kind, settings = MODELS[name]
    model = kind(**settings, decay=decay).fit(DATA)
    some = clients_of(DATA).where(np.arange(len(DATA)) >= 30)  # the first clients have no history
    assert some.lengths.min() == 0
    scores = scored(model, some)
    assert np.isfinite(scores).all()
    assert not scores[0].any()


def test_interactions_too_old_to_be_seen_beside_the_newest_are_left_out() -> None:
    long = fr.interactions_from({"user": [1] * 3000, "item": range(3000), "time": range(3000)})
    recent = decayed(clients_of(long), 0.5)
    assert recent.items.tolist() == list(range(2975, 3000))
    assert recent.values is not None
    assert recent.values.min() == np.float32(2.0**-24)
    slow = decayed(clients_of(long), 0.9999)
    assert len(slow.items) == 3000


@pytest.mark.parametrize("model", SETTINGS.values())
def test_no_sum_depends_on_the_decay(model: dict[str, Any], tmp_path: Path) -> None:
    source = in_files(DATA, tmp_path)
    digests = set()
    for decay in (1.0, 0.8):
        plan = Plan.make({"data": {"source": source}, "model": model | {"decay": decay}})
        digests.add(train_run(plan, tmp_path / str(decay))["digests"]["model"])
    assert len(digests) == 1


def test_a_kept_sum_serves_every_decay(tmp_path: Path) -> None:
    source = in_files(DATA, tmp_path)
    settings = {"data": {"source": source}, "split": "none"}
    first = Plan.make(settings | {"model": {"name": "ease", "decay": 0.9}, "keep_sums": True})
    train_run(first, tmp_path / "first")
    went_on = Plan.make(
        settings | {"model": {"name": "ease", "decay": 0.6}, "warm_start": str(tmp_path / "first"), "keep_sums": True}
    )
    report = train_run(went_on, tmp_path / "next")
    assert report["warm_start"]["how"] == "adds the change"
    assert report["cohort"] == 0
    opened = open_run(tmp_path / "next")
    assert opened.model.model_dump()["decay"] == 0.6


@pytest.mark.parametrize("model", SETTINGS.values())
def test_nodes_measure_the_same_figures(model: dict[str, Any], tmp_path: Path) -> None:
    source = in_files(DATA, tmp_path)
    plan = Plan.make({"data": {"source": source}, "model": model | {"decay": 0.8}})
    reports = [train_run(plan, tmp_path / str(nodes), Placement(nodes)) for nodes in (1, 3)]
    assert reports[0]["metrics"] == reports[1]["metrics"]
    assert reports[0]["digests"]["model"] == reports[1]["digests"]["model"]


def test_evaluation_recommendation_and_visitors_read_the_same_history(tmp_path: Path) -> None:
    split = fr.leave_last_out(DATA)
    model = fr.EASE(decay=0.6).fit(split)
    shared, data = model.shared["weights"].astype(np.float64), split.history("test")
    rows = np.zeros((data.n_users, data.n_items))
    np.add.at(rows, data.rows_of_users(), twin(data, 0.6)[:, None] * shared[data.items])
    rows[data.rows_of_users(), data.items] = -np.inf
    wanted = split.test
    ranks = (rows[wanted.rows_of_users()] > rows[wanted.rows_of_users(), wanted.items][:, None]).sum(axis=1)
    expected = np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0).mean()
    assert fr.evaluate(model, split, ["ndcg@10"])["value"][0] == pytest.approx(expected, abs=1e-6)

    whole = fr.EASE(decay=0.6).fit(DATA)
    known = whole.recommend([5], n=5)
    history = DATA.to_frame().filter(pl.col("user_id") == 5).with_columns(pl.lit(9999).alias("user_id"))
    visitor = whole.recommend(history=history, n=5)
    assert visitor["item_id"].to_list() == known["item_id"].to_list()
    assert visitor["score"].to_list() == known["score"].to_list()
    turned = history.with_columns(-pl.col("timestamp"))
    assert whole.recommend(history=turned, n=5)["score"].to_list() != known["score"].to_list()
    whole.save(tmp_path / "run")
    assert fr.load_model(tmp_path / "run").recommend([5], n=5).equals(known)


def chosen(base: Plan, grid: dict[str, list[Any]], **options: Any) -> Tuned:
    return choose(base, grid, DATA, digest_of(DATA), lambda made: LocalEngine.build(DATA, made), **options)


def plan(model: dict[str, Any], **changes: Any) -> Plan:
    return Plan.make({"data": {"source": "memory"}, "model": model} | changes)


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rounds that nodes are asked for."""
    return watched_rounds(monkeypatch)


@pytest.mark.parametrize("order", ["decay first", "decay last"])
def test_tuning_trains_once_for_all_decays(order: str, rounds: list[int]) -> None:
    grid: dict[str, list[Any]] = {"decay": [1.0, 0.9, 0.6], "reg": [5.0, 50.0]}
    if order == "decay last":
        grid = dict(reversed(grid.items()))
    tuned = chosen(plan({"name": "ease"}), grid, seeds=2)
    assert rounds == [0] * 4  # two values of reg, two seeds
    assert len(tuned.candidates) == 6
    alone = chosen(plan({"name": "ease", "reg": 50.0, "decay": 0.6}), {"alpha": [0.0]}, seeds=2).chosen
    (candidate,) = [row for row in tuned.candidates if row.settings == {"decay": 0.6, "reg": 50.0}]
    assert (candidate.value, candidate.standard_error, candidate.sd) == (alone.value, alone.standard_error, alone.sd)
    assert len({row.value for row in tuned.candidates}) == 6


def test_validations_under_way_make_every_candidate_train(rounds: list[int]) -> None:
    base = plan({"name": "spectral", "rank": 8}, evaluation={"every": 1})
    chosen(base, {"decay": [1.0, 0.8]})
    assert rounds == [0, 1, 2] * 2


UNORDERED = pl.DataFrame({"user": [1, 1, 1, 2, 2, 2] * 9, "item": [*range(27), *range(9, 36)], "day": range(54)})


def test_data_without_order_is_refused_and_told_what_to_do() -> None:
    with pytest.raises(
        PlanError, match=r"model 'ease' with decay=0.8 needs the order .*use decay: 1, which needs no order"
    ):
        fr.EASE(decay=0.8).fit(UNORDERED)
    with pytest.raises(PlanError, match=r"'day' looks like times: set columns=\{'timestamp': 'day'\}"):
        fr.EASE(decay=0.8).fit(UNORDERED)
    ordered = fr.EASE(decay=0.8).fit(fr.interactions_from(UNORDERED, columns={"timestamp": "day"}))
    declared = fr.EASE(decay=0.8, plan={"split": "none@rows"}).fit(UNORDERED)
    assert declared.recommend([1]).equals(ordered.recommend([1]))
    split = fr.leave_last_out(UNORDERED, by_rows=True)
    with_times = fr.leave_last_out(fr.interactions_from(UNORDERED, columns={"timestamp": "day"}))
    models = [fr.EASE(decay=0.8).fit(data) for data in (split, with_times)]
    assert models[0].recommend([1]).equals(models[1].recommend([1]))
    assert fr.EASE().fit(UNORDERED).recommend([1]).height == 10


def test_tuning_refuses_data_without_order_before_any_training(rounds: list[int]) -> None:
    with pytest.raises(PlanError, match=r"decay=0\.8 needs the order"):
        fr.tune(fr.EASE, UNORDERED, {"decay": [1.0, 0.8]}, split="ratio:0.5")
    assert rounds == []


def test_a_visitor_without_times_is_refused_unless_rows_are_declared_in_order() -> None:
    history = {"user": [7, 7], "item": [3, 4]}
    with_times = fr.EASE(decay=0.8).fit(fr.interactions_from(UNORDERED, columns={"timestamp": "day"}))
    with pytest.raises(PlanError, match=r"decay=0\.8 needs the order"):
        with_times.recommend(history=history)
    declared = fr.EASE(decay=0.8, plan={"split": "none@rows"}).fit(UNORDERED)
    assert declared.recommend(history=history).equals(with_times.recommend(history=history | {"timestamp": [1, 2]}))


def test_the_command_refuses_data_without_order(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    UNORDERED.write_csv(tmp_path / "clicks.csv")
    asked = ("train", "--data", tmp_path / "clicks.csv", "--model", "itemknn", "--set", "decay=0.8",
             "--split", "ratio:0.5", "--out", tmp_path / "run")  # fmt: skip
    said = fedrec(*asked)
    assert said.code == 2
    assert "model 'itemknn' with decay=0.8 needs the order" in said.err
    assert "--columns timestamp=day" in said.err
    assert fedrec(*asked, "--columns", "timestamp=day").code == 0


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here
@pytest.mark.parametrize(
    ("name", "decay", "plain", "least"), [("ml-1m-sequences", 0.75, 0.0510, 0.127), ("ml-100k", 0.9, 0.0740, 0.100)]
)
def test_real_sequences_gain_what_the_page_says(
    real: Callable[[str], Path], name: str, decay: float, plain: float, least: float
) -> None:
    real(name)
    split = fr.leave_last_out(fr.load_data(name))
    tuned = fr.tune(fr.EASE, split, {"decay": [1.0, 0.9, 0.75]}, metric="ndcg@10")
    assert tuned.settings == {"decay": decay}
    figures = [fr.evaluate(model.fit(split), split, ["ndcg@10"])["value"][0] for model in (fr.EASE(), tuned.best)]
    assert figures[0] == pytest.approx(plain, abs=5e-4)
    assert figures[1] >= least
