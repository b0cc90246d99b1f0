"""The training process's connection to the server's job process."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fedrec.network.nvflare.admin import last_words
from fedrec.network.nvflare.sockets import Connection
from fedrec.network.post import Failure
from fedrec.progress import counting

if TYPE_CHECKING:
    from fedrec.federation.messages import Frame

__all__ = ["RelayLink"]

_GRACE = 2.0
_STUCK = 10.0
"""Seconds in which a running relay accepts at least some bytes."""


class RelayLink:
    """Passes frames to the relay, and its answers to the threads that wait for them.

    Args:
        connection: connection to the relay.
        sites: names of the nodes that the job reaches.
    """

    def __init__(self, connection: Connection, sites: tuple[str, ...]) -> None:
        self.reached = frozenset(sites)
        self.alive = True
        self._connection = connection
        connection.limit_sending(_STUCK)
        self._waiting: dict[int, tuple[str, queue.Queue[tuple[str, bytes | Failure]]]] = {}
        self._numbers = itertools.count()
        self._changing = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a thread waits for an answer."""
        return bool(self._waiting)

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None) -> dict[str, bytes | Failure]:
        """Send one frame to each of some nodes, see `Post.ask`."""
        answers: dict[str, bytes | Failure] = {}
        arrived: queue.Queue[tuple[str, bytes | Failure]] = queue.Queue()
        numbers = []
        bundles: dict[tuple[int, ...], list[tuple[int, str]]] = {}
        for name, frame in frames.items():
            if name not in self.reached:
                answers[name] = Failure("gone", "not connected")
                continue
            number = next(self._numbers)
            with self._changing:
                self._waiting[number] = name, arrived
            numbers.append(number)
            bundles.setdefault(tuple(map(id, frame.parts)), []).append((number, name))
        for bundle in bundles.values():  # common parts of several frames go to the relay once
            heads = [frames[name].head for _, name in bundle]
            trips = [[number, name, len(head)] for (number, name), head in zip(bundle, heads, strict=True)]
            try:
                request = {"trips": trips, "seconds": max(seconds, 0.1)}
                self._connection.send(request, *heads, *frames[bundle[0][1]].parts)
            except OSError:
                self.close()
        until = time.monotonic() + seconds + _GRACE
        good = 0
        with counting(len(frames), "nodes have answered") as reached:
            while len(answers) < len(frames) and (enough is None or good < enough):
                try:
                    name, answer = arrived.get(timeout=max(0.0, until - time.monotonic()))
                except queue.Empty:
                    break
                answers[name] = answer
                good += isinstance(answer, bytes)
                reached(good)
        missing = Failure("timeout", f"no answer in {seconds:.3g} s")
        if enough is not None and good >= enough:
            missing = Failure("late", "enough other nodes answered first")
        answers = {name: answers.get(name, missing) for name in frames}
        with self._changing:
            for number in numbers:
                self._waiting.pop(number, None)
        return answers

    def listen(self) -> None:
        """Pass answers to the threads that wait for them, until the relay ends."""
        while (message := self._connection.receive()) is not None:
            head, body = message
            number, lost, failure = head.get("id"), head.get("lost"), head.get("failure")
            self.reached -= {str(lost)}
            if not self.reached:
                break  # no node is left, so the job is over
            with self._changing:
                waiting = self._waiting.pop(number, None) if type(number) is int else None
            if waiting is not None:
                name, arrived = waiting
                arrived.put((name, body if failure is None else _failure(failure)))
        self._ended()

    def close(self) -> None:
        """End the relay."""
        self._connection.close()
        self._ended()

    def _ended(self) -> None:
        self.alive = False
        with self._changing:
            waiting, self._waiting = self._waiting, {}
        for name, arrived in waiting.values():
            arrived.put((name, Failure("gone", "NVFlare's job ended before the node answered")))


def _failure(reason: object) -> Failure:
    """The failure that the relay reports."""
    kind, words = reason if isinstance(reason, list) and len(reason) == 2 else ("gone", reason)
    return Failure(str(kind), last_words(str(words)))
