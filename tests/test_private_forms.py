"""Private forms of models are classes of their own: what they promise to whoever clips and adds noise."""

from __future__ import annotations

from typing import ClassVar

import polars as pl
import pytest

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.estimators.estimator import estimator
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays, PrivateRecommender, PrivateTerms, queries_of
from fedrec.models.linear.popularity import Popularity, PrivatePopularity
from fedrec.models.registry import MODELS, build_model, model_class
from fedrec.models.values import weighted
from models_in_test import PooledPopularity, PrivatePooledPopularity
from runs_in_test import ENCODED

ITEMS = 12
PRIVATE = [
    "adapter",
    "content",
    "ease",
    "ials",
    "itemknn",
    "lora",
    "mf",
    "neumf",
    "popularity",
    "sasrec",
    "slit",
    "spectral",
    "two-tower",
]
STARTED = [name for name in PRIVATE if name not in ENCODED]
FIT_FOR_NOISE = {
    "adapter": {"granularity": "client", "rank": 8, "rounds": 30},
    "content": {"reg": 50.0},
    "ease": {"alpha": 1.0},
    "ials": {"embedding_size": 16, "init_sd": 1.0, "rounds": 3},
    "itemknn": {"alpha": 1.0, "neighbours": 200, "shrink": 0.3},
    "lora": {"granularity": "client", "rounds": 30},
    "mf": {"denominator": "fixed", "embedding_size": 16, "expected_clients": 50, "rounds": 20},
    "neumf": {
        "crops": 1.0,
        "embedding_size": 8,
        "granularity": "client",
        "hidden": (8,),
        "learning_rate": 5e-3,
        "passes": 2,
        "positives": 100,
        "rounds": 21,
        "schedule": "constant",
        "start_from": "random",
        "start_sd": 0.25,
        "window": 100,
    },
    "popularity": {},
    "sasrec": {
        "blocks": 1,
        "dropout": 0.0,
        "embedding_size": 48,
        "granularity": "client",
        "heads": 1,
        "learning_rate": 1.5e-2,
        "negatives": 128,
        "passes": 2,
        "rounds": 33,
        "start_sd": 0.25,
        "window": 50,
    },
    "slit": {"alpha": 1.0, "rank": 64},
    "spectral": {"alpha": 0.5, "beta": 0.0, "rank": 128, "reg": 4.0},
    "two-tower": {
        "dropout": 0.0,
        "embedding_size": 48,
        "granularity": "client",
        "hidden": 16,
        "negatives": 512,
        "passes": 2,
        "rounds": 33,
        "start_sd": 0.25,
    },
}


def started(model: PrivateRecommender) -> Arrays:
    genres = pl.DataFrame({"genres": [[str(item % 3)] for item in range(ITEMS)]})
    catalog = Catalog(Identifiers.of(list(range(ITEMS))), genres)
    return model.start(catalog, model.public(catalog), KeyedSource.from_seed(1)).shared


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_form_is_a_class_derived_from_the_model_with_its_name_and_its_hyperparameters(name):
    plain = model_class(name)
    private = plain().privately(PrivateTerms(None, 50))
    assert isinstance(private, PrivateRecommender)
    assert isinstance(private, plain)
    assert private.name == name
    assert list(type(private).model_fields) == list(plain.model_fields)


@pytest.mark.parametrize("name", PRIVATE)
def test_hyperparameters_that_were_not_set_take_values_fit_for_noise_and_all_others_stay(name):
    plain = model_class(name)()
    changed = {
        key: value
        for key, value in plain.privately(PrivateTerms(None, 50)).model_dump().items()
        if value != getattr(plain, key)
    }
    assert changed == FIT_FOR_NOISE[name]


def test_a_hyperparameter_that_was_set_stays_even_at_the_default_of_the_plain_model():
    assert (
        build_model("ials", {"embedding_size": 64}).privately(PrivateTerms(None, 50)).model_dump()["embedding_size"]
        == 64
    )
    assert build_model("itemknn", {"shrink": 10.0}).privately(PrivateTerms(None, 50)).model_dump()["shrink"] == 10.0
    chosen = build_model("mf", {"denominator": "fixed", "expected_clients": 7})
    assert chosen.privately(PrivateTerms(None, 50)).model_dump()["expected_clients"] == 7


@pytest.mark.parametrize("name", STARTED)
def test_every_round_has_a_share_of_the_budget_and_shares_add_up_to_all_of_it(name):
    private = model_class(name)().privately(PrivateTerms(None, 50))
    shares, shared = private.budget_shares, started(private)
    assert sum(shares) == pytest.approx(1.0, rel=1e-12)
    assert min(shares) > 0
    assert private.spec(shared, len(shares) - 1) is not None
    assert private.spec(shared, len(shares)) is None


@pytest.mark.parametrize("name", STARTED)
def test_the_queries_of_the_first_round_cover_each_of_its_arrays_once(name):
    private = model_class(name)().privately(PrivateTerms(None, 50))
    shared = started(private)
    spec, queries = private.spec(shared, 0), private.queries(shared, 0)
    assert spec is not None
    assert sorted(array for query in queries for array in query.metrics) == sorted(spec.names)
    assert sum(query.share for query in queries) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("name", PRIVATE)
def test_the_clip_is_the_plans_or_that_of_the_model(name):
    plain = model_class(name)()
    assert plain.privately(PrivateTerms(0.25, 50)).clip == 0.25
    own = plain.privately(PrivateTerms(None, 50))
    assert own.clip == type(own).default_clip > 0


def test_a_private_form_knows_the_largest_weight_of_an_interaction():
    plain = weighted(build_model("ials", {}), 8.0)
    private = plain.privately(PrivateTerms(None, 50))
    spec = private.spec(started(private), 1)
    assert spec is not None
    assert spec["equations"].bound == 8.0


@pytest.mark.parametrize("name", sorted(set(MODELS) - set(PRIVATE)))
def test_a_model_without_a_private_form_says_so(name):
    words = rf"^model '{name}' has no form under differential privacy; use {', '.join(PRIVATE)} or a PyTorch network of"
    with pytest.raises(PlanError, match=words):
        model_class(name)().privately(PrivateTerms(None, 50))


def test_a_private_form_without_queries_or_shares_cannot_be_made():
    class Forgetful(PrivateRecommender, Popularity):
        default_clip: ClassVar[float] = 1.0

    with pytest.raises(TypeError, match=r"abstract class Forgetful .*budget_shares'?, '?queries"):
        Forgetful.of(Popularity(), PrivateTerms(None, 50))


def test_a_model_derived_from_another_is_not_trained_as_the_private_form_of_that_one():
    class Louder(Popularity):
        name: ClassVar[str] = "louder"

    with pytest.raises(PlanError, match="model 'louder' has no form under differential privacy: PrivatePopularity is"):
        Louder().privately(PrivateTerms(None, 50))
    assert type(PooledPopularity().privately(PrivateTerms(None, 50))) is PrivatePooledPopularity


def test_a_plain_model_has_no_queries_and_a_private_one_its_own():
    shared = started(private := Popularity().privately(PrivateTerms(2.0, 50)))
    assert queries_of(Popularity(), shared, 0) == ()
    assert [query.clip for query in queries_of(private, shared, 0)] == [2.0]


def test_a_plan_has_the_private_form_with_its_terms_or_neither():
    settings = {"data": {"source": "memory"}, "model": {"name": "popularity"}}
    plain = Plan.make(settings)
    assert plain.private() is None
    assert plain.charges() == ()
    assert type(plain.build_model()) is Popularity
    plan = Plan.make({**settings, "privacy": {"epsilon": 4.0, "delta": 1e-5, "clip": 3.0, "users": 100}}).with_noise()
    private = plan.private()
    assert private is not None
    assert private[0] == plan.privacy
    assert isinstance(private[1], PrivatePopularity)
    assert private[1].clip == 3.0
    assert plan.build_model() == private[1]
    assert [charge.noise_multiplier for charge in plan.charges()] == [private[0].noise_multiplier]


def test_an_estimator_shows_the_values_that_are_fit_for_noise_under_its_own_name():
    private = estimator("ease")(plan={"privacy": {"epsilon": 4.0, "delta": 1e-5}})
    assert repr(private) == (
        "EASE(reg='auto', alpha=1.0, rank=None, passes=2, decay=1.0, item_features=None, boost='auto', target=None, "
        "dropout=4.0)"
    )
