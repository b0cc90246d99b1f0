"""EASE over linked domains: what users have of one kind of goods says what they will like of another.

A client whose history spans several domains adds the cross terms of its items, and nobody has to learn who it is. With
source items s (all other domains) and target items t, the weights minimise

    ‖X_t − X_s B_st − X_t B_tt‖² + w ‖X_t − X_s B_st‖² + λ_s ‖B_st‖² + λ_t ‖B_tt‖²,  diag(B_tt) = 0.

The second term is each client once more, w times, with its target items hidden: it trains the case of a user who has
none yet. Both terms follow from one Gram matrix. Only clients with something of the target count: the others, who never
looked at it, would count as users who refused every item. λ_s is high, as a domain tells less of another than of
itself, and higher the fewer clients link the two.

Users without an item of the target also get the share of users that each item has beyond what their source items
explain: where these explain nothing, that is popularity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import StringConstraints

from fedrec.aggregation.contributions import Contributions, Dense, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.models.base import Arrays, Given
from fedrec.models.linear.gram import ridge_inverse
from fedrec.models.shapes import Form, Shape, Shapes

__all__ = [
    "TARGET",
    "Domain",
    "domain_shapes",
    "domain_spec",
    "in_domain",
    "of_target_users",
    "solve_domains",
]

TARGET = "target"
"""Public and server array: which items are of the target domain [items] bool."""

Domain = Annotated[str, StringConstraints(min_length=1, max_length=256)]
"""A value of the catalog's column `domain`."""

_NEW, _COUNTS, _LINKED = "newcomers", "counts", "clients"
_AUTO, _AUTO_SOURCE = 2.0, 48.0
_MANY = 800
_WEIGHT_BITS = 24


def domain_shapes(n_items: int) -> Shapes:
    """Nothing, then the weights and what users without an item of the target get besides."""
    known = {TARGET: Shape((n_items,), "bool")}
    after = {"weights": Shape((n_items, n_items)), _NEW: Shape((n_items,))}
    return Shapes((Form({"weights": Shape((n_items, 0))}, known), Form(after)))


def domain_spec(gram: SumSpec, n_items: int, heaviest: float | None) -> SumSpec:
    """The Gram matrix, item counts, and two numbers of clients: of those with something of the target, and of those
    among them who have something else too."""
    bits, bound = (0, 1.0) if heaviest is None else (_WEIGHT_BITS, max(1.0, heaviest))
    counts = ArraySpec(_COUNTS, "rank_one", (n_items, 1), bound=bound, scale_bits=bits, role="count")
    pairs = (replace(array, of_pairs=False) for array in gram.arrays)  # of some clients only
    return SumSpec((*pairs, counts, ArraySpec(_LINKED, "dense", (2,), bound=1.0, role="count")))


def of_target_users(gram: Contributions, clients: Clients, target: np.ndarray) -> Contributions:
    """A Gram matrix with what goes with it, of the clients who have something of the target.

    Args:
        gram: of all clients.
        clients: the same.
        target: which items are of the target [items] bool.
    """
    of_target = _of_target(clients, target)
    takes = of_target > 0
    triangle = gram.arrays["gram"].scale(takes.astype(np.float64))
    counts = RankOne(
        clients.indptr, clients.items, takes.astype(np.float64), clients.n_items, np.ones((len(clients), 1)),
        clients.values,
    )  # fmt: skip
    both = np.stack([takes, takes & (of_target < clients.lengths)], axis=1).astype(np.float32)
    return Contributions({"gram": triangle, _COUNTS: counts, _LINKED: Dense(both, np.ones(len(clients)))}, takes)


def solve_domains(gram: np.ndarray, total: Sum, target: np.ndarray, reg: float | None, dropout: float) -> Arrays:
    """Weights of all items for those of the target, by Cholesky in float64, and what newcomers get besides.

    With A = [[(1 + w) G_ss + λ_s I, G_st], [G_ts, G_tt + λ_t I]], P = A⁻¹ and C = P [(1 + w) G_st; G_tt]:
    B = C − P_t · diag(C_tt) / diag(P_tt), column by column.

    Args:
        gram: G [items, items] float64, overwritten.
        total: counts of items and clients.
        target: which items are of the target [items] bool.
        reg: λ_t; `None` for 2 × the mean diagonal entry of G_tt. λ_s is 48 × that of G_ss, and more with fewer than 800
            linked clients.
        dropout: w.

    Returns:
        `weights` [items, items] float32, zero for columns of other domains, and `newcomers` [items] float32.
    """
    counts, clients = total.value(_COUNTS)[:, 0], total.value(_LINKED)
    inside, outside = np.flatnonzero(target), np.flatnonzero(~target)
    diagonal = np.diag(gram).copy()
    regs = np.empty(len(gram))
    regs[inside] = reg or _AUTO * max(diagonal[inside].mean(), 1e-12)
    if len(outside):
        rarity = max(1.0, _MANY / max(float(clients[1]), 1.0)) ** 2
        regs[outside] = _AUTO_SOURCE * rarity * max(diagonal[outside].mean(), 1e-12)
    right = gram[:, inside]
    right[outside] *= 1.0 + dropout
    gram[np.ix_(outside, outside)] *= 1.0 + dropout
    gram[np.diag_indices(len(gram))] += regs
    lower = ridge_inverse(gram, 0.0, "raise reg")
    inverse = np.tril(lower)
    inverse += np.tril(lower, -1).T
    found = inverse @ right
    found -= inverse[:, inside] * (found[inside].diagonal() / inverse.diagonal()[inside])
    found[inside, np.arange(len(inside))] = 0.0
    weights, newcomers = np.zeros(gram.shape, dtype=np.float32), np.zeros(len(gram), dtype=np.float32)
    weights[:, inside] = found
    explained = counts[outside] @ found[outside]
    newcomers[inside] = (counts[inside] - explained) / max(float(clients[0]), 1.0)
    return {"weights": weights, _NEW: newcomers}


def in_domain(scores: np.ndarray, given: Given, clients: Clients) -> None:
    """Finish scores [clients, items], in place: newcomers get their share, and other domains have no score."""
    target = given.public[TARGET]
    scores[_of_target(clients, target) == 0] += given.shared[_NEW]
    scores[:, ~target] = -np.inf


def _of_target(clients: Clients, target: np.ndarray) -> np.ndarray:
    """How many items of the target each client has [clients] int64."""
    before = np.concatenate([[0], np.cumsum(target[clients.items], dtype=np.int64)])
    return before[clients.indptr[1:]] - before[clients.indptr[:-1]]
