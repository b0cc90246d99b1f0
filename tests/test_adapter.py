"""`adapter`: a low-rank map of item features, learned from sums of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Given, State
from fedrec.models.networks.adapter import Adapter

ITEMS, WIDTH = 40, 6
KEYS = np.arange(30, dtype=np.uint64) * 7919
FEATURES = np.random.default_rng(0).normal(size=(ITEMS, WIDTH)).astype(np.float32)
FEATURES /= np.linalg.norm(FEATURES, axis=1, keepdims=True)


def clients() -> Clients:
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 9, len(KEYS))
    items = np.concatenate([rng.choice(ITEMS - 5, length, replace=False) for length in lengths]).astype(np.int32)
    indptr = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    return Clients(indptr, items, None, None, KEYS, ITEMS, np.zeros(len(KEYS) + 1, np.int64), np.empty(0, np.int32))


def factors(model: Adapter, seed: int = 2) -> State:
    rng = np.random.default_rng(seed)
    down, up = (rng.normal(0, 0.3, axes).astype(np.float32) for axes in ((WIDTH, model.rank), (model.rank, WIDTH)))
    return model._trainable({"down": down, "up": up}, np.arange(ITEMS) < ITEMS - 5)


def summed(model: Adapter, state: State, of: Clients, round: int) -> Sum:
    spec = model.spec(state.shared, round)
    assert spec is not None
    total = Sum.zeros(spec.fit(1000))
    given = Given(round, state.shared, {"features": FEATURES}, KeyedSource.from_seed(3))
    added, _ = model.contribute(given, of, None)
    assert total.add(added) is not None
    return total


def loss_of(down: np.ndarray, up: np.ndarray, of: Clients, wanted: np.ndarray, temperature: float) -> float:
    """The loss of clients whose every item is wanted, in plain NumPy, over all warm items."""
    rows = FEATURES.astype(np.float64)
    table = rows + rows @ down @ up
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    total = 0.0
    for begin, end in zip(of.indptr[:-1], of.indptr[1:], strict=True):
        own = of.items[begin:end]
        others = np.setdiff1d(np.flatnonzero(wanted), own)
        for item in own:
            user = table[own].sum(0) - table[item]
            user /= np.linalg.norm(user)
            scores = table[[item, *others]] @ user / temperature
            total -= (scores[0] - np.log(np.exp(scores - scores.max()).sum()) - scores.max()) / len(own)
    return total


def test_what_is_summed_is_the_gradient_of_the_loss_by_both_factors() -> None:
    model = Adapter(rank=3, targets=10, temperature=0.3, granularity="client")
    state, of = factors(model), clients()
    total = summed(model, state, of, 1)
    assert total.value("terms")[0] == len(of)
    down, up = (state.shared[name].astype(np.float64) for name in ("down", "up"))
    warm, step = state.shared["warm"], 1e-5
    for name, array, place in (("down", down, (2, 1)), ("up", up, (0, 4))):
        moved = array.copy()
        moved[place] += step
        high = loss_of(*((moved, up) if name == "down" else (down, moved)), of, warm, 0.3)
        moved[place] -= 2 * step
        low = loss_of(*((moved, up) if name == "down" else (down, moved)), of, warm, 0.3)
        assert -total.value(name)[place] == pytest.approx((high - low) / (2 * step), abs=2e-3)


def test_sums_of_nodes_are_the_gradient_of_pooled_data_together_or_alone() -> None:
    of = clients()
    parts = [of.take(np.arange(0, 11)), of.take(np.arange(11, len(of)))]
    pooled, alone = Adapter(rank=3), Adapter(rank=3, granularity="client")
    whole = summed(pooled, factors(pooled), of, 1)
    for name in ("down", "up"):
        of_nodes = sum(summed(pooled, factors(pooled), part, 1).value(name) for part in parts)
        np.testing.assert_allclose(of_nodes, whole.value(name), atol=1e-4)
        np.testing.assert_allclose(summed(alone, factors(alone), of, 1).value(name), whole.value(name), atol=1e-4)


def test_rolora_sums_and_moves_one_factor_a_round_and_halves_the_bytes() -> None:
    model = Adapter(rank=3, rolora=True)
    state, seen = factors(model), []
    for round in (1, 2, 3):
        total = summed(model, state, clients(), round)
        after = model.step(state, total, round)
        seen.append([name for name in ("down", "up") if not np.array_equal(after.shared[name], state.shared[name])])
        assert set(after.server) == set(state.server)
        state = after
    assert seen == [["up"], ["down"], ["up"]]
    both = Adapter(rank=3).spec(state.shared, 1)
    assert both is not None
    assert total.spec.nbytes < 0.6 * both.fit(1000).nbytes


def test_scaffold_is_refused() -> None:
    settings = {"method": "fedavg", "granularity": "client", "optimiser": "sgd", "scaffold": True}
    with pytest.raises(PlanError, match="model adapter: scaffold is for networks with tables of items"):
        Adapter.model_validate(settings)


def test_an_item_that_nobody_has_is_no_negative_and_has_scores() -> None:
    model = Adapter(rank=3)
    counted = summed(model, model.start(_catalog(), {"features": FEATURES}, KeyedSource.from_seed(1)), clients(), 0)
    state = model.step(model.start(_catalog(), {"features": FEATURES}, KeyedSource.from_seed(1)), counted, 0)
    cold = np.setdiff1d(np.arange(ITEMS), clients().items)
    assert len(cold) >= 5
    np.testing.assert_array_equal(np.flatnonzero(state.shared["warm"] == 0), cold)
    scores = model.score(Given.to_score(state.shared, {"features": FEATURES}), clients(), None)
    of = clients()
    user = FEATURES[of.items[: of.indptr[1]]].sum(0)
    np.testing.assert_allclose(scores[0], FEATURES @ user / np.linalg.norm(user), atol=1e-5)


def test_a_training_that_goes_on_needs_as_many_features(tmp_path: Any) -> None:
    data = genres(0)
    first = fr.Adapter(rounds=3, rank=2).fit(data)
    first.save(tmp_path / "run")
    again = fr.Adapter(rounds=3, rank=2).fit(data, warm_start=fr.load_model(tmp_path / "run"))
    moved = again.opened.trained.state.shared["up"] - first.opened.trained.state.shared["up"]
    assert 0 < np.abs(moved).max() < 0.05
    with pytest.raises(PlanError, match=r"warm_start: 'down' has shape \(4, 2\) in the earlier run, but \(5, 2\) here"):
        fr.Adapter(rounds=3, rank=2).fit(genres(1), warm_start=fr.load_model(tmp_path / "run"))


def genres(more: int) -> Interactions:
    from fedrec.data.reading.catalogs import with_items

    made = fr.synthetic(users=80, items=20, interactions_per_user=6, seed=1)
    kinds = [[str(item % (4 + more))] for item in range(20)]
    return with_items(made, fr.Catalog.of(pl.DataFrame({"item_id": made.catalog.items.series, "genres": kinds})))


def _catalog() -> fr.Catalog:
    return fr.Catalog.of(pl.DataFrame({"item_id": np.arange(ITEMS)}))


@pytest.mark.real
def test_on_movielens_cold_items_are_found_by_genres_and_words_better_than_by_their_cosine() -> None:
    split = fr.cold_items(fr.load_data("ml-1m-sequences"), 0.1, seed=1)
    features = {"genres": "categories", "title": ["year", "text"]}
    found = [
        fr.evaluate(
            fr.Adapter(item_features=features, **settings).fit(split.train), split, "recall@20", protocol="cold"
        )
        for settings in ({"rounds": 2, "learning_rate": 1e-9}, {})
    ]
    cosine, learned = (table["value"][0] for table in found)
    assert learned > cosine + 0.05
