"""Frames through the mail slots: short ones at once, long ones in pieces, and never past their time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare")

from fedrec.network.nvflare.mailslots import Mailbox, Trip
from fedrec.network.nvflare.names import NODE_SOCKET
from fedrec.network.nvflare.sockets import Connection, Listener
from fedrec.network.nvflare.supervised import PARENT

MEBIBYTE = 1 << 20


class Site:
    """NVFlare's stand-in for a mailbox, without NVFlare: what was called, with how many bytes, and how many at once."""

    def __init__(self, mailbox: Any, delay: float = 0.0) -> None:
        self.mailbox, self.delay, self.calls = mailbox, delay, []
        self.now, self.most, self.turn = 0, 0, threading.Lock()

    def __call__(self, timeout: float) -> Site:
        assert timeout > 0
        return self

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(parcel: str, content: Any) -> Any:
            with self.turn:
                self.calls.append((name, len(content) if isinstance(content, bytes) else content))
                self.now += name != "deliver"
                self.most = max(self.most, self.now)
            time.sleep(self.delay)
            try:
                return getattr(self.mailbox, name)(parcel, content)
            finally:
                with self.turn:
                    self.now -= name != "deliver"

        return call


@pytest.fixture
def mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    """A mailbox whose node answers every frame with its mirror image, twice."""

    def serve(connection: Connection) -> None:
        while (message := connection.receive()) is not None:
            connection.send({}, 2 * message[1][::-1])

    monkeypatch.setenv(PARENT, str(os.getppid()))
    monkeypatch.setenv(NODE_SOCKET, str(tmp_path / "s"))
    listener = Listener(tmp_path / "s", serve)
    yield Mailbox()
    listener.close()


@pytest.mark.parametrize("size", [0, 1, MEBIBYTE // 2, MEBIBYTE // 2 + 1, MEBIBYTE, MEBIBYTE + 1, 3 * MEBIBYTE + 7])
def test_frames_of_any_size_arrive_whole(mailbox: Mailbox, size: int) -> None:
    frame, site = os.urandom(size), Site(mailbox)
    view, head = memoryview(frame), min(size, 300)
    trip = Trip(site, "1", 10.0, threading.BoundedSemaphore(4))
    assert trip.go((view[:head], view[head:])) == 2 * frame[::-1]
    assert max(length for name, length in site.calls if name != "fetch") <= MEBIBYTE
    names = [name for name, _ in site.calls]
    assert names.count("bring") == (0 if size <= MEBIBYTE else -(-size // MEBIBYTE))
    assert names.count("fetch") == (0 if 2 * size <= MEBIBYTE else -(-2 * size // MEBIBYTE))


def test_few_long_frames_are_on_their_way_at_a_time(mailbox: Mailbox) -> None:
    site, lanes, answers = Site(mailbox, delay=0.01), threading.BoundedSemaphore(2), {}
    frames = {str(number): os.urandom(2 * MEBIBYTE) for number in range(6)}

    def go(name: str) -> None:
        answers[name] = Trip(site, name, 30.0, lanes).go((memoryview(frames[name]),))

    threads = [threading.Thread(target=go, args=(name,)) for name in frames]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {name: 2 * frame[::-1] for name, frame in frames.items()}
    assert site.most == 2


def test_nobody_waits_for_a_lane_past_the_deadline(mailbox: Mailbox) -> None:
    lanes = threading.BoundedSemaphore(1)
    lanes.acquire()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        Trip(Site(mailbox), "1", 0.2, lanes).go((memoryview(bytes(MEBIBYTE + 1)),))
    assert 0.1 < time.monotonic() - began < 5.0
    assert Trip(Site(mailbox), "2", 10.0, lanes).go((memoryview(b"ab"),)) == b"baba", "short frames need no lane"


def test_frames_that_were_begun_and_left_do_not_pile_up(mailbox: Mailbox) -> None:
    for number in range(20):
        mailbox.bring(str(number), b"x")
    assert mailbox.deliver("19", b"y") == b"yxyx"
    assert mailbox.deliver("0", b"y") == b"yy", "the first ones were let go"


class Hostile:
    """A site whose node answers as it likes: to a frame, and to who fetches a long answer."""

    def __init__(self, answer: Any, piece: Any = b"") -> None:
        self.answer, self.piece, self.fetched = answer, piece, 0

    def __call__(self, timeout: float) -> Hostile:
        return self

    def deliver(self, parcel: str, frame: bytes) -> Any:
        return self.answer

    def fetch(self, parcel: str, start: int) -> Any:
        self.fetched += 1
        return self.piece


@pytest.mark.parametrize(
    ("answer", "piece", "fetched"),
    [
        (10**15, bytes(MEBIBYTE), 0),
        (-1, b"", 0),
        (0, b"", 0),
        (True, b"x", 0),
        (2.0, b"xx", 0),
        ("text", b"", 0),
        (bytes(MEBIBYTE + 1), b"", 0),
        (3 * MEBIBYTE, bytes(MEBIBYTE + 1), 1),
        (3 * MEBIBYTE, b"", 1),
        (3 * MEBIBYTE, "text", 1),
        (3 * MEBIBYTE + 7, bytes(MEBIBYTE), 4),
    ],
)
def test_an_answer_is_as_long_as_it_was_said_to_be_or_refused(answer: Any, piece: Any, fetched: int) -> None:
    site = Hostile(answer, piece)
    with pytest.raises(ValueError, match=r"answer"):
        Trip(site, "1", 10.0, threading.BoundedSemaphore(4)).go((memoryview(b"frame"),))
    assert site.fetched == fetched
