"""What a node's mail slot holds while a long frame or answer is on its way: never more than the owner allows.

Pieces come before anybody can look at a signature, from whoever NVFlare lets through; so they are counted as they come.
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
"""Seconds after which a parcel that nobody touched is let go."""
_GIB = 1 << 30


def most_bytes() -> int:
    """Bytes of a frame of which four copies fit in this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def held_bytes(memory_gb: float | None = None) -> int:
    """Bytes that a node's mail slot holds before anybody has looked at a signature.

    Args:
        memory_gb: what its owner lets the node have: a frame and the arrays in it must both fit. Where the owner does
            not say, half a gibibyte, and no more than a quarter of the machine's memory.
    """
    return min(_GIB // 2, most_bytes()) if memory_gb is None else int(memory_gb * _GIB) // 2


class Parcels:
    """Frames and answers by name, of `most` bytes in all; for one new that does not fit, the oldest ones are let go.

    Args:
        most: bytes of all parcels together.
        clock: seconds, monotonic.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = most, clock
        self._held: dict[str, bytearray | bytes] = {}
        self._touched: dict[str, float] = {}
        self._turn = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes that are held now."""
        return sum(map(len, self._held.values()))

    def add(self, name: str, piece: bytes) -> None:
        """Add the next piece of a parcel.

        Raises:
            ValueError: if it is no piece, or the parcel is longer than what may be held; nothing of it is held then.
        """
        if type(name) is not str or len(name) > _LONGEST_NAME:
            raise ValueError(f"a parcel has a name of {_LONGEST_NAME} letters at most")
        if type(piece) is not bytes or not 0 < len(piece) <= PIECE:
            raise ValueError(f"a piece has 1 to {PIECE} bytes")
        with self._turn:
            there = self._held.get(name)
            # What was fetched from, or was never brought in pieces, is not gone on with.
            begun = there if isinstance(there, bytearray) else bytearray()
            self._make_room(name, len(begun) + len(piece))
            begun += piece
            self._held[name] = begun

    def keep(self, name: str, whole: bytes) -> None:
        """Hold a whole answer until it is fetched.

        Raises:
            ValueError: if it is longer than what may be held.
        """
        with self._turn:
            self._make_room(name, len(whole))
            self._held[name] = whole

    def take(self, name: str) -> bytearray | bytes:
        """What was brought of a parcel, which is no longer held; nothing where there is none."""
        with self._turn:
            self._touched.pop(name, None)
            return self._held.pop(name, b"")

    def cut(self, name: str, start: int) -> bytes:
        """A piece of an answer, which goes with its last one.

        Raises:
            ValueError: if there is no such answer.
        """
        with self._turn:
            whole = self._held.get(name)
            if not isinstance(whole, bytes) or type(start) is not int or not 0 <= start < len(whole):
                raise ValueError("there is no such piece of an answer")
            self._touched[name] = self._clock()
            if start + PIECE >= len(whole):
                self._forget(name)
            return whole[start : start + PIECE]

    def _make_room(self, name: str, size: int) -> None:
        """Let go of what is old, so that a parcel may have so many bytes."""
        now = self._clock()
        if size > self._most:
            self._forget(name)
            raise ValueError(
                f"a frame or answer of more than {self._most:,} bytes, which is all that this node takes: half of "
                "limits.memory_gb in its node.toml, or half a GiB where that is not set. Its owner may set it higher"
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
