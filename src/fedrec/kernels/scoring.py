"""Scores of clients, each in an order of its own that no batch and no thread can change."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.lanes import TILE, lane_tile
from fedrec.kernels.threads import parallel_kernel

__all__ = ["dot_items", "dot_rows", "gather_rows", "sum_neighbours", "sum_rows"]

_PLACES = 256
"""Rows of the block of `dot_items`, transposed at once so that the table is read in long runs."""


@parallel_kernel(
    "void(int64[::1], int32[::1], float32[::1], float32[:, ::1], float32[:, ::1])", over=lambda indptr, *_: indptr
)
def sum_rows(begin, end, indptr, items, weights, table, scores):  # type: ignore[no-untyped-def]
    """scores[c] [items] += Σ w table[i] over the client's items i of weight w; empty `weights` are all 1."""
    for client in range(begin, end):
        for entry in range(indptr[client], indptr[client + 1]):
            row = items[entry]
            weight = weights[entry] if len(weights) else np.float32(1.0)
            for column in range(table.shape[1]):
                scores[client, column] += weight * table[row, column]


@parallel_kernel(
    "void(int64[::1], int32[::1], float32[::1], int32[:, ::1], float32[:, ::1], float32[:, ::1])",
    over=lambda indptr, *_: indptr,
)
def sum_neighbours(begin, end, indptr, items, weights, neighbours, similarities, scores):  # type: ignore[no-untyped-def]
    """scores[c, neighbours[i]] += w similarities[i] over the client's items i of weight w; empty `weights` are all 1.

    A neighbour of −1 ends the list.
    """
    for client in range(begin, end):
        for entry in range(indptr[client], indptr[client + 1]):
            row = items[entry]
            weight = weights[entry] if len(weights) else np.float32(1.0)
            for place in range(neighbours.shape[1]):
                if neighbours[row, place] < 0:
                    break
                scores[client, neighbours[row, place]] += weight * similarities[row, place]


@parallel_kernel(
    "void(float32[:, ::1], float32[:, ::1], float32[::1], float32[:, ::1])", over=lambda left, *_: len(left)
)
def dot_rows(begin, end, left, right, bias, scores):  # type: ignore[no-untyped-def]
    """scores [c, items] = bias + left [c, d] · right [d, items], added up in the order of d."""
    for client in range(begin, end):
        for column in range(right.shape[1]):
            scores[client, column] = bias[column]
        for place in range(left.shape[1]):
            factor = left[client, place]
            for column in range(right.shape[1]):
                scores[client, column] += np.float32(factor * right[place, column])


@parallel_kernel(
    "void(int64[::1], int32[::1], float32[::1], float32[:, ::1], float64[:, ::1])", over=lambda indptr, *_: indptr
)
def gather_rows(begin, end, indptr, items, weights, table, out):  # type: ignore[no-untyped-def]
    """out [c, d] = Σ w table[i] over the client's items i of weight w, added up in float64 in the order of its rows.

    Empty `weights` are all 1.
    """
    for client in range(begin, end):
        for column in range(table.shape[1]):
            out[client, column] = 0.0
        for entry in range(indptr[client], indptr[client + 1]):
            row = items[entry]
            weight = np.float64(weights[entry]) if len(weights) else 1.0
            for column in range(table.shape[1]):
                out[client, column] += weight * np.float64(table[row, column])


@parallel_kernel(
    "void(float32[:, ::1], float32[:, ::1], float32[:, ::1])", over=lambda left, table, scores: -(-len(table) // TILE)
)
def dot_items(begin, end, left, table, scores):  # type: ignore[no-untyped-def]
    """scores [c, items] = left [c, d] · table [items, d]ᵀ, each entry added up in float32 in the order of d.

    A tile of items is transposed, block by block, and all clients pass over the block, four at a time.
    """
    n_clients, width = left.shape
    n_items = table.shape[0]
    for tile in range(begin, end):
        low = tile * TILE
        columns = min(TILE, n_items - low)
        block = np.zeros((_PLACES, TILE), dtype=np.float32)
        totals = np.zeros((4, TILE), dtype=np.float32)
        for client in range(n_clients):
            for column in range(columns):
                scores[client, low + column] = np.float32(0.0)
        for start in range(0, width, _PLACES):
            places = min(_PLACES, width - start)
            for column in range(columns):
                for place in range(places):
                    block[place, column] = table[low + column, start + place]
            for quad in range(0, n_clients, 4):
                # Missing clients repeat the last one.
                c0, c1 = quad, min(quad + 1, n_clients - 1)
                c2, c3 = min(quad + 2, n_clients - 1), min(quad + 3, n_clients - 1)
                for column in range(columns):
                    totals[0, column] = scores[c0, low + column]
                    totals[1, column] = scores[c1, low + column]
                    totals[2, column] = scores[c2, low + column]
                    totals[3, column] = scores[c3, low + column]
                lane_tile(left, c0, c1, c2, c3, start, block, places, totals)
                for column in range(columns):
                    scores[c0, low + column] = totals[0, column]
                    scores[c1, low + column] = totals[1, column]
                    scores[c2, low + column] = totals[2, column]
                    scores[c3, low + column] = totals[3, column]
