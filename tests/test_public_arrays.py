"""Arrays that a model makes from the agreed catalog: the same everywhere, and never sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from federation_in_test import DATA, Federation, small_plan
from fedrec.data.catalog import Catalog
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError, PlanError
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models import own
from fedrec.models.base import Arrays
from fedrec.models.linear.popularity import Popularity
from fedrec.network.post import LocalPost
from fedrec.runs.loading import Placement
from fedrec.runs.saved import open_run
from fedrec.runs.training import train_here, train_run
from models_in_test import FussyRatings, GenreRatings, GenreTaste, registered


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that a test makes known are known to that test only."""
    monkeypatch.setattr(own, "_registered", {})


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Plans of a model with public arrays."""
    model = registered(GenreTaste, monkeypatch)
    return lambda **changes: small_plan(model, cohort=1.0, **changes)


def test_a_model_reads_what_the_catalog_says_of_items(plan: Callable[..., Plan]) -> None:
    data = fr.load_data(DATA)
    resolved = plan(split="none").resolve(data, "0" * 64)
    calls: list[RoundCall] = []

    class Watching(LocalEngine):
        def contribute(self, call: RoundCall) -> list:
            calls.append(call)
            return super().contribute(call)

    engine = Watching.build(data, resolved)
    _, trained = train_here(engine, data, Run(resolved, None))
    genres = GenreTaste().public(data.catalog)["genres"]
    assert np.array_equal(trained.state.shared["totals"], genres[data.items].sum(axis=0))
    assert [set(call.shared) for call in calls] == [{"totals"}]
    everyone = np.arange(data.n_users)
    scores = np.vstack([part for _, _, part in engine.shards[0].scores(trained.state.shared, 0, data, everyone)])
    dense = np.zeros((data.n_users, data.n_items))
    dense[data.rows_of_users(), data.items] = 1.0
    assert np.array_equal(scores, (dense @ genres * genres[data.items].sum(axis=0)) @ genres.T)


def test_any_number_of_nodes_makes_the_same_model_and_a_saved_run_recommends(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    for nodes in (1, 3):
        train_run(plan(min_clients=1), tmp_path / str(nodes), Placement(nodes))
    one, three = (open_run(tmp_path / str(nodes)) for nodes in (1, 3))
    assert one.trained.state.shared["totals"].tobytes() == three.trained.state.shared["totals"].tobytes()
    assert fr.load_model(tmp_path / "1").recommend([3], n=5).equals(fr.load_model(tmp_path / "3").recommend([3], n=5))


def test_over_a_federation_it_is_the_same_model_and_no_node_makes_one(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node works out what it is asked for from shapes; only the coordinator starts a model."""
    federation = Federation(tmp_path, plan(), nodes=3)
    monkeypatch.setattr(GenreTaste, "started", 0)
    outcome = federation.train(LocalPost(federation.hosts()))
    assert outcome.error is None
    assert outcome.trained is not None
    assert GenreTaste.started == 1
    data = fr.load_data(DATA)
    coordinator, trained = train_here(LocalEngine.build(data, federation.plan), data, Run(federation.plan, None))
    assert outcome.trained.state.shared["totals"].tobytes() == trained.state.shared["totals"].tobytes()
    here = coordinator.evaluate(trained.state, trained.round, "test", ["ndcg@10"], "full")["ndcg@10"].value
    assert outcome.metric == pytest.approx(here, abs=1e-6)
    assert here > 0


def test_a_plan_pins_what_the_catalog_says_where_the_model_learns_from_it(plan: Callable[..., Plan]) -> None:
    data = fr.load_data(DATA)
    resolved = plan().resolve(data, "0" * 64)
    assert resolved.features == data.catalog.features_digest
    assert "features" not in small_plan().resolve(data, "0" * 64).model_dump(mode="json")
    assert data.catalog.features is not None
    renamed = Catalog(data.catalog.items, data.catalog.features.with_columns(genres=pl.lit(["war"])))
    assert renamed.digest == data.catalog.digest
    with pytest.raises(PlanError, match="the digest of the features of the catalog is"):
        resolved.resolve(replace(data, catalog=renamed), "0" * 64)
    small_plan().resolve(data, "0" * 64).check_catalog(renamed)


def test_a_node_refuses_features_that_the_plan_does_not_pin(plan: Callable[..., Plan], tmp_path: Path) -> None:
    federation = Federation(tmp_path / "other", plan(), nodes=3)
    features = federation.catalog.features
    assert features is not None
    federation.offered = Catalog(federation.catalog.items, features.with_columns(genres=pl.lit(["war"])))
    outcome = federation.train(LocalPost(federation.hosts()))
    assert "features of the catalog" in str(outcome.error)
    digest = federation.plan.catalog
    owned = Federation(tmp_path / "owned", plan(), nodes=3, policy={"catalogs": [digest]})
    refused = str(owned.train(LocalPost(owned.hosts())).error)
    assert str(owned.plan.features) in refused
    assert "policy.catalogs: the plan's model learns from" in refused
    allowed = Federation(tmp_path / "both", plan(), nodes=3, policy={"catalogs": [digest, owned.plan.features]})
    assert allowed.train(LocalPost(allowed.hosts())).error is None


def test_an_item_of_which_the_catalog_says_nothing_is_predicted_with_public_arrays_that_say_nothing_of_it() -> None:
    data = fr.synthetic(users=80, items=30, interactions_per_user=8, seed=4, ratings=True)
    plain, model = (fr.estimator(kind)(embedding_size=3, rounds=3).fit(data) for kind in ("biased-mf", GenreRatings))
    asked = {"user_id": [1, 1, 999], "item_id": [data.catalog.items[0], 99_999, 99_999]}
    ratings, without = (
        one.predict(asked, unknown="ignore", unknown_items="ignore")["rating"] for one in (model, plain)
    )
    assert data.catalog.features is not None
    of_first = 0.1 * len(data.catalog.features["genres"][0])
    assert (ratings - without).to_list() == pytest.approx([of_first, 0.0, 0.0], abs=1e-5)


@pytest.mark.parametrize(
    ("another", "message"), [(False, r"TypeError.* without features"), (True, "'columns' has another shape without")]
)
def test_a_model_that_makes_nothing_of_an_unknown_item_says_so(another: bool, message: str) -> None:
    data = fr.synthetic(users=80, items=30, interactions_per_user=8, seed=4, ratings=True)
    model = fr.estimator(FussyRatings)(embedding_size=0, rounds=2, another=another).fit(data)
    assert model.predict({"user_id": [1], "item_id": [data.catalog.items[0]]}).height == 1
    with pytest.raises(
        InputError, match=f"'fussy-ratings' cannot predict items that are not in the catalog.*{message}"
    ):
        model.predict({"user_id": [1], "item_id": [99_999]}, unknown_items="ignore")


def test_no_id_lies_above_the_largest_number() -> None:
    with pytest.raises(InputError, match="the catalog has item 9223372036854775807"):
        Catalog.of(pl.DataFrame({"item_id": [2**63 - 1]})).with_unknown_item()
    assert list(Catalog.of(pl.DataFrame({"item_id": ["b", "a"]})).with_unknown_item().items) == ["a", "b", "b~"]


def test_what_changed_is_added_to_no_kept_sum_of_a_model_with_public_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Featured(Popularity):
        name: ClassVar[str] = "featured"

        def public(self, catalog: Catalog) -> Arrays:
            return {"length": np.array([len(catalog)])}

    monkeypatch.setattr("models_in_test.Featured", Featured, raising=False)
    with pytest.raises(PlanError, match="with these settings featured has no sum to which later interactions can be"):
        small_plan(registered(Featured, monkeypatch), keep_sums=True, cohort=1.0)
