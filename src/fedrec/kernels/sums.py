"""Adding contributions to integer sums. Integer addition wraps and has no order: any thread count gives the same bits.

Accumulators are signed views of the ring (`int32` for 2^32, `int64` for 2^64); a thread owns the rows it writes.
"""

from __future__ import annotations

import numpy as np

from fedrec.kernels.fixed_point import fixed, fixed_row
from fedrec.kernels.item_columns import item_columns
from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = [
    "add_dense",
    "add_rank_one",
    "add_rows",
    "add_triangle",
    "by_item",
    "finite_rows",
    "fixed_rows",
    "squared_norms",
]


@kernel("void(int64[::1], int32[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int32[::1])")
def by_item(indptr, items, item_indptr, cursor, holder, source, place, ordered):  # type: ignore[no-untyped-def]
    """Turn client rows into item columns, and sort every client's items on the way.

    Args: `indptr` [c + 1], `items` [n] in, `cursor` [max(items, c)] scratch; out: `item_indptr` [items + 1], and per
    column entry the client `holder` [n], the row `source` [n] that it comes from, and the place [n] of the item among
    the client's `ordered` items [n].
    """
    item_columns(indptr, items, item_indptr, cursor, holder, source)
    for client in range(len(indptr) - 1):
        cursor[client] = indptr[client]
    for item in range(len(item_indptr) - 1):
        for entry in range(item_indptr[item], item_indptr[item + 1]):
            client = holder[entry]
            place[entry] = cursor[client]
            ordered[cursor[client]] = item
            cursor[client] += 1


def _add_triangle(begin, end, out, indptr, ordered, item_indptr, holder, place, weights):  # type: ignore[no-untyped-def]
    n_items = len(item_indptr) - 1
    for item in range(begin, end):
        base = item * n_items - item * (item + 1) // 2
        for entry in range(item_indptr[item], item_indptr[item + 1]):
            client = holder[entry]
            weight = out.dtype.type(weights[client])
            for other in range(place[entry], indptr[client + 1]):
                out[base + ordered[other]] += weight


def _add_rank_one(begin, end, out, item_indptr, holder, right):  # type: ignore[no-untyped-def]
    for item in range(begin, end):
        target = out[item]
        for entry in range(item_indptr[item], item_indptr[item + 1]):
            source = right[holder[entry]]
            for column in range(len(target)):
                target[column] += source[column]


def _fixed_rows(begin, end, out, values, factors, bound, unit, over):  # type: ignore[no-untyped-def]
    for row in range(begin, end):
        out[row] = 0
        over[row] = 0
        if factors[row] != 0.0:
            over[row] = fixed_row(out[row], values[row], factors[row], bound, unit)


def _add_rows(begin, end, out, indptr, rows, values, factors, bound, unit, over):  # type: ignore[no-untyped-def]
    workers = len(over)
    for worker in range(begin, end):
        saturated = np.int64(0)
        for client in range(len(indptr) - 1):
            factor = factors[client]
            if factor == 0.0:
                continue
            for entry in range(indptr[client], indptr[client + 1]):
                row = np.uint32(rows[entry])
                if row % np.uint32(workers) != worker:
                    continue
                saturated += fixed_row(out[row], values[entry], factor, bound, unit)
        over[worker] += saturated


def _add_dense(begin, end, out, values, factors, bound, unit, over):  # type: ignore[no-untyped-def]
    workers = len(over)
    width = len(out)
    for worker in range(begin, end):
        saturated = 0
        for client in range(values.shape[0]):
            factor = factors[client]
            if factor == 0.0:
                continue
            for column in range(worker * width // workers, (worker + 1) * width // workers):
                amount, beyond = fixed(values[client, column], factor, bound, unit)
                out[column] += out.dtype.type(amount)
                saturated += beyond
        over[worker] += saturated


_CSR = "int64[::1], int32[::1]"
_COLUMNS = "int64[::1], int64[::1]"
add_triangle = {
    ring: parallel_kernel(
        f"void(int{ring}[::1], {_CSR}, {_COLUMNS}, int64[::1], int64[::1])",
        over=lambda out, indptr, ordered, item_indptr, *_: item_indptr,
    )(_add_triangle)
    for ring in (32, 64)
}
"""out [m (m + 1) / 2] += Σ weights[c] · x_c x_cᵀ, upper triangle by rows; `weights` [c] are integers."""
add_rank_one = {
    ring: parallel_kernel(
        f"void(int{ring}[:, ::1], {_COLUMNS}, int{ring}[:, ::1])",
        over=lambda out, item_indptr, *_: item_indptr,
    )(_add_rank_one)
    for ring in (32, 64)
}
"""out [m, r] += Σ x_c ⊗ right[c], all integers."""
fixed_rows = {
    ring: parallel_kernel(
        f"void(int{ring}[:, ::1], float64[:, ::1], float64[::1], float64, float64, int64[::1])",
        over=lambda out, *_: len(out),
    )(_fixed_rows)
    for ring in (32, 64)
}
"""out [c, r] = fixed(values[c] · factors[c]), 0 where the factor is 0; `over` [c] counts saturations."""
add_rows = {
    ring: parallel_kernel(
        f"void(int{ring}[:, ::1], {_CSR}, float32[:, ::1], float64[::1], float64, float64, int64[::1])",
        over=lambda *arguments: len(arguments[-1]),
    )(_add_rows)
    for ring in (32, 64)
}
"""out [m, d] += Σ fixed(values · factors[c]) at the rows each client touched; `over` [workers] counts saturations."""
add_dense = {
    ring: parallel_kernel(
        f"void(int{ring}[::1], float32[:, ::1], float64[::1], float64, float64, int64[::1])",
        over=lambda *arguments: len(arguments[-1]),
    )(_add_dense)
    for ring in (32, 64)
}
"""out [n] += Σ fixed(values[c] · factors[c]); `over` [workers] counts saturations."""


@parallel_kernel("void(int64[::1], float32[:, ::1], boolean[::1])", over=lambda indptr, *_: indptr)
def finite_rows(begin, end, indptr, values, out):  # type: ignore[no-untyped-def]
    """Clear `out` [c] where any of a client's values is NaN or infinite: where all bits of its exponent are set."""
    ones = np.uint32(0x7F800000)
    width = values.shape[1]
    bits = values.reshape(-1).view(np.uint32)
    for client in range(begin, end):
        unfinite = np.int32(0)
        for place in range(indptr[client] * width, indptr[client + 1] * width):
            unfinite |= np.int32((bits[place] & ones) == ones)
        if unfinite != 0:
            out[client] = False


@kernel("void(int64[::1], float32[:, ::1], float64[::1])")
def squared_norms(indptr, values, out):  # type: ignore[no-untyped-def]
    """Add each client's Σ value² to `out` [c], in a fixed order."""
    for client in range(len(indptr) - 1):
        total = 0.0
        for entry in range(indptr[client], indptr[client + 1]):
            for column in range(values.shape[1]):
                value = np.float64(values[entry, column])
                total += value * value
        out[client] += total
