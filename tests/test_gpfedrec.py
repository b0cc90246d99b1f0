"""GPFedRec from sums: local training against plain NumPy that keeps whole tables, group means, scores."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fedrec.aggregation.sums import Sum
from fedrec.models.base import Given, State
from fedrec.models.literature.gpfedrec import GPFedRec
from test_pfedrec import SEEDS, F, crowd, epoch_of, stream

D, ITEMS = 8, 23
Layers = list[tuple[np.ndarray, np.ndarray]]


def layers_of(flat: np.ndarray, d: int = D) -> Layers:
    widths, out, at = (2 * d, d, d // 2, d // 4, 1), [], 0
    for before, after in pairwise(widths):
        weights = flat[at : at + before * after].reshape(before, after)
        out.append((weights.astype(float), flat[at + before * after : at + (before + 1) * after].astype(float)))
        at += (before + 1) * after
    return out


def logits(layers: Layers, x: np.ndarray) -> list[np.ndarray]:
    """Inputs of every layer, and the logits."""
    seen = [x]
    for place, (weights, bias) in enumerate(layers):
        x = x @ weights + bias
        x = np.maximum(x, 0) if place < len(layers) - 1 else x
        seen.append(x)
    return seen


def twin(
    model: GPFedRec, shared: Any, group: int, items: list[int], taken: set[int], seed: int
) -> tuple[np.ndarray, Layers, np.ndarray]:
    """One client with a whole table: (user vector, network, table)."""
    words, table, user = stream(seed), shared["items"].astype(float), shared["user"].astype(float)
    layers, centre = layers_of(shared["network"]), shared["centres"][group].astype(float)
    rate_items = model.learning_rate * (len(table) * model.item_rate - 1)
    for _ in range(model.epochs if items else 0):
        samples = epoch_of(words, items, taken, len(table), model.negatives)
        for low in range(0, len(samples), model.batch_size):
            part = samples[low : low + model.batch_size]
            rows, labels = np.array([item for item, _ in part]), np.array([y for _, y in part])
            seen = logits(layers, np.hstack([np.repeat(user[None], len(rows), axis=0), table[rows]]))
            slope = (1 / (1 + np.exp(-seen[-1])) - labels[:, None]) / len(rows)
            fresh: Layers = []
            for place in range(len(layers) - 1, -1, -1):
                weights, bias = layers[place]
                rate = model.learning_rate
                fresh.insert(0, (weights - rate * seen[place].T @ slope, bias - rate * slope.sum(axis=0)))
                slope = (slope @ weights.T) * ((seen[place] > 0) if place else 1)
            pulled = 2 * model.pull * (table - centre) / table.size
            np.add.at(pulled, rows, slope[:, D:])
            user = user - model.learning_rate * (model.item_rate - 1) * slope[:, :D].sum(axis=0)
            layers, table = fresh, table - rate_items * pulled
    return user, layers, table


@pytest.mark.parametrize("settings", [{}, {"batch_size": 7, "neighbours": "unlike"}, {"pull": 0.0}], ids=str)
def test_a_round_is_that_of_clients_with_whole_tables(settings: dict[str, Any]) -> None:
    model = GPFedRec(**({"embedding_size": D, "item_rate": 2.0, "groups": 3, "learning_rate": 0.3} | settings))
    clients, rng = crowd(), np.random.default_rng(3)
    shared = {
        "items": rng.normal(size=(ITEMS, D)).astype(F),
        "centres": rng.normal(size=(3, ITEMS, D)).astype(F),
        "user": rng.normal(size=D).astype(F),
        "network": rng.uniform(-0.5, 0.5, (2 * D + 1) * D + (D + 1) * 4 + 5 * 2 + 3).astype(F),
    }
    private = model.join(Given(-1, shared, {}, SEEDS), clients)
    assert private is not None
    groups = private["groups"].copy()
    assert set(groups.tolist()) == {0, 1, 2}
    contributions, updated = model.contribute(Given(0, shared, {}, SEEDS), clients, private)
    assert updated is not None
    assert np.array_equal(private["groups"], groups)
    scores, tables = model.score(Given.to_score(shared, {}), clients, {**updated, "groups": groups}), []
    for c, seed in enumerate(SEEDS.seeds(clients.keys)):
        items = clients.items[clients.indptr[c] : clients.indptr[c + 1]].tolist()
        taken = {*items, *clients.excluded_items[2 * c : 2 * c + 2].tolist()}
        user, layers, table = twin(model, shared, groups[c], items, taken, seed)
        tables.append(table)
        np.testing.assert_allclose(updated["users"][c], user, rtol=1e-3, atol=1e-3)
        for (mine, bias), (weights, biases) in zip(layers_of(updated["networks"][c]), layers, strict=True):
            np.testing.assert_allclose(mine, weights, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(bias, biases, rtol=1e-3, atol=1e-3)
        expected = logits(layers, np.hstack([np.repeat(user[None], ITEMS, axis=0), table]))[-1][:, 0]
        np.testing.assert_allclose(scores[c], expected, rtol=1e-2, atol=1e-2)
    spec = model.spec(shared, 0)
    assert spec is not None
    total = Sum.zeros(spec.fit(64))
    total.add(contributions)
    assert total.saturated == 0
    after = model.step(State(shared), total, 0).shared
    parts = [np.array([t for t, g in zip(tables, groups, strict=True) if g == group]) for group in range(3)]
    if model.neighbours == "unlike":
        parts = [np.concatenate([part for other, part in enumerate(parts) if other != group]) for group in range(3)]
    for group in range(3):
        np.testing.assert_allclose(after["centres"][group], parts[group].mean(axis=0), rtol=1e-2, atol=5e-3)
    weighted = sum((groups == group).mean() * parts[group].mean(axis=0) for group in range(3))
    np.testing.assert_allclose(after["items"], weighted, rtol=1e-2, atol=5e-3)
