"""How many clients have each item: the first sum of several models."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.contributions import RankOne
from fedrec.aggregation.specs import ArraySpec
from fedrec.data.clients import Clients

__all__ = ["count_spec", "counted"]


def count_spec(n_items: int) -> ArraySpec:
    """One whole number per item."""
    return ArraySpec("counts", "rank_one", (n_items, 1), bound=1.0)


def counted(clients: Clients) -> RankOne:
    """One for every item that a client has."""
    ones = np.ones(len(clients))
    return RankOne(clients.indptr, clients.items, ones, clients.n_items, ones[:, None])
