"""Reading in a thread: every item in order, errors where they belong, and nobody waits longer than agreed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fedrec.data.databases.deadlines import punctual
from fedrec.errors import InputError


def nothing() -> None:
    """Gives up nothing."""


def test_items_come_in_order_and_an_error_comes_where_it_happened() -> None:
    def items() -> Iterator[int]:
        yield from range(100)
        raise KeyError("here")

    read = punctual(items, 5, "late", nothing)
    assert [next(read) for _ in range(100)] == list(range(100))
    with pytest.raises(KeyError, match="here"):
        next(read)


def test_the_thread_is_one_item_ahead_and_no_more() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(10):
            made.append(item)
            yield item

    read = punctual(items, 5, "late", nothing)
    next(read)
    time.sleep(0.3)
    assert made in ([0, 1], [0, 1, 2])  # one waits to be taken, one waits for its place
    assert list(read) == list(range(1, 10))


def test_who_stops_reading_ends_the_work() -> None:
    ended = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            ended.set()

    read = punctual(items, 5, "late", nothing)
    next(read)
    read.close()
    assert ended.wait(5)


def test_what_hangs_is_given_up_and_leaves_the_caller_free() -> None:
    given_up = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        given_up.wait(30)

    start = time.monotonic()
    read = punctual(items, 0.3, "the server hangs", given_up.set)
    assert next(read) == 1
    with pytest.raises(InputError, match="the server hangs"):
        next(read)
    assert given_up.is_set()
    assert time.monotonic() - start < 10
