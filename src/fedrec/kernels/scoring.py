"""Scores of clients, each in an order of its own that no batch and no thread can change."""

from __future__ import annotations

import numpy as np
from numba import prange

from fedrec.kernels.threads import kernel

__all__ = ["dot_rows", "sum_neighbours", "sum_rows"]


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
