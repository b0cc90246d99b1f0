"""The coordinator's side of a run with privacy: grids, noise before a sum is used, and charges."""

from __future__ import annotations

import math
from typing import Any

from fedrec.aggregation.sums import Sum
from fedrec.models.base import Arrays, PrivateRecommender
from fedrec.privacy.accounting import cohort_epsilon
from fedrec.privacy.chance import Chance
from fedrec.privacy.guard import RoundTerms
from fedrec.privacy.noise import noised
from fedrec.privacy.terms import Privacy, schedule

__all__ = ["Protection"]


class Protection:
    """Noise and charges of a run.

    Args:
        terms: privacy terms of the plan, resolved.
        model: model of the plan, in its private form.
        share: probability of a client to be drawn.
        n_max: maximum number of clients of a sum; public.
        run: identifier of the run.
        chance: source of the noise.
        parties: number of nodes of the secure aggregation, minimum number of honest nodes left in a sum, and a digest
            of the nodes; `None` without secure aggregation.
    """

    def __init__(
        self,
        terms: Privacy,
        model: PrivateRecommender,
        share: float,
        n_max: int,
        run: str,
        chance: Chance,
        parties: tuple[int, int, str] | None = None,
    ) -> None:
        self.terms = terms
        self.model = model
        self.n_max = n_max
        self.run = run
        self.chance = chance
        self.clients = max(1, round(share * (terms.users or n_max)))
        self.charges = schedule(terms, model.budget_shares, share)
        self.parties = parties if terms.distributed else None
        self.excess = 1.0 if self.parties is None else math.sqrt(self.parties[0] / self.parties[1])
        """Ratio of the deviation of all shares of noise together to the promised deviation."""

    def round_terms(self, round: int) -> RoundTerms:
        """The privacy terms in a request to nodes."""
        charge = self.charges[round]
        _, honest, who = self.parties or (0, None, None)
        return RoundTerms(self.run, charge.noise_multiplier, self.terms.clip, self.terms.delta, honest, who)

    def release(self, total: Sum, shared: Arrays) -> Sum:
        """The sum with noise; unchanged if the nodes have added the noise."""
        if self.terms.distributed:
            return total
        queries = self.model.queries(shared, total.round)
        return noised(total, queries, self.charges[total.round].noise_multiplier, self.clients, self.chance)

    def scales(self, shared: Arrays, round: int) -> dict[str, float]:
        """Deviation of each array's noise in its weighted space, as in `Sum.noise`."""
        multiplier = self.charges[round].noise_multiplier * self.excess
        queries = self.model.queries(shared, round)
        return {name: query.deviation(multiplier) for query in queries for name in query.metrics}

    def line(self, round: int) -> dict[str, Any]:
        """Fields of the ledger line of a round: its charge, and the cost of the run so far."""
        cost = cohort_epsilon(self.charges[: round + 1], self.terms.delta, self.terms.participations)
        return {"charge": self.charges[round].to_json(), "epsilon_cohort": cost}
