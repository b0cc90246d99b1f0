"""Prefixes of clients' histories in a basis of few columns, and sums over them, each client in an order of its own."""

from __future__ import annotations

import numba
import numpy as np

from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = [
    "backward_rows",
    "forward_rows",
    "prefix_gram",
    "prefix_lengths",
    "prefix_squares",
    "project_following",
    "project_prefixes",
]


@numba.njit(error_model="numpy", nogil=True)
def _add_eight(target, rows):  # type: ignore[no-untyped-def]
    """target += upper triangle of Σ z zᵀ over eight rows z, in one pass over the triangle."""
    base = np.int64(0)
    for left in range(rows.shape[1]):
        z0, z1, z2, z3 = rows[0, left:], rows[1, left:], rows[2, left:], rows[3, left:]
        z4, z5, z6, z7 = rows[4, left:], rows[5, left:], rows[6, left:], rows[7, left:]
        a0, a1, a2, a3, a4, a5, a6, a7 = z0[0], z1[0], z2[0], z3[0], z4[0], z5[0], z6[0], z7[0]
        part = target[base : base + len(z0)]
        for column in range(len(z0)):
            low = (a0 * z0[column] + a1 * z1[column]) + (a2 * z2[column] + a3 * z3[column])
            high = (a4 * z4[column] + a5 * z5[column]) + (a6 * z6[column] + a7 * z7[column])
            part[column] += low + high
        base += len(z0)


@parallel_kernel(
    "void(int64[::1], int32[::1], float64[::1], float32[:, ::1], int64, float32[:, ::1])",
    over=lambda indptr, *_: indptr,
)
def project_prefixes(begin, end, indptr, items, fades, table, first, out):  # type: ignore[no-untyped-def]
    """out [rows, from `first`] = table rows of the client's items up to the row, each faded by `fades` of all rows
    behind it: z = fade · z + table[item]."""
    width = table.shape[1]
    for client in range(begin, end):
        held = np.zeros(width, dtype=np.float64)
        for row in range(indptr[client], indptr[client + 1]):
            fade = fades[row]
            for column in range(width):
                held[column] = fade * held[column] + np.float64(table[items[row], column])
                out[row, first + column] = np.float32(held[column])


@parallel_kernel("void(int64[::1], float64[::1], float32[:, ::1], float32[:, ::1])", over=lambda indptr, *_: indptr)
def backward_rows(begin, end, indptr, fades, prefixes, out):  # type: ignore[no-untyped-def]
    """out [rows] = Σ of `prefixes` [rows] that end at the row or later, each faded by the rows between; a client's last
    row ends no prefix."""
    width = prefixes.shape[1]
    for client in range(begin, end):
        held = np.zeros(width, dtype=np.float64)
        for row in range(indptr[client + 1] - 1, indptr[client] - 1, -1):
            if row == indptr[client + 1] - 1:
                for column in range(width):
                    out[row, column] = np.float32(0.0)
                continue
            fade = fades[row + 1]
            for column in range(width):
                held[column] = fade * held[column] + np.float64(prefixes[row, column])
                out[row, column] = np.float32(held[column])


@parallel_kernel("void(int64[::1], float64[::1], float32[:, ::1], float32[:, ::1])", over=lambda indptr, *_: indptr)
def forward_rows(begin, end, indptr, onwards, prefixes, out):  # type: ignore[no-untyped-def]
    """out [rows] = Σ of `prefixes` [rows] that end before the row, each less by `onwards` of all rows between."""
    width = prefixes.shape[1]
    for client in range(begin, end):
        held = np.zeros(width, dtype=np.float64)
        for row in range(indptr[client], indptr[client + 1]):
            onward = onwards[row]
            for column in range(width):
                if row > indptr[client]:
                    held[column] = onward * held[column] + np.float64(prefixes[row - 1, column])
                out[row, column] = np.float32(held[column])


@parallel_kernel("void(int64[::1], float32[:, ::1], float32[:, ::1])", over=lambda indptr, *_: indptr)
def prefix_gram(begin, end, indptr, prefixes, out):  # type: ignore[no-untyped-def]
    """out [c, n (n + 1) / 2] = upper triangle by rows of Σ z zᵀ over the client's `prefixes` z [rows, n], but its last
    row's."""
    for client in range(begin, end):
        target = out[client]
        target[:] = np.float32(0.0)
        start, stop = indptr[client], indptr[client + 1] - 1
        whole = start + max(stop - start, 0) // 8 * 8
        for row in range(start, whole, 8):
            _add_eight(target, prefixes[row : row + 8])
        for row in range(whole, stop):
            base, one = np.int64(0), prefixes[row]
            for left in range(len(one)):
                other = one[left:]
                part = target[base : base + len(other)]
                for column in range(len(other)):
                    part[column] += other[0] * other[column]
                base += len(other)


@kernel("void(int64[::1], float64[::1], float32[:, ::1], int64)")
def prefix_squares(indptr, fades, out, column):  # type: ignore[no-untyped-def]
    """out [c, column] = Σ over the client's prefixes of squared length, of distinct items that weigh 1 and fade."""
    for client in range(len(indptr) - 1):
        square, total = 0.0, 0.0
        for row in range(indptr[client], indptr[client + 1] - 1):
            square = fades[row] * fades[row] * square + 1.0
            total += square
        out[client, column] = np.float32(total)


@kernel("void(int64[::1], float64[::1], float64[::1])")
def prefix_lengths(indptr, fades, out):  # type: ignore[no-untyped-def]
    """out [rows] = length of the prefix that ends at the row, of distinct items that weigh 1 and fade."""
    for client in range(len(indptr) - 1):
        square = 0.0
        for row in range(indptr[client], indptr[client + 1]):
            square = fades[row] * fades[row] * square + 1.0
            out[row] = np.sqrt(square)


@parallel_kernel(
    "void(int64[::1], int32[::1], float64[::1], float32[:, ::1], int64, float32[:, ::1])",
    over=lambda indptr, *_: indptr,
)
def project_following(begin, end, indptr, items, onwards, table, first, out):  # type: ignore[no-untyped-def]
    """out [rows, from `first`] = table rows of what comes after the row, the next item whole and every further one less
    by `onwards` of all rows between."""
    width = table.shape[1]
    for client in range(begin, end):
        held = np.zeros(width, dtype=np.float64)
        for row in range(indptr[client + 1] - 1, indptr[client] - 1, -1):
            onward = onwards[row + 1] if row + 1 < indptr[client + 1] else 0.0
            for column in range(width):
                out[row, first + column] = np.float32(held[column])
                held[column] = onward * held[column] + np.float64(table[items[row], column])
