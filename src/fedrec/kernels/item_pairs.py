"""Adding the pairs of items that stand near each other in clients' histories: weights fade from row to row.

A pair weighs a product of floats that is taken in the order of its client's rows. What a client adds at a coordinate is
cut at the bound and rounded to the grid; integers are added, and a thread owns whole rows of the sum. So the sum has
the same bits for any number of threads, nodes and chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from fedrec.kernels.fixed_point import fixed
from fedrec.kernels.records import record, takes
from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["Fades", "add_pairs", "faded_weights", "fades_of_days", "later_prefixes", "pair_norms"]

_FAINT = 1e-4
"""A pair that weighs less, and all that are further apart, are left out."""


class Fades(NamedTuple):
    """Rows of clients, and how weights fade between them.

    Args:
        indptr: [c + 1] int64.
        items: [rows] int32, oldest first; an item may come again.
        ahead: [rows] float64, factor on a weight that goes on to a row from the row before it.
        behind: [rows] float64, factor on a weight that goes back from a row to the row before it.
        later: [rows] float64, weight of a pair whose later member the row is, before it fades.
        onwards: [rows] float64, what a row keeps of the weight of the row before it as something that comes next; empty
            where pairs are not of an item and what comes next.
    """

    indptr: np.ndarray
    items: np.ndarray
    ahead: np.ndarray
    behind: np.ndarray
    later: np.ndarray
    onwards: np.ndarray


FADES = record(Fades, "int64[::1], int32[::1], float64[::1], float64[::1], float64[::1], float64[::1]")
_COLUMNS = "int64[::1], int64[::1], int64[::1]"
"""Rows by item: `item_indptr` [items + 1], and per entry its client `holder` [rows] and its row `source` [rows]."""


@kernel("void(int64[::1], float64[::1], float64[::1], float64[::1])")
def later_prefixes(indptr, ahead, behind, out):  # type: ignore[no-untyped-def]
    """out [rows] = Σ over prefixes t that end at the row or later of Π over the rows between of ahead · behind.

    The last row of a client ends no prefix, as nothing comes next: its sum is 0.
    """
    for client in range(len(indptr) - 1):
        total = 0.0
        for row in range(indptr[client + 1] - 1, indptr[client] - 1, -1):
            out[row] = total
            total = 1.0 + ahead[row] * behind[row] * total
            # `total` is of the row before, whose prefix ends just before this row.


@numba.njit(error_model="numpy", nogil=True)
def _pairs_of(fades, client, row, least, columns, amounts):  # type: ignore[no-untyped-def]
    """Write items ≥ `least` that `row` makes pairs with, and the weights; returns how many."""
    start, stop = fades.indptr[client], fades.indptr[client + 1]
    count = 0
    weight = 1.0
    if len(fades.onwards):
        following = 0.0
        for other in range(row + 1, stop):
            following = fades.onwards[other] * following + weight
            weight *= fades.ahead[other]
            if following < _FAINT:
                break
            columns[count] = fades.items[other]
            amounts[count] = following
            count += 1
        return count
    for other in range(row, stop):
        if other > row:
            weight *= fades.ahead[other]
        if weight < _FAINT:
            break
        columns[count] = fades.items[other]
        amounts[count] = weight * fades.later[other]
        count += np.int64(fades.items[other] >= least)
    weight = fades.later[row]
    for other in range(row - 1, start - 1, -1):
        weight *= fades.behind[other + 1]
        if weight < _FAINT * fades.later[row]:
            break
        columns[count] = fades.items[other]
        amounts[count] = weight
        count += np.int64(fades.items[other] >= least)
    return count


def _add_pairs(  # type: ignore[no-untyped-def]
    begin, end, out, triangle, again, fades, item_indptr, holder, source, factors, bound, unit, over, longest
):
    workers = len(over)
    n_items = len(item_indptr) - 1
    for worker in range(begin, end):
        columns = np.empty(longest + 1, dtype=np.int64)
        amounts = np.empty(longest + 1, dtype=np.float64)
        together = np.zeros(n_items, dtype=np.float64)
        saturated = 0
        for item in range(worker, n_items, workers):
            base = item * n_items - (item * (item + 1) // 2 if triangle else 0)
            least = item if triangle else 0
            first, last = item_indptr[item], item_indptr[item + 1]
            for entry in range(first, last):
                client = holder[entry]
                factor = factors[client]
                if factor == 0.0:
                    continue
                count = _pairs_of(fades, client, source[entry], least, columns, amounts)
                if not again:
                    for place in range(count):
                        amount, beyond = fixed(amounts[place], factor, bound, unit)
                        out[base + columns[place]] += out.dtype.type(amount)
                        saturated += beyond
                    continue
                # All of a client's pairs of two items are one number.
                for place in range(count):
                    together[columns[place]] += amounts[place]
                if entry + 1 < last and holder[entry + 1] == client:
                    continue
                for other in range(fades.indptr[client], fades.indptr[client + 1]):
                    column = fades.items[other]
                    if together[column] != 0.0:
                        amount, beyond = fixed(together[column], factor, bound, unit)
                        out[base + column] += out.dtype.type(amount)
                        saturated += beyond
                        together[column] = 0.0
        over[worker] += saturated


add_pairs = {
    ring: parallel_kernel(
        takes(
            f"int{ring}[::1], boolean, boolean", FADES, _COLUMNS, "float64[::1], float64, float64, int64[::1], int64"
        ),
        over=lambda *arguments: len(arguments[-2]),
    )(_add_pairs)
    for ring in (32, 64)
}
"""out += Σ fixed(pairs of client c · factors[c]): items × items by rows, or the upper `triangle` of it. `again` says
that an item of some client comes again, `longest` is the most rows of a client, and `over` [workers] counts
saturations."""


@kernel(takes("boolean", FADES, _COLUMNS, "int64, float64[::1]"))
def pair_norms(triangle, fades, item_indptr, holder, source, longest, out):  # type: ignore[no-untyped-def]
    """Add each client's Σ over coordinates of value² to `out` [c], in a fixed order."""
    n_items = len(item_indptr) - 1
    columns = np.empty(longest + 1, dtype=np.int64)
    amounts = np.empty(longest + 1, dtype=np.float64)
    together = np.zeros(n_items, dtype=np.float64)
    for item in range(n_items):
        first, last = item_indptr[item], item_indptr[item + 1]
        for entry in range(first, last):
            client = holder[entry]
            count = _pairs_of(fades, client, source[entry], item if triangle else 0, columns, amounts)
            for place in range(count):
                together[columns[place]] += amounts[place]
            if entry + 1 < last and holder[entry + 1] == client:
                continue
            for other in range(fades.indptr[client], fades.indptr[client + 1]):
                column = fades.items[other]
                out[client] += together[column] * together[column]
                together[column] = 0.0


@kernel("void(int64[::1], float64[::1], float32[::1])")
def faded_weights(indptr, fades, out):  # type: ignore[no-untyped-def]
    """out [rows] = Π of `fades` [rows] over all later rows of the client: 1 for its last row."""
    for client in range(len(indptr) - 1):
        weight = 1.0
        for row in range(indptr[client + 1] - 1, indptr[client] - 1, -1):
            out[row] = np.float32(weight)
            weight *= fades[row]


@kernel("void(int64[::1], float64[::1], float64, float64[::1])")
def fades_of_days(indptr, days, decay, out):  # type: ignore[no-untyped-def]
    """out [rows] = decay^max(1, days since the client's row before it); `days` [rows] are times."""
    for client in range(len(indptr) - 1):
        for row in range(indptr[client], indptr[client + 1]):
            length = 1.0 if row == indptr[client] else max(1.0, days[row] - days[row - 1])
            out[row] = decay**length
