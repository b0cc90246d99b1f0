"""Triangles of counts: how many bits each entry needs, where it is public how many clients have each item.

Of Σ x xᵀ with x marking the items that a client has, entry (i, j) counts the clients that have both items, and so is at
most min(n_i, n_j), the smaller of two entries of the diagonal. It needs ⌈log2(min(n_i, n_j) + 1)⌉ bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedrec.aggregation.packing import bits_of
from fedrec.aggregation.specs import triangle_size

__all__ = ["diagonal_of", "entries_by_bits", "fits_pairs", "width_counts"]


def diagonal_of(n: int) -> np.ndarray:
    """Where the diagonal of an n × n triangle by rows lies [n] int64.

    >>> diagonal_of(3).tolist()
    [0, 3, 5]
    """
    rows = np.arange(n, dtype=np.int64)
    return rows * n - rows * (rows - 1) // 2


def entries_by_bits(counts: np.ndarray, diagonal: bool = True) -> Iterator[tuple[int, np.ndarray]]:
    """Where the entries of a triangle by rows lie that have so many bits [entries] int64, by bits above 0.

    Args:
        counts: the diagonal [n].
        diagonal: whether entries of the diagonal are meant, too.

    Example:
        >>> [(bits, places.tolist()) for bits, places in entries_by_bits(np.array([5, 0, 1]))]
        [(1, [2, 5]), (3, [0])]
        >>> [(bits, places.tolist()) for bits, places in entries_by_bits(np.array([5, 0, 1]), diagonal=False)]
        [(1, [2]), (3, [])]
    """
    widths = np.empty(triangle_size(len(counts)), dtype=np.uint8)
    for part, bits in _rows(counts):
        widths[part] = bits
    if not diagonal:
        widths[diagonal_of(len(counts))] = 0
    for width in width_counts(counts):
        yield width, np.flatnonzero(widths == width)


def width_counts(counts: np.ndarray) -> dict[int, int]:
    """How many entries of a triangle have so many bits, the diagonal included, by bits above 0.

    >>> width_counts(np.array([5, 0, 1]))
    {1: 2, 3: 1}
    """
    items = np.bincount(bits_of(counts), minlength=1)
    as_wide = [triangle_size(int(many)) for many in np.cumsum(items[::-1])[::-1]]
    entries = {
        bits: wide - wider for bits, (wide, wider) in enumerate(zip(as_wide, [*as_wide[1:], 0], strict=True)) if bits
    }
    return {bits: many for bits, many in entries.items() if many}


def fits_pairs(triangle: np.ndarray, counts: np.ndarray) -> bool:
    """Whether no entry of a triangle of whole numbers is negative, or needs more bits than its diagonal allows."""
    return not any(np.any(triangle[part] >> bits) for part, bits in _rows(counts))


def _rows(counts: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Where each row of a triangle lies, and the bits of its entries."""
    bits, start = bits_of(counts), 0
    for row in range(len(counts)):
        yield slice(start, start + len(counts) - row), np.minimum(bits[row], bits[row:])
        start += len(counts) - row
