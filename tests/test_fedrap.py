"""FedRAP: local training against plain NumPy that keeps whole tables, its sums and scores, and the leak in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.models.base import Given, Private, State
from fedrec.models.literature.fedrap import FedRAP
from test_pfedrec import SEEDS, F, below, crowd, epoch_of, errors, figures, stream


def twin(
    model: FedRAP,
    shared: Any,
    mine: np.ndarray,
    head: np.ndarray,
    items: list[int],
    taken: set[int],
    seed: int,
    round: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One client that keeps whole tables: (head, own table, common table) after a round."""
    words, common, mine, w, b = stream(seed), shared["items"].copy(), mine.copy(), head[:-1].copy(), head[-1]
    n_items, d = common.shape
    strength = math.tanh(round / 10) if model.schedule == "tanh" else 1.0
    lam, mu = model.apart * strength, model.sparse * strength
    rate_head, rate = (r * model.round_decay**round for r in (model.learning_rate, model.item_rate))
    samples = epoch_of(words, items, taken, n_items, model.negatives)
    for epoch in range(model.epochs if items else 0):
        if epoch and len(samples) > model.batch_size:
            for place in range(len(samples) - 1, 0, -1):
                other = below(words, place + 1)
                samples[place], samples[other] = samples[other], samples[place]
        for low in range(0, len(samples), model.batch_size):
            part = samples[low : low + model.batch_size]
            rows, labels = np.array([item for item, _ in part]), np.array([y for _, y in part], dtype=F)
            e = errors((mine[rows] + common[rows]) @ w + b, labels)
            slope_mine, slope_common = np.zeros_like(mine), np.zeros_like(common)
            apart = 2 * lam * (mine[rows] - common[rows]) / (len(rows) * d)
            np.add.at(slope_mine, rows, e[:, None] * w - apart)
            np.add.at(slope_common, rows, e[:, None] * w + apart + mu * np.sign(common[rows]) / (len(rows) * d))
            slope_head = e @ (mine[rows] + common[rows])
            w = w - rate_head * (slope_head + model.weight_decay * w)
            b = b - rate_head * (e.sum() + model.weight_decay * b)
            mine = (mine - rate * (slope_mine + model.weight_decay * mine)).astype(F)
            common = (common - rate * (slope_common + model.weight_decay * common)).astype(F)
            rate, rate_head = rate * model.batch_decay, rate_head * model.batch_decay
    return np.append(w, b).astype(F), mine, common


def whole(private: Private, shared: Any, client: int) -> np.ndarray:
    """A client's own table, written out."""
    table = shared["first"] * private["shrunk"][client]
    own = private["own"][[client]].packed()
    table[own.items] = own.values
    return table


SETTINGS: list[dict[str, Any]] = [{}, {"batch_size": 7, "schedule": "none"}, {"apart": 0.0, "epochs": 1}]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_rounds_are_those_of_clients_with_whole_tables(settings: dict[str, Any]) -> None:
    """Over three rounds: heads, private tables, the mean of common tables, and every score."""
    model = FedRAP(**({"embedding_size": 6, "item_rate": 3.0, "epochs": 3, "weight_decay": 0.01} | settings))
    clients = crowd()
    rng = np.random.default_rng(1)
    shared = {"items": rng.normal(size=(23, 6)).astype(F), "first": rng.normal(size=(23, 6)).astype(F)}
    shared["head"] = rng.uniform(-0.5, 0.5, 7).astype(F)
    state, private = State(shared), model.join(Given(-1, shared, {}, SEEDS), clients)
    assert private is not None
    for round in (0, 1, 2):
        contributions, updated = model.contribute(Given(round, state.shared, {}, SEEDS), clients, private)
        assert updated is not None
        change = np.zeros(shared["items"].shape)
        scores = model.score(Given.to_score(state.shared, {}), clients, updated)
        for c, seed in enumerate(SEEDS.seeds(clients.keys)):
            items = clients.items[clients.indptr[c] : clients.indptr[c + 1]].tolist()
            taken = {*items, *clients.excluded_items[2 * c : 2 * c + 2].tolist()}
            before = whole(private, shared, c)
            head, mine, common = twin(model, state.shared, before, private["heads"][c], items, taken, seed, round)
            np.testing.assert_allclose(updated["heads"][c], head, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(whole(updated, shared, c), mine, rtol=1e-3, atol=1e-3)
            expected = (mine + state.shared["items"]) @ head[:-1] + head[-1]
            np.testing.assert_allclose(scores[c], expected, rtol=1e-3, atol=1e-3)
            change += common - state.shared["items"]
        spec = model.spec(state.shared, round)
        assert spec is not None
        total = Sum.zeros(spec.fit(64), round)
        total.add(contributions)
        assert total.saturated == 0
        after = model.step(state, total, round)
        moved = after.shared["items"] - state.shared["items"]
        np.testing.assert_allclose(moved, change / len(clients), rtol=1e-2, atol=5e-4)
        state, private = after, updated


def test_own_rows_stay_and_only_grow() -> None:
    model = FedRAP(embedding_size=4)
    clients = crowd()
    rng = np.random.default_rng(1)
    shared = {"items": rng.normal(size=(23, 4)).astype(F), "first": rng.normal(size=(23, 4)).astype(F)}
    shared["head"] = np.zeros(5, dtype=F)
    private = model.join(Given(-1, shared, {}, SEEDS), clients)
    assert private is not None
    lengths = private["own"].lengths
    for round in range(4):
        _, private = model.contribute(Given(round, shared, {}, SEEDS.child(round)), clients, private)
        assert private is not None
        own = private["own"]
        assert (own.lengths >= lengths).all()
        lengths = own.lengths
        for c in range(len(clients)):
            items = own[[c]].packed().items
            assert len(set(items.tolist())) == len(items)
            assert not set(items.tolist()) & set(clients.excluded_items[2 * c : 2 * c + 2].tolist())
    assert lengths[0] == 0


def test_a_client_without_interactions_changes_nothing() -> None:
    model = FedRAP(embedding_size=4)
    clients = crowd().take(np.array([0, 0]))
    assert isinstance(clients, Clients)
    clients = replace(clients, keys=np.arange(2, dtype=np.uint64))
    shared = {name: np.ones((23, 4), dtype=F) for name in ("items", "first")} | {"head": np.ones(5, dtype=F)}
    contributions, updated = model.contribute(
        Given(0, shared, {}, SEEDS), clients, model.join(Given(-1, shared, {}, SEEDS), clients)
    )
    assert updated is not None
    assert updated["shrunk"].tolist() == [1, 1]
    assert updated["heads"].tolist() == np.ones((2, 5)).tolist()
    assert contributions.arrays["items"].sq_norms().tolist() == [0, 0]


@pytest.mark.real
def test_published_figures_are_the_leak(real: Callable[[str], Path]) -> None:
    """Ten rounds on MovieLens 100K: without the leak it ranks below popularity (.41), with it far above."""
    real("ml-100k")
    settings = {"name": "fedrap", "rounds": 10, "epochs": 5, "schedule": "none"}
    clean, leaky = figures(settings, "ml-100k"), figures(settings, "ml-100k", negatives="paper-leaky")
    assert clean["hr@10"] < 0.35
    assert leaky["hr@10"] > clean["hr@10"] + 0.15
