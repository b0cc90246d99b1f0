"""How many clients have each item, or how much it weighs with them: the first sum of several models."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.contributions import RankOne
from fedrec.aggregation.specs import ArraySpec
from fedrec.data.clients import Clients

__all__ = ["count_spec", "counted", "degree_weights"]


_WEIGHT_BITS = 20


def count_spec(n_items: int, heaviest: float | None = None) -> ArraySpec:
    """A number per item: whole, unless interactions weigh up to `heaviest`."""
    if heaviest is None:
        return ArraySpec("counts", "rank_one", (n_items, 1), bound=1.0, role="count")
    return ArraySpec("counts", "rank_one", (n_items, 1), bound=heaviest, scale_bits=_WEIGHT_BITS, role="count")


def counted(clients: Clients, values: np.ndarray | None = None) -> RankOne:
    """One for every item that a client has; or `values` [rows] of its interactions."""
    ones = np.ones(len(clients))
    return RankOne(clients.indptr, clients.items, ones, clients.n_items, ones[:, None], values)


def degree_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """n_i^−β, and 0 where nobody has the item [items] float64.

    >>> degree_weights(np.array([4.0, 0.0]), 0.5).tolist()
    [0.5, 0.0]
    """
    return np.where(counts > 0, np.maximum(counts, 1.0) ** -beta, 0.0)
