"""Requests take turns: one at a time is worked on, few wait, and none waits for long."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from fedrec.serving.refusals import RefusalError

__all__ = ["Turns"]

_T = TypeVar("_T")
_LEAST, _LARGEST = 0.0005, 0.05
"""Seconds of work between two looks at what came in."""


class _Waiting(NamedTuple):
    work: Callable[[], Any]
    answer: asyncio.Future[Any]
    until: float


class Turns:
    """A queue of work in the thread of the event loop; between two pieces of work other requests are read.

    Args:
        most: number of pieces of work that may wait.
        deadline: seconds after which waiting work is refused.
    """

    def __init__(self, most: int, deadline: float) -> None:
        self._most, self._deadline = most, deadline
        self._waiting: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        """How many pieces of work wait."""
        return len(self._waiting)

    def check(self) -> None:
        """Refuse further work if too much waits already.

        Raises:
            RefusalError: with status 503.
        """
        if len(self._waiting) >= self._most:
            raise RefusalError(503, f"too many requests wait (the limit is {self._most}); try again", self._deadline)

    async def take(self, work: Callable[[], _T]) -> _T:
        """What `work` gives, when it is its turn. Errors of `work` pass through.

        Raises:
            RefusalError: with status 503, if too much work waits, or this waited too long.
        """
        self.check()
        loop = asyncio.get_running_loop()
        entry = _Waiting(work, loop.create_future(), time.monotonic() + self._deadline)
        self._waiting.append(entry)
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._run())
        result: _T = await entry.answer
        return result

    async def _run(self) -> None:
        """Work as long as there is work, and let others work between: as long as they took last time, so that reading
        and refusing a flood of requests leaves half of the time for answers."""
        share = _LEAST
        while self._waiting:
            until = time.monotonic() + share
            while self._waiting and time.monotonic() < until:
                self._work(self._waiting.popleft())
            before = time.monotonic()
            await asyncio.sleep(0)
            share = min(max(time.monotonic() - before, _LEAST), _LARGEST)

    def _work(self, entry: _Waiting) -> None:
        if entry.answer.done():  # whoever asked is gone
            return
        if time.monotonic() > entry.until:
            entry.answer.set_exception(
                RefusalError(503, f"the request waited longer than {self._deadline:g} seconds; try again", 1.0)
            )
            return
        try:
            entry.answer.set_result(entry.work())
        except Exception as error:
            entry.answer.set_exception(error)
