"""Masks: streams of AES-256 in counter mode, which are added in the ring of the values.

A key masks one vector layout of one sum. Block i starts at counter i · 2^16, so that any block can be masked
separately, in constant memory. Values and streams are added in pieces that fit in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrec.secagg.layout import BLOCK_BYTES
from fedrec.secagg.primitives import derive, library

__all__ = ["Masks", "add_masks", "pair_key", "self_key"]

Masks = Sequence[tuple[int, bytes]]

_PIECE = 1 << 16
_COUNTERS = BLOCK_BYTES // 16
_ZEROS = bytes(_PIECE)


def pair_key(shared: bytes, context: bytes, one: int, other: int) -> bytes:
    """The key of the mask that two parties share; both parties compute the same key.

    Args:
        shared: result of X25519 of the two parties.
        context: digest of the manifest, which contains run and round.
        one: index of one party.
        other: index of the other party.
    """
    low, high = sorted((one, other))
    return derive(shared, b"pair mask", context, low.to_bytes(4, "little"), high.to_bytes(4, "little"))


def self_key(seed: bytes, context: bytes, index: int) -> bytes:
    """The key of a party's own mask."""
    return derive(seed, b"self mask", context, index.to_bytes(4, "little"))


def pair_sign(own: int, other: int) -> int:
    """1 for the party with the lower index, which adds the mask of the pair; -1 for the other, which subtracts it."""
    return 1 if own < other else -1


def add_masks(values: np.ndarray, masks: Masks, block: int) -> None:
    """Add masks to one block of values, in place.

    Args:
        values: [at most 1 MiB] unsigned integers, contiguous.
        masks: (+1 or -1, key of 32 bytes).
        block: index of the block in the layout.

    Example:
        >>> values = np.arange(5, dtype=np.uint32)
        >>> add_masks(values, [(1, bytes(32))], 0)
        >>> values.tolist()
        [2025887196, 2307473571, 346179759, 2267055253, 4220129111]
        >>> add_masks(values, [(-1, bytes(32))], 0)
        >>> values.tolist()
        [0, 1, 2, 3, 4]
    """
    ciphers = library().ciphers
    nonce = ciphers.modes.CTR((block * _COUNTERS).to_bytes(16, "big"))
    streams = [(sign, ciphers.Cipher(ciphers.algorithms.AES(key), nonce).encryptor()) for sign, key in masks]
    room = bytearray(min(_PIECE, values.nbytes) + 15)
    zeros = memoryview(_ZEROS)
    step = _PIECE // values.itemsize
    for start in range(0, len(values), step):
        piece = values[start : start + step]
        noise = np.frombuffer(room, values.dtype, count=len(piece))
        for sign, stream in streams:
            stream.update_into(zeros[: piece.nbytes], room)
            if sign > 0:
                piece += noise
            else:
                piece -= noise
