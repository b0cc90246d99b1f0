"""Adding outer products to integer sums: what clients that move table rows along a few vectors contribute."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["add_products", "finite_products", "product_norms"]


def _add_products(  # type: ignore[no-untyped-def]
    begin, end, parts, client_indptr, indptr, rows, weights, factors, unit, limit, vectors, bounds, over
):
    """Client c has the pieces from `client_indptr[c]` on, piece p the entries from `indptr[p]` on."""
    width = vectors.shape[1]
    for worker in range(begin, end):
        out = parts[worker]
        spent = np.zeros(out.shape[0], dtype=np.int64)
        holder = np.full(out.shape[0], -1, dtype=np.int64)
        saturated = 0
        for client in range(bounds[worker], bounds[worker + 1]):
            factor = factors[client]
            if factor == 0.0:
                continue
            for piece in range(client_indptr[client], client_indptr[client + 1]):
                for entry in range(indptr[piece], indptr[piece + 1]):
                    row = rows[entry]
                    scaled = np.float64(weights[entry]) * factor * unit
                    amount = np.int64(np.rint(min(max(scaled, -np.float64(limit)), np.float64(limit))))
                    used = spent[row] if holder[row] == client else np.int64(0)
                    holder[row] = client
                    left = limit - used
                    if abs(scaled) > left:
                        amount = min(max(amount, -left), left)
                        saturated += width
                    spent[row] = used + abs(amount)
                    for column in range(width):
                        out[row, column] += out.dtype.type(amount * np.int64(vectors[piece, column]))
        over[worker] += saturated


add_products = {
    ring: parallel_kernel(
        f"void(int{ring}[:, :, ::1], int64[::1], int64[::1], int32[::1], float32[::1], float64[::1], float64, int64,"
        " int32[:, ::1], int64[::1], int64[::1])",
        over=lambda *arguments: len(arguments[-1]),
    )(_add_products)
    for ring in (32, 64)
}
"""parts[w] [m, d] += Σ rint(weights · factors[c] · unit) ⊗ vectors[piece], integers, over worker w's clients
`bounds[w]:bounds[w + 1]`; a client's weights on a row come to at most `limit`. `over` [workers] counts saturated
coordinates."""


@kernel("void(int64[::1], int64[::1], float32[::1], float32[:, ::1], boolean[::1])")
def finite_products(client_indptr, indptr, weights, vectors, out):  # type: ignore[no-untyped-def]
    """Clear `out` [c] where any weight or vector of a client is NaN or infinite."""
    for client in range(len(client_indptr) - 1):
        total = np.float32(0.0)
        first, last = client_indptr[client], client_indptr[client + 1]
        for entry in range(indptr[first], indptr[last]):
            if not np.isfinite(weights[entry]):
                total += np.float32(1.0)
        for piece in range(first, last):
            for column in range(vectors.shape[1]):
                if not np.isfinite(vectors[piece, column]):
                    total += np.float32(1.0)
        if total > 0:
            out[client] = False


@kernel("void(int64[::1], int64[::1], int32[::1], float32[::1], float32[:, ::1], int64, float64[::1])")
def product_norms(client_indptr, indptr, rows, weights, vectors, n_rows, out):  # type: ignore[no-untyped-def]
    """out [c] = squared norm of Σ over pieces of (Σ weights · e_row) ⊗ vector, in a fixed order."""
    width = vectors.shape[1]
    slot = np.empty(n_rows, dtype=np.int64)
    holder = np.full(n_rows, -1, dtype=np.int64)
    most = 0
    for client in range(len(client_indptr) - 1):
        most = max(most, indptr[client_indptr[client + 1]] - indptr[client_indptr[client]])
    table = np.empty((min(most, n_rows), width), dtype=np.float64)
    for client in range(len(client_indptr) - 1):
        used = 0
        for piece in range(client_indptr[client], client_indptr[client + 1]):
            for entry in range(indptr[piece], indptr[piece + 1]):
                row = rows[entry]
                if holder[row] != client:
                    holder[row] = client
                    slot[row] = used
                    table[used, :] = 0.0
                    used += 1
                weight = np.float64(weights[entry])
                for column in range(width):
                    table[slot[row], column] += weight * np.float64(vectors[piece, column])
        total = 0.0
        for place in range(used):
            for column in range(width):
                total += table[place, column] * table[place, column]
        out[client] = total
