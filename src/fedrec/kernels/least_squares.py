"""Regularised least squares for many users or items at once: one small Cholesky each, in an order of its own.

Symmetric matrices are kept by their upper triangle; `vech` is that triangle by rows, d (d + 1) / 2 numbers.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from fedrec.kernels.threads import kernel

__all__ = ["gram_of_rows", "item_pulls", "outer_rows", "solve_items", "solve_users"]

_BLOCK = 8


@numba.njit(inline="always")
def _solve(matrix, vector):  # type: ignore[no-untyped-def]
    """Overwrite `vector` [d] with matrix⁻¹ vector, and the upper triangle of `matrix` with its Cholesky factor.

    NaN where the matrix is not positive definite.
    """
    d = len(vector)
    for k in range(d):
        row = matrix[k]
        if not row[k] > 0.0:
            vector[:] = np.nan
            return
        inverse = 1.0 / np.sqrt(row[k])
        for j in range(k, d):
            row[j] *= inverse
        for i in range(k + 1, d):
            factor = row[i]
            below = matrix[i]
            for j in range(i, d):
                below[j] -= factor * row[j]
    for k in range(d):
        row = matrix[k]
        value = vector[k] / row[k]
        vector[k] = value
        for j in range(k + 1, d):
            vector[j] -= row[j] * value
    for k in range(d - 1, -1, -1):
        row = matrix[k]
        total = vector[k]
        for j in range(k + 1, d):
            total -= row[j] * vector[j]
        vector[k] = total / row[k]


@kernel(
    "void(int64[::1], int32[::1], float32[:, ::1], float64[:, ::1], float64, float64, float64, float64[:, ::1])",
    parallel=True,
)
def solve_users(indptr, items, table, base, offset, reg, nu, users):  # type: ignore[no-untyped-def]
    """users[c] = (base + Σ y yᵀ + reg · (n + offset)^nu · I)⁻¹ Σ y over the rows y [d] of `table` at c's n items.

    A client without items gets zeros, one whose matrix is not positive definite NaN.
    """
    d = table.shape[1]
    for client in prange(len(indptr) - 1):
        start, stop = indptr[client], indptr[client + 1]
        vector = users[client]
        vector[:] = 0.0
        if stop > start:
            matrix = base.copy()
            rows = np.empty((_BLOCK, d))
            y0, y1, y2, y3, y4, y5, y6, y7 = rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]
            for low in range(start, stop, _BLOCK):
                for place in range(_BLOCK):
                    row = rows[place]
                    if low + place < stop:
                        source = table[items[low + place]]
                        for k in range(d):
                            row[k] = source[k]
                            vector[k] += row[k]
                    else:
                        row[:] = 0.0
                for k in range(d):
                    a0, a1, a2, a3, a4, a5, a6, a7 = y0[k], y1[k], y2[k], y3[k], y4[k], y5[k], y6[k], y7[k]
                    target = matrix[k]
                    for j in range(k, d):
                        low_half = (a0 * y0[j] + a1 * y1[j]) + (a2 * y2[j] + a3 * y3[j])
                        high_half = (a4 * y4[j] + a5 * y5[j]) + (a6 * y6[j] + a7 * y7[j])
                        target[j] += low_half + high_half
            pull = reg * (np.float64(stop - start) + offset) ** nu
            for k in range(d):
                matrix[k, k] += pull
            _solve(matrix, vector)


@kernel("void(float64[:, ::1], float64[:, ::1])", parallel=True)
def outer_rows(users, out):  # type: ignore[no-untyped-def]
    """out[c] = [vech(u uᵀ), u] for the row u [d] of `users`."""
    d = users.shape[1]
    for client in prange(users.shape[0]):
        user = users[client]
        row = out[client]
        base = 0
        for k in range(d):
            for j in range(k, d):
                row[base + j - k] = user[k] * user[j]
            base += d - k
        for k in range(d):
            row[base + k] = user[k]


@kernel("void(int64[::1], int32[::1], float32[:, ::1], float64[:, ::1], float64, float32[:, ::1])", parallel=True)
def item_pulls(indptr, items, table, users, alpha, out):  # type: ignore[no-untyped-def]
    """out[e] = [(1 + alpha) − alpha ⟨u, y⟩] u for the row y [d] of `table` at entry e of the client with factor u."""
    d = table.shape[1]
    for client in prange(len(indptr) - 1):
        user = users[client]
        for entry in range(indptr[client], indptr[client + 1]):
            row = table[items[entry]]
            score = 0.0
            for k in range(d):
                score += user[k] * row[k]
            weight = 1.0 + alpha - alpha * score
            for k in range(d):
                out[entry, k] = np.float32(weight * user[k])


def _solve_items(equations, counts, grid, base, offset, reg, nu, table):  # type: ignore[no-untyped-def]
    d = table.shape[1]
    size = d * (d + 1) // 2
    for item in prange(equations.shape[0]):
        if counts[item] > 0.0:
            row = equations[item]
            matrix = np.empty((d, d))
            vector = np.empty(d)
            place = 0
            for k in range(d):
                for j in range(k, d):
                    matrix[k, j] = base[k, j] + row[place + j - k] * grid
                place += d - k
                vector[k] = row[size + k] * grid
            pull = reg * (counts[item] + offset) ** nu
            for k in range(d):
                matrix[k, k] += pull
            _solve(matrix, vector)
            for k in range(d):
                table[item, k] = np.float32(vector[k])


solve_items = {
    ring: kernel(
        f"void(int{ring}[:, ::1], float64[::1], float64, float64[:, ::1], float64, float64, float64, float32[:, ::1])",
        parallel=True,
    )(_solve_items)
    for ring in (32, 64)
}
"""table[i] = (base + M + reg · (counts[i] + offset)^nu · I)⁻¹ b where grid · equations[i] is [vech(M), b].

Rows of `table` whose count is 0 stay as they are; a row whose matrix is not positive definite becomes NaN.
"""


@kernel("void(float32[:, ::1], float64[:, ::1])", parallel=True)
def gram_of_rows(table, out):  # type: ignore[no-untyped-def]
    """out [d, d] = Σ y yᵀ over the rows y of `table`, in the order of the rows."""
    d = table.shape[1]
    for k in prange(d):
        target = out[k]
        target[:] = 0.0
        for row in range(table.shape[0]):
            factor = np.float64(table[row, k])
            for j in range(d):
                target[j] += factor * np.float64(table[row, j])
