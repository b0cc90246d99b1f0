"""What a node insists on before it takes part in a private round."""

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
    """What the coordinator says of the privacy of a round that it asks for.

    Args:
        run: which run.
        noise_multiplier: deviation of the noise it will add, per unit of clip.
        clip: the plan's, where it has one.
        delta: the plan's.
        honest: how many nodes' shares of noise make up the whole, where nodes add it: those that may be left in the
            sum, less those that may be in league with the coordinator.
        parties: digest of who takes part in the secure sum, where nodes add the noise.
    """

    run: str
    noise_multiplier: float
    clip: float | None
    delta: float
    honest: int | None = None
    parties: str | None = None


class Guard:
    """Holds a coordinator to the plan that a node agreed to, and keeps the owner's budget.

    Args:
        node: its name, for messages and the journal.
        terms: of the plan, resolved.
        model: the plan's, in its private form.
        share: probability of a client to be drawn.
        budget: the owner's.

    Where nodes add the noise, whoever puts the node into a secure sum sets `parties`: a digest of who takes part, and
    how many of them are honest and left in a sum at least. A node answers for no others. Whoever opened a run under a
    number sets `run`: what a call says of it is a coordinator's word, and charges stand under it.
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
        """Check a call and charge it; returns how contributions are clipped.

        Args:
            terms: what the coordinator promises of the round.
            round, committed: the round that is asked for, and the last committed one.
            shared, spec: the model and what is summed.
            share: probability of a client to be drawn.
            agreed: digest of the transcript; a round is charged once and answered under one transcript.

        Raises:
            PlanError: if the call is not what the plan says, or was answered otherwise, or the budget is used up.
        """
        if terms is None:
            raise PlanError(f"node {self.node}: the plan promises privacy, and round {round} is asked for without it")
        if self.run is not None and terms.run != self.run:
            raise PlanError(
                f"node {self.node}: round {round} is asked for in the name of another run than the open one"
            )
        if not 0 <= round < len(self.charges):
            raise PlanError(f"node {self.node}: round {round} is not among the {len(self.charges)} that were agreed on")
        if round <= committed:
            raise PlanError(f"node {self.node}: round {round} was committed already and is not answered again")
        charge = self.charges[round]
        for key, asked, due in (
            ("noise multiplier", terms.noise_multiplier, charge.noise_multiplier),
            ("clip", terms.clip, self.terms.clip),
            ("delta", terms.delta, self.terms.delta),
            ("share of clients", share, self.share),
        ):
            if asked != due:
                raise PlanError(f"node {self.node}: round {round} is asked for with {key} {asked}; agreed was {due}")
        if self.terms.distributed and (self.parties is None or (terms.parties, terms.honest) != self.parties):
            raise PlanError(
                f"node {self.node}: round {round} asks for a share of noise for another secure sum than the one this "
                "node is in"
            )
        queries = self.model.queries(shared, round)
        if sorted(name for query in queries for name in query.metrics) != sorted(spec.names):
            raise PlanError(
                f"node {self.node}: round {round} asks for arrays {spec.names}, which clipping does not cover"
            )
        for query in queries:
            self.budget.check_clip(self.node, query.clip)
            if clip_limit(query, spec) <= 0:
                raise PlanError(f"node {self.node}: round {round}: the grid of the sum is coarser than the clip")
        self._charge(terms, round, agreed)
        return queries

    def with_noise(self, total: Sum, queries: tuple[Query, ...], call: RoundTerms | None, key: KeyedSource) -> Sum:
        """The node's sum as it may be masked: with its share of the noise, and without exact counts.

        Args:
            total: exact; its arrays are overwritten.
            queries: of the round.
            call: what the coordinator said.
            key: of the node and the transcript.

        The share follows from the key *and* the exact sum: the same sum under the same transcript gets the same share,
        and whatever differs in either gets one that owes nothing to it: no difference of two sums is without noise.
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
