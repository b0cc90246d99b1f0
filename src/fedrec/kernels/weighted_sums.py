"""Adding contributions whose interactions weigh unlike much: as `fedrec.kernels.sums`, with a factor per interaction.

What a client adds at a coordinate is one product of floats, taken in a fixed order, cut at the bound and rounded to the
grid; integers are added. So the sum has the same bits for any number of threads, nodes and chunks.
"""

from __future__ import annotations

import numpy as np

from fedrec.kernels.fixed_point import fixed, fixed_row
from fedrec.kernels.threads import parallel_kernel

__all__ = ["add_weighted_rank_one", "add_weighted_triangle"]


def _add_weighted_triangle(  # type: ignore[no-untyped-def]
    begin, end, out, indptr, ordered, values, item_indptr, holder, place, factors, bound, unit, over
):
    n_items = len(item_indptr) - 1
    for item in range(begin, end):
        base = item * n_items - item * (item + 1) // 2
        saturated = 0
        for entry in range(item_indptr[item], item_indptr[item + 1]):
            client = holder[entry]
            own = place[entry]
            factor = factors[client] * np.float64(values[own])
            if factor == 0.0:
                continue
            for other in range(own, indptr[client + 1]):
                amount, beyond = fixed(values[other], factor, bound, unit)
                out[base + ordered[other]] += out.dtype.type(amount)
                saturated += beyond
        over[item] = saturated


def _add_weighted_rank_one(  # type: ignore[no-untyped-def]
    begin, end, out, values, item_indptr, holder, source, right, factors, bound, unit, over
):
    for item in range(begin, end):
        saturated = np.int64(0)
        for entry in range(item_indptr[item], item_indptr[item + 1]):
            client = holder[entry]
            factor = factors[client] * np.float64(values[source[entry]])
            if factor != 0.0:
                saturated += fixed_row(out[item], right[client], factor, bound, unit)
        over[item] = saturated


_GRID = "float64[::1], float64, float64, int64[::1]"
add_weighted_triangle = {
    ring: parallel_kernel(
        f"void(int{ring}[::1], int64[::1], int32[::1], float32[::1], int64[::1], int64[::1], int64[::1], {_GRID})",
        over=lambda out, indptr, ordered, values, item_indptr, *_: item_indptr,
    )(_add_weighted_triangle)
    for ring in (32, 64)
}
"""out [m (m + 1) / 2] += Σ fixed(factors[c] · x_c x_cᵀ), upper triangle by rows, where x_c has the client's `values`
[n] at its `ordered` items [n]; `over` [m] counts saturations."""
add_weighted_rank_one = {
    ring: parallel_kernel(
        f"void(int{ring}[:, ::1], float32[::1], int64[::1], int64[::1], int64[::1], float64[:, ::1], {_GRID})",
        over=lambda out, values, item_indptr, *_: item_indptr,
    )(_add_weighted_rank_one)
    for ring in (32, 64)
}
"""out [m, r] += Σ fixed(factors[c] · x_c ⊗ right[c]), where x_c has `values` [n] at the client's rows; `over` [m]
counts saturations."""
