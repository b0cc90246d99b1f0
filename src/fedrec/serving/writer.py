"""Writes events in a thread of its own: requests that wait at the same time share one flush to the disk."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from fedrec.data.events import Event, EventLog
from fedrec.errors import FedrecError
from fedrec.serving.refusals import RefusalError

__all__ = ["EventWriter"]

_MOST_WAITING = 10_000
_MOST_TOGETHER = 5_000
_SECONDS_TO_END = 10.0


@dataclass(frozen=True, eq=False)
class _Adding:
    events: Sequence[Event]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[list[Event]]


@dataclass(frozen=True, eq=False)
class _Forgetting:
    user: int | str
    at: float
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[int]


class EventWriter:
    """The only writer of a log in this process.

    Args:
        log: where events are kept; closed by `close`.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._asked: queue.Queue[_Adding | _Forgetting | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="fedrec events", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """How many requests wait."""
        return self._asked.qsize()

    @property
    def works(self) -> bool:
        """Whether events can be written."""
        return self._thread.is_alive()

    async def add(self, events: Sequence[Event]) -> list[Event]:
        """Keep events; those that the log had not before, when all are on the disk.

        Raises:
            RefusalError: with status 503, if too many wait, or they cannot be written.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Event]] = loop.create_future()
        self._ask(_Adding(events, loop, done))
        return await done

    async def forget(self, user: int | str, at: float) -> int:
        """Remove the events of a user; how many there were.

        Raises:
            RefusalError: with status 503, if that cannot be written.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        self._ask(_Forgetting(user, at, loop, done))
        return await done

    def close(self) -> None:
        """Write what waits, and end."""
        self._asked.put(None)
        self._thread.join(_SECONDS_TO_END)

    def _ask(self, what: _Adding | _Forgetting) -> None:
        if not self.works:
            raise RefusalError(503, "the log of events is closed; try again", 5.0)
        if len(self) >= _MOST_WAITING:
            raise RefusalError(503, f"more than {_MOST_WAITING:,} requests wait to be written; try again", 1.0)
        self._asked.put(what)

    def _work(self) -> None:
        ended = False
        while not ended:
            asked, ended = self._next()
            adding = [what for what in asked if isinstance(what, _Adding)]
            if adding:
                self._add(adding)
            for what in asked:
                if isinstance(what, _Forgetting):
                    self._forget(what)
        self._log.close()

    def _next(self) -> tuple[list[_Adding | _Forgetting], bool]:
        """What waits, up to the first wish to be forgotten, and whether that is the end."""
        first = self._asked.get()
        if first is None:
            return [], True
        together, count = [first], 0
        while isinstance(together[-1], _Adding) and count < _MOST_TOGETHER:
            count += len(together[-1].events)
            try:
                more = self._asked.get_nowait()
            except queue.Empty:
                break
            if more is None:
                return together, True
            together.append(more)
        return together, False

    def _add(self, adding: list[_Adding]) -> None:
        try:
            new = {id(event) for event in self._log.add([event for what in adding for event in what.events])}
        except FedrecError as error:
            if len(adding) == 1:
                _fail(adding[0], error)
            else:
                for what in adding:
                    self._add([what])
            return
        for what in adding:
            _tell(what.loop, what.done, [event for event in what.events if id(event) in new])

    def _forget(self, what: _Forgetting) -> None:
        try:
            removed = self._log.forget(what.user, what.at)
        except FedrecError as error:
            _fail(what, error)
        else:
            _tell(what.loop, what.done, removed)


def _fail(what: _Adding | _Forgetting, error: FedrecError) -> None:
    refusal = RefusalError(503, f"{error}", 5.0)

    def fail() -> None:
        if not what.done.done():
            what.done.set_exception(refusal)

    what.loop.call_soon_threadsafe(fail)


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future, result: object) -> None:  # type: ignore[type-arg]
    def tell() -> None:
        if not done.done():  # whoever asked may be gone
            done.set_result(result)

    loop.call_soon_threadsafe(tell)
