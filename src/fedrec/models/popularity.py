"""Popularity: everyone is recommended what most clients have."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Arrays, Private, Recommender, State

__all__ = ["Popularity"]


class Popularity(Recommender):
    """Scores are item counts, one round. The yardstick of every other model."""

    name: ClassVar[str] = "popularity"
    reads_history: ClassVar[bool] = False

    @property
    def additive(self) -> bool:
        """Its one sum is of what each client has."""
        return True

    def start(self, catalog: Catalog, rng: KeyedSource) -> State:
        """Counts of zero."""
        return State({"counts": np.zeros(len(catalog), dtype=np.float32)})

    def spec(self, state: State, round: int) -> SumSpec | None:
        """Item counts, once."""
        if round > 0:
            return None
        return SumSpec((ArraySpec("counts", "rank_one", (len(state.shared["counts"]), 1), bound=1.0),))

    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        """One for every item a client has."""
        ones = np.ones(len(clients))
        counts = RankOne(clients.indptr, clients.items, ones, clients.n_items, ones[:, None])
        return Contributions({"counts": counts}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep the counts."""
        return State({"counts": total.value("counts")[:, 0].astype(np.float32)})

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        """The same counts for every client."""
        return np.broadcast_to(shared["counts"], (len(clients), len(shared["counts"]))).copy()
