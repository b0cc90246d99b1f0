"""Sums of nodes over a network in their order of arrival, for asynchronous training."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import FedrecError, PlanError, RunError
from fedrec.federation.asynchronous import Arrival
from fedrec.federation.call_fields import call_fields
from fedrec.federation.calls import RoundCall
from fedrec.federation.messages import Reply
from fedrec.network.keeping import Keeping
from fedrec.network.links import Links
from fedrec.network.waiting import Waiting
from fedrec.network.witnessing import Witnessing

__all__ = ["NetworkArrivals"]


@dataclass(frozen=True, eq=False)
class _Refused:
    """A refusal by an owner, or another error that ends the training."""

    error: FedrecError


class NetworkArrivals:
    """Waits for each node in a thread of its own, and repeats a failed request as long as any node answers.

    Args:
        links: sends requests to the nodes.
        keeping: knows which nodes must keep private rows first.
        witnessing: knows which entries of the record each node needs.
        decode: reads a node's sum from its reply.
        waiting: seconds for one answer, and before a failed request is repeated; training stops after `attempts`
            deadlines without any arrival.
        tell: receives warnings.
    """

    def __init__(
        self,
        links: Links,
        keeping: Keeping,
        witnessing: Witnessing,
        decode: Callable[[Reply, SumSpec, int], Sum],
        waiting: Waiting,
        tell: Callable[[str], None],
    ) -> None:
        self._links, self._keeping, self._witnessing, self._decode = links, keeping, witnessing, decode
        self._deadline, self._pause, self._tries, self._tell = waiting.deadline, waiting.pause, waiting.attempts, tell
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
        """What decides the order of arrival."""
        return f"network of {len(self.names)} nodes"

    def start(self, node: str, call: RoundCall, since: float) -> None:
        """Let a node work on a call instead of its present one."""
        if self._began is None:
            self._began = time.monotonic()
        self._before = max(self._before, since - (time.monotonic() - self._began))
        self._calls[node] = call
        self._begin(self._wait, node, call)

    def next(self) -> Arrival:
        """The next sum that arrives.

        Raises:
            PlanError: if an owner refuses the plan.
            RunError: if no node answers within all deadlines.
        """
        while True:
            try:
                arrival = self._arrived.get(timeout=self._deadline * self._tries)
            except queue.Empty:
                raise RunError(
                    f"asynchronous: no node answered for {self._deadline * self._tries:g} s. Committed versions "
                    "are kept; continue with --resume when the nodes are connected again"
                ) from None
            if isinstance(arrival, _Refused):
                raise arrival.error
            version = self._keeping.lacking([arrival.node]).get(arrival.node)
            if version is None:
                return arrival
            self._begin(self._keep_first, arrival, self._calls[arrival.node], version)

    def close(self) -> None:
        """Request no further sums; the threads end when the nodes have answered."""
        self._calls.clear()

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True, name="fedrec-arrivals").start()

    def _wait(self, node: str, call: RoundCall) -> None:
        """Wait for a node's sum."""

        def fields() -> dict[str, Any]:
            return {**call_fields(call), "standing": {node: call.committed}, **self._witnessing.record(node)}

        while (answer := self._answer_of("contribute", node, call, fields)) is not None:
            self._witnessing.has_seen(node, answer.fields)
            try:
                total = self._decode(answer, call.spec, call.round)
            except FedrecError as error:
                self._tell(
                    f"{node} did not answer version {call.round} with a valid sum: {error}; the request is repeated"
                )
                time.sleep(self._pause)
                continue
            assert self._began is not None
            self._arrived.put(Arrival(node, total, self._before + time.monotonic() - self._began))
            return

    def _keep_first(self, arrival: Arrival, call: RoundCall, version: int) -> None:
        """Accept a sum once its node has kept its private rows of an earlier version, from which it continues."""
        if self._answer_of("keep", arrival.node, call, lambda: {"committed": version}) is not None:
            self._keeping.has_kept(arrival.node, version)
            self._arrived.put(arrival)

    def _answer_of(self, kind: str, node: str, call: RoundCall, fields: Callable[[], dict[str, Any]]) -> Reply | None:
        """A node's answer; failed requests are repeated. `None` if the owner refuses, or another call replaced this
        one."""

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
            self._tell(f"{node} did not answer {kind!r} of version {call.round}: {answer}; the request is repeated")
            time.sleep(self._pause)
        return None
