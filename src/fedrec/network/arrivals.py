"""Nodes somewhere else that work at their own pace: sums as they arrive, for asynchronous training."""

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
    """An owner's word, or another end of the training."""

    error: FedrecError


class NetworkArrivals:
    """One thread per node waits for its answer, and asks again after a failure, for as long as anybody answers.

    Args:
        links: to the nodes.
        keeping: knows who must keep private rows first.
        witnessing: knows what each node is told of the record.
        decode: a node's sum from its reply.
        waiting: seconds for one answer, and before a node that failed is asked again; training stops after as many
            deadlines without any arrival as there are tries.
        tell: told what goes wrong.
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
        self._deadline, self._pause, self._tries, self._tell = waiting.deadline, waiting.pause, waiting.tries, tell
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
            version = self._keeping.lacking([found.node]).get(found.node)
            if version is None:
                return found
            self._begin(self._keep_first, found, self._calls[found.node], version)

    def close(self) -> None:
        """Ask nobody for a sum any longer; threads end once nodes have answered what they were asked."""
        self._calls.clear()

    def _begin(self, work: Callable[..., None], *said: Any) -> None:
        threading.Thread(target=work, args=said, daemon=True, name="fedrec-arrivals").start()

    def _wait(self, node: str, call: RoundCall) -> None:
        """Wait for a node's sum."""

        def fields() -> dict[str, Any]:
            return {**call_fields(call), "standing": {node: call.committed}, **self._witnessing.record(node)}

        while (answer := self._asked("contribute", node, call, fields)) is not None:
            self._witnessing.has_seen(node, answer.fields)
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
            self._keeping.has_kept(arrival.node, version)
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
