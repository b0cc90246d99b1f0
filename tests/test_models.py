"""The contract of models: how small it is, and what holds of every model by name."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import polars as pl
import pytest
from pydantic import BaseModel

import fedrec as fr
import runs_in_test
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.data.reading.catalogs import describe
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Given, Private, RatingRecommender, Recommender, State
from fedrec.models.outline import first_sum, is_additive, keeps_rows
from fedrec.models.registry import MODELS, model_class
from fedrec.models.shapes import check_arrays, check_rows
from fedrec.runs.training import train_here


def test_the_contract_of_a_model_is_small() -> None:
    own = {name for name in (*vars(Recommender), *Recommender.__annotations__) if not name.startswith("_")}
    members = own - set(vars(BaseModel))
    assert len(members) <= 15, sorted(members)


NO_ROWS = {"adapter", "blend", "fedrecon", "ials", "lora", "neumf", "sasrec", "two-tower"}
"""Models that keep private rows with other settings than their defaults only, or whose kind does."""


@pytest.mark.parametrize("name", MODELS)
def test_what_a_model_says_of_itself_is_so(name: str) -> None:
    kind, model = model_class(name), model_class(name)()
    first = first_sum(model)
    assert kind.traits.reads_ratings == issubclass(kind, RatingRecommender)
    assert not first.pooled or kind.traits.bits == "node"
    assert keeps_rows(model) == (kind.join is not Recommender.join and name not in NO_ROWS)
    assert is_additive(model) == (name in {"ease", "itemknn", "popularity", "slit"})
    assert kind.traits.iterative == ("rounds" in kind.model_fields)
    assert kind.traits.sums_by <= set(kind.model_fields)
    assert kind.traits.scores_by <= set(kind.model_fields) - kind.traits.sums_by


SIMILAR = sorted(name for name in MODELS if model_class(name).similarity is not Recommender.similarity)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - set(SIMILAR)))
def test_a_model_that_knows_no_similar_items_names_all_that_do(name: str) -> None:
    words = f"^model '{name}' cannot list similar items; use {', '.join(SIMILAR[:-1])} or {SIMILAR[-1]}$"
    with pytest.raises(InputError, match=words):
        model_class(name)().similarity(Given(-1, {}), np.array([0]))


@cache
def fitted(name: str) -> tuple[Recommender, State, Clients, Private | None, Catalog]:
    """A model, what its training ended with, the clients that it was trained on with their rows, and the items."""
    made = fr.load_data("synthetic:users=60,items=30,interactions_per_user=6,seed=1")
    rated = fr.interactions_from(made.to_frame().with_columns(rating=1.0 + pl.col("item_id") % 5))
    data = replace(rated, catalog=describe(rated.catalog.items, made.catalog))
    settings = {"data": {"source": "memory"}, "model": runs_in_test.MODELS[name], "split": "none", "min_clients": 1}
    plan = Plan.make(settings).resolve(data, "0" * 64)
    engine = LocalEngine.build(data, plan)
    state = train_here(engine, data, Run(plan, None))[1].state
    return plan.build_model(), state, engine.shards[0].clients, engine.shards[0].private(), data.catalog


@pytest.mark.parametrize("name", runs_in_test.MODELS)
def test_arrays_look_as_shapes_say(name: str) -> None:
    model, state, clients, private, _ = fitted(name)
    shapes = model.shapes(clients.n_items)
    check_arrays(state.shared, [shapes.states[-1].shared], clients.n_items, "array", name)
    check_arrays(state.server, [shapes.states[-1].server], clients.n_items, "array", name)
    check_rows(private or {}, shapes.rows, len(clients), clients.n_items)


@pytest.mark.parametrize("name", runs_in_test.MODELS)
def test_shapes_alone_tell_what_the_first_round_sums(name: str) -> None:
    model, _, clients, _, catalog = fitted(name)
    start = model.start(catalog, model.public(catalog), KeyedSource.from_seed(0))
    spec, outline = model.spec(start.shared, 0), first_sum(model, clients.n_items)
    assert spec is not None
    assert [(array.name, array.kind, array.role, array.bound) for array in outline.arrays] == [
        (array.name, array.kind, array.role, array.bound) for array in spec.arrays
    ]


@pytest.mark.parametrize("name", runs_in_test.MODELS)
def test_scores_of_some_items_are_those_among_all(name: str) -> None:
    model, state, clients, private, catalog = fitted(name)
    given = Given.to_score(state.shared, model.public(catalog))
    whole = model.score(given, clients, private)
    assert whole.shape == (len(clients), clients.n_items)
    for items in ([7], [3, 0, 29, 11], []):
        some = model.score(given, clients, private, np.array(items, dtype=np.int64))
        assert some.dtype == np.float32
        assert some.tobytes() == np.ascontiguousarray(whole[:, items]).tobytes()
