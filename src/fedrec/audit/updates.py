"""Attacks on the update of a single client, as the coordinator of devices sees it without secure aggregation.

`touched`: all rows that changed are taken as positive. `row-sign`: rows of a factor model change along ±u, positives
one way and negatives the other, so the leading direction splits them. `imia` (Yuan et al. 2023, "Interaction-level
membership inference attack against federated recommender systems"): a shadow user is trained on a guess of the labels,
rows whose shadow update is nearer under the other label are relabelled, and again.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fedrec.aggregation.contributions import RowUpdates
from fedrec.audit.findings import Finding, Verdict
from fedrec.audit.observe import Observed, contribution_of

__all__ = ["ATTACKS", "imia", "row_sign", "single_updates", "touched"]

_ROUNDS = 12
_EPOCHS = 3

Guess = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
"""(updates [n, d + 1], item factors [n, d + 1], share of positives) → which are positive [n] bool."""


def touched(updates: np.ndarray, table: np.ndarray, share: float) -> np.ndarray:
    """Every row that changed."""
    return np.ones(len(updates), dtype=np.bool_)


def row_sign(updates: np.ndarray, table: np.ndarray, share: float) -> np.ndarray:
    """The side of the leading right-singular vector that has fewer rows; the bias column says which way is up."""
    _, _, right = np.linalg.svd(updates, full_matrices=False)
    side = updates @ right[0] > 0
    if np.mean(side) == 0.5 or abs(np.mean(side) - 0.5) < 0.05:  # as many of each: a positive's bias rises
        return side == (updates[side, -1].sum() > 0)
    return side if side.mean() < 0.5 else ~side


def imia(updates: np.ndarray, table: np.ndarray, share: float) -> np.ndarray:
    """Labels with which a shadow user's updates are nearest to the observed updates."""
    rng = np.random.Generator(np.random.Philox(3))
    labels = rng.random(len(updates)) < share
    for _ in range(_ROUNDS):
        made = _shadow(table, labels, rng)
        under_one, under_zero = made
        distance_one = np.linalg.norm(_unit(updates) - _unit(under_one), axis=1)
        distance_zero = np.linalg.norm(_unit(updates) - _unit(under_zero), axis=1)
        renewed = distance_one < distance_zero
        if np.array_equal(renewed, labels):
            break
        labels = renewed
    return labels


ATTACKS: dict[str, Guess] = {"touched": touched, "row-sign": row_sign, "imia": imia}


def single_updates(observed: Observed, name: str, users: int = 20) -> Finding:
    """An attack on the updates of single clients, for a model that sums changes of item rows."""
    shard, seen = observed.engine.shards[0], observed.rounds[0]
    rng = np.random.Generator(np.random.Philox(11))
    victims = np.sort(rng.choice(shard.active, min(users, len(shard.active)), replace=False))
    contributions = contribution_of(observed, victims, seen)
    updates = contributions.arrays.get("items")
    if not isinstance(updates, RowUpdates):
        return Finding(
            name,
            "server",
            "F1 of a client's items from its update",
            1.0,
            None,
            _verdict(observed, 1.0, 0.0),
            "the contribution of a client to this model follows from its items, and shows them all if it is seen alone",
        )
    scores = []
    for client, victim in enumerate(victims):
        rows = slice(updates.indptr[client], updates.indptr[client + 1])
        values = updates.values[rows].astype(np.float64)
        own_items = shard.clients.take(np.array([victim])).items
        items = updates.rows[rows]
        changed = np.linalg.norm(values, axis=1) > 0
        values, items = values[changed], items[changed]
        truth = np.isin(items, own_items)
        table = seen.call.shared["items"][items].astype(np.float64)
        guess = ATTACKS[name](values, table, float(truth.mean()))
        scores.append(2 * (guess & truth).sum() / max(guess.sum() + truth.sum(), 1))
    score = float(np.mean(scores))
    return Finding(
        name,
        "server",
        "F1 of a client's items from its update",
        score,
        None,
        _verdict(observed, score, 0.5),
        f"the update of a single client shows its items with F1 {score:.3f}. " + _exposure(observed),
    )


def _verdict(observed: Observed, score: float, weak: float) -> Verdict:
    return "out of scope" if observed.private else ("fail" if score > weak else "pass")


def _exposure(observed: Observed) -> str:
    least = observed.plan.min_clients
    silo = f"Nodes send sums over at least {least} clients; this attack needs fewer clients and unmasked sums"
    return f"{silo}; with central noise the plan promises nothing against the coordinator" if observed.private else silo


def _shadow(table: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Updates of every row under label 1 and label 0, along a shadow user trained on `labels` with the items fixed."""
    factors, biases = table[:, :-1], table[:, -1]
    user = rng.normal(0.0, 0.03, factors.shape[1])
    for _ in range(_EPOCHS):
        for row in rng.permutation(len(labels)):
            error = float(labels[row]) - 1.0 / (1.0 + np.exp(-(factors[row] @ user + biases[row])))
            user += 0.1 * error * factors[row]
    chance = 1.0 / (1.0 + np.exp(-(factors @ user + biases)))
    direction = np.append(user, 1.0)
    return np.outer(1.0 - chance, direction), np.outer(-chance, direction)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
