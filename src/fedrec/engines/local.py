"""All nodes in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.data.interactions import Interactions
from fedrec.data.partitions import partition
from fedrec.data.splits import Split
from fedrec.engines.clock import Clock
from fedrec.engines.virtual import VirtualArrivals
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall, for_node
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.plan import Plan
from fedrec.federation.warm_start import Remembered
from fedrec.models.base import Arrays
from fedrec.node.founding import found_node
from fedrec.node.node import Floors, Node
from fedrec.node.shard import Shard
from fedrec.privacy.budget import Budget
from fedrec.privacy.chance import SYSTEM, Chance
from fedrec.progress import followed

__all__ = ["LocalEngine"]


class LocalEngine:
    """Calls nodes one after the other; each uses all threads. Nothing leaves the process, so small sums are let out.

    Args:
        nodes: the nodes.
        clock: how fast they are; equally by default. Rounds of all nodes do not depend on it.
    """

    def __init__(self, nodes: Sequence[Node], clock: Clock | None = None) -> None:
        self.nodes = list(nodes)
        self.clock = clock or Clock.parse("", len(self.nodes))

    @classmethod
    def build(
        cls,
        data: Interactions,
        plan: Plan,
        nodes: int = 1,
        how: str = "hash",
        private: Path | None = None,
        chance: Chance = SYSTEM,
        budget: Budget | None = None,
        places: np.ndarray | None = None,
    ) -> LocalEngine:
        """Spread the users over nodes; each splits its own.

        Args:
            data: all users.
            plan: resolved.
            nodes, how: see `fedrec.data.partitions.partition`. Nodes without users are left out.
            private: folder for the nodes' private rows, or `None` for in memory.
            chance: where the nodes of a private run get their secrets from.
            budget: the owner's, for a private run; without one each node keeps a journal without limits.
            places: the node of each user [users], where that is known already.
        """
        agreement = Agreement.of(plan, data.catalog)
        if nodes == 1:
            places = np.zeros(data.n_users, dtype=np.int64)
        elif places is None:
            places = partition(data, how, nodes, plan.seed)
        built = []
        for place in np.unique(places):
            mine = data if nodes == 1 else data.take_users(np.flatnonzero(places == place))
            built.append(_node(f"node-{place}", [agreement.divided(mine)], agreement, private, chance, budget))
        return cls(built)

    @classmethod
    def of_split(
        cls,
        split: Split,
        plan: Plan,
        private: Path | None = None,
        nodes: int = 1,
        how: str = "hash",
        chance: Chance = SYSTEM,
        budget: Budget | None = None,
    ) -> LocalEngine:
        """Like `build`, with a split that was made outside."""
        agreement = Agreement.of(plan, split.data.catalog)
        if nodes == 1:
            return cls([_node("node-0", [split], agreement, private, chance, budget)])
        places = partition(split.data, how, nodes, plan.seed)
        built = []
        for place in np.unique(places):
            part = split.take_users(np.flatnonzero(places == place))
            built.append(_node(f"node-{place}", [part], agreement, private, chance, budget))
        return cls(built)

    def under(self, plan: Plan) -> LocalEngine:
        """The same users, nodes and splits under another plan, in memory, with nothing trained yet."""
        agreement = Agreement.of(plan, self.shards[0].data.catalog)
        return LocalEngine(
            [_node(node.name, [shard.split for shard in node.shards], agreement, None) for node in self.nodes],
            self.clock,
        )

    def remember(self, before: Remembered) -> None:
        """Let each shard remember its own users' part of an earlier run; the first one, of users that are gone too."""
        places = [shard.data.users.find(before.train.users.series) >= 0 for shard in self.shards]
        places[0] = places[0] | ~np.any(places, axis=0)
        for shard, mine in zip(self.shards, places, strict=True):
            shard.remember(before.take(np.flatnonzero(mine)))

    def contribute(self, call: RoundCall) -> list[Sum]:
        """Each node's sum for a round."""
        return [node.contribute(for_node(call, node.name)) for node in self._followed()]

    def count_items(self, call: CountCall) -> list[Sum]:
        """Each node's counts of items."""
        return [node.count_items(call) for node in self._followed()]

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        """Each node's sum of metrics."""
        return [node.evaluate(for_node(call, node.name)) for node in self._followed()]

    @property
    def shards(self) -> list[Shard]:
        """The shards of all nodes, which hold the users."""
        return [shard for node in self.nodes for shard in node.shards]

    @property
    def parties(self) -> tuple[int, int, str] | None:
        """Sums are plain."""
        return None

    @property
    def run(self) -> str | None:
        """Nodes know no number."""
        return None

    @property
    def took_part(self) -> tuple[str, ...]:
        """All nodes take part in everything."""
        return ()

    @property
    def arrivals(self) -> VirtualArrivals:
        """The nodes as they answer in their own time."""
        return VirtualArrivals(self.nodes, self.clock)

    def made_of(self, shared: Arrays, frame: bytes) -> None:
        """Nothing is sent within one process."""

    def keep(self, shared: Arrays, committed: OwnRounds) -> None:
        """Remember private rows as they are after the round that counts for each node."""
        for node in self.nodes:
            node.keep(shared, committed[node.name])

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        """End with each node's private rows of the round `kept`."""
        for node in self.nodes:
            node.finish(shared, committed[node.name], kept[node.name])

    @property
    def has_valid(self) -> bool:
        """Whether any node holds out interactions for validation."""
        return any(node.counts()["valid"] for node in self.nodes)

    def weighed(self) -> dict[str, int]:
        """How many weights of interactions were cut to the largest, and how many are 0, over all nodes."""
        counts = [node.weighed() for node in self.nodes]
        return {name: sum(count[name] for count in counts) for name in counts[0]}

    def split_hash(self) -> str:
        """A hash of who has which interaction in which part; the same for any partition of the same users."""
        return f"{sum(node.fingerprint() for node in self.nodes) % 2**64:016x}"

    def counts(self) -> dict[str, int]:
        """Interactions per part over all nodes."""
        parts = [node.counts() for node in self.nodes]
        return {name: sum(part[name] for part in parts) for name in parts[0]}

    def _followed(self) -> Iterator[Node]:
        """The nodes, one after the other; each is as much of the work as it has users."""
        return followed(self.nodes, sum(map(len, self.nodes)), len)


def _node(
    name: str,
    splits: Sequence[Split],
    agreement: Agreement,
    private: Path | None,
    chance: Chance = SYSTEM,
    budget: Budget | None = None,
) -> Node:
    folder = None if private is None else private / name
    return found_node(
        name, splits, agreement, folder, Floors(agreement.plan.min_clients, simulated=True), chance, budget
    )
