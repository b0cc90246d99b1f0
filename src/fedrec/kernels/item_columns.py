"""Adding to the rows of a sum item by item, from columns of the clients that have it.

Products that provably stay within their bound are added as floats, several at a time: floats that are whole numbers
have exact sums below 2⁵³, in any order.
"""

from __future__ import annotations

import numpy as np

from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["add_exact_rank_one", "add_marks", "item_columns"]


@kernel("void(int64[::1], int32[::1], int64[::1], int64[::1], int64[::1], int64[::1])")
def item_columns(indptr, items, item_indptr, cursor, holder, source):  # type: ignore[no-untyped-def]
    """Turn client rows into item columns.

    Args: `indptr` [c + 1], `items` [n] in, `cursor` [items] scratch; out: `item_indptr` [items + 1], and per column
    entry the client `holder` [n] and the row `source` [n] that it comes from.
    """
    n_items = len(item_indptr) - 1
    item_indptr[:] = 0
    for entry in range(len(items)):
        item_indptr[items[entry] + 1] += 1
    for item in range(n_items):
        item_indptr[item + 1] += item_indptr[item]
        cursor[item] = item_indptr[item]
    for client in range(len(indptr) - 1):
        for entry in range(indptr[client], indptr[client + 1]):
            column = cursor[items[entry]]
            holder[column] = client
            source[column] = entry
            cursor[items[entry]] = column + 1


def _add_marks(out, indptr, items, right):  # type: ignore[no-untyped-def]
    for client in range(len(indptr) - 1):
        for entry in range(indptr[client], indptr[client + 1]):
            out[items[entry], 0] += right[client, 0]


add_marks = {
    ring: kernel(f"void(int{ring}[:, ::1], int64[::1], int32[::1], int{ring}[:, ::1])")(_add_marks) for ring in (32, 64)
}
"""out [m, 1] += Σ x_c right[c], all integers, where x_c marks the client's items."""


def _add_exact_rank_one(  # type: ignore[no-untyped-def]
    begin, end, out, values, item_indptr, holder, source, right, factors, unit
):
    width = out.shape[1]
    total = np.zeros(width)
    for item in range(begin, end):
        total[:] = 0.0
        first, last = item_indptr[item], item_indptr[item + 1]
        whole = last - (last - first) % 4
        for entry in range(first, whole, 4):
            one, two, three, four = holder[entry], holder[entry + 1], holder[entry + 2], holder[entry + 3]
            a = factors[one] * np.float64(values[source[entry]]) * unit
            b = factors[two] * np.float64(values[source[entry + 1]]) * unit
            c = factors[three] * np.float64(values[source[entry + 2]]) * unit
            d = factors[four] * np.float64(values[source[entry + 3]]) * unit
            left, right_of, third, fourth = right[one], right[two], right[three], right[four]
            for column in range(width):
                total[column] += (np.rint(left[column] * a) + np.rint(right_of[column] * b)) + (
                    np.rint(third[column] * c) + np.rint(fourth[column] * d)
                )
        for entry in range(whole, last):
            factor = factors[holder[entry]] * np.float64(values[source[entry]]) * unit
            row = right[holder[entry]]
            for column in range(width):
                total[column] += np.rint(row[column] * factor)
        for column in range(width):
            out[item, column] += out.dtype.type(np.int64(total[column]))


add_exact_rank_one = {
    ring: parallel_kernel(
        f"void(int{ring}[:, ::1], float32[::1], int64[::1], int64[::1], int64[::1], float64[:, ::1], float64[::1],"
        " float64)",
        over=lambda out, values, item_indptr, *_: item_indptr,
    )(_add_exact_rank_one)
    for ring in (32, 64)
}
"""As `weighted_sums.add_weighted_rank_one`, and the same bits, where no product exceeds its bound and all of an item
come to less than 2⁵³ steps of the grid."""
