"""What a node insists on before it takes part in a private round."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import Query, clip_limit
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, Recommender
from fedrec.privacy.budget import Budget
from fedrec.privacy.shares import with_share
from fedrec.privacy.terms import Privacy, schedule
from fedrec.record.durable import arrays_digest

__all__ = ["Guard", "RoundTerms"]


@dataclass(frozen=True)
class RoundTerms:
    """What the coordinator says of the privacy of a round that it asks for.

    Args:
        run: which run.
        noise_multiplier: deviation of the noise it will add, per unit of clip.
        clip: the plan's, where it has one.
        delta: the plan's.
        honest: how many nodes' shares of noise make up the whole, where nodes add it: those that may be left in the
            sum, less those that may be in league with the coordinator.
    """

    run: str
    noise_multiplier: float
    clip: float | None
    delta: float
    honest: int | None = None


class Guard:
    """Holds a coordinator to the plan that a node agreed to, and keeps the owner's budget.

    Args:
        node: its name, for messages and the journal.
        terms: of the plan, resolved.
        model: the plan's, in its private form.
        share: probability of a client to be drawn.
        budget: the owner's.
    """

    def __init__(self, node: str, terms: Privacy, model: Recommender, share: float, budget: Budget) -> None:
        self.node = node
        self.terms = terms
        self.model = model
        self.share = share
        self.budget = budget
        self.charges = schedule(terms, model.budget_shares, share)

    def admit(
        self, terms: RoundTerms | None, round: int, committed: int, shared: Arrays, spec: SumSpec, share: float
    ) -> tuple[Query, ...]:
        """Check a call and charge it; returns how contributions are clipped.

        Raises:
            PlanError: if the call is not what the plan says, or was answered otherwise, or the budget is used up.
        """
        if terms is None:
            raise PlanError(f"node {self.node}: the plan promises privacy, and round {round} is asked for without it")
        if not 0 <= round < len(self.charges):
            raise PlanError(f"node {self.node}: round {round} is not among the {len(self.charges)} that were agreed on")
        if round <= committed:
            raise PlanError(f"node {self.node}: round {round} was committed already and is not answered again")
        charge = self.charges[round]
        for key, asked, agreed in (
            ("noise multiplier", terms.noise_multiplier, charge.noise_multiplier),
            ("clip", terms.clip, self.terms.clip),
            ("delta", terms.delta, self.terms.delta),
            ("share of clients", share, self.share),
        ):
            if asked != agreed:
                raise PlanError(f"node {self.node}: round {round} is asked for with {key} {asked}; agreed was {agreed}")
        if self.terms.distributed and terms.honest is None:
            raise PlanError(
                f"node {self.node}: the plan has nodes add noise, and round {round} does not say how many shares make "
                "up the whole"
            )
        queries = self.model.queries(shared, round)
        if sorted(name for query in queries for name in query.metrics) != sorted(spec.names):
            raise PlanError(
                f"node {self.node}: round {round} asks for arrays {spec.names}, which clipping does not cover"
            )
        for query in queries:
            if clip_limit(query, spec) <= 0:
                raise PlanError(f"node {self.node}: round {round}: the grid of the sum is coarser than the clip")
        self._charge(terms.run, round, shared, spec, charge.noise_multiplier)
        return queries

    def clip(self, contributions: Contributions, queries: tuple[Query, ...], spec: SumSpec) -> Contributions:
        """Contributions none of which exceeds its bound, after rounding to the grid."""
        for query in queries:
            contributions = contributions.clip(query.metrics, clip_limit(query, spec))
        return contributions

    def with_noise(self, total: Sum, queries: tuple[Query, ...], terms: RoundTerms | None, key: bytes) -> Sum:
        """The node's sum as it may be masked: with its share of the noise, and without exact counts.

        Args:
            total: exact; its arrays are overwritten.
            queries: of the round.
            terms: of the call.
            key: from which the share is made, the same for the same round.
        """
        if not self.terms.distributed or terms is None or terms.honest is None:
            return total
        return with_share(total, queries, terms.noise_multiplier, terms.honest, key)

    def _charge(self, run: str, round: int, shared: Arrays, spec: SumSpec, noise_multiplier: float) -> None:
        opened = {
            "epsilon": self.terms.epsilon,
            "delta": self.terms.delta,
            "clip": self.terms.clip,
            "noise_multiplier": self.terms.noise_multiplier,
            "participations": self.terms.participations,
            "sampling": self.terms.sampling,
            "rounds": len(self.charges),
        }
        if not self.budget.began(run, self.node):
            every = [charge.noise_multiplier for charge in self.charges]
            self.budget.admit(self.node, every, self.terms.participations, self.terms.clip)
        self.budget.open_run(run, self.node, opened)
        call = hashlib.sha256(f"{arrays_digest(shared)} {spec.digest}".encode()).hexdigest()
        self.budget.charge(run, self.node, round, noise_multiplier, call)
