"""Local training of matrix factorisation: every client's own SGD over its own interactions and drawn negatives.

A worker keeps the rows its client touches in a compact table of its own; a client's arithmetic has one fixed order.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import prange

from fedrec.kernels.draws import draw_unmarked, mark_items, shuffle
from fedrec.kernels.threads import kernel

__all__ = ["local_sgd"]


@numba.njit(inline="always")
def _dot(left, right, length):  # type: ignore[no-untyped-def]
    """Inner product of the first `length` entries with eight accumulators, added in one fixed order."""
    a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = np.float32(0.0)
    whole = length - length % 8
    for k in range(0, whole, 8):
        a0 += left[k] * right[k]
        a1 += left[k + 1] * right[k + 1]
        a2 += left[k + 2] * right[k + 2]
        a3 += left[k + 3] * right[k + 3]
        a4 += left[k + 4] * right[k + 4]
        a5 += left[k + 5] * right[k + 5]
        a6 += left[k + 6] * right[k + 6]
        a7 += left[k + 7] * right[k + 7]
    rest = np.float32(0.0)
    for k in range(whole, length):
        rest += left[k] * right[k]
    return ((a0 + a4) + (a2 + a6)) + ((a1 + a5) + (a3 + a7)) + rest


@numba.njit(inline="always")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return np.float32(1.0) / (np.float32(1.0) + np.float32(math.exp(-x)))


@numba.njit(inline="always")
def _fetch(table, local, slot_of, owner, rows, mark, item, used):  # type: ignore[no-untyped-def]
    """The client's own copy of an item's row: (slot, rows used so far)."""
    if owner[item] == mark:
        return slot_of[item], used
    owner[item] = mark
    slot_of[item] = used
    rows[used] = item
    for column in range(table.shape[1]):
        local[used, column] = table[item, column]
    return used, used + 1


@numba.njit(inline="always")
def _move(user, row, error, rate, reg, d, learn_items):  # type: ignore[no-untyped-def]
    """One SGD step on a user factor and an item row whose score has gradient `error`."""
    for k in range(d):
        u, v = user[k], row[k]
        user[k] = u - rate * (error * v + reg * u)
        if learn_items:
            row[k] = v - rate * (error * u + reg * v)
    if learn_items:
        row[d] -= rate * (error + reg * row[d])


@kernel(
    "void(int64[::1], int32[::1], int64[::1], int32[::1], uint64[::1], float32[:, ::1], float32[:, ::1], float32,"
    " float32, int64, int64, boolean, boolean, int64[::1], int64[::1], int32[::1], float32[:, ::1], int64[::1])",
    parallel=True,
)
def local_sgd(  # type: ignore[no-untyped-def]
    indptr,
    items,
    excluded_indptr,
    excluded_items,
    seeds,
    table,
    users,
    rate,
    reg,
    epochs,
    negatives,
    pairwise,
    learn_items,
    bounds,
    out_indptr,
    out_rows,
    out_values,
    out_counts,
):
    """Train every client on its own rows; users [c, d] are updated in place.

    Args: CSR rows and excluded items of the clients; `seeds` [c]; `table` [items, d + 1] (factors and bias);
    `negatives` drawn per positive, outside history and excluded items; `pairwise` BPR instead of BCE; workers take the
    clients `bounds[w]:bounds[w + 1]`. With `learn_items`, client c's touched rows and changes go to
    `out_rows`, `out_values` from `out_indptr[c]` on, `out_counts[c]` of them, in order of first touch.
    """
    n_items, width = table.shape
    d = width - 1
    for worker in prange(len(bounds) - 1):
        most = 0
        for client in range(bounds[worker], bounds[worker + 1]):
            length = indptr[client + 1] - indptr[client]
            most = max(most, min(n_items, length * (1 + epochs * negatives)))
        local = np.empty((most, width), dtype=np.float32)
        rows = np.empty(most, dtype=np.int64)
        slot_of = np.empty(n_items, dtype=np.int64)
        owner = np.full(n_items, -1, dtype=np.int64)
        marks = np.full(n_items, -1, dtype=np.int64)
        order = np.empty(n_items, dtype=np.int64)
        for client in range(bounds[worker], bounds[worker + 1]):
            start, stop = indptr[client], indptr[client + 1]
            user = users[client]
            state = seeds[client]
            used = 0
            seen = mark_items(marks, client, items, start, stop)
            seen += mark_items(marks, client, excluded_items, excluded_indptr[client], excluded_indptr[client + 1])
            draws = negatives if seen < n_items else 0
            for _ in range(epochs):
                state = shuffle(state, order, stop - start)
                for place in range(stop - start):
                    item = items[start + order[place]]
                    positive, used = _fetch(table, local, slot_of, owner, rows, client, item, used)
                    if not pairwise:
                        score = _dot(user, local[positive], d) + local[positive, d]
                        _move(user, local[positive], _sigmoid(score) - np.float32(1.0), rate, reg, d, learn_items)
                    for _ in range(draws):
                        state, item = draw_unmarked(state, marks, client)
                        negative, used = _fetch(table, local, slot_of, owner, rows, client, item, used)
                        score = _dot(user, local[negative], d) + local[negative, d]
                        if not pairwise:
                            _move(user, local[negative], _sigmoid(score), rate, reg, d, learn_items)
                            continue
                        score -= _dot(user, local[positive], d) + local[positive, d]
                        error = _sigmoid(score)
                        for k in range(d):
                            u, p, n = user[k], local[positive, k], local[negative, k]
                            user[k] = u - rate * (error * (n - p) + reg * u)
                            if learn_items:
                                local[positive, k] = p - rate * (reg * p - error * u)
                                local[negative, k] = n - rate * (reg * n + error * u)
                        if learn_items:
                            local[positive, d] -= rate * (reg * local[positive, d] - error)
                            local[negative, d] -= rate * (reg * local[negative, d] + error)
            if learn_items:
                base = out_indptr[client]
                for slot in range(used):
                    out_rows[base + slot] = rows[slot]
                    for column in range(width):
                        out_values[base + slot, column] = local[slot, column] - table[rows[slot], column]
                out_counts[client] = used
