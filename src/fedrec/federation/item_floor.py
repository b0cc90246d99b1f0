"""Items of too few clients stay out of sums and of recommendations.

A sum hides who added what, not that an item was touched by one client alone; and an item that few clients have is what
a few hostile ones can push. So counts come first, by a sum of their own, with noise, and only items with enough clients
take part in what follows.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import State
from fedrec.models.linear.counts import count_spec, counted
from fedrec.privacy.shares import Stream, discrete_gaussian

__all__ = ["SERVED", "ItemFloor", "add_noise", "count_chunk", "floor_spec", "only_served", "rows_served", "with_served"]

SERVED = "served"
"""Name of the shared array [items] bool that says which items take part."""


class ItemFloor(BaseModel):
    """Which items take part.

    Args:
        least: minimum number of clients of an item.
        noise: standard deviation of the noise that nodes add to the counts, in clients, so that a count near `least`
            proves nothing about a single client. This is no differential privacy; the plan's `privacy` is, and has
            noise on every row anyway.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    least: int = Field(ge=2)
    noise: float = Field(default=2.0, ge=0.0, le=1000.0)


def floor_spec(n_items: int, floor: ItemFloor, n_max: int) -> SumSpec:
    """Counts of items, with room for the noise of many nodes."""
    return SumSpec((count_spec(n_items),)).fit(n_max, {"counts": 100.0 * floor.noise})


def count_chunk(clients: Clients) -> Contributions:
    """One for every item of every client."""
    return Contributions({"counts": counted(clients)})


def add_noise(total: Sum, deviation: float, key: KeyedSource) -> None:
    """Add a discrete Gaussian of `deviation` to every count, the same whenever the key is the same."""
    if deviation > 0:
        counts = total.arrays["counts"].reshape(-1)
        drawn = discrete_gaussian(np.full(len(counts), deviation), Stream(key.key).words)
        counts += (drawn * int(total.spec["counts"].unit)).astype(counts.dtype)


def only_served(clients: Clients, served: np.ndarray | None) -> Clients:
    """The clients with the items that take part [items] bool, all if `None`; negatives avoid the others they have."""
    if served is None:
        return clients
    kept = served[clients.items]
    return clients.where(kept).avoiding(clients.where(~kept))


def with_served(state: State, served: np.ndarray | None) -> State:
    """A state that says which items take part [items] bool; the state itself where all do (`None`)."""
    return state if served is None else State({**state.shared, SERVED: served}, state.server)


def rows_served(total: Sum, served: np.ndarray | None) -> None:
    """Clear the rows of items that take no part, which negatives may have touched."""
    if served is not None:
        for array in total.arrays.values():
            if array.ndim == 2 and len(array) == len(served):
                array[~served] = 0
