"""SLIT: the ridge regression on every step of every history, without a step being formed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from fedrec.aggregation.contributions import Dense
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.errors import InputError, PlanError
from fedrec.federation.plan import Plan
from fedrec.models.base import Given, PrivateTerms
from fedrec.models.linear.private_prefixes import joint, joint_spec, solved
from fedrec.models.linear.transitions import Scales
from fedrec.models.registry import build_model
from fedrec.runs.training import Placement, train_run

ITEMS = 25
KEEP = {"repeats": "keep"}
IN_ORDER: dict[str, Any] = {"split": "none@rows"}
"""Rows of tables without times are in order."""


def data(days: float | None = None, users: int = 60, seed: int = 0) -> pl.DataFrame:
    """Histories in random order; `days` between interactions, on average."""
    rng = np.random.default_rng(seed)
    rows = [(user, int(item)) for user in range(users) for item in rng.permutation(ITEMS)[: rng.integers(1, 16)]]
    table = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    if days is None:
        return table
    return table.with_columns(timestamp=pl.Series(np.cumsum(rng.exponential(days * 86400.0, len(rows)))))


def with_repeats() -> pl.DataFrame:
    """Histories in which items come again."""
    rng = np.random.default_rng(1)
    rows = [(user, int(item)) for user in range(60) for item in rng.integers(0, ITEMS, rng.integers(4, 16))]
    return pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")


def regression(
    table: pl.DataFrame,
    decays: tuple[float, ...],
    future: float,
    reg: float,
    alpha: float,
    days: bool = False,
    repeats_apart: bool = False,
) -> np.ndarray:
    """B by forming every prefix, in float64; `repeats_apart` measures λ as if all items of a prefix were distinct."""
    scales = len(decays)
    squares = np.zeros(scales)
    past, ahead = np.zeros((scales * ITEMS, scales * ITEMS)), np.zeros((scales * ITEMS, ITEMS))
    for _, history in table.group_by("user_id", maintain_order=True):
        items = history["item_id"].to_numpy()
        ages = np.arange(len(items), dtype=float)
        if days:
            ages = np.cumsum(np.maximum(1.0, np.diff(history["timestamp"].to_numpy() / 86400.0, prepend=0.0)))
        weight = max(len(items) - 1, 1) ** -alpha
        for last in range(len(items) - 1):
            prefix, target = np.zeros((scales, ITEMS)), np.zeros(ITEMS)
            for scale, decay in enumerate(decays):
                faded = decay ** (ages[last] - ages[: last + 1])
                np.add.at(prefix[scale], items[: last + 1], faded)
                squares[scale] += weight * (faded**2).sum()
            np.add.at(target, items[last + 1 :], future ** (ages[last + 1 :] - ages[last + 1]))
            past += weight * np.outer(prefix, prefix)
            ahead += weight * np.outer(prefix, target)
    ridge = [reg * past[a * ITEMS : (a + 1) * ITEMS].diagonal(a * ITEMS).mean() for a in range(scales)]
    ridge = list(reg * squares / ITEMS) if repeats_apart else ridge
    return np.linalg.solve(past + np.diag(np.repeat(ridge, ITEMS)), ahead)


def weights(model: Any) -> np.ndarray:
    array: np.ndarray = model.opened.trained.state.shared["weights"]
    return array


def figures(model: Any, split: fr.Split) -> dict[str, float]:
    """Metrics on the test part by name."""
    table = fr.evaluate(model, split, ["hr@10", "ndcg@10"])
    return dict(zip(table["metric"], table["value"], strict=True))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("decays", [(0.0,), (0.5, 0.9), (0.3, 0.6, 0.9)])
def test_slit_is_the_regression_on_all_pooled_steps(decays: tuple[float, ...], alpha: float) -> None:
    table = data()
    model = fr.SLIT(decays=decays, future=0.4, reg=0.7, alpha=alpha, plan=IN_ORDER).fit(table, nodes=3)
    assert np.allclose(weights(model), regression(table, decays, 0.4, 0.7, alpha), atol=2e-3)


@pytest.mark.parametrize(("repeats", "alpha"), [(False, 0.0), (False, 1.0), (True, 1.0)])
def test_a_rank_of_all_items_gives_the_regression_itself(repeats: bool, alpha: float) -> None:
    table = with_repeats() if repeats else data()
    plan = IN_ORDER | {"data": {"source": "memory", "cleaning": KEEP if repeats else {}}}
    model = fr.SLIT(decays=(0.4, 0.8), reg=0.5, rank=ITEMS, alpha=alpha, plan=plan).fit(table, nodes=2)
    basis, factors = model.shared["projection"], model.shared["weights"]
    product = np.concatenate([basis @ part.T for part in np.split(factors, 2, axis=1)])
    expected = regression(table, (0.4, 0.8), 0.5, 0.5, alpha, repeats_apart=True)
    assert np.allclose(product, expected, atol=5e-3)
    history = pl.DataFrame({"user_id": ["v"] * 3, "item_id": [9, 4, 7]})
    scores = model.recommend(["v"], ITEMS, history=history, include_seen=True).sort("item_id")["score"].to_numpy()
    past = np.concatenate([np.eye(ITEMS)[[9, 4, 7]].T @ decay ** np.arange(2, -1, -1) for decay in (0.4, 0.8)])
    assert np.allclose(scores, past @ product, atol=1e-4)


def test_a_small_rank_keeps_most_of_the_ranking() -> None:
    split = fr.leave_last_out(fr.synthetic(users=400, items=80, interactions_per_user=20, seed=1))
    whole, small = (figures(fr.SLIT(rank=rank).fit(split), split)["ndcg@10"] for rank in (None, 20))
    assert small > 0.7 * whole


def test_days_count_as_steps_and_one_at_least() -> None:
    table = data(days=2.0)
    by_days = weights(fr.SLIT(unit="days", decays=(0.6, 0.9)).fit(table))
    assert np.allclose(by_days, regression(table, (0.6, 0.9), 0.5, 1.0, 0.0, days=True), atol=2e-3)
    assert not np.allclose(by_days, weights(fr.SLIT(decays=(0.6, 0.9)).fit(table)), atol=2e-2)
    close = data(days=0.001)
    assert np.array_equal(weights(fr.SLIT(unit="days").fit(close)), weights(fr.SLIT().fit(close)))


def test_days_need_times() -> None:
    with pytest.raises(InputError, match="unit: days needs the times"):
        fr.SLIT(unit="days", plan=IN_ORDER).fit(data())


def test_repeats_are_read_where_the_plan_keeps_them() -> None:
    table = with_repeats()
    settings: dict[str, Any] = {"decays": (0.4, 0.8), "future": 0.3, "alpha": 1.0}
    plan = IN_ORDER | {"data": {"source": "memory", "cleaning": KEEP}}
    kept = weights(fr.SLIT(**settings, plan=plan).fit(table))
    expected = regression(table, (0.4, 0.8), 0.3, 1.0, 1.0)
    assert np.allclose(kept, expected, atol=2e-3)
    assert not np.allclose(weights(fr.SLIT(**settings, plan=IN_ORDER).fit(table)), expected, atol=2e-2)


@pytest.mark.parametrize("nodes", [1, 2])
def test_changed_times_and_repeats_are_added_to_kept_sums_to_the_bit(nodes: int, tmp_path: Path) -> None:
    rows = with_repeats().with_columns(timestamp=pl.int_range(pl.len()) * 50000.0)
    later = pl.when(pl.col("user_id") % 3 == 0).then(pl.col("timestamp") * 2).otherwise("timestamp")
    for name, table in (("old", rows), ("new", rows.with_columns(timestamp=later))):
        table.write_parquet(tmp_path / f"{name}.parquet")
    runs = {"first": ("old", None), "added": ("new", "first"), "scratch": ("new", None)}
    for run, (source, before) in runs.items():
        settings: dict[str, Any] = {
            "data": {"source": str(tmp_path / f"{source}.parquet"), "cleaning": KEEP},
            "model": {"name": "slit", "unit": "days"},
            "split": "none",
            "keep_sums": True,
        }
        if before is not None:
            settings["warm_start"] = str(tmp_path / before)
        report = train_run(Plan.make(settings), tmp_path / run, Placement(nodes))
        assert report.get("cohort") == (20 if run == "added" else 60)
    shared = [(tmp_path / run / "model" / "shared.safetensors").read_bytes() for run in runs]
    assert shared[0] != shared[1] == shared[2]


def test_scores_read_the_newest_item_most() -> None:
    """After a chain 0 → 1 → 2 → …, what comes next is the item after the last one."""
    chain = pl.DataFrame(
        [(user, (user + step) % ITEMS) for user in range(100) for step in range(6)],
        schema=["user_id", "item_id"], orient="row",
    )  # fmt: skip
    model = fr.SLIT(plan=IN_ORDER).fit(chain)
    history = pl.DataFrame({"user_id": ["v"] * 3, "item_id": [9, 4, 7]})
    assert model.recommend(["v"], 1, history=history)["item_id"].to_list() == [8]
    assert model.similar([7], 1)["item_id"].to_list() == [8]


def test_what_a_user_adds_in_private_has_a_norm_of_at_most_1_whatever_the_history() -> None:
    chain = fr.interactions_from(
        {"user_id": [1] * ITEMS + [2] * 2 + [3], "item_id": [*range(ITEMS), 0, 1, 5], "timestamp": range(ITEMS + 3)}
    )
    clients = Clients.of(chain, np.arange(3, dtype=np.uint64))
    model = fr.SLIT().plan.build_model().privately(PrivateTerms(None, 3))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(ITEMS, ITEMS)))[0].astype(np.float32)
    for round in range(model.rounds):
        part, _ = model.contribute(Given(round, {"table": turn}), clients, None)
        norms = np.sqrt(part.sq_norms())
        scales = 2 if round == model.passes else 1
        assert norms[2] == 0
        assert norms[:2].min() > 0.3
        assert norms.max() <= (scales**2 + (scales if round == model.passes else 0)) ** 0.5 + 1e-5
    exact = part.arrays["joint"]
    assert isinstance(exact, Dense)
    past = turn.T @ np.eye(ITEMS)[0]
    assert np.allclose(exact.values[1, :ITEMS], past[0] * past, atol=1e-6)


def test_without_noise_the_private_sums_give_the_regression_on_prefixes_of_length_1() -> None:
    table, scales, reg = data(), Scales((0.4, 0.8), 0.3, False), 0.6
    interactions = fr.interactions_from(table)
    clients = Clients.of(interactions, np.arange(interactions.n_users, dtype=np.uint64))
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(ITEMS, ITEMS)))[0].astype(np.float32)
    spec = joint_spec(turn, 2)
    total = Sum.zeros(SumSpec(tuple(replace(array, scale_bits=24) for array in spec.arrays)).fit(100))
    total.add(joint(scales, clients, turn))
    total.noise = {"joint": 0.0}
    arrays = solved(scales, turn, total, reg)
    product = np.concatenate([arrays["projection"] @ part.T for part in np.split(arrays["weights"], 2, axis=1)])
    past, ahead = np.zeros((2 * ITEMS, 2 * ITEMS)), np.zeros((2 * ITEMS, ITEMS))
    for items in np.split(clients.items, clients.indptr[1:-1]):
        for last in range(len(items) - 1):
            prefix, target = np.zeros((2, ITEMS)), np.zeros(ITEMS)
            for scale, decay in enumerate(scales.decays):
                prefix[scale, items[: last + 1]] = decay ** np.arange(last, -1, -1)
            prefix /= np.linalg.norm(prefix, axis=1, keepdims=True)
            target[items[last + 1 :]] = scales.future ** np.arange(len(items) - last - 1)
            past += np.outer(prefix, prefix) / (len(items) - 1)
            ahead += np.outer(prefix, target) * (1 - scales.future**2) ** 0.5 / (len(items) - 1)
    ridge = [reg * past.diagonal()[a * ITEMS : (a + 1) * ITEMS].mean() for a in range(2)]
    expected = np.linalg.solve(past + np.diag(np.repeat(ridge, ITEMS)), ahead)
    lengths = np.repeat([(1 - decay**2) ** 0.5 for decay in scales.decays], ITEMS)
    assert np.allclose(product, expected * lengths[:, None], atol=1e-4)


def test_alpha_is_1_in_private() -> None:
    with pytest.raises(PlanError, match="alpha = 1; leave out alpha"):
        fr.SLIT(alpha=0.5, plan={"privacy": {"epsilon": 1.0, "delta": 1e-4}}).fit(data())


@pytest.mark.parametrize("decays", [(0.9, 0.5), (0.5, 0.5), (1.0,), (-0.1,), ()])
def test_decays_ascend_from_0_to_below_1(decays: tuple[float, ...]) -> None:
    with pytest.raises(PlanError, match="decays"):
        fr.SLIT(decays=decays)


def test_one_decay_may_be_a_number() -> None:
    assert build_model("slit", {"decays": 0.8}).decays == (0.8,)


@pytest.mark.real
@pytest.mark.filterwarnings("ignore:ratings .or weights. from")
@pytest.mark.parametrize(("source", "decays", "least"), [
    ("ml-1m-sequences", (0.8,), {"ndcg@10": 0.160}),
    ("ml-1m-sequences", (0.5, 0.95), {"ndcg@10": 0.172, "hr@10": 0.288}),
    ("ml-100k", (0.5, 0.95), {"ndcg@10": 0.115}),
])  # fmt: skip
def test_real_histories_are_ranked_as_well_as_measured(
    source: str, decays: tuple[float, ...], least: dict[str, float]
) -> None:
    split = fr.leave_last_out(fr.load_data(source))
    model = fr.SLIT(decays=decays).fit(split)
    measured = figures(model, split)
    for metric, value in least.items():
        assert measured[metric] >= value
