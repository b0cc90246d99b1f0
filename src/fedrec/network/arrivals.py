"""Nodes somewhere else that work at their own pace: sums as they arrive, for asynchronous training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import FedrecError, PlanError, RunError
from fedrec.federation.asynchronous import Arrival
from fedrec.federation.call_fields import call_fields
from fedrec.federation.calls import EvaluationCall, RoundCall
from fedrec.federation.messages import Reply
from fedrec.models.base import Arrays
from fedrec.network.links import Links

__all__ = ["NetworkArrivals"]


class _Nodes(Protocol):
    """What a remote engine does for all nodes at once, each with a last version of its own."""

    def record(self, name: str) -> dict[str, Any]:
        """What a node is told of the run's record."""

    def has_seen(self, name: str, reply: Reply) -> None:
        """Take in how much of the record a node knows."""

    def evaluate_each(self, calls: Mapping[str, EvaluationCall]) -> list[Sum]:
        """Sums of metrics."""

    def keep_each(self, shared: Arrays, committed: Mapping[str, int]) -> None:
        """Let nodes remember private rows."""

    def not_kept(self, name: str) -> int | None:
        """The version whose private rows a node must keep before another sum of its is used; `None` without one."""

    def has_kept(self, name: str, version: int) -> None:
        """Take in that a node keeps its private rows of a version."""

    def finish_each(self, shared: Arrays, committed: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """End with private rows."""


@dataclass(frozen=True, eq=False)
class _Refused:
    """An owner's word, or another end of the training."""

    error: FedrecError


class NetworkArrivals:
    """One thread per node waits for its answer, and asks again after a failure, for as long as anybody answers.

    Args:
        links: to the nodes.
        nodes: the engine.
        decode: a node's sum from its reply.
        deadline: seconds for one answer.
        pause: seconds before a node that failed is asked again.
        tries: deadlines without any arrival after which the training stops.
        tell: told what goes wrong.
    """

    def __init__(
        self,
        links: Links,
        nodes: _Nodes,
        decode: Callable[[Reply, SumSpec, int], Sum],
        deadline: float,
        pause: float,
        tries: int,
        tell: Callable[[str], None],
    ) -> None:
        self._links, self._nodes, self._decode = links, nodes, decode
        self._deadline, self._pause, self._tries, self._tell = deadline, pause, tries, tell
        self._arrived: queue.Queue[Arrival | _Refused] = queue.Queue()
        self._calls: dict[str, RoundCall] = {}
        self._began: float | None = None
        self._before = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """All nodes of the federation."""
        return self._links.names

    @property
    def says(self) -> str:
        """What decides the order."""
        return f"network of {len(self.names)} nodes"

    def start(self, node: str, call: RoundCall, since: float) -> None:
        """Let a node work on a call, instead of what it works on."""
        if self._began is None:
            self._began = time.monotonic()
        self._before = max(self._before, since - (time.monotonic() - self._began))
        self._calls[node] = call
        self._begin(self._wait, node, call)

    def next(self) -> Arrival:
        """The next sum that arrives.

        Raises:
            PlanError: if an owner refuses.
            RunError: if nobody answers for a long time.
        """
        while True:
            try:
                found = self._arrived.get(timeout=self._deadline * self._tries)
            except queue.Empty:
                raise RunError(
                    f"asynchronous: no node answered for {self._deadline * self._tries:g} s; what was committed is "
                    "kept: go on with --resume when the nodes are back"
                ) from None
            if isinstance(found, _Refused):
                raise found.error
            version = self._nodes.not_kept(found.node)
            if version is None:
                return found
            self._begin(self._keep_first, found, self._calls[found.node], version)

    def evaluate(self, calls: Mapping[str, EvaluationCall]) -> Sequence[Sum]:
        """Sums of metrics of the nodes that are up; a node that is at work answers afterwards."""
        return self._nodes.evaluate_each(calls)

    def keep(self, shared: Arrays, committed: Mapping[str, int]) -> None:
        """Let nodes remember private rows as they are after the version that each last had a part in."""
        self._nodes.keep_each(shared, committed)

    def finish(self, shared: Arrays, committed: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """End with the private rows of the version `kept` of each node; nobody is asked for a sum any longer."""
        self.close()
        self._nodes.finish_each(shared, committed, kept)

    def close(self) -> None:
        """Ask nobody for a sum any longer; threads end once nodes have answered what they were asked."""
        self._calls.clear()

    def _begin(self, work: Callable[..., None], *said: Any) -> None:
        threading.Thread(target=work, args=said, daemon=True, name="fedrec-arrivals").start()

    def _wait(self, node: str, call: RoundCall) -> None:
        """Wait for a node's sum."""

        def fields() -> dict[str, Any]:
            return {**call_fields(call), "standing": {node: call.committed}, **self._nodes.record(node)}

        while (answer := self._asked("contribute", node, call, fields)) is not None:
            self._nodes.has_seen(node, answer)
            try:
                total = self._decode(answer, call.spec, call.round)
            except FedrecError as error:
                self._tell(f"{node} answered version {call.round} with something else than its sum: {error}")
                time.sleep(self._pause)
                continue
            assert self._began is not None
            self._arrived.put(Arrival(node, total, self._before + time.monotonic() - self._began))
            return

    def _keep_first(self, arrival: Arrival, call: RoundCall, version: int) -> None:
        """Let a sum arrive once its node keeps its private rows of an earlier version, which it then goes on from."""
        if self._asked("keep", arrival.node, call, lambda: {"committed": version}) is not None:
            self._nodes.has_kept(arrival.node, version)
            self._arrived.put(arrival)

    def _asked(self, kind: str, node: str, call: RoundCall, fields: Callable[[], dict[str, Any]]) -> Reply | None:
        """A node's answer, asked for until there is one; `None` if its owner refuses, or another call took this one's
        place."""

        def wanted() -> bool:
            return self._calls.get(node) is call

        while wanted():
            answer = self._links.ask(kind, {node: fields()}, self._deadline, call.shared, wanted=wanted)[node]
            if not wanted():
                return None
            if isinstance(answer, Reply):
                return answer
            if answer.kind == "refused":
                self._arrived.put(_Refused(PlanError(f"{node}: {answer}")))
                return None
            self._tell(f"{node} did not answer {kind!r} of version {call.round}: {answer}; it is asked again")
            time.sleep(self._pause)
        return None
