"""Asynchronous training: nodes work at their own pace, and a step is made whenever enough of their sums are in.

A *version* is the number of rounds that are committed. Every node works on one version at a time: it begins with the
newest, its sum goes into the buffer with the number of that version, and it begins anew once a round with its sum is
committed, or at once where its sum came too late to be used. So no node is in a buffer twice, and no client.

A round is committed by its ledger line as ever. The line says whose sums are in it and of which version they are, so
that the ledger alone tells where every node stands: a crash leaves nothing else behind that counts. What a node keeps
goes by the versions of its *own* sums: private rows that it journalled for version v count once a round with that sum
is committed, whichever round that is.

Where sums come from is behind `Arrivals`: the local engine plays a clock, a network delivers what arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from fedrec.aggregation.buffered import Asynchronous, buffered_sum
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError, RunError
from fedrec.federation.calls import RoundCall, for_node
from fedrec.federation.run import Run
from fedrec.federation.versions import Standing, standings
from fedrec.models.base import State
from fedrec.progress import counting

if TYPE_CHECKING:
    from fedrec.federation.engine import Engine

__all__ = ["Arrival", "Arrivals", "Buffered", "Buffering", "arrivals_of"]


@dataclass(frozen=True, eq=False)
class Arrival:
    """A sum that reached the coordinator.

    Args:
        node: whose.
        total: the sum; its round is the version that it was computed from.
        seconds: when, since training began.
    """

    node: str
    total: Sum
    seconds: float


class Arrivals(Protocol):
    """Nodes that answer in their own time."""

    @property
    def names(self) -> Sequence[str]:
        """Of the nodes."""

    @property
    def says(self) -> str:
        """What decides the order in which sums arrive; the ledger begins with it."""

    def start(self, node: str, call: RoundCall, since: float) -> None:
        """Let a node work on a call, instead of what it works on, from `since` on."""

    def next(self) -> Arrival:
        """The next sum that arrives, once.

        Raises:
            FedrecError: if none will.
        """


@dataclass(frozen=True, eq=False)
class Buffered:
    """A full buffer.

    Args:
        total: the sum of a round.
        parts: as they arrived.
        line: what the ledger says of them: `time`, `parts`, `late`.
    """

    total: Sum
    parts: Sequence[Sum]
    line: dict[str, Any]


class Buffering:
    """Fills the buffer of each round.

    Args:
        terms: of the plan.
        arrivals: the nodes.
        run: whose ledger says where nodes stand, and whose checkpoints are the versions that they work on.
        begin: makes version 0.

    Raises:
        RunError: if the run began with other arrivals.
    """

    def __init__(self, terms: Asynchronous, arrivals: Arrivals, run: Run, begin: Callable[[], State]) -> None:
        self.terms = terms
        self.arrivals = arrivals
        self.run = run
        self.begin = begin
        self._working: set[str] = set()
        self._read = 0
        self._now = 0.0
        self._standing: dict[str, Standing] = standings((), arrivals.names)
        for started in run.ledger.of_kind("start"):
            if started.get("arrivals") != arrivals.says:
                raise RunError(
                    f"this run began with sums arriving by {started.get('arrivals')!r}, not by {arrivals.says!r}; what "
                    "it learns depends on that. Go on with the former, or begin another run"
                )

    def fill(self, newest: RoundCall) -> Buffered:
        """Let idle nodes begin, and take sums as they arrive until there are enough.

        Args:
            newest: the call for the newest version.

        Raises:
            PlanError: if there are fewer nodes than sums are asked for.
        """
        if self.terms.buffer > len(self._standing):
            raise PlanError(
                f"asynchronous: a buffer of {self.terms.buffer} sums takes as many nodes that have users, as each is "
                f"in it once; there are {len(self._standing)}. Lower asynchronous.buffer, or give more --nodes"
            )
        self._catch_up()
        for node, standing in self._standing.items():
            if node not in self._working:
                self._start(node, standing, newest)
        held: dict[str, Arrival] = {}
        late: list[dict[str, Any]] = []
        with counting(self.terms.buffer, "sums are in") as reached:
            while len(held) < self.terms.buffer:
                arrived = self.arrivals.next()
                standing = self._standing[arrived.node]
                if arrived.node in held or arrived.total.round != standing.version:
                    continue  # an answer that was given before, or to what is not asked any more
                if self.terms.too_stale(newest.round - standing.version):
                    late.append(_said(arrived, newest.round) | {"time": arrived.seconds} | _commitment(arrived))
                    self._standing[arrived.node] = replace(standing, version=newest.round, since=arrived.seconds)
                    self._start(arrived.node, self._standing[arrived.node], newest)
                    continue
                held[arrived.node] = arrived
                reached(len(held))
        parts = [held[node] for node in self._standing if node in held]
        weights = self._weights(parts, newest)
        sums = [part.total for part in parts]
        total = buffered_sum(newest.spec, list(zip(sums, weights, strict=True)), newest.round)
        self._working -= held.keys()
        said = [
            _said(part, newest.round) | {"clients": part.total.clients, "weight": weight}
            for part, weight in zip(parts, weights, strict=True)
        ]
        line = {"time": max(self._now, *(part.seconds for part in parts)), "parts": said, "late": late}
        return Buffered(total, sums, line)

    def in_use(self) -> set[int]:
        """The rounds whose checkpoints nodes still work on."""
        self._catch_up()
        return {standing.version - 1 for standing in self._standing.values() if standing.version}

    def _weights(self, parts: Sequence[Arrival], newest: RoundCall) -> list[int]:
        """What the changes of each part are multiplied by."""
        step = self.terms.step_of(newest.spec, self._share({part.node: part for part in parts}))
        stale = [newest.round - part.total.round for part in parts]
        here = {part.node for part in parts}
        longest = max(*stale, *(one.staleness for name, one in self._standing.items() if name not in here), 0)
        return [self.terms.weight(staleness, longest, step) for staleness in stale]

    def _share(self, held: Mapping[str, Arrival]) -> float:
        """The share of all clients that is in a buffer: nodes count as they did last, those that never answered as the
        others do on average."""
        known = {name: one.clients for name, one in self._standing.items() if one.clients is not None}
        known |= {name: arrived.total.clients for name, arrived in held.items()}
        everyone = sum(known.values()) / len(known) * len(self._standing)
        return sum(arrived.total.clients for arrived in held.values()) / everyone if everyone else 1.0

    def _catch_up(self) -> None:
        """Take in what was committed since."""
        lines = self.run.ledger.of_kind("round")
        self._standing = standings(lines[self._read :], self.arrivals.names, self._standing)
        self._read = len(lines)
        self._now = lines[-1]["time"] if lines else 0.0

    def _start(self, node: str, standing: Standing, newest: RoundCall) -> None:
        version, shared = standing.version, newest.shared
        if version < newest.round:  # as left by a process that ended
            shared = (self.run.state(version - 1) if version else self.begin()).shared
        self.arrivals.start(node, replace(for_node(newest, node), round=version, shared=shared), standing.since)
        self._working.add(node)


def arrivals_of(engine: Engine) -> Arrivals:
    """The nodes of an engine as they answer in their own time.

    Raises:
        PlanError: if they do not.
    """
    found: Arrivals | None = getattr(engine, "arrivals", None)
    if found is None:
        raise PlanError("asynchronous: the nodes of this engine answer round by round; leave out asynchronous")
    return found


def _said(arrived: Arrival, round: int) -> dict[str, Any]:
    version = arrived.total.round
    return {"node": arrived.node, "version": version, "staleness": round - version}


def _commitment(arrived: Arrival) -> dict[str, Any]:
    return {"sums": list(arrived.total.commitments)} if arrived.total.commitments else {}
