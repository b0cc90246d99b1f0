"""A plan carried out in this process, with everything written down that leaves the coordinator or reaches it."""

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
    """One round: what nodes were asked, the exact sum, and the sum as it was released."""

    call: RoundCall
    exact: Sum
    released: Sum


@dataclass(frozen=True, eq=False)
class Observed:
    """A whole run.

    Args:
        plan: resolved.
        data: of all users.
        engine: the nodes.
        state: the end.
        rounds: what was seen of each.
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
        """Whether the plan promises anything."""
        return self.plan.privacy is not None

    def last_release(self) -> Release:
        """The last round of a private run."""
        seen, node = self.rounds[-1], self.engine.nodes[0]
        assert node.guard is not None
        queries = node.guard.model.queries(seen.call.shared, seen.call.round)
        return Release(seen.exact, queries, node.guard.charges[seen.call.round])


class Release(NamedTuple):
    """What noise was added to in one round of a private run.

    Args:
        exact: the sum before.
        queries: of the round.
        charge: what the round cost.
    """

    exact: Sum
    queries: tuple[Query, ...]
    charge: Charge


class _Exact(LocalEngine):
    """Nodes in this process; remembers the exact sum of the last round that they were asked for."""

    exact: Sum | None = None

    def contribute(self, call: RoundCall) -> list[Sum]:
        """Each node's sum for a round."""
        sums = super().contribute(call)
        self.exact = merged(call.spec, sums, call.round)
        return sums


class _Watched(Gathering):
    """Gathers as another way of gathering does, and writes down every call and every sum."""

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
    """Train a plan on users in memory and write down what was seen.

    Args:
        plan: not resolved for other data.
        data, digest: the users, and the digest of their data.
        chance: where the noise of a private plan comes from.
        rounds: stop after so many.
    """
    resolved = plan.resolve(data, digest)
    engine = _Exact(LocalEngine.build(data, resolved, chance=chance).nodes)
    agreement = Agreement.of(resolved, data.catalog)
    coordinator = Coordinator(agreement, engine, Run(resolved, None), engine.has_valid, chance=chance)
    watched = coordinator.gathering = _Watched(coordinator.gathering, engine)
    trained = coordinator.train(until=rounds)
    return Observed(resolved, data, engine, trained.state, watched.seen)


def contribution_of(observed: Observed, positions: np.ndarray, seen: Seen) -> Contributions:
    """What some users of the first shard alone added to a round, after every step of the release."""
    shard, call = observed.engine.shards[0], seen.call
    rng = shard.source.child("contribute", call.round)
    public = shard.agreement.public
    private = shard.model.join(Given(-1, call.shared, public, shard.source.child("join")), shard.clients)
    rows = None if private is None else {name: array[positions] for name, array in private.items()}
    clients = shard.release.before(shard.clients.take(positions), rng)
    contributions, _ = shard.model.contribute(Given(call.round, call.shared, public, rng), clients, rows)
    queries = queries_of(shard.model, call.shared, call.round)
    return clipped(shard.release.after(contributions, clients), queries, call.spec)
