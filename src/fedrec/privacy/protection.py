"""The coordinator's side of a private run: fine grids, noise before anything is used, and the charge."""

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
        terms: of the plan, resolved.
        model: the plan's, in its private form.
        share: probability of a client to be drawn.
        n_max: most clients of a sum; public.
        run: the run's own number.
        chance: where noise comes from.
        parties: nodes of a secure sum, how many of them are honest and left in it at least, and a digest of who they
            are; `None` of a plain sum.
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
        """Deviation of all shares of noise together, over that which is promised."""

    def round_terms(self, round: int) -> RoundTerms:
        """What nodes are told."""
        charge = self.charges[round]
        _, honest, who = self.parties or (0, None, None)
        return RoundTerms(self.run, charge.noise_multiplier, self.terms.clip, self.terms.delta, honest, who)

    def release(self, total: Sum, shared: Arrays) -> Sum:
        """The sum with noise, which is in it already where nodes add it."""
        if self.terms.distributed:
            return total
        queries = self.model.queries(shared, total.round)
        return noised(total, queries, self.charges[total.round].noise_multiplier, self.clients, self.chance)

    def scales(self, shared: Arrays, round: int) -> dict[str, float]:
        """Deviation of each array's noise in its weighted space: `Sum.noise` of a sum that was noised before."""
        multiplier = self.charges[round].noise_multiplier * self.excess
        queries = self.model.queries(shared, round)
        return {name: query.deviation(multiplier) for query in queries for name in query.metrics}

    def line(self, round: int) -> dict[str, Any]:
        """What the ledger says of the privacy of a round: its charge, and what the run has cost with it."""
        cost = cohort_epsilon(self.charges[: round + 1], self.terms.delta, self.terms.participations)
        return {"charge": self.charges[round].to_json(), "epsilon_cohort": cost}
