"""Tests of what every recommender promises, for models of your own.

In a test file of your package, subclass `RecommenderContract` and name your class; pytest finds the tests:

    from fedrec.testing import RecommenderContract
    from mine import Mine

    class TestMine(RecommenderContract):
        model = Mine
        settings = {"rounds": 20}

The data is a checkerboard whose right answer is known: two groups of users who share no item.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import yaml

from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.reading.frames import interactions_from
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import InputError, PlanError
from fedrec.estimators.estimator import Estimator, estimator, load_model
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models import served
from fedrec.models.base import Arrays, Given, Private, Recommender
from fedrec.models.registry import build_model
from fedrec.models.shapes import check_arrays, check_rows
from fedrec.runs.training import train_here

__all__ = ["HELD", "ITEMS", "USERS", "RecommenderContract", "checkerboard"]

USERS, ITEMS, HELD = 80, 24, 9
"""Users, items, and how many items each user has, of the twelve of its group."""
_MASKED_ROUNDS = 6
_FITTED: dict[type, Estimator] = {}


@cache
def checkerboard() -> Interactions:
    """Users have `HELD` of the twelve items whose number is even where theirs is, in turn, and rate all they have.

    Items have a title and the genre of their group; users have an age.

    >>> data = checkerboard()
    >>> data.n_users, data.n_items, bool((data.rows_of_users() % 2 == data.items % 2).all())
    (80, 24, True)
    """
    rows = [(user, 2 * ((user // 2 + step) % 12) + user % 2) for user in range(USERS) for step in range(HELD)]
    ratings = [1 + (3 * user + item) % 5 for user, item in rows]
    users, items = zip(*rows, strict=True)
    data = interactions_from({"user_id": users, "item_id": items, "rating": ratings, "timestamp": range(len(rows))})
    genres = [["odd" if item % 2 else "even"] for item in range(ITEMS)]
    features = pl.DataFrame({"title": [f"Item {item}" for item in range(ITEMS)], "genres": genres})
    catalog = Catalog(Identifiers.of(range(ITEMS)), features)
    return replace(
        data, catalog=catalog, user_features=pl.DataFrame({"age": [20 + user % 50 for user in range(USERS)]})
    )


class RecommenderContract:
    """What every recommender promises; see the module for how to use it.

    Attributes:
        model: your class.
        settings: hyperparameters fit for this small data; the class's defaults without it.
        knows_taste: whether lists hold items of the user's own group; `False` for a model that recommends the same to
            everybody, or that predicts how well items are liked.
    """

    model: ClassVar[type[Recommender]]
    settings: ClassVar[dict[str, Any]] = {}
    knows_taste: ClassVar[bool] = True

    def test_a_plan_carries_the_model_unchanged(self) -> None:
        estimator(self.model)  # makes the name known
        name = self.model.name
        for settings in ({}, self.settings):
            plan = Plan.make({"data": {"source": "memory"}, "model": {"name": name, **settings}})
            resolved = plan.resolve(checkerboard(), "digest")
            again = Plan.make(yaml.safe_load(resolved.to_yaml()))
            assert again == resolved, "a plan that is written and read again is another one"
            assert again.build_model() == build_model(name, settings), "a plan's model has other settings"

    def test_unknown_settings_are_refused(self) -> None:
        try:
            estimator(self.model)(nonsense=1)
        except PlanError as error:
            assert "'nonsense' is not a setting" in str(error)
        else:
            raise AssertionError("a setting that does not exist was taken")

    def test_what_is_missing_of_the_own_group_is_recommended(self) -> None:
        table = _fitted(type(self)).recommend(n=12 - HELD)
        seen = checkerboard().to_frame().select("user_id", "item_id")
        assert table["rank"].to_list() == list(range(1, 13 - HELD)) * USERS, "lists are not full"
        assert table.join(seen, on=["user_id", "item_id"]).height == 0, "lists hold items that users have"
        assert not self.knows_taste or _own_group(table), "lists hold items of the other group"

    def test_arrays_look_as_shapes_say(self) -> None:
        model, _, clients, private = _parts(type(self))
        shapes, state = model.shapes(ITEMS), _fitted(type(self)).opened.trained.state
        check_arrays(state.shared, [shapes.states[-1].shared], ITEMS, "shared array", model.name)
        check_arrays(state.server, [shapes.states[-1].server], ITEMS, "server array", model.name)
        check_rows(private or {}, shapes.rows, len(clients), ITEMS)

    def test_scores_are_finite_and_the_same_bits_alone_or_in_a_batch(self) -> None:
        model, given, clients, private = _parts(type(self))
        together = model.score(given, clients, private)
        assert together.shape == (USERS, ITEMS), f"scores have the shape {together.shape}, not {(USERS, ITEMS)}"
        assert together.dtype == np.float32, f"scores are {together.dtype}, not float32"
        assert np.isfinite(together).all(), "scores are not finite"
        for positions in ([5], [79, 0], [8, 3, 3]):
            places = np.array(positions)
            alone = model.score(given, clients.take(places), _taken(private, places))
            assert alone.tobytes() == together[places].tobytes(), f"scores of clients {positions} depend on the batch"
        ready = replace(given, shared=served.ready(model, given.shared))
        fast = model.score(ready, clients.take(np.array([5])), _taken(private, np.array([5])))
        assert fast.tobytes() == together[5].tobytes(), "scores differ with the arrays of ready"

    def test_reasons_add_up_to_the_score(self) -> None:
        model, given, clients, private = _parts(type(self))
        chosen = np.array([5])
        client, score = clients.take(chosen), model.score(given, clients.take(chosen), _taken(private, chosen))[0]
        for item in (0, 11):
            if (parts := served.reasons(model, given, client, item)) is not None:
                assert parts.shape == client.items.shape, f"there are {parts.shape} reasons, not {client.items.shape}"
                assert np.isclose(parts.sum(), score[item], rtol=1e-4, atol=1e-6), f"reasons of {item} do not add up"

    def test_scores_of_some_items_are_those_among_all(self) -> None:
        model, given, clients, private = _parts(type(self))
        whole = model.score(given, clients, private)
        for items in ([7], [3, 0, 23, 11], []):
            some = model.score(given, clients, private, np.array(items, dtype=np.int64))
            assert some.tobytes() == np.ascontiguousarray(whole[:, items]).tobytes(), f"scores of items {items} differ"

    def test_contributing_twice_gives_the_same_sum_and_changes_nothing(self) -> None:
        """Round by round; and where bits depend on clients alone, the sum over all is that over single clients."""
        opened = _fitted(type(self)).opened
        model, agreement = opened.model, opened.agreement
        (node,) = LocalEngine.of_split(opened.engine.shards[0].split, opened.plan).nodes
        (shard,) = node.shards
        state = agreement.start()
        for round in range(3):
            spec = agreement.spec(state.shared, round)
            if spec is None:
                break
            before = {name: array.copy() for name, array in state.shared.items()}
            call = RoundCall(round, round - 1, state.shared, spec, 1.0)
            first, second = node.contribute(call), node.contribute(call)
            assert _bytes(first.arrays) == _bytes(second.arrays), f"round {round} gives another sum when asked again"
            assert _bytes(before) == _bytes(state.shared), f"round {round} changes the shared arrays that it was given"
            if model.traits.bits == "client":
                single = shard.contribute(call, np.arange(1), None, ())
                for position in range(1, USERS):
                    single.merge(shard.contribute(call, np.array([position]), None, ()))
                assert single.clients == first.clients == USERS, "clients are missing in the sum"
                assert _bytes(single.arrays) == _bytes(first.arrays), (
                    f"round {round}: a client's part depends on others"
                )
            state = model.step(state, node.contribute(call), round)

    def test_an_empty_history_gets_scores(self) -> None:
        model, given, clients, _ = _parts(type(self))
        first = clients.take(np.array([0]))
        nobody = replace(
            first,
            indptr=np.zeros(2, dtype=np.int64),
            items=first.items[:0],
            values=None if first.values is None else first.values[:0],
            times=None if first.times is None else first.times[:0],
        )
        scores = model.score(given, nobody, model.fold_in(given, nobody))
        assert scores.shape == (1, ITEMS), "a user without a history gets no scores"
        assert not np.isnan(scores).any(), "a user without a history gets scores that are no numbers"

    def test_newcomers_are_folded_in_from_their_history(self) -> None:
        fitted = _fitted(type(self))
        rows = checkerboard().to_frame().filter(pl.col("user_id") < 6).with_columns(pl.col("user_id") + 1000)
        newcomers = fitted.recommend(range(1000, 1006), n=3, history=rows)
        assert not self.knows_taste or _own_group(newcomers), "newcomers get items of the other group"
        if fitted.opened.model.traits.scores_history and "user_features" not in fitted.opened.model.traits.reads:
            known = fitted.recommend(range(6), n=3)
            same = newcomers.with_columns(pl.col("user_id") - 1000).equals(known)
            assert same, "newcomers get other lists than trained users with the same history"
        alone = fitted.recommend([1003], n=3, history=rows.filter(pl.col("user_id") == 1003))
        assert alone.equals(newcomers.filter(pl.col("user_id") == 1003)), "a newcomer's list depends on other newcomers"

    def test_similar_items_are_ranked_or_refused(self) -> None:
        fitted = _fitted(type(self))
        try:
            table = fitted.similar(5, n=100)
        except InputError as error:
            assert "cannot list similar items" in str(error), f"similar items: {error}"
            return
        assert table["score"].is_sorted(descending=True), "similar items are not in the order of their scores"
        assert table["item_id"].n_unique() == ITEMS - 1, "items are missing among the similar ones, or twice there"
        near = set(table.head(4)["item_id"])
        assert not self.knows_taste or all(item % 2 == 1 for item in near), f"{near} are near item 5, which is odd"

    def test_saved_and_loaded_is_the_same_model(self, tmp_path: Path) -> None:
        fitted = _fitted(type(self))
        fitted.save(tmp_path / "run")
        loaded = load_model(tmp_path / "run")
        assert repr(loaded) == repr(fitted), "a loaded model has other settings"
        assert _bytes(loaded.shared) == _bytes(fitted.shared), "a loaded model has other arrays"
        assert loaded.recommend().equals(fitted.recommend()), "a loaded model recommends something else"
        before, after = fitted.opened.private() or {}, loaded.opened.private() or {}
        assert _bytes(before) == _bytes(after), "a loaded model has other private arrays"

    def test_any_number_of_nodes_makes_the_same_model(self) -> None:
        if self.model.traits.bits == "node":
            return
        fitted = _fitted(type(self))
        other = _unfitted(type(self)).fit(checkerboard(), nodes=3, progress=False)
        assert _bytes(other.shared) == _bytes(fitted.shared), "three nodes make another model than one"
        wanted = [41, 2, 2, 77, 0]
        assert other.recommend(wanted, n=4).equals(fitted.recommend(wanted, n=4)), (
            "three nodes recommend something else"
        )

    def test_masked_sums_make_the_same_model(self) -> None:
        """Secure aggregation among four nodes, over the first rounds."""
        if self.model.traits.bits == "node":
            return
        data, opened = checkerboard(), _fitted(type(self)).opened
        plan = opened.plan
        if "rounds" in type(opened.model).model_fields and opened.model.rounds > _MASKED_ROUNDS:
            plan = plan.model_copy(update={"model": {**plan.model, "rounds": _MASKED_ROUNDS}})
        engines = LocalEngine.build(data, plan), SecureEngine.build(data, plan, 4)
        plain, masked = (train_here(engine, data, Run(plan, None))[1].state.shared for engine in engines)
        assert _bytes(masked) == _bytes(plain), "secure aggregation makes another model"

    def test_cost_grows_with_the_catalog(self) -> None:
        model = _fitted(type(self)).opened.model
        held = sum(array.nbytes for array in _fitted(type(self)).shared.values())
        assert held <= 4 * model.cost(ITEMS).memory + 4096, "the arrays need more memory than cost says"
        assert model.cost(10_000).memory > model.cost(1000).memory > 0, "cost does not grow with the catalog"
        assert model.cost(1000).per_interaction >= 1, "an interaction adds at least one number"


def _fitted(contract: type[RecommenderContract]) -> Estimator:
    """The model of a contract, fitted to the checkerboard; once for all of its tests."""
    estimator(contract.model)  # makes the name known
    if contract not in _FITTED:
        _FITTED[contract] = _unfitted(contract).fit(checkerboard(), progress=False)
    return _FITTED[contract]


def _unfitted(contract: type[RecommenderContract]) -> Estimator:
    every = {"source": "memory", "cleaning": {"rating_at_least": "none"}}  # low ratings count as high ones do
    return estimator(contract.model)(**contract.settings, plan={"min_clients": 1, "data": every})


def _parts(contract: type[RecommenderContract]) -> tuple[Recommender, Given, Clients, Private | None]:
    """Recommender, what it is given to score, all clients and their private rows."""
    opened = _fitted(contract).opened
    given = Given.to_score(opened.trained.state.shared, opened.agreement.public)
    return opened.model, given, opened.engine.shards[0].everyone(), opened.private()


def _taken(private: Private | None, positions: np.ndarray) -> Private | None:
    return None if private is None else {name: array[positions] for name, array in private.items()}


def _own_group(table: pl.DataFrame) -> bool:
    return bool((table["user_id"] % 2 == table["item_id"] % 2).all())


def _bytes(arrays: Arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}
