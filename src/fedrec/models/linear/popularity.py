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
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, Recommender, State
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["Popularity", "PrivatePopularity"]


class Popularity(Recommender):
    """Scores are item counts, one round. The yardstick of every other model."""

    name: ClassVar[str] = "popularity"
    traits: ClassVar[Traits] = Traits(
        weights="an item's count is the sum of the weights of its interactions.",
        scores_history=False,
        additive=True,
    )

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def shapes(self, n_items: int) -> Shapes:
        """Counts."""
        return Shapes((Form({"counts": Shape((n_items,))}),))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Counts of zero."""
        return State({"counts": np.zeros(len(catalog), dtype=np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Item counts, once."""
        if round > 0:
            return None
        return SumSpec((count_spec(len(shared["counts"]), self._heaviest),))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One, or the weight, for every item a client has."""
        return Contributions({"counts": counted(clients, clients.values)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep the counts."""
        return State({"counts": total.value("counts")[:, 0].astype(np.float32)})

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Noisy counts, see `PrivatePopularity`."""
        return PrivatePopularity.of(self, terms)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """The same counts for every client."""
        counts = given.shared["counts"] if items is None else given.shared["counts"][items]
        return np.broadcast_to(counts, (len(clients), len(counts))).copy()

    def cost(self, n_items: int) -> Cost:
        """The sum and the counts."""
        return Cost(memory=64 * n_items)


class PrivatePopularity(PrivateRecommender, Popularity):
    """Noisy counts of clients, each of whom is scaled down to the norm of the clip: √20 counts 20 items in full."""

    default_clip: ClassVar[float] = 20.0**0.5

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """One count per item, clipped together."""
        return (Query({"counts": PLAIN}, self.clip),)

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """All of the budget for the one round."""
        return (1.0,)
