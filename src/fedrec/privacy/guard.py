"""Checks of a node before it takes part in a round with privacy."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import Query, clip_limit
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, PrivateRecommender
from fedrec.privacy.budget import Budget
from fedrec.privacy.shares import with_share
from fedrec.privacy.terms import Privacy, schedule
from fedrec.record.receipts import sum_digest

__all__ = ["Guard", "RoundTerms", "clipped"]


@dataclass(frozen=True)
class RoundTerms:
    """The privacy terms of a round in a coordinator's request.

    Args:
        run: identifier of the run.
        noise_multiplier: standard deviation of the noise, as a multiple of the clip.
        clip: clip of the plan; `None` if the plan has no clip.
        delta: delta of the plan.
        honest: if nodes add the noise, the number of shares that add up to the whole noise: the minimum number of nodes
            left in the sum, less those that may collude with the coordinator.
        parties: if nodes add the noise, digest of the nodes of the secure aggregation.
    """

    run: str
    noise_multiplier: float
    clip: float | None
    delta: float
    honest: int | None = None
    parties: str | None = None


class Guard:
    """Checks a coordinator's requests against the agreed plan, and charges the owner's budget.

    Args:
        node: name of the node, for error texts and the journal.
        terms: privacy terms of the plan, resolved.
        model: model of the plan, in its private form.
        share: probability of a client to be drawn.
        budget: the owner's budget.

    If nodes add the noise, the caller sets `parties`: a digest of the nodes of the secure aggregation, and the minimum
    number of honest nodes left in a sum. The node answers requests with these parties only. A caller that opened a run
    sets `run`, so that requests in the name of another run are refused.
    """

    def __init__(self, node: str, terms: Privacy, model: PrivateRecommender, share: float, budget: Budget) -> None:
        self.node = node
        self.terms = terms
        self.model = model
        self.share = share
        self.budget = budget
        self.charges = schedule(terms, model.budget_shares, share)
        self.parties: tuple[str, int] | None = None
        self.run: str | None = None

    def admit(
        self,
        terms: RoundTerms | None,
        round: int,
        committed: int,
        shared: Arrays,
        spec: SumSpec,
        share: float,
        agreed: str,
    ) -> tuple[Query, ...]:
        """Check a request and charge the budget; returns the queries, which say how contributions are clipped.

        Args:
            terms: the coordinator's privacy terms of the round.
            round: the requested round.
            committed: the last committed round.
            shared: shared arrays of the model.
            spec: layout of the sum.
            share: probability of a client to be drawn.
            agreed: digest of the transcript; a round is charged once and answered under one transcript only.

        Raises:
            PlanError: if the request differs from the plan, the round was answered for another request, or the budget
                is used up.
        """
        if terms is None:
            raise PlanError(
                f"node {self.node}: the plan has privacy, and the request for round {round} has no privacy terms"
            )
        if self.run is not None and terms.run != self.run:
            raise PlanError(f"node {self.node}: the request for round {round} names another run than the open one")
        if not 0 <= round < len(self.charges):
            raise PlanError(f"node {self.node}: round {round} is not among the {len(self.charges)} agreed rounds")
        if round <= committed:
            raise PlanError(f"node {self.node}: round {round} is committed already and is not answered again")
        charge = self.charges[round]
        for key, requested, agreed_on in (
            ("noise multiplier", terms.noise_multiplier, charge.noise_multiplier),
            ("clip", terms.clip, self.terms.clip),
            ("delta", terms.delta, self.terms.delta),
            ("share of clients", share, self.share),
        ):
            if requested != agreed_on:
                words = f"the request for round {round} has {key} {requested}, and the plan has {agreed_on}"
                raise PlanError(f"node {self.node}: {words}")
        if self.terms.distributed and (self.parties is None or (terms.parties, terms.honest) != self.parties):
            raise PlanError(
                f"node {self.node}: the request for round {round} names other nodes of the secure aggregation than "
                "this node agreed to"
            )
        queries = self.model.queries(shared, round)
        if sorted(name for query in queries for name in query.metrics) != sorted(spec.names):
            raise PlanError(
                f"node {self.node}: round {round} sums the arrays {spec.names}, which clipping does not cover"
            )
        for query in queries:
            self.budget.check_clip(self.node, query.clip)
            if clip_limit(query, spec) <= 0:
                raise PlanError(f"node {self.node}: round {round}: the grid of the sum is coarser than the clip")
        self._charge(terms, round, agreed)
        return queries

    def with_noise(self, total: Sum, queries: tuple[Query, ...], call: RoundTerms | None, key: KeyedSource) -> Sum:
        """The node's sum before masking: with its share of the noise, and without exact counts.

        Args:
            total: the exact sum; its arrays are overwritten.
            queries: queries of the round.
            call: the coordinator's privacy terms.
            key: key of the node and the transcript.

        The share depends on the key and on the exact sum: the same sum under the same transcript gets the same share,
        and any change of either gives an independent share. So no difference of two sums is without noise.
        """
        if not self.terms.distributed or call is None or self.parties is None:
            return total
        multiplier = self.charges[total.round].noise_multiplier
        exact = sum_digest(total.spec.digest, (total.clients, total.left_out, total.saturated), total.arrays)
        return with_share(total, queries, multiplier, self.parties[1], key.child("noise", call.run, exact).key)

    def _charge(self, call: RoundTerms, round: int, agreed: str) -> None:
        every = [charge.effective for charge in self.charges]
        opened = {
            "epsilon": self.terms.epsilon,
            "delta": self.terms.delta,
            "clip": self.terms.clip,
            "noise_multiplier": self.terms.noise_multiplier,
            "participations": self.terms.participations,
            "sampling": self.terms.sampling,
            "rounds": len(self.charges),
        }
        self.budget.begin(call.run, self.node, opened, every, self.terms.participations, self.terms.clip)
        self.budget.charge(call.run, self.node, round, every[round], agreed)


def clipped(contributions: Contributions, queries: tuple[Query, ...], spec: SumSpec) -> Contributions:
    """Contributions none of which exceeds its bound, after rounding to the grid; as they are without queries."""
    for query in queries:
        contributions = contributions.clip(query.metrics, clip_limit(query, spec))
    return contributions
