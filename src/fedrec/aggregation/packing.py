"""Whole numbers of any number of bits, without gaps.

Numbers of 8, 16, 32 or 64 bits travel as they are, little endian. Others travel as planes: their lowest bytes, then the
next ones, as long as bytes are full; and then the bits that are left, eight numbers in as many bytes as each has bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

__all__ = ["bits_of", "pack", "packed_size", "unpack", "word_of"]

_PIECE = 1 << 14
_WORDS: tuple[np.dtype[np.unsignedinteger], ...] = tuple(np.dtype(f"<u{size}") for size in (1, 2, 4, 8))


def packed_size(count: int, bits: int) -> int:
    """Bytes of so many numbers.

    >>> packed_size(3, 3), packed_size(3, 10)
    (2, 4)
    """
    return count * (bits // 8) + (count * (bits % 8) + 7) // 8


def word_of(bits: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned type that holds so many bits, little endian.

    >>> word_of(3), word_of(12)
    (dtype('uint8'), dtype('uint16'))
    """
    return next(word for word in _WORDS if 8 * word.itemsize >= bits)


def bits_of(values: np.ndarray) -> np.ndarray:
    """How many bits whole numbers [n], 0 or more, have [n] uint8.

    >>> bits_of(np.array([0, 1, 2, 3, 4, 2**62])).tolist()
    [0, 1, 2, 2, 3, 63]
    """
    powers = np.uint64(1) << np.arange(64, dtype=np.uint64)
    return np.searchsorted(powers, values.astype(np.uint64), side="right").astype(np.uint8)


def pack(values: np.ndarray, bits: int) -> bytes:
    """The lowest bits of whole numbers, of any integer type.

    Args:
        values: [n].
        bits: of each, 1 to 64 and no more than the type has.

    Example:
        >>> pack(np.array([1, 2, 3, -1]), 2).hex(), pack(np.array([0x123, 0x456]), 12).hex()
        ('f9', '235641')
    """
    values = values.reshape(-1)
    if bits == 8 * word_of(bits).itemsize:
        return values.astype(word_of(bits), copy=False).tobytes()
    planes = [
        np.concatenate([_plane(piece, 8 * byte) for piece in _pieces(values)]).tobytes() for byte in range(bits // 8)
    ]
    left = bits % 8
    if left:
        planes += [_joined(_plane(piece, bits - left), left) for piece in _pieces(values)]
    return b"".join(planes)


def unpack(
    data: bytes | memoryview, count: int, bits: int, signed: bool = False, dtype: DTypeLike | None = None
) -> np.ndarray:
    """Numbers that `pack` made bytes of.

    Args:
        data: `packed_size(count, bits)` bytes.
        count: how many numbers.
        bits: of each.
        signed: whether the highest bit of each is a sign.
        dtype: integers of at least so many bits; the narrowest unsigned ones by default, or signed ones.

    Example:
        >>> unpack(pack(np.array([5, -3]), 4), 2, 4, signed=True).tolist()
        [5, -3]
    """
    word = word_of(bits)
    if bits == 8 * word.itemsize:
        numbers = np.frombuffer(data, word.str.replace("u", "i") if signed else word, count)
        return numbers.astype(dtype or numbers.dtype)
    out = np.empty(count, dtype or (word.str.replace("u", "i") if signed else word))
    full, left = divmod(bits, 8)
    rest, shift = memoryview(data)[full * count :], word.type(8 * word.itemsize - bits)
    for start in range(0, count, _PIECE):
        piece = np.zeros(min(_PIECE, count - start), dtype=word)
        for byte in range(full):
            plane = np.frombuffer(data, np.uint8, len(piece), byte * count + start)
            piece |= plane.astype(word) << word.type(8 * byte)
        if left:
            plane = _split(rest[start * left // 8 :][: packed_size(len(piece), left)], len(piece), left)
            piece |= plane.astype(word) << word.type(8 * full)
        if signed:
            piece <<= shift
            out[start : start + _PIECE] = piece.view(f"<i{word.itemsize}") >> shift.astype(np.int64)
        else:
            out[start : start + _PIECE] = piece
    return out


def _pieces(values: np.ndarray) -> Sequence[np.ndarray]:
    """Pieces that fit in the cache, at least one."""
    return [values[start : start + _PIECE] for start in range(0, max(len(values), 1), _PIECE)]


def _plane(values: np.ndarray, shift: int) -> np.ndarray:
    """Eight bits of each number, from bit `shift` on."""
    return (values >> shift).astype(np.uint8) if shift else values.astype(np.uint8)


def _joined(values: np.ndarray, bits: int) -> bytes:
    """The lowest bits, less than eight, of bytes."""
    groups = np.zeros((-(-len(values) // 8), 8), dtype=np.uint64)
    groups.reshape(-1)[: len(values)] = values & np.uint8((1 << bits) - 1)
    groups <<= bits * np.arange(8, dtype=np.uint64)
    joined = np.bitwise_or.reduce(groups, axis=1).astype("<u8")
    return joined.view(np.uint8).reshape(-1, 8)[:, :bits].tobytes()[: packed_size(len(values), bits)]


def _split(data: memoryview, count: int, bits: int) -> np.ndarray:
    """The numbers, as bytes, that `_joined` made bytes of."""
    groups = np.zeros((-(-count // 8), 8), dtype=np.uint8)
    padded = np.zeros(len(groups) * bits, dtype=np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    groups[:, :bits] = padded.reshape(-1, bits)
    shifted = groups.view("<u8") >> (bits * np.arange(8, dtype=np.uint64))
    return (shifted & np.uint64((1 << bits) - 1)).astype(np.uint8).reshape(-1)[:count]
