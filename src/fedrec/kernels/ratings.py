"""Least squares of ratings with biases: each user's and each item's normal equations, in an order of its own.

A row [bias, factors] of a user or an item has 1 + d numbers; what it is multiplied with is [1, factors] of the other
side.
"""

from __future__ import annotations

import numpy as np

from fedrec.kernels.lanes import EIGHT, rank_tile, row_step
from fedrec.kernels.least_squares import cholesky_solve
from fedrec.kernels.threads import parallel_kernel

__all__ = ["bias_rows", "solve_rated", "solve_raters"]

_BLOCK = 64


@parallel_kernel(
    "void(int64[::1], int32[::1], float32[::1], float32[:, ::1], float64, float64, float64, float64, float64[:, ::1])",
    over=lambda indptr, *_: indptr,
)
def solve_raters(begin, end, indptr, items, values, table, mean, bias_reg, reg, nu, users):  # type: ignore[no-untyped-def]
    """users[c] [1 + d] = (Σ x xᵀ + n^nu D)⁻¹ Σ x (r − mean − b) over c's n ratings r of items with rows [b, q].

    x = [1, q] from `table` [items, 1 + d], `values` are the ratings, D is diagonal: `bias_reg`, then `reg`. A client
    without ratings gets zeros, one whose matrix is not positive definite NaN.
    """
    length = table.shape[1]
    width = -(-length // EIGHT) * EIGHT
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        users[client] = 0.0
        if stop > start:
            matrix, vector, rows = np.zeros((width, width)), np.zeros((1, width)), np.zeros((_BLOCK, width))
            for low in range(start, stop, _BLOCK):
                places = min(_BLOCK, stop - low)
                for place in range(places):
                    source = table[items[low + place]]
                    rows[place, 0] = 1.0
                    for k in range(1, length):
                        rows[place, k] = source[k]
                    target = (np.float64(values[low + place]) - mean) - np.float64(source[0])
                    row_step(vector, 0, rows, place, target, 0)
                for k in range(0, width, 4):
                    for j in range(k - k % EIGHT, width, EIGHT):
                        rank_tile(matrix, k, j, rows, 0, places, 1.0)
            scale = np.float64(stop - start) ** nu
            matrix[0, 0] += bias_reg * scale
            for k in range(1, width):
                matrix[k, k] += reg * scale
            cholesky_solve(matrix, vector)
            for k in range(length):
                users[client, k] = vector[0, k]


@parallel_kernel(
    "void(int64[::1], float32[::1], float64[:, ::1], float64, float64[:, ::1], float64[:, ::1], float32[::1])",
    over=lambda indptr, *_: indptr,
)
def bias_rows(begin, end, indptr, values, users, mean, squares, rows, residuals):  # type: ignore[no-untyped-def]
    """squares[c] = vech(x xᵀ) and rows[c] = x for x = [1, p], where users[c] = [b, p]; residuals[e] = r − mean − b."""
    length = users.shape[1]
    for client in range(begin, end):
        row, out = rows[client], squares[client]
        row[0] = 1.0
        for k in range(1, length):
            row[k] = users[client, k]
        base = 0
        for k in range(length):
            for j in range(k, length):
                out[base + j - k] = row[k] * row[j]
            base += length - k
        for entry in range(indptr[client], indptr[client + 1]):
            residuals[entry] = np.float32((np.float64(values[entry]) - mean) - users[client, 0])


@parallel_kernel(
    "void(float64[:, ::1], float64[:, ::1], float64, float64, float64, float64, float32[:, ::1])",
    over=lambda squares, *_: len(squares),
)
def solve_rated(begin, end, squares, targets, bias_reg, reg, nu, most, table):  # type: ignore[no-untyped-def]
    """table[i] = (M + n^nu D)⁻¹ targets[i] where squares[i] is vech(M), n its first entry; D as in `solve_raters`.

    The first entry of a row is cut to ± `most`. Rows without ratings (n = 0) stay as they are; a row whose matrix is
    not positive definite becomes NaN.
    """
    length = table.shape[1]
    width = -(-length // EIGHT) * EIGHT
    for item in range(begin, end):
        row = squares[item]
        if row[0] > 0.0:
            matrix, vector = np.zeros((width, width)), np.zeros((1, width))
            base = 0
            for k in range(length):
                for j in range(k, length):
                    matrix[k, j] = row[base + j - k]
                base += length - k
                vector[0, k] = targets[item, k]
            scale = row[0] ** nu
            matrix[0, 0] += bias_reg * scale
            for k in range(1, width):
                matrix[k, k] += reg * scale
            cholesky_solve(matrix, vector)
            for k in range(length):
                table[item, k] = np.float32(vector[0, k])
            if table[item, 0] > most:
                table[item, 0] = np.float32(most)
            elif table[item, 0] < -most:
                table[item, 0] = np.float32(-most)
