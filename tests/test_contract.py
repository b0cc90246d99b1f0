"""What every model promises, tested on data whose answer is known: two groups of users who share no item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import fedrec as fr
from fedrec.aggregation.release import Release
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError, PlanError
from fedrec.estimators.estimator import Estimator, estimator
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.models.base import Given, Private, Recommender
from fedrec.models.registry import MODELS, build_model, model_class

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

SETTINGS: dict[str, dict[str, Any]] = {
    "fedncf": {"learning_rate": 0.2, "rounds": 80, "reg": 0.02},
    "fedrecon": {"embedding_size": 4, "reg": 0.02},
}
"""Where the defaults are for larger data."""
NO_TASTE = {"popularity", "biased-mf", "fedrap", "gpfedrec", "pfedrec"}
"""Models that recommend the same to everybody, that predict how well an item is liked and not who will want it, or
that rank by rows of a client's own: on so small a catalog every item
that it does not have was its negative, so what is missing of its own group is at the bottom with all others."""
USERS, ITEMS, HELD = 80, 24, 9


def checkerboard() -> Interactions:
    """Users have `HELD` of the twelve items whose number is even where theirs is, in turn, and rate all they have."""
    rows = [(user, 2 * ((user // 2 + step) % 12) + user % 2) for user in range(USERS) for step in range(HELD)]
    ratings = [1 + (3 * user + item) % 5 for user, item in rows]
    return fr.interactions_from({"user_id": [u for u, _ in rows], "item_id": [i for _, i in rows], "rating": ratings})


DATA = checkerboard()


@pytest.fixture(scope="module", params=sorted(MODELS))
def fitted(request: pytest.FixtureRequest) -> Estimator:
    name: str = request.param
    return estimator(name)(**SETTINGS.get(name, {}), plan={"min_clients": 1}).fit(DATA)


def parts(model: Estimator) -> tuple[Any, Any, Clients, Private | None]:
    """Recommender, shared arrays, all clients and their private rows."""
    opened = model.opened
    return opened.model, opened.trained.state.shared, opened.engine.shards[0].everyone(), opened.private()


def taken(private: Private | None, positions: np.ndarray) -> Private | None:
    return None if private is None else {name: array[positions] for name, array in private.items()}


def own_group(table: pl.DataFrame) -> bool:
    return bool((table["user_id"] % 2 == table["item_id"] % 2).all())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_defaults_make_a_model_that_a_plan_carries_unchanged(name: str) -> None:
    model = model_class(name)()
    assert model.name == name
    assert model == build_model(name, {})
    for settings in ({}, SETTINGS.get(name, {})):
        plan = Plan.make({"data": {"source": "memory"}, "model": {"name": name, **settings}})
        resolved = plan.resolve(DATA, "digest")
        assert set(resolved.model) == {"name", *type(model).model_fields}
        again = Plan.make(yaml.safe_load(resolved.to_yaml()))
        assert again == resolved
        assert again.build_model() == build_model(name, settings)
        assert repr(estimator(name)(**settings)) == repr(again.build_model())


@pytest.mark.parametrize("name", sorted(MODELS))
def test_unknown_settings_are_errors_with_a_near_name(name: str) -> None:
    with pytest.raises(PlanError, match=rf"model {name}: 'nonsense' is not a setting"):
        build_model(name, {"nonsense": 1})
    for key in model_class(name).model_fields:
        with pytest.raises(PlanError, match=rf"Did you mean '{key}'"):
            estimator(name)(**{f"{key}x": 1})


def test_what_is_missing_of_the_own_group_is_recommended(fitted: Estimator) -> None:
    table = fitted.recommend(n=12 - HELD)
    assert table.height == USERS * (12 - HELD)
    seen = DATA.to_frame().select("user_id", "item_id")
    assert table.join(seen, on=["user_id", "item_id"]).height == 0
    assert table["rank"].to_list() == [1, 2, 3] * USERS
    if fitted.model_name not in NO_TASTE:
        assert own_group(table)


def test_scores_are_finite_floats_with_the_same_bits_alone_or_in_a_batch(fitted: Estimator) -> None:
    model, shared, clients, private = parts(fitted)
    together = model.score(Given.to_score(shared, {}), clients, private)
    assert together.shape == (USERS, ITEMS)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    for positions in ([5], [79, 0], [8, 3, 3]):
        places = np.array(positions)
        alone = model.score(Given.to_score(shared, {}), clients.take(places), taken(private, places))
        assert alone.tobytes() == together[places].tobytes()


def test_contributing_twice_gives_the_same_sum_and_changes_nothing(fitted: Estimator) -> None:
    """Round by round, and the sum over single clients is the sum over all."""
    model = fitted.opened.model
    plan = fitted.opened.plan
    engine = type(fitted.opened.engine).of_split(fitted.opened.engine.shards[0].split, plan)
    (node,) = engine.nodes
    (shard,) = node.shards
    state = model.start(DATA.catalog, {}, KeyedSource.from_seed(plan.seed).child("start"))
    for round in range(3):
        spec = model.spec(state.shared, round)
        if spec is None:
            break
        spec = Release(()).adjust(spec).fit(plan.n_max)
        shared = {name: array.copy() for name, array in state.shared.items()}
        call = RoundCall(round, round - 1, state.shared, spec, 1.0)
        first, second = node.contribute(call), node.contribute(call)
        for name, array in first.arrays.items():
            assert array.tobytes() == second.arrays[name].tobytes()
        for name, array in shared.items():
            assert array.tobytes() == state.shared[name].tobytes()
        settled = shard._settled(state.shared, round - 1)
        single = Sum.zeros(spec, round)
        for position in range(USERS):
            places = np.array([position])
            rows = None if settled is None else settled.take(places)
            rng = shard.source.child("contribute", round)
            single.add(model.contribute(Given(round, state.shared, {}, rng), shard.clients.take(places), rows)[0])
        assert single.clients == first.clients == USERS
        for name, array in first.arrays.items():
            assert array.tobytes() == single.arrays[name].tobytes()
        state = model.step(state, node.contribute(call), round)


def test_an_empty_history_gets_scores_too(fitted: Estimator) -> None:
    model, shared, clients, _ = parts(fitted)
    first = clients.take(np.array([0]))
    nobody = replace(first, indptr=np.zeros(2, dtype=np.int64), items=first.items[:0])
    scores = model.score(Given.to_score(shared, {}), nobody, model.fold_in(Given.to_score(shared, {}), nobody))
    assert scores.shape == (1, ITEMS)
    assert not np.isnan(scores).any()


def test_newcomers_are_folded_in_from_their_history(fitted: Estimator) -> None:
    rows = DATA.to_frame().filter(pl.col("user_id") < 6).with_columns(pl.col("user_id") + 1000)
    newcomers = fitted.recommend(range(1000, 1006), n=3, history=rows)
    if fitted.model_name not in NO_TASTE:
        assert own_group(newcomers)
    if fitted.opened.model.traits.scores_history:
        known = fitted.recommend(range(6), n=3)
        assert newcomers.with_columns(pl.col("user_id") - 1000).equals(known)
    alone = fitted.recommend([1003], n=3, history=rows.filter(pl.col("user_id") == 1003))
    assert alone.equals(newcomers.filter(pl.col("user_id") == 1003))


def test_similar_items_are_of_the_same_group(fitted: Estimator) -> None:
    if type(fitted.opened.model).similarity is Recommender.similarity:
        with pytest.raises(InputError, match="does not know similar items"):
            fitted.similar(5)
        return
    table = fitted.similar(5, n=4)
    if fitted.model_name != "biased-mf":  # it compares how items are rated, not by whom
        assert set(table["item_id"]) <= set(range(1, ITEMS, 2)) - {5}
    assert table["score"].is_sorted(descending=True)
    assert fitted.similar(5, n=100)["item_id"].n_unique() == ITEMS - 1


def test_saved_and_loaded_is_the_same_model(fitted: Estimator, tmp_path: Path) -> None:
    fitted.save(tmp_path / "run")
    loaded = fr.load_model(tmp_path / "run")
    assert repr(loaded) == repr(fitted)
    assert loaded.recommend().equals(fitted.recommend())
    for name, array in fitted.shared.items():
        assert loaded.shared[name].tobytes() == array.tobytes()
    private, again = fitted.opened.private(), loaded.opened.private()
    assert (private or {}).keys() == (again or {}).keys()
    for name, array in (private or {}).items():
        assert (again or {})[name].tobytes() == array.tobytes()


def test_any_number_of_nodes_makes_the_same_model(fitted: Estimator) -> None:
    other = estimator(fitted.model_name)(**SETTINGS.get(fitted.model_name, {}), plan={"min_clients": 1})
    other.fit(DATA, nodes=3)
    for name, array in fitted.shared.items():
        assert other.shared[name].tobytes() == array.tobytes()
    wanted = [41, 2, 2, 77, 0]
    assert other.recommend(wanted, n=4).equals(fitted.recommend(wanted, n=4))
    assert other.recommend().sort("user_id", "rank").equals(fitted.recommend().sort("user_id", "rank"))


def test_memory_grows_with_the_catalog(fitted: Estimator) -> None:
    model = fitted.opened.model
    held = sum(array.nbytes for array in fitted.shared.values())
    assert held <= 4 * model.cost(ITEMS).memory + 4096
    assert model.cost(10_000).memory > model.cost(1000).memory > 0
    assert model.cost(1000).per_interaction >= 1
