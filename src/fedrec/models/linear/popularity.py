"""Popularity: everyone is recommended what most clients have."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Arrays, Private, Recommender, State
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.shapes import Form, Shape

__all__ = ["Popularity"]


class Popularity(Recommender):
    """Scores are item counts, one round. The yardstick of every other model."""

    name: ClassVar[str] = "popularity"
    reads_history: ClassVar[bool] = False
    weighs: ClassVar[str] = "an item's count is the sum of the weights of its interactions."

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    @property
    def additive(self) -> bool:
        """Its one sum is of what each client has."""
        return True

    def forms(self, n_items: int) -> tuple[Form, ...]:
        """Counts."""
        return (Form({"counts": Shape((n_items,))}),)

    def start(self, catalog: Catalog, rng: KeyedSource) -> State:
        """Counts of zero."""
        return State({"counts": np.zeros(len(catalog), dtype=np.float32)})

    def spec(self, state: State, round: int) -> SumSpec | None:
        """Item counts, once."""
        if round > 0:
            return None
        return SumSpec((count_spec(len(state.shared["counts"]), self._heaviest),))

    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        """One, or the weight, for every item a client has."""
        return Contributions({"counts": counted(clients, clients.values)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep the counts."""
        return State({"counts": total.value("counts")[:, 0].astype(np.float32)})

    def privately(self, clip: float | None, clients: int) -> Popularity:
        """Counts of clients, each of whom is scaled down to a norm of `clip`, √20 by default: 20 items in full."""
        return self._private_form(clip or 20.0**0.5)

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """One count per item, clipped together."""
        assert self._clip is not None
        return (Query({"counts": PLAIN}, self._clip),)

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        """The same counts for every client."""
        return np.broadcast_to(shared["counts"], (len(clients), len(shared["counts"]))).copy()
