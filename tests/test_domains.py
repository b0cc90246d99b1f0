"""EASE over linked domains: histories of one kind of goods recommend another."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from federation_in_test import COORDINATOR, WAITING, Federation
from fedrec.data.catalog import Catalog
from fedrec.data.domains import items_of_domain
from fedrec.data.splits import TEST, TRAIN, VALID
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.plan import Plan
from fedrec.models.outline import is_additive
from fedrec.network.post import LocalPost
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.training import train_run
from kill_driver import is_killed

DATA = fr.synthetic(users=1500, items=120, interactions_per_user=12, seed=4, domains=2)
TARGET = items_of_domain(DATA.catalog, "b")
SPLIT = fr.cross_domain(DATA, "b", seed=1)


def test_weights_and_shares_of_newcomers_minimise_the_loss_with_hidden_targets() -> None:
    model = fr.EASE(target="b", reg=9.0, dropout=3.0).fit(SPLIT.train, nodes=3)
    shared = model.opened.trained.state.shared
    x = np.zeros((DATA.n_users, DATA.n_items))
    x[SPLIT.train.rows_of_users(), SPLIT.train.items] = 1.0
    x = x[x[:, TARGET].any(axis=1)]
    linked = int(x[:, ~TARGET].any(axis=1).sum())
    source, target = x[:, ~TARGET], x[:, TARGET]
    ridge = 48.0 * max(1.0, 800 / linked) ** 2 * source.sum() / source.shape[1]
    b_source, b_target = shared["weights"][~TARGET][:, TARGET], shared["weights"][TARGET][:, TARGET]
    assert not shared["weights"][:, ~TARGET].any()
    assert not b_target.diagonal().any()
    # Where the loss is least, its gradient is zero but for the diagonal, which is held at zero.
    rest = target - source @ b_source - target @ b_target
    hidden = target - source @ b_source
    of_source = source.T @ rest + 3.0 * source.T @ hidden - ridge * b_source
    of_target = target.T @ rest - 9.0 * b_target
    np.fill_diagonal(of_target, 0.0)
    assert max(np.abs(of_source).max(), np.abs(of_target).max()) < 1e-2
    np.testing.assert_allclose(shared["newcomers"][TARGET], hidden.mean(axis=0), atol=1e-5)
    alone = fr.EASE(target="b", reg=9.0, dropout=3.0).fit(SPLIT.train)
    assert np.array_equal(alone.opened.trained.state.shared["weights"], shared["weights"])


def test_users_without_an_item_of_the_target_change_nothing() -> None:
    owners = SPLIT.train.rows_of_users()
    takes = np.bincount(owners[TARGET[SPLIT.train.items]], minlength=DATA.n_users) > 0
    assert (~takes).sum() > 100
    one, other = (fr.EASE(target="b").fit(data) for data in (SPLIT.train, SPLIT.train.where(takes[owners])))
    for name, array in one.opened.trained.state.shared.items():
        assert np.array_equal(array, other.opened.trained.state.shared[name])


def test_cold_users_are_served_better_than_by_popularity_and_only_with_the_target() -> None:
    model = fr.EASE(target="b").fit(SPLIT)
    bare = SPLIT.train.where(TARGET[SPLIT.train.items])
    popular = fr.EASE(target="b").fit(bare)
    found, least = (fr.evaluate(each, SPLIT, "ndcg@10", protocol="full@0") for each in (model, popular))
    assert found["users"][0] == least["users"][0] > 200
    assert found["value"][0] > least["value"][0] + 5 * least["standard_error"][0]
    listed = model.recommend(list(range(1, 40)), n=60)
    domains = dict(zip(DATA.catalog.items, DATA.catalog.features["domain"], strict=True))
    assert {domains[item] for item in listed["item_id"]} == {"b"}


def test_a_handful_of_linked_users_says_nothing_of_another_domain() -> None:
    owners, inside = SPLIT.train.rows_of_users(), TARGET[SPLIT.train.items]
    few = fr.EASE(target="b").fit(SPLIT.train.where(inside | (owners < 20))).opened.trained.state.shared
    bare = fr.EASE(target="b").fit(SPLIT.train.where(inside)).opened.trained.state.shared
    np.testing.assert_allclose(few["weights"], bare["weights"], atol=1e-3)
    shares = np.bincount(SPLIT.train.items[inside], minlength=DATA.n_items)
    np.testing.assert_allclose(bare["newcomers"], shares / shares.sum() * bare["newcomers"].sum(), atol=1e-6)


def test_the_split_holds_out_all_of_some_all_but_five_of_others_and_nothing_of_other_domains() -> None:
    inside, owners = TARGET[DATA.items], DATA.rows_of_users()
    assert (SPLIT.part[~inside] == TRAIN).all()
    whole, held, checked = (
        np.bincount(owners[inside & rows], minlength=DATA.n_users)
        for rows in (SPLIT.part >= 0, SPLIT.part == TEST, SPLIT.part == VALID)
    )
    linked = (whole > 0) & (whole < DATA.lengths)
    cold = linked & (held == whole)
    few = linked & ~cold & (whole - held == 5) & (held > 3)
    assert abs(cold.sum() / linked.sum() - 0.2) < 0.05
    assert few.sum() > 20
    assert not checked[cold | few].any()
    assert str(fr.cross_domain(DATA, "b").method) == "cross-domain:b"
    again = fr.cross_domain(DATA.take_users(np.arange(0, 1500, 3)), "b", seed=1)
    assert np.array_equal(again.part, SPLIT.take_users(np.arange(0, 1500, 3)).part)


def test_users_are_measured_by_how_many_items_of_the_target_they_have() -> None:
    model = fr.EASE(target="b").fit(SPLIT, nodes=2)
    known = SPLIT.history("test").where(TARGET[SPLIT.history("test").items]).lengths[SPLIT.test.lengths > 0]
    wanted = {"full": known >= 0, "full@0": known == 0, "full@1-5": (known > 0) & (known < 6), "full@6-": known > 5}
    found = {name: fr.evaluate(model, SPLIT, "ndcg@10", protocol=name) for name in wanted}
    assert {name: table["users"][0] for name, table in found.items()} == {n: int(w.sum()) for n, w in wanted.items()}
    total = sum(found[name]["value"][0] * found[name]["users"][0] for name in list(wanted)[1:])
    assert total / found["full"]["users"][0] == pytest.approx(found["full"]["value"][0], abs=1e-6)


def test_a_federation_with_masks_and_a_run_that_was_killed_end_with_the_same_model(tmp_path: Path) -> None:
    plan = Plan.make(
        {
            "data": {"source": "synthetic:users=600,items=60,interactions_per_user=12,domains=2,seed=2"},
            "model": {"name": "ease", "target": "a"},
            "split": "cross-domain:a",
            "evaluation": {"protocol": "full@1-5", "metrics": ["ndcg@10"]},
            "min_clients": 20,
        }
    )
    here = train_run(plan, tmp_path / "here")
    federation = Federation(tmp_path, plan, 3, secure=True)
    members = Members("owners", COORDINATOR, federation.public, federation.catalog, 1024)
    report = train_federated(plan, tmp_path / "out", members, LocalPost(federation.hosts()), True, WAITING)
    assert report["digests"]["model"] == here["digests"]["model"]
    assert report["metrics"] == here["metrics"]
    assert is_killed(partial(train_run, plan, tmp_path / "killed", resume=True), 10)
    again = train_run(plan, tmp_path / "killed", resume=True)
    assert again["digests"]["model"] == here["digests"]["model"]


@pytest.mark.parametrize("text", ["full", "cold", "sampled:9", "full@0", "sampled:9@1-5", "cold@6-"])
def test_protocols_read_what_they_write(text: str) -> None:
    assert str(parse_protocol(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("full@", "as in full@0, full@1-5"),
        ("full@a-b", "as in full@0"),
        ("full@5-1", "fewest items of a history first"),
    ],
)
def test_wrong_bounds_of_histories_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_protocol(text)


def test_wrong_domains_say_what_to_do() -> None:
    plain = fr.synthetic(users=40, items=100, interactions_per_user=10)
    with pytest.raises(PlanError, match="the catalog has no column domain; add one"):
        fr.EASE(target="b").fit(plain)
    with pytest.raises(PlanError, match=r"'c' is no domain of the catalog\. Choose from: a, b"):
        fr.cross_domain(DATA, "c")
    with pytest.raises(InputError, match="write the domain whose items are held out, as in cross-domain:books"):
        fr.cross_domain(DATA, "")
    with pytest.raises(PlanError, match="a target goes with neither rank nor item_features; leave them out"):
        fr.EASE(target="b", rank=8).fit(DATA)
    with pytest.raises(PlanError, match="ease under privacy knows no domains: leave out target, or privacy"):
        fr.EASE(target="b", plan={"privacy": {"epsilon": 2.0, "delta": 1e-4}}).fit(DATA)
    with pytest.raises(InputError, match="domains is 27; it must be a whole number from 1 to 26"):
        fr.synthetic(domains=27)


def test_a_target_is_pinned_by_the_features_of_the_catalog_and_leaves_other_plans_as_they_were() -> None:
    settings = {"data": {"source": "memory"}, "model": {"name": "ease", "target": "b"}}
    plan = Plan.make(settings).resolve(DATA, "0" * 64)
    assert plan.features == DATA.catalog.features_digest
    assert not is_additive(plan.build_model())
    assert "target" not in Plan.make(settings | {"model": {"name": "ease"}}).model_dump()["model"]
    assert DATA.catalog.features is not None
    other = Catalog(DATA.catalog.items, DATA.catalog.features.with_columns(domain=pl.lit("b")))
    with pytest.raises(PlanError, match="features of the catalog"):
        plan.check_catalog(other)


@pytest.mark.real
def test_books_and_films_of_the_same_users_recommend_each_other(
    real: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real("amazon-books-movies")
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    joined, rows = (getattr(importlib.import_module("domains"), name) for name in ("joined", "rows"))
    data = joined()
    bounds = {"books": (0.170, 0.340, 0.280), "movies": (0.150, 0.248, 0.152)}
    for name, least in bounds.items():
        found = [[row[2] for row in rows(data, name, seed, 1.0) if row[0] == "joint"] for seed in (0, 1, 2)]
        assert (np.mean(found, axis=0) >= least).all()
