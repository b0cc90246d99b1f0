"""Nodes of this process on a virtual clock: sums that arrive when they would, and how long rounds of all would take."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedrec.engines.clock import Clock
from fedrec.errors import RunError
from fedrec.federation.asynchronous import Arrival
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.node.node import Node

__all__ = ["VirtualArrivals", "synchronous_seconds", "virtual_time", "work"]


class VirtualArrivals:
    """Nodes that work side by side in virtual time, and in this process one after the other, when they are done.

    Args:
        nodes: the nodes; which of two that are done at the same time comes first goes by their order.
        clock: when they are done.
    """

    def __init__(self, nodes: Sequence[Node], clock: Clock) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.clock = clock
        self._places = {name: place for place, name in enumerate(self.nodes)}
        self._calls: dict[str, RoundCall] = {}
        self._due: list[tuple[float, int, int, str]] = []

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nodes."""
        return tuple(self.nodes)

    @property
    def says(self) -> str:
        """The clock, in words, and the nodes that it is of."""
        return f"virtual clock of {len(self.nodes)} nodes: {self.clock.text or 'equally fast'}"

    def start(self, node: str, call: RoundCall, since: float) -> None:
        """Let a node work on a call from `since` on."""
        self._calls[node] = call
        done = self.clock.done(self._places[node], since, work(self.nodes[node], call.round, call.share))
        heapq.heappush(self._due, (done, self._places[node], call.round, node))

    def next(self) -> Arrival:
        """The sum of the node that is done first."""
        while self._due:
            seconds, _, version, name = heapq.heappop(self._due)
            call = self._calls.get(name)
            if call is not None and call.round == version:
                del self._calls[name]
                return Arrival(name, self.nodes[name].contribute(call), seconds)
        raise RunError("asynchronous: no node is at work, and the buffer is not full")


def work(node: Node, round: int, share: float) -> int:
    """Interactions of the clients that a node draws for a round."""
    drawn = node.drawn(round, share)
    return sum(int(shard.clients.lengths[positions].sum()) for shard, positions in zip(node.shards, drawn, strict=True))


def synchronous_seconds(nodes: Sequence[Node], clock: Clock, share: float, rounds: int) -> np.ndarray:
    """When each round of all nodes is over [rounds] float64: a round lasts until its slowest node is done."""
    ends = np.zeros(rounds)
    now = 0.0
    for round in range(rounds):
        now = max(clock.done(place, now, work(node, round, share)) for place, node in enumerate(nodes))
        ends[round] = now
    return ends


def virtual_time(
    nodes: Sequence[Node], clock: Clock, plan: Plan, lines: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What a report says of virtual time: of an asynchronous run, or one with a clock; nothing of others.

    Args:
        nodes, clock: as they were.
        plan: of the run.
        lines: of its rounds.
    """
    if plan.asynchronous is None:
        if not clock.text:
            return {}
        ends = synchronous_seconds(nodes, clock, plan.share(), len(lines))
        return {"virtual": {"clock": clock.text, "seconds": round(float(ends[-1]), 6)}}
    parts = [part for line in lines for part in line["parts"]]
    sums = {node.name: sum(part["node"] == node.name for part in parts) for node in nodes}
    late = sum(len(line["late"]) for line in lines)
    return {
        "virtual": {"clock": clock.text, "seconds": round(lines[-1]["time"], 6)},
        "asynchronous": {
            "sums": len(parts),
            "mean_staleness": round(float(np.mean([part["staleness"] for part in parts])), 3),
            "max_staleness": max(part["staleness"] for part in parts),
            "late": late,
            "least_sums_of_a_node": min(sums.values()),
            "nodes_without_a_sum": [name for name, number in sums.items() if number == 0],
        },
    }
