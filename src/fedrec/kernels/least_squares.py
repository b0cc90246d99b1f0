"""Regularised least squares for many users or items at once: one small Cholesky each, in an order of its own.

Symmetric matrices are kept by their upper triangle; `vech` is that triangle by rows, d (d + 1) / 2 numbers.
"""

from __future__ import annotations

import numba
import numpy as np

from fedrec.kernels.lanes import EIGHT, rank_tile, row_step
from fedrec.kernels.threads import parallel_kernel

__all__ = ["cholesky_solve", "gram_of_rows", "item_pulls", "outer_rows", "solve_items", "solve_users"]

_BLOCK = 64


@numba.njit(nogil=True, error_model="numpy")
def cholesky_solve(matrix, vector):  # type: ignore[no-untyped-def]
    """Overwrite row 0 of `vector` [1, D] with matrix⁻¹ vector, and the upper triangle of `matrix` [D, D] with its
    Cholesky factor; D is a multiple of eight. What is below the diagonal becomes scratch.

    NaN where the matrix is not positive definite.
    """
    width = matrix.shape[0]
    for panel in range(0, width, EIGHT):
        for k in range(panel, panel + EIGHT):
            pivot = matrix[k, k]
            if not pivot > 0.0:
                vector[:] = np.nan
                return
            inverse = 1.0 / np.sqrt(pivot)
            for j in range(panel, k):
                matrix[k, j] = 0.0  # so that steps over whole blocks leave alone what is solved
            for j in range(k, width):
                matrix[k, j] *= inverse
            for i in range(k + 1, panel + EIGHT):
                row_step(matrix, i, matrix, k, -matrix[k, i], panel)
        for i in range(panel + EIGHT, width, 4):
            for j in range(i - i % EIGHT, width, EIGHT):
                rank_tile(matrix, i, j, matrix, panel, EIGHT, -1.0)
    for k in range(width):
        value = vector[0, k] / matrix[k, k]
        row_step(vector, 0, matrix, k, -value, k - k % EIGHT)
        vector[0, k] = value
    for k in range(width - 1, -1, -1):
        total = vector[0, k]
        for j in range(k + 1, width):
            total -= matrix[k, j] * vector[0, j]
        vector[0, k] = total / matrix[k, k]


@parallel_kernel(
    "void(int64[::1], int32[::1], float32[::1], float32[:, ::1], float64[:, ::1], float64, float64, float64,"
    " float64[:, ::1])",
    over=lambda indptr, *_: indptr,
)
def solve_users(begin, end, indptr, items, weights, table, base, offset, reg, nu, users):  # type: ignore[no-untyped-def]
    """users[c] = (base + Σ w y yᵀ + reg · (n + offset)^nu · I)⁻¹ Σ w y over the rows y [d] of `table` at c's n items.

    Weights w are all 1 where `weights` is empty. A client without items gets zeros, one whose matrix is not positive
    definite NaN.
    """
    d = table.shape[1]
    width = -(-d // EIGHT) * EIGHT
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        users[client] = 0.0
        if stop > start:
            matrix, vector, rows = np.zeros((width, width)), np.zeros((1, width)), np.zeros((_BLOCK, width))
            for k in range(d):
                for j in range(d):
                    matrix[k, j] = base[k, j]
            for low in range(start, stop, _BLOCK):
                places = min(_BLOCK, stop - low)
                for place in range(places):
                    source = table[items[low + place]]
                    root = np.sqrt(np.float64(weights[low + place])) if len(weights) else 1.0
                    for k in range(d):
                        rows[place, k] = root * source[k]
                    row_step(vector, 0, rows, place, root, 0)
                for k in range(0, width, 4):
                    for j in range(k - k % EIGHT, width, EIGHT):
                        rank_tile(matrix, k, j, rows, 0, places, 1.0)
            pull = reg * (np.float64(stop - start) + offset) ** nu
            for k in range(width):
                matrix[k, k] += pull
            cholesky_solve(matrix, vector)
            for k in range(d):
                users[client, k] = vector[0, k]


@parallel_kernel("void(float64[:, ::1], float64[:, ::1])", over=lambda users, out: len(users))
def outer_rows(begin, end, users, out):  # type: ignore[no-untyped-def]
    """out[c] = [vech(u uᵀ), u] for the row u [d] of `users`."""
    d = users.shape[1]
    for client in range(begin, end):
        user = users[client]
        row = out[client]
        base = 0
        for k in range(d):
            for j in range(k, d):
                row[base + j - k] = user[k] * user[j]
            base += d - k
        for k in range(d):
            row[base + k] = user[k]


@parallel_kernel(
    "void(int64[::1], int32[::1], float32[:, ::1], float64[:, ::1], float64, float32[:, ::1])",
    over=lambda indptr, *_: indptr,
)
def item_pulls(begin, end, indptr, items, table, users, alpha, out):  # type: ignore[no-untyped-def]
    """out[e] = [(1 + alpha) − alpha ⟨u, y⟩] u for the row y [d] of `table` at entry e of the client with factor u."""
    d = table.shape[1]
    for client in range(begin, end):
        user = users[client]
        for entry in range(indptr[client], indptr[client + 1]):
            row = table[items[entry]]
            score = 0.0
            for k in range(d):
                score += user[k] * row[k]
            weight = 1.0 + alpha - alpha * score
            for k in range(d):
                out[entry, k] = np.float32(weight * user[k])


def _solve_items(begin, end, equations, counts, grid, base, offset, reg, nu, table):  # type: ignore[no-untyped-def]
    d = table.shape[1]
    size = d * (d + 1) // 2
    width = -(-d // EIGHT) * EIGHT
    for item in range(begin, end):
        if counts[item] > 0.0:
            row = equations[item]
            matrix, vector = np.zeros((width, width)), np.zeros((1, width))
            place = 0
            for k in range(d):
                for j in range(k, d):
                    matrix[k, j] = base[k, j] + row[place + j - k] * grid
                place += d - k
                vector[0, k] = row[size + k] * grid
            pull = reg * (counts[item] + offset) ** nu
            for k in range(width):
                matrix[k, k] += pull
            cholesky_solve(matrix, vector)
            for k in range(d):
                table[item, k] = np.float32(vector[0, k])


solve_items = {
    ring: parallel_kernel(
        f"void(int{ring}[:, ::1], float64[::1], float64, float64[:, ::1], float64, float64, float64, float32[:, ::1])",
        over=lambda equations, *_: len(equations),
    )(_solve_items)
    for ring in (32, 64)
}
"""table[i] = (base + M + reg · (counts[i] + offset)^nu · I)⁻¹ b where grid · equations[i] is [vech(M), b].

Rows of `table` whose count is 0 stay as they are; a row whose matrix is not positive definite becomes NaN.
"""


@parallel_kernel("void(float32[:, ::1], float64[:, ::1])", over=lambda table, out: len(out))
def gram_of_rows(begin, end, table, out):  # type: ignore[no-untyped-def]
    """out [d, d] = Σ y yᵀ over the rows y of `table`, in the order of the rows."""
    d = table.shape[1]
    for k in range(begin, end):
        target = out[k]
        target[:] = 0.0
        for row in range(table.shape[0]):
            factor = np.float64(table[row, k])
            for j in range(d):
                target[j] += factor * np.float64(table[row, j])
