"""Scores of clients, each in an order of its own that no batch and no thread can change."""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from fedrec.kernels.threads import kernel

__all__ = ["dot_items", "dot_rows", "gather_rows", "sum_neighbours", "sum_rows"]

_COLUMNS = 128
"""Items of a tile in `dot_items`."""
_PADDED = 144
"""Length of a row of its block: not a power of two, or writes down a column would share few cache sets."""
_PLACES = 256
"""Rows of the block, transposed at once so that the table is read in long runs."""
_PIECE = 32
"""Rows of the block that stay in the first-level cache while all clients pass over them."""


@kernel("void(int64[::1], int32[::1], float32[:, ::1], float32[:, ::1])", parallel=True)
def sum_rows(indptr, items, table, scores):  # type: ignore[no-untyped-def]
    """scores[c] [items] += Σ table[i] over the client's items i."""
    for client in prange(len(indptr) - 1):
        for entry in range(indptr[client], indptr[client + 1]):
            row = items[entry]
            for column in range(table.shape[1]):
                scores[client, column] += table[row, column]


@kernel("void(int64[::1], int32[::1], int32[:, ::1], float32[:, ::1], float32[:, ::1])", parallel=True)
def sum_neighbours(indptr, items, neighbours, weights, scores):  # type: ignore[no-untyped-def]
    """scores[c, neighbours[i]] += weights[i] over the client's items i; a neighbour of −1 ends the list."""
    for client in prange(len(indptr) - 1):
        for entry in range(indptr[client], indptr[client + 1]):
            row = items[entry]
            for place in range(neighbours.shape[1]):
                if neighbours[row, place] < 0:
                    break
                scores[client, neighbours[row, place]] += weights[row, place]


@kernel("void(float32[:, ::1], float32[:, ::1], float32[::1], float32[:, ::1])", parallel=True)
def dot_rows(left, right, bias, scores):  # type: ignore[no-untyped-def]
    """scores [c, items] = bias + left [c, d] · right [d, items], added up in the order of d."""
    for client in prange(left.shape[0]):
        for column in range(right.shape[1]):
            scores[client, column] = bias[column]
        for place in range(left.shape[1]):
            factor = left[client, place]
            for column in range(right.shape[1]):
                scores[client, column] += np.float32(factor * right[place, column])


@kernel("void(int64[::1], int32[::1], float32[:, ::1], float64[:, ::1])", parallel=True)
def gather_rows(indptr, items, table, out):  # type: ignore[no-untyped-def]
    """out [c, d] = Σ table[i] over the client's items i, added up in float64 in the order of the client's rows."""
    for client in prange(len(indptr) - 1):
        for column in range(table.shape[1]):
            out[client, column] = 0.0
        for entry in range(indptr[client], indptr[client + 1]):
            row = items[entry]
            for column in range(table.shape[1]):
                out[client, column] += np.float64(table[row, column])


@numba.njit(inline="always")
def _four(left, row, start):  # type: ignore[no-untyped-def]
    """Four entries of a row, zeros beyond its end."""
    zero, width = np.float32(0.0), left.shape[1]
    first = left[row, start] if start < width else zero
    second = left[row, start + 1] if start + 1 < width else zero
    third = left[row, start + 2] if start + 2 < width else zero
    return first, second, third, left[row, start + 3] if start + 3 < width else zero


@kernel("void(float32[:, ::1], float32[:, ::1], float32[:, ::1])", parallel=True)
def dot_items(left, table, scores):  # type: ignore[no-untyped-def]
    """scores [c, items] = left [c, d] · table [items, d]ᵀ, each entry added up in float32 in the order of d.

    A tile of items is transposed, block by block, and all clients pass over the block, four at a time.
    """
    n_clients, width = left.shape
    n_items = table.shape[0]
    for tile in prange((n_items + _COLUMNS - 1) // _COLUMNS):
        low = tile * _COLUMNS
        columns = min(_COLUMNS, n_items - low)
        block = np.zeros((_PLACES, _PADDED), dtype=np.float32)
        totals = np.zeros((4, _COLUMNS), dtype=np.float32)
        for client in range(n_clients):
            for column in range(columns):
                scores[client, low + column] = np.float32(0.0)
        for start in range(0, width, _PLACES):
            places = min(_PLACES, width - start)
            for column in range(columns):
                for place in range(places):
                    block[place, column] = table[low + column, start + place]
            for piece in range(0, places, _PIECE):
                for quad in range(0, n_clients, 4):
                    # Missing clients repeat the last one; missing places add zeros.
                    c0, c1 = quad, min(quad + 1, n_clients - 1)
                    c2, c3 = min(quad + 2, n_clients - 1), min(quad + 3, n_clients - 1)
                    for column in range(columns):
                        totals[0, column] = scores[c0, low + column]
                        totals[1, column] = scores[c1, low + column]
                        totals[2, column] = scores[c2, low + column]
                        totals[3, column] = scores[c3, low + column]
                    for first in range(piece, min(piece + _PIECE, places), 4):
                        a0, a1, a2, a3 = _four(left, c0, start + first)
                        b0, b1, b2, b3 = _four(left, c1, start + first)
                        d0, d1, d2, d3 = _four(left, c2, start + first)
                        e0, e1, e2, e3 = _four(left, c3, start + first)
                        for column in range(_COLUMNS):
                            w, x, y, z = (block[first, column], block[first + 1, column],
                                          block[first + 2, column], block[first + 3, column])  # fmt: skip
                            totals[0, column] = (((totals[0, column] + a0 * w) + a1 * x) + a2 * y) + a3 * z
                            totals[1, column] = (((totals[1, column] + b0 * w) + b1 * x) + b2 * y) + b3 * z
                            totals[2, column] = (((totals[2, column] + d0 * w) + d1 * x) + d2 * y) + d3 * z
                            totals[3, column] = (((totals[3, column] + e0 * w) + e1 * x) + e2 * y) + e3 * z
                    for column in range(columns):
                        scores[c0, low + column] = totals[0, column]
                        scores[c1, low + column] = totals[1, column]
                        scores[c2, low + column] = totals[2, column]
                        scores[c3, low + column] = totals[3, column]
