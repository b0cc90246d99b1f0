"""Reads in a separate thread, so that a read that hangs cannot keep the caller waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

from fedrec.errors import InputError

__all__ = ["punctual"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Last:
    """The end of the items, and the error that ended them, if one did."""

    error: BaseException | None = None


def punctual(
    items: Callable[[], Generator[_T, None, None]], seconds: float | None, late: str, give_up: Callable[[], None]
) -> Generator[_T, None, None]:
    """The items, which a thread makes one ahead; an error if the next item takes longer than `seconds`.

    If a thread hangs in code of a driver, it is abandoned; the caller and the process can still end.

    Args:
        items: function that makes the items; runs in the thread.
        seconds: to wait for each item, `None` for ever.
        late: text of the error after that time.
        give_up: makes the thread leave a call in which it hangs; called when the caller no longer waits.

    Raises:
        InputError: with the text `late`. Errors of `items` pass through.

    >>> list(punctual(lambda: (letter for letter in "ab"), 5, "too late", lambda: None))
    ['a', 'b']
    """
    ready: queue.Queue[_T | _Last] = queue.Queue(maxsize=1)
    stop = threading.Event()

    def put(item: _T | _Last) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        last = _Last()
        try:
            with closing(items()) as made:
                for item in made:
                    if not put(item):
                        return
        except BaseException as error:  # raised again where the items are read
            last = _Last(error)
        put(last)

    thread = threading.Thread(target=work, name="fedrec reading", daemon=True)
    thread.start()
    finished = False
    try:
        while True:
            try:
                item = ready.get(timeout=seconds)
            except queue.Empty:
                raise InputError(late) from None
            if isinstance(item, _Last):
                finished = True
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join(timeout=10.0 if finished else 0.5)
        if thread.is_alive():
            threading.Thread(target=give_up, name="fedrec giving up", daemon=True).start()
            thread.join(timeout=2.0)
