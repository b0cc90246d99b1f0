"""Federated reconstruction (FedRecon; Singhal et al. 2021, "Federated Reconstruction")."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.draws import draw_halves
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms
from fedrec.models.factors.local_training import LocalTraining, draw
from fedrec.models.factors.mf import MF
from fedrec.models.shapes import Shapes
from fedrec.models.traits import Traits

__all__ = ["FedRecon"]


class FedRecon(MF):
    """`mf` whose clients keep nothing: in every round a user factor is rebuilt, used and forgotten.

    A client of the cohort draws half of its interactions (rounded down) as *support* and fits a factor to it, from
    zero, with the items fixed; then it trains the item rows, with that factor fixed, on the other half, the *query*.
    Negatives of either half are from outside the whole history. A factor to score with is rebuilt the same way from the
    whole history, so users that never trained are served alike. The settings of `mf` keep their meaning for the rows.
    The paper's defaults are learning_rate 0.5, a rebuilding of at most 50 steps at rate 0.1, batches of 5, 100 clients
    a round and 500 rounds, for explicit ratings.

    Args:
        rebuild_epochs: passes over the support when a user factor is rebuilt. More passes fit the factor more closely.
        rebuild_rate: learning rate of these passes.
    """

    rebuild_epochs: PositiveInt = 5
    rebuild_rate: PositiveFloat = 0.1

    name: ClassVar[str] = "fedrecon"
    traits: ClassVar[Traits] = replace(MF.traits, scores_history=True)

    @model_validator(mode="after")
    def _check_nothing_kept(self) -> FedRecon:
        if self.scaffold:
            raise PlanError("model fedrecon: scaffold keeps a control variate at each client, fedrecon keeps nothing")
        if self.item_features is not None:
            raise PlanError(
                "model fedrecon: item_features give factors to items that nobody has, and users' factors, which are "
                "rebuilt among negatives, would depend on these; leave item_features out, or take mf"
            )
        return self

    def shapes(self, n_items: int) -> Shapes:
        """Those of `mf`, but nothing is kept at the nodes."""
        return Shapes(super().shapes(n_items).states)

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Nothing is kept."""
        return None

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """It has no private form.

        Raises:
            PlanError: always.
        """
        return super(MF, self).privately(terms)  # not that of mf, whose clients keep their factors

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """A factor from the support, and the change of the item rows on the query."""
        support, query = halves(clients, given.rng.child("support"))
        users = self._rebuilt(given.shared, support, given.rng.child("rebuild").seeds(clients.keys))
        drawn = draw(query, given.rng.seeds(clients.keys), self.epochs, self.negatives)
        changes, _ = self._local.run(drawn, given.shared["items"], users, learn_users=False)
        return Contributions(self._weighed(drawn.indptr, drawn.rows, changes)), None

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """Nothing to keep: `score` rebuilds."""
        return None

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """⟨user, item⟩ + bias with the user's factor rebuilt from its history."""
        same = np.zeros(len(clients), dtype=np.uint64)  # equal histories have equal draws, and so equal scores
        return super().score(given, clients, {"users": self._rebuilt(given.shared, clients, same)}, items)

    def _rebuilt(self, shared: Arrays, clients: Clients, seeds: np.ndarray) -> np.ndarray:
        """User factors [clients, d] float32 from zero."""
        local = self._local
        rebuilding = LocalTraining(
            local.loss, self.rebuild_rate, local.reg, local.batch_size, local.optimiser, local.momentum
        )
        return self._fitted(rebuilding, self.rebuild_epochs, shared, clients, seeds)


def halves(clients: Clients, rng: KeyedSource) -> tuple[Clients, Clients]:
    """Support and query of each client: half of its interactions, rounded down, and the rest.

    Either half has the other among its excluded items.
    """
    drawn = np.zeros(len(clients.items), dtype=np.bool_)
    draw_halves(clients.indptr, rng.seeds(clients.keys), drawn)
    support, query = clients.where(drawn), clients.where(~drawn)
    return support.avoiding(query), query.avoiding(support)
