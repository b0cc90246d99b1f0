"""FedNCF's matrix half: local training against plain NumPy, averaging as published, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedrec.aggregation.contributions import RowUpdates
from fedrec.aggregation.sums import Sum
from fedrec.models.base import Given, State
from fedrec.models.literature.fedncf import FedNCF
from test_pfedrec import SEEDS, F, crowd, epoch_of, figures, stream


def twin(
    model: FedNCF, shared: Any, user: np.ndarray, items: list[int], taken: set[int], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, set[int]]:
    """One client, sample by sample: (user vector, item table, output layer, items touched)."""
    words, table, u = stream(seed), shared["items"].astype(float), user.astype(float)
    h, b = shared["output"][:-1].astype(float), float(shared["output"][-1])
    touched: set[int] = set()
    for _ in range(model.epochs if items else 0):
        for item, label in epoch_of(words, items, taken, len(table), model.negatives):
            touched.add(item)
            v = table[item].copy()
            e = 1 / (1 + np.exp(-(h @ (u * v) + b))) - label
            step = model.learning_rate
            u, table[item], h, b = (
                u - step * (e * h * v + model.reg * u),
                v - step * (e * h * u + model.reg * v),
                h - step * (e * u * v + model.reg * h),
                b - step * e,
            )
    return u, table, np.append(h, b), touched


@pytest.mark.parametrize("settings", [{}, {"epochs": 1, "negatives": 9}, {"reg": 0.1, "learning_rate": 0.3}], ids=str)
def test_a_round_is_every_client_alone_and_then_the_published_means(settings: dict[str, Any]) -> None:
    model = FedNCF(**({"embedding_size": 6} | settings))
    clients = crowd()
    rng = np.random.default_rng(1)
    shared = {"items": rng.normal(size=(23, 6)).astype(F), "output": rng.uniform(0.5, 1.5, 7).astype(F)}
    private = model.join(Given(-1, shared, {}, SEEDS), clients)
    assert private is not None
    contributions, updated = model.contribute(Given(0, shared, {}, SEEDS), clients, private)
    assert updated is not None
    change, touches, outputs = np.zeros((23, 6)), np.zeros(23), np.zeros(7)
    scores = model.score(Given.to_score(shared, {}), clients, updated)
    rows = contributions.arrays["items"]
    assert isinstance(rows, RowUpdates)
    for c, seed in enumerate(SEEDS.seeds(clients.keys)):
        items = clients.items[clients.indptr[c] : clients.indptr[c + 1]].tolist()
        taken = {*items, *clients.excluded_items[2 * c : 2 * c + 2].tolist()}
        user, table, output, touched = twin(model, shared, private["users"][c], items, taken, seed)
        np.testing.assert_allclose(updated["users"][c], user, rtol=1e-3, atol=1e-4)
        assert set(rows.rows[rows.indptr[c] : rows.indptr[c + 1]].tolist()) == touched
        expected = shared["items"] @ (shared["output"][:-1] * user) + shared["output"][-1]
        np.testing.assert_allclose(scores[c], expected, rtol=1e-3, atol=1e-3)
        change += table - shared["items"]
        touches[list(touched)] += 1
        outputs += output - shared["output"]
    spec = model.spec(shared, 0)
    assert spec is not None
    total = Sum.zeros(spec.fit(64))
    total.add(contributions)
    if total.saturated == 0:
        after = model.step(State(shared), total, 0).shared
        mean = change / np.maximum(touches, 1)[:, None]
        np.testing.assert_allclose(after["items"] - shared["items"], mean, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(after["output"] - shared["output"], outputs / len(clients), rtol=1e-3, atol=1e-4)
    assert total.value("touched")[:, 0].tolist() == touches.tolist()


@pytest.mark.real
def test_accuracy_on_movielens_100k(real: Callable[[str], Path]) -> None:
    """Fifteen rounds beat popularity (.408/.227) under the clean plan."""
    real("ml-100k")
    clean = figures({"name": "fedncf", "rounds": 15}, "ml-100k")
    assert 0.40 <= clean["hr@10"] <= 0.70
