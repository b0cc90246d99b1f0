"""A training in this process that records everything that reaches or leaves the coordinator."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import Query
from fedrec.aggregation.sums import Sum
from fedrec.data.interactions import Interactions
from fedrec.engines.local import LocalEngine
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.gathering import Gathered, Gathering, merged
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Arrays, Given, State, queries_of
from fedrec.privacy.accounting import Charge
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.privacy.guard import clipped

__all__ = ["Observed", "Release", "contribution_of", "observe"]


@dataclass(frozen=True, eq=False)
class Seen:
    """One round: the request to the nodes, the exact sum, and the released sum."""

    call: RoundCall
    exact: Sum
    released: Sum


@dataclass(frozen=True, eq=False)
class Observed:
    """A whole run.

    Args:
        plan: the plan, resolved.
        data: data of all users.
        engine: the nodes.
        state: state after the last round.
        rounds: records of all rounds.
    """

    plan: Plan
    data: Interactions
    engine: LocalEngine
    state: State
    rounds: list[Seen] = field(default_factory=list)

    @property
    def shared(self) -> Arrays:
        """The released model."""
        return self.state.shared

    @property
    def private(self) -> bool:
        """Whether the plan has privacy."""
        return self.plan.privacy is not None

    def last_release(self) -> Release:
        """The last round of a run with privacy."""
        seen, node = self.rounds[-1], self.engine.nodes[0]
        assert node.guard is not None
        queries = node.guard.model.queries(seen.call.shared, seen.call.round)
        return Release(seen.exact, queries, node.guard.charges[seen.call.round])


class Release(NamedTuple):
    """One round of a run with privacy, before noise was added.

    Args:
        exact: the sum without noise.
        queries: queries of the round.
        charge: charge of the round.
    """

    exact: Sum
    queries: tuple[Query, ...]
    charge: Charge


class _Exact(LocalEngine):
    """Nodes in this process; keeps the exact sum of the last round."""

    exact: Sum | None = None

    def contribute(self, call: RoundCall) -> list[Sum]:
        """Each node's sum for a round."""
        sums = super().contribute(call)
        self.exact = merged(call.spec, sums, call.round)
        return sums


class _Watched(Gathering):
    """A gathering that records every request and every sum of another gathering."""

    def __init__(self, gathering: Gathering, engine: _Exact) -> None:
        self.gathering, self.engine = gathering, engine
        self.excess, self.start = gathering.excess, gathering.start
        self.seen: list[Seen] = []

    def gather(self, call: RoundCall) -> Gathered:
        """Gather the sum of a round."""
        gathered = self.gathering.gather(call)
        arrays = {name: array.copy() for name, array in gathered.total.arrays.items()}
        assert self.engine.exact is not None
        self.seen.append(Seen(call, self.engine.exact, replace(gathered.total, arrays=arrays)))
        return gathered


def observe(
    plan: Plan, data: Interactions, digest: str, chance: Chance = SYSTEM, rounds: int | None = None
) -> Observed:
    """Train a plan on users in memory and record all rounds.

    Args:
        plan: the plan, not resolved for other data.
        data: all users.
        digest: digest of their data.
        chance: source of the noise of a plan with privacy.
        rounds: maximum number of rounds.
    """
    resolved = plan.resolve(data, digest)
    engine = _Exact(LocalEngine.build(data, resolved, chance=chance).nodes)
    agreement = Agreement.of(resolved, data.catalog)
    coordinator = Coordinator(agreement, engine, Run(resolved, None), engine.has_valid, chance=chance)
    watched = coordinator.gathering = _Watched(coordinator.gathering, engine)
    trained = coordinator.train(until=rounds)
    return Observed(resolved, data, engine, trained.state, watched.seen)


def contribution_of(observed: Observed, positions: np.ndarray, seen: Seen) -> Contributions:
    """Contributions of some users of the first shard to a round, after every step of the release."""
    shard, call = observed.engine.shards[0], seen.call
    rng = shard.source.child("contribute", call.round)
    public = shard.agreement.public
    private = shard.model.join(Given(-1, call.shared, public, shard.source.child("join")), shard.clients)
    rows = None if private is None else {name: array[positions] for name, array in private.items()}
    clients = shard.release.before(shard.clients.take(positions), rng)
    contributions, _ = shard.model.contribute(Given(call.round, call.shared, public, rng), clients, rows)
    queries = queries_of(shard.model, call.shared, call.round)
    return clipped(shard.release.after(contributions, clients), queries, call.spec)
