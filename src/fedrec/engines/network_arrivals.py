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
from fedrec.engines.links import Links
from fedrec.errors import FedrecError, PlanError, RunError
from fedrec.federation.asynchronous import Arrival
from fedrec.federation.calls import EvaluationCall, RoundCall
from fedrec.federation.messages import Reply, call_fields
from fedrec.models.base import Arrays

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
        threading.Thread(target=self._wait, args=(node, call), daemon=True, name=f"fedrec-{node}").start()

    def next(self) -> Arrival:
        """The next sum that arrives.

        Raises:
            PlanError: if an owner refuses.
            RunError: if nobody answers for a long time.
        """
        try:
            found = self._arrived.get(timeout=self._deadline * self._tries)
        except queue.Empty:
            raise RunError(
                f"asynchronous: no node answered for {self._deadline * self._tries:g} s; what was committed is kept: "
                "go on with --resume when the nodes are back"
            ) from None
        if isinstance(found, _Refused):
            raise found.error
        return found

    def evaluate(self, calls: Mapping[str, EvaluationCall]) -> Sequence[Sum]:
        """Sums of metrics of the nodes that are up; a node that is at work answers afterwards."""
        return self._nodes.evaluate_each(calls)

    def keep(self, shared: Arrays, committed: Mapping[str, int]) -> None:
        """Let nodes remember private rows as they are after the version that each last had a part in."""
        self._nodes.keep_each(shared, committed)

    def finish(self, shared: Arrays, committed: Mapping[str, int], kept: Mapping[str, int]) -> None:
        """End with the private rows of the version `kept` of each node; nobody is asked for a sum any longer."""
        self._calls.clear()
        self._nodes.finish_each(shared, committed, kept)

    def _wait(self, node: str, call: RoundCall) -> None:
        """Ask until there is an answer, or another call took this one's place."""

        def wanted() -> bool:
            return self._calls.get(node) is call

        while wanted():
            fields = {node: {**call_fields(call), **self._nodes.record(node)}}
            answer = self._links.ask("contribute", fields, self._deadline, call.shared, wanted=wanted)[node]
            if not wanted():
                return
            if isinstance(answer, Reply):
                self._nodes.has_seen(node, answer)
                try:
                    total = self._decode(answer, call.spec, call.round)
                except FedrecError as error:
                    self._tell(f"{node} answered version {call.round} with something else than its sum: {error}")
                else:
                    assert self._began is not None
                    seconds = self._before + time.monotonic() - self._began
                    self._arrived.put(Arrival(node, total, seconds))
                    return
            elif answer.kind == "refused":
                self._arrived.put(_Refused(PlanError(f"{node}: {answer}")))
                return
            else:
                self._tell(f"{node} did not answer version {call.round}: {answer}; it is asked again")
            time.sleep(self._pause)
