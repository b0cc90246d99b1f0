"""Membership inference: was a user in the data? Compares scores of members and other users with the promise."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import beta

from fedrec.audit.findings import Finding
from fedrec.audit.observe import observe
from fedrec.data.clients import Clients
from fedrec.data.synthetic import synthetic
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays
from fedrec.models.linear.gram import unpack_triangle
from fedrec.privacy.chance import SYSTEM, Chance

__all__ = ["likeness", "membership"]

_USERS = 20_000
_ITEMS = 300
_FALSE_POSITIVES = 0.01
_CONFIDENCE = 0.95


def membership(plan: Plan, chance: Chance = SYSTEM, seed: int = 0) -> Finding:
    """Train on half of 20,000 synthetic users, and separate this half from the other by the released sums.

    A user's score is the inner product of what the user would have added with the release: the most powerful test
    against Gaussian noise if everything else is known on average. The true positive rate at 1 % false positives is
    compared with e^ε · 1 % + δ, by a Clopper-Pearson bound of 95 %. The test is useful for small ε only: at ε = 4
    the bound is above a half, at 5 it is 1.

    Args:
        plan: the plan, of which model, privacy and release are used, but not the data.
        chance: source of the noise.
        seed: seed of the users.
    """
    everyone = synthetic(users=_USERS, items=_ITEMS, interactions_per_user=20, seed=seed)
    members = np.arange(0, _USERS, 2)
    terms = plan.privacy
    if terms is not None:
        terms = terms.model_copy(
            update={"users": None, "delta": min(terms.delta, 0.1 / _USERS), "noise_multiplier": None}
        )
    changes = {"data": {"source": "memory"}, "split": "none", "catalog": None, "features": None, "n_max": None}
    if plan.model.get("item_features") is not None:
        changes["model"] = {**plan.model, "item_features": "auto"}  # what synthetic items have
    made = Plan.make({**plan.model_dump(), **changes, "privacy": None if terms is None else terms.model_dump()})
    observed = observe(made, everyone.take_users(members), "0" * 64, chance)
    clients = Clients.of(everyone, np.arange(_USERS, dtype=np.uint64))
    public = made.build_model().public(everyone.catalog)
    scores = np.zeros(_USERS)
    for seen in observed.rounds:
        for name, deviation in (seen.released.noise or dict.fromkeys(seen.released.arrays, 1.0)).items():
            scores += likeness(seen.released.value(name), name, clients, public) / deviation**2
    inside = np.zeros(_USERS, dtype=np.bool_)
    inside[members] = True
    threshold = np.quantile(scores[~inside], 1 - _FALSE_POSITIVES)
    hits, total = int((scores[inside] > threshold).sum()), int(inside.sum())
    least = float(beta.ppf(1 - _CONFIDENCE, hits, total - hits + 1)) if hits else 0.0
    rate = hits / total
    if terms is None:
        return Finding(
            "membership",
            "cohort",
            "true positive rate at 1 % false positives",
            rate,
            None,
            "fail" if least > 2 * _FALSE_POSITIVES else "pass",
            f"{rate:.2%} of {total:,} members are detected at 1 % false positives; the plan promises no privacy",
        )
    bound = min(1.0, math.exp(terms.epsilon) * _FALSE_POSITIVES + terms.delta)
    return Finding(
        "membership",
        "cohort",
        "true positive rate at 1 % false positives",
        rate,
        bound,
        "fail" if least > bound else "pass",
        f"{rate:.2%} of {total:,} members are detected at 1 % false positives, and the promise allows {bound:.2%}",
    )


def likeness(value: np.ndarray, name: str, clients: Clients, public: Arrays) -> np.ndarray:
    """How much each client is like what was released [clients] float64: ⟨what it adds, what was released⟩, each of unit
    length, centred on items' means.

    Args:
        value: the array of the release.
        name: of the array.
        clients: whom to compare with it.
        public: public arrays of the model.
    """
    owners = np.repeat(np.arange(len(clients)), clients.lengths)
    lengths = np.maximum(clients.lengths, 1)
    if name == "gram" and value.ndim == 1:
        matrix = unpack_triangle(value, clients.n_items)
        matrix -= matrix.mean()
        rows = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        rows[owners, clients.items] = 1.0
        return np.einsum("ui,ui->u", rows @ matrix.astype(np.float32), rows) / lengths
    if name == "profiles":
        features = public["features"].astype(np.float64)
        profiles = np.zeros((len(clients), features.shape[1]))
        np.add.at(profiles, owners, features[clients.items])
        profiles /= np.maximum(np.linalg.norm(profiles, axis=1, keepdims=True), 1e-12)
        matrix = unpack_triangle(value, features.shape[1])
        matrix -= np.trace(matrix) * (profiles.T @ profiles) / len(profiles)
        return np.einsum("uf,fg,ug->u", profiles, matrix, profiles, optimize=True)
    if value.ndim == 2 and len(value) == clients.n_items:
        per_item = value.sum(axis=1) if value.shape[1] == 1 else np.linalg.norm(value, axis=1)
        per_item = per_item - per_item.mean()
        return np.bincount(owners, per_item[clients.items], len(clients)) / np.sqrt(lengths)
    return np.zeros(len(clients))
