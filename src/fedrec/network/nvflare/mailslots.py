"""The code in NVFlare's job processes: mail slots that pass frames on and store nothing.

At a node, `Mailbox` passes each frame to the node's own process and returns the answer. At the coordinator, `Relay`
does the same for the training process. Each finds its process through the environment of the machine, never through
the job. A mail slot ends with the process that started it.

A frame of more than a mebibyte travels in pieces, to and from a few nodes at a time, because NVFlare keeps several
copies of every message on its way, which for the models of twenty nodes would take most of the memory.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from nvflare.collab import collab

from fedrec.network.nvflare.names import NODE_MOST, NODE_SOCKET, POST_SOCKET
from fedrec.network.nvflare.parcels import PIECE, Parcels, held_bytes, most_bytes
from fedrec.network.nvflare.sockets import MOST_BODY, Connection, connect
from fedrec.network.nvflare.supervised import PARENT

__all__ = ["Mailbox", "Relay", "Trip"]

_GLANCE = 1.0
_TENSORS = "nvflare.app_opt.pt.decomposers"
"""What NVFlare imports, if it can, to send tensors."""
_SWEPT_BYTES = 1 << 25
_MOST_ANSWER = min(MOST_BODY, most_bytes())
"""Maximum bytes of an answer: the limit of the training process, if four copies fit in this machine's memory."""
_LANES = 4
_KNOCK = 5.0
_QUIET = 60.0
"""Seconds between two messages to the owner about refused frames."""
_SHARE = 0.25
"""Share of the remaining time for one piece, so that a hanging node does not block a lane for long."""


class _Sweep:
    """Frees frames that NVFlare's calls keep in reference cycles. Python's collector starts by the number of objects,
    not by their size, so it would start too late."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()
        self._passed = 0
        self._turn = threading.Lock()

    def passed(self, size: int) -> None:
        """Count bytes that were passed on; collect garbage after every 32 MiB."""
        with self._turn:
            self._passed += size
            if self._passed >= _SWEPT_BYTES:
                self._passed = 0
                gc.collect()


class Mailbox:
    """At a node: passes frames to the node's process, and stores no more of them than the owner allows.

    A refused frame raises an error at the sender, and the node's process is told.
    """

    def __init__(self) -> None:
        _end_with_parent()
        _pass_bytes_only()
        self._sweep = _Sweep()
        self._parcels = Parcels(min(MOST_BODY, int(os.environ.get(NODE_MOST) or held_bytes())))
        self._told = -_QUIET

    @collab.publish
    def knock(self) -> bool:
        """Confirm that the mail slot is running, whatever the node's process does."""
        return True

    @collab.publish
    def bring(self, parcel: str, piece: bytes) -> bool:
        """Store the next piece of a frame.

        Raises:
            RuntimeError: if the frame is longer than allowed.
        """
        with self._refusing():
            self._parcels.add(parcel, piece)
        return True

    @collab.publish
    def deliver(self, parcel: str, frame: bytes) -> bytes | int:
        """The node's answer to a frame, or to the frame that arrived in pieces. For a long answer, its size.

        Raises:
            RuntimeError: if the node's process is not running, or the frame or answer is longer than allowed.
        """
        with self._refusing():
            if type(frame) is not bytes or len(frame) > PIECE:
                raise ValueError(f"a frame in one piece may have at most {PIECE} bytes")
            brought = self._parcels.take(parcel)
        answer = _answered(brought, frame)
        self._sweep.passed(len(brought) + len(frame) + len(answer))
        if len(answer) <= PIECE:
            return answer
        with self._refusing():
            self._parcels.keep(parcel, answer)
        return len(answer)

    @collab.publish
    def fetch(self, parcel: str, start: int) -> bytes:
        """A piece of a long answer."""
        return self._parcels.cut(parcel, start)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """Report a refusal and its reason to both sides, to the owner at most once a minute."""
        try:
            yield
        except ValueError as error:
            now = time.monotonic()
            if now - self._told >= _QUIET:
                self._told = now
                with contextlib.suppress(OSError, KeyError):
                    connection = connect(Path(os.environ[NODE_SOCKET]))
                    connection.send({"refused": str(error)})
                    connection.close()
            raise RuntimeError(f"the node's mail slot refused the frame: {error}") from None


def _answered(*frame: bytes | bytearray) -> bytes:
    """The answer of the node's process to a frame, which is given in parts."""
    try:
        connection = connect(Path(os.environ[NODE_SOCKET]))
    except OSError:
        raise RuntimeError("the node's process is not running") from None
    try:
        connection.send({}, *frame)
        answer = connection.receive()
    except OSError:
        answer = None
    finally:
        connection.close()
    if answer is None:
        raise RuntimeError("the node's process ended before it answered")
    return answer[1]


class Relay:
    """At the coordinator: carries frames of the training process to the nodes, each with its own deadline.

    Args:
        job: name of this job at the training process.
    """

    def __init__(self, job: str) -> None:
        _end_with_parent()
        _pass_bytes_only()
        self._job = job

    @collab.main
    def run(self) -> None:
        """Serve the training process until it ends."""
        sites = {site.name: site for site in collab.clients}
        try:
            connection = connect(Path(os.environ[POST_SOCKET]))
        except OSError:
            return
        connection.send({"job": self._job, "sites": sorted(sites)})
        sweep, lanes = _Sweep(), threading.BoundedSemaphore(_LANES)
        try:
            while (message := connection.receive()) is not None:
                for number, site, frame in _bundled(*message):
                    trip = Trip(sites[site], str(number), message[0]["seconds"], lanes)
                    work = partial(_hand_over, connection, trip, {"id": number, "site": site}, frame, sweep)
                    threading.Thread(target=work, daemon=True, name="fedrec-frame").start()
                del frame, message, work
        finally:
            connection.close()


Pieces = tuple[memoryview, ...]


def _bundled(head: dict[str, Any], body: bytes) -> list[tuple[int, str, Pieces]]:
    """Number, site and frame of each trip of a message, which has all heads first and then the common parts."""
    view, place, trips = memoryview(body), 0, []
    for number, site, size in head["trips"]:
        trips.append((number, site, view[place : place + size]))
        place += size
    return [(number, site, (own, view[place:])) for number, site, own in trips]


class Trip:
    """Carries one frame to a node and its answer back.

    Args:
        site: NVFlare's proxy of the node's mailbox.
        parcel: name of the frame, unique in the job.
        seconds: deadline of the whole trip.
        lanes: limits the number of long frames that travel at the same time.
    """

    def __init__(self, site: Any, parcel: str, seconds: float, lanes: threading.BoundedSemaphore) -> None:
        self._site, self._parcel, self._lanes = site, parcel, lanes
        self._until = time.monotonic() + seconds

    def go(self, frame: Pieces) -> bytes:
        """The node's answer to a frame.

        Raises:
            TimeoutError: if the deadline passes.
            ValueError: if the answer is not bytes, is too long, or has another size than announced.
        """
        if sum(map(len, frame)) > PIECE:
            with self._lane():
                for piece in _cut(frame):
                    self._site(timeout=_SHARE * self._left()).bring(self._parcel, piece)
            frame = ()
        answer = self._site(timeout=self._left()).deliver(self._parcel, b"".join(frame))
        return self._fetched(answer) if type(answer) is int else _piece(answer, range(PIECE + 1))

    def has_slot(self) -> bool:
        """Whether the mail slot is still running: true for a slow node, false for a node that was restarted."""
        try:
            return bool(self._site(timeout=_KNOCK).knock())
        except Exception:  # NVFlare raises what it likes
            return False

    def _fetched(self, size: int) -> bytes:
        if not PIECE < size <= _MOST_ANSWER:
            raise ValueError(f"a long answer must have from {PIECE + 1} to {_MOST_ANSWER} bytes, not {size}")
        pieces = []
        with self._lane():
            for start in range(0, size, PIECE):
                piece = self._site(timeout=_SHARE * self._left()).fetch(self._parcel, start)
                pieces.append(_piece(piece, (min(PIECE, size - start),)))
        return b"".join(pieces)

    @contextlib.contextmanager
    def _lane(self) -> Iterator[None]:
        if not self._lanes.acquire(timeout=self._left()):
            raise TimeoutError("timed out while the long frames of other nodes travelled")
        try:
            yield
        finally:
            self._lanes.release()

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out on the way to the node")
        return left


def _piece(piece: Any, sizes: Container[int]) -> bytes:
    """The piece, checked to be bytes of one of the given sizes."""
    if not isinstance(piece, bytes):
        raise ValueError("the answer is not bytes")
    if len(piece) not in sizes:
        raise ValueError(f"a piece of the answer has an unexpected size of {len(piece)} bytes")
    return piece


def _cut(frame: Pieces) -> Iterator[bytes]:
    """A frame in pieces of equal length, except for the last."""
    held = bytearray()
    for view in frame:
        place = 0
        while place < len(view):
            more = view[place : place + PIECE - len(held)]
            held += more
            place += len(more)
            if len(held) == PIECE:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)


def _hand_over(connection: Connection, trip: Trip, head: dict[str, Any], frame: Pieces, sweep: _Sweep) -> None:
    answer = b""
    try:
        answer = trip.go(frame)
    except Exception as error:  # the training process learns of every error
        late = isinstance(error, TimeoutError) or isinstance(error.__cause__, TimeoutError) or "timed out" in str(error)
        head["failure"] = ["timeout" if late else "gone", str(error)[:500]]
    try:
        connection.send(head, answer)
        if "failure" in head and not trip.has_slot():
            connection.send({"lost": head["site"]})
    except OSError:
        return
    sweep.passed(sum(map(len, frame)) + len(answer))


def _end_with_parent() -> None:
    """End this process when its parent process ends."""
    parent = int(os.environ[PARENT])

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_GLANCE)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="fedrec-watch").start()


def _pass_bytes_only() -> None:
    """Keep NVFlare from loading PyTorch, where it is installed, into a process that passes on bytes: it would take
    seconds and 200 MiB in every job."""
    sys.modules.setdefault(_TENSORS, None)  # type: ignore[arg-type]
