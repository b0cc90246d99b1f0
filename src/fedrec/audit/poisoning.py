"""Malicious clients that push items into recommendations or damage the model, within the limits of the plan.

Attackers see what every client sees: the item table of each round. Their updates pass the steps of the plan's release
and are cut to the bounds of the sum, like all updates; within these limits they send the largest updates they like.

`a-hum` (Rong et al. 2022, "Poisoning deep learning based recommender model in federated learning scenarios"): gradients
that raise the targets for made-up users who like them least. `fedrecattack` (Rong et al. 2022, "FedRecAttack"): the
same for users fitted to a hundredth of all interactions, which is public. `pieck-ipe` (Zhang et al. 2025): targets move
towards the items whose rows changed most, which are the popular ones. `cluster` (Yu et al. 2023, "Untargeted attack
against federated recommendation systems"): all rows move towards one of two centres. `label-flip`: popular items get
negative labels. `scaled`: a random update a million times too large. `nan`: not a number. `count-inflation`: `a-hum`
with a claimed weight of a million.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["POISONS", "Poison", "View"]

_MADE_UP_USERS = 30
_HARDENING = 30
_STEP = 0.5
_SPREAD = 0.3
_RANK = 10
_POPULAR = 10
_FLIPPED = 60
_RIDGE = 0.1
_HUGE = 1e6


class View(NamedTuple):
    """What the attackers of a round see.

    Args:
        table: item factors and biases [items, d + 1] float64.
        first: item factors and biases before round 0.
        targets: positions of the items to push.
        public: interactions that are public, [users, items] of 0 and 1, a hundredth of all.
        rng: randomness of the round.
    """

    table: np.ndarray
    first: np.ndarray
    targets: np.ndarray
    public: np.ndarray
    rng: np.random.Generator


Poison = Callable[[View], tuple[np.ndarray, np.ndarray]]
"""Attackers' view → positions of item rows [n], and the direction in which each attacker moves them [n, d + 1]."""


def a_hum(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Raise targets for made-up users that were first changed to dislike the targets."""
    factors, biases = view.table[view.targets, :-1], view.table[view.targets, -1]
    users = view.rng.normal(0.0, _SPREAD, (_MADE_UP_USERS, factors.shape[1]))
    for _ in range(_HARDENING):
        users -= _STEP * (_sigmoid(users @ factors.T + biases) @ factors)
    return view.targets, _raising(users, factors, biases)


def fedrecattack(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Raise targets that are below the tenth item of users fitted to public interactions."""
    items = view.table[:, :-1]
    public = view.public[view.public.any(axis=1)]
    gram = items.T @ items + _RIDGE * np.eye(items.shape[1])
    users = np.linalg.solve(gram, (public @ items).T).T
    scores = users @ items.T + view.table[:, -1]
    scores[public > 0] = -np.inf
    last = np.partition(scores, -_RANK, axis=1)[:, -_RANK]
    below = scores[:, view.targets] < last[:, None]
    pulls = below * _sigmoid(last[:, None] - np.where(np.isfinite(scores), scores, 0.0)[:, view.targets])
    return view.targets, np.hstack([pulls.T @ users, pulls.sum(axis=0)[:, None]])


def pieck_ipe(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Move targets towards the mean of the rows that changed most since the start."""
    popular = np.argsort(-np.linalg.norm(view.table - view.first, axis=1), kind="stable")[:_POPULAR]
    return view.targets, view.table[popular].mean(axis=0) - view.table[view.targets]


def cluster(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Move all rows towards the nearer of two rows, so that items become alike."""
    centres = view.table[view.rng.choice(len(view.table), 2, replace=False)]
    distances = np.linalg.norm(view.table[:, None] - centres, axis=2)
    return np.arange(len(view.table)), centres[distances.argmin(axis=1)] - view.table


def label_flip(view: View) -> tuple[np.ndarray, np.ndarray]:
    """A training step of a random user with reversed labels: popular items negative, targets positive."""
    popular = np.argsort(-np.linalg.norm(view.table - view.first, axis=1), kind="stable")[:_FLIPPED]
    rows = np.concatenate([view.targets, popular[~np.isin(popular, view.targets)]])
    user = view.rng.normal(0.0, _SPREAD, view.table.shape[1] - 1)
    labels = np.arange(len(rows)) < len(view.targets)
    errors = labels - _sigmoid(view.table[rows, :-1] @ user + view.table[rows, -1])
    return rows, np.outer(errors, np.append(user, 1.0))


def scaled(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Random updates of random rows, a million times too large."""
    rows = np.sort(view.rng.choice(len(view.table), _FLIPPED, replace=False))
    return rows, _HUGE * view.rng.normal(size=(len(rows), view.table.shape[1]))


def nan(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Updates that are not numbers."""
    return view.targets, np.full((len(view.targets), view.table.shape[1]), np.nan)


POISONS: dict[str, Poison] = {
    "a-hum": a_hum,
    "fedrecattack": fedrecattack,
    "pieck-ipe": pieck_ipe,
    "cluster": cluster,
    "label-flip": label_flip,
    "scaled": scaled,
    "nan": nan,
    "count-inflation": a_hum,
}
"""Attacks by name."""


def _raising(users: np.ndarray, factors: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """Gradients of Σ log σ(score) with respect to the rows of the targets [targets, d + 1]."""
    errors = 1.0 - _sigmoid(users @ factors.T + biases)
    return np.hstack([errors.T @ users, errors.sum(axis=0)[:, None]])


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-np.clip(values, -500.0, 500.0)))
