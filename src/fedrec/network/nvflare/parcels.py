"""Storage of a node's mail slot for long frames and answers on their way, limited to what the owner allows.

Pieces arrive before a signature can be checked, from everybody whom NVFlare lets through, so their bytes are counted as
they arrive.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

__all__ = ["PIECE", "Parcels", "held_bytes", "most_bytes"]

PIECE = 1 << 20
"""Bytes of a piece."""
_MOST_PARCELS = 8
_LONGEST_NAME = 64
_FORGOTTEN = 3600.0
"""Seconds without use after which a parcel is deleted."""
_GIB = 1 << 30


def most_bytes() -> int:
    """Maximum bytes of a frame, so that four copies fit in this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def held_bytes(memory_gb: float | None = None) -> int:
    """Maximum bytes that a node's mail slot stores before a signature is checked.

    Args:
        memory_gb: `limits.memory_gb` of the node, which must be enough for a frame and the arrays in it. With `None`
            the maximum is half a gibibyte, and at most a quarter of the machine's memory.
    """
    return min(_GIB // 2, most_bytes()) if memory_gb is None else int(memory_gb * _GIB) // 2


class Parcels:
    """Frames and answers by name, of at most `most` bytes together; the oldest are deleted to make room.

    Args:
        most: maximum bytes of all parcels together.
        clock: monotonic clock in seconds.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._held: dict[str, bytearray | bytes] = {}
        self._touched: dict[str, float] = {}
        self._turn = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of all stored parcels."""
        return sum(map(len, self._held.values()))

    def add(self, name: str, piece: bytes) -> None:
        """Add the next piece of a parcel.

        Raises:
            ValueError: if the piece is malformed or the parcel becomes too long; the parcel is deleted then.
        """
        if type(name) is not str or len(name) > _LONGEST_NAME:
            raise ValueError(f"the name of a parcel may have at most {_LONGEST_NAME} letters")
        if type(piece) is not bytes or not 0 < len(piece) <= PIECE:
            raise ValueError(f"a piece must have from 1 to {PIECE} bytes")
        with self._turn:
            stored = self._held.get(name)
            # A parcel that was stored whole is an answer, which pieces cannot continue.
            begun = stored if isinstance(stored, bytearray) else bytearray()
            self._make_room(name, len(begun) + len(piece))
            begun += piece
            self._held[name] = begun

    def keep(self, name: str, whole: bytes) -> None:
        """Store a whole answer until it is fetched.

        Raises:
            ValueError: if the answer is too long.
        """
        with self._turn:
            self._make_room(name, len(whole))
            self._held[name] = whole

    def take(self, name: str) -> bytearray | bytes:
        """The stored bytes of a parcel, which is deleted; empty if there is no such parcel."""
        with self._turn:
            self._touched.pop(name, None)
            return self._held.pop(name, b"")

    def cut(self, name: str, start: int) -> bytes:
        """A piece of an answer; the answer is deleted with its last piece.

        Raises:
            ValueError: if there is no such answer, or no piece at `start`.
        """
        with self._turn:
            whole = self._held.get(name)
            if not isinstance(whole, bytes) or type(start) is not int or not 0 <= start < len(whole):
                raise ValueError("the answer has no such piece, or was deleted")
            self._touched[name] = self._clock()
            if start + PIECE >= len(whole):
                self._forget(name)
            return whole[start : start + PIECE]

    def _make_room(self, name: str, size: int) -> None:
        """Delete old parcels until a parcel of `size` bytes fits."""
        now = self._clock()
        if size > self._most:
            self._forget(name)
            raise ValueError(
                f"a frame or answer has more than {self._most:,} bytes, the maximum of this node: half of "
                "limits.memory_gb in its node.toml, or half a GiB by default. The owner may raise limits.memory_gb"
            )
        self._touched.pop(name, None)
        others = [other for other in self._touched if now - self._touched[other] > _FORGOTTEN]
        rest = [other for other in self._touched if other not in others]
        held = sum(len(self._held[other]) for other in rest)
        while rest and (held + size > self._most or len(rest) >= _MOST_PARCELS):
            held -= len(self._held[rest[0]])
            others.append(rest.pop(0))
        for other in others:
            self._forget(other)
        self._touched[name] = now

    def _forget(self, name: str) -> None:
        self._held.pop(name, None)
        self._touched.pop(name, None)
