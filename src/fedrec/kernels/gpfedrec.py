"""A round of GPFedRec for many clients: a private user vector and network, an item table, and a pull to neighbours."""

from __future__ import annotations

from itertools import pairwise

import numba
import numpy as np

from fedrec.kernels.draws import mark_items
from fedrec.kernels.personal_draws import drawn_samples, residual
from fedrec.kernels.records import HISTORIES, ROWS, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = ["graph_round", "graph_scores", "network_size"]


def network_size(d: int) -> int:
    """Numbers of a network 2d → d → d / 2 → d / 4 → 1, biases included."""
    widths = (2 * d, d, d // 2, d // 4, 1)
    return sum((before + 1) * after for before, after in pairwise(widths))


@numba.njit(nogil=True, error_model="numpy")
def _forward(network, at, before, after, x, out):  # type: ignore[no-untyped-def]
    """out = bias + weightsᵀ x of the layer at `at`: `before` rows of `after` weights, then the biases."""
    for k in range(after):
        out[k] = network[at + before * after + k]
    for j in range(before):
        if x[j] != 0:
            for k in range(after):
                out[k] += x[j] * network[at + j * after + k]


@numba.njit(nogil=True, error_model="numpy")
def _backward(network, slopes, at, before, after, x, g, down):  # type: ignore[no-untyped-def]
    """Add the layer's slopes for output slopes `g`, and fill `down` with those of its input."""
    for k in range(after):
        slopes[at + before * after + k] += g[k]
    for j in range(before):
        total = np.float32(0.0)
        for k in range(after):
            slopes[at + j * after + k] += x[j] * g[k]
            total += network[at + j * after + k] * g[k]
        down[j] = total


@numba.njit(inline="always")
def _relu(x, n):  # type: ignore[no-untyped-def]
    for k in range(n):
        x[k] = max(x[k], np.float32(0.0))


@numba.njit(inline="always")
def _masked(g, x, n):  # type: ignore[no-untyped-def]
    for k in range(n):
        if x[k] <= 0:
            g[k] = np.float32(0.0)


@parallel_kernel(
    takes(
        HISTORIES,
        "float32[:, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, ::1], int64[::1], float32[::1], int64, int64,"
        " int64[::1]",
        ROWS,
        "float32[:, ::1], float32[::1]",
    ),
    over=lambda histories, *_: histories.indptr,
)
def graph_round(  # type: ignore[no-untyped-def]
    begin,
    end,
    histories,
    table,
    centres,
    users,
    networks,
    groups,
    settings,
    epochs,
    batch,
    sample_indptr,
    touched,
    out_changes,
    pulls,
):
    """Train `users` [c, d], `networks` [c, size] and copies of the item table; choose each client's group anew.

    Args: `histories`; `table` [items, d]; `centres` [groups, items, d], to which every row of a client of that group is
    pulled; `groups` [c], in and out; `settings`: rates of network, user and items, and what of the way to the centre a
    row goes in a batch; `sample_indptr` has the samples that a client draws in an epoch.
    Out: in `touched` the rows that a client touched, and in `out_changes` beside them what they differ by from rows
    that were pulled only; `pulls` [c], the way that those went.
    """
    indptr, items, excluded_indptr, excluded_items, seeds = histories
    out_indptr, out_items, out_rows, out_counts = touched
    n_items, d = table.shape
    rate, rate_user, rate_items, pull = settings
    one = np.float32(1.0)
    first, second = (2 * d + 1) * d, (d + 1) * (d // 2)
    third = (d // 2 + 1) * (d // 4)
    most = 0
    for client in range(begin, end):
        most = max(most, sample_indptr[client + 1] - sample_indptr[client])
    room = min(most * epochs, n_items)
    marks, owner = np.full(n_items, -1, dtype=np.int32), np.full(n_items, -1, dtype=np.int32)
    slot_of, drawn = np.empty(n_items, dtype=np.int32), np.empty(most, dtype=np.int32)
    rows, moves = np.empty((room, d), dtype=np.float32), np.zeros((room, d), dtype=np.float32)
    slopes, slope_user = np.empty(networks.shape[1], dtype=np.float32), np.empty(d, dtype=np.float32)
    x, down = np.empty(2 * d, dtype=np.float32), np.empty(2 * d, dtype=np.float32)
    h1, h2, h3 = np.empty(d, np.float32), np.empty(d // 2, np.float32), np.empty(d // 4, np.float32)
    g1, g2, g3 = np.empty(d, np.float32), np.empty(d // 2, np.float32), np.empty(d // 4, np.float32)
    logit, error = np.empty(1, dtype=np.float32), np.empty(1, dtype=np.float32)
    agreement = np.zeros((len(centres), 2), dtype=np.float64)
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        if start == stop:
            continue
        mark_items(marks, client, items, start, stop)
        mark_items(marks, client, excluded_items, excluded_indptr[client], excluded_indptr[client + 1])
        samples = sample_indptr[client + 1] - sample_indptr[client]
        draws = samples // (stop - start) - 1
        state, used, went = seeds[client], 0, np.float32(0.0)
        user, network, centre = users[client], networks[client], centres[groups[client]]
        base = out_indptr[client]
        for _ in range(epochs):
            state = drawn_samples(state, marks, client, items, start, stop, draws, drawn)
            for low in range(0, samples, batch):
                size = min(batch, samples - low)
                scale = one / np.float32(size)
                slopes[:] = 0.0
                slope_user[:] = 0.0
                for i in range(low, low + size):
                    positive = drawn[i] >= 0
                    item = drawn[i] if positive else ~drawn[i]
                    if owner[item] != client:
                        owner[item] = client
                        slot_of[item] = used
                        out_items[base + used] = item
                        for k in range(d):
                            rows[used, k] = table[item, k] + went * (centre[item, k] - table[item, k])
                            moves[used, k] = np.float32(0.0)
                        used += 1
                    slot = slot_of[item]
                    for k in range(d):
                        x[k], x[d + k] = user[k], rows[slot, k]
                    _forward(network, 0, 2 * d, d, x, h1)
                    _relu(h1, d)
                    _forward(network, first, d, d // 2, h1, h2)
                    _relu(h2, d // 2)
                    _forward(network, first + second, d // 2, d // 4, h2, h3)
                    _relu(h3, d // 4)
                    _forward(network, first + second + third, d // 4, 1, h3, logit)
                    error[0] = residual(logit[0], positive) * scale
                    _backward(network, slopes, first + second + third, d // 4, 1, h3, error, g3)
                    _masked(g3, h3, d // 4)
                    _backward(network, slopes, first + second, d // 2, d // 4, h2, g3, g2)
                    _masked(g2, h2, d // 2)
                    _backward(network, slopes, first, d, d // 2, h1, g2, g1)
                    _masked(g1, h1, d)
                    _backward(network, slopes, 0, 2 * d, d, x, g1, down)
                    for k in range(d):
                        slope_user[k] += down[k]
                        moves[slot, k] += down[d + k]
                for k in range(len(slopes)):
                    network[k] -= rate * slopes[k]
                for k in range(d):
                    user[k] -= rate_user * slope_user[k]
                for slot in range(used):
                    item = out_items[base + slot]
                    for k in range(d):
                        way = rows[slot, k] - centre[item, k]
                        rows[slot, k] -= rate_items * moves[slot, k] + pull * way
                        moves[slot, k] = np.float32(0.0)
                went += pull * (one - went)
        agreement[:] = 0.0
        for slot in range(used):
            item = out_items[base + slot]
            for k in range(d):
                change = rows[slot, k] - table[item, k] - went * (centre[item, k] - table[item, k])
                out_rows[base + slot, k], out_changes[base + slot, k] = rows[slot, k], change
                for group in range(len(centres)):
                    apart = np.float64(centres[group, item, k]) - np.float64(table[item, k])
                    agreement[group, 0] += np.float64(change) * apart
                    agreement[group, 1] += apart * apart
        out_counts[client] = used
        pulls[client] = went
        best = -np.inf
        for group in range(len(centres)):
            if agreement[group, 1] > 0 and agreement[group, 0] / np.sqrt(agreement[group, 1]) > best:
                best = agreement[group, 0] / np.sqrt(agreement[group, 1])
                groups[client] = group


@parallel_kernel(
    "void(float32[:, ::1], float32[:, :, ::1], float32[:, ::1], float32[:, ::1], int64[::1], float32[::1], int64[::1],"
    " int64[::1], int32[::1], float32[:, ::1], float32[:, ::1])",
    over=lambda table, centres, users, *_: len(users),
)
def graph_scores(  # type: ignore[no-untyped-def]
    begin, end, table, centres, users, networks, groups, pulls, starts, lengths, items, values, scores
):
    """Logits [c, items] under each client's network and own rows; others are the table's, pulled as they were."""
    n_items, d = table.shape
    first, second = (2 * d + 1) * d, (d + 1) * (d // 2)
    third = (d // 2 + 1) * (d // 4)
    for client in range(begin, end):
        row_of = np.full(n_items, -1, dtype=np.int64)
        x, base, logit = np.empty(d, np.float32), np.empty(d, np.float32), np.empty(1, np.float32)
        h1, h2, h3 = np.empty(d, np.float32), np.empty(d // 2, np.float32), np.empty(d // 4, np.float32)
        network, centre, went = networks[client], centres[groups[client]], pulls[client]
        for row in range(starts[client], starts[client] + lengths[client]):
            row_of[items[row]] = row
        for k in range(d):
            base[k] = network[2 * d * d + k]
        for j in range(d):
            for k in range(d):
                base[k] += users[client, j] * network[j * d + k]
        for item in range(n_items):
            row = row_of[item]
            for k in range(d):
                h1[k] = base[k]
                if row >= 0:
                    x[k] = values[row, k]
                else:
                    x[k] = table[item, k] + went * (centre[item, k] - table[item, k])
            for j in range(d):
                for k in range(d):
                    h1[k] += x[j] * network[(d + j) * d + k]
            _relu(h1, d)
            _forward(network, first, d, d // 2, h1, h2)
            _relu(h2, d // 2)
            _forward(network, first + second, d // 2, d // 4, h2, h3)
            _relu(h3, d // 4)
            _forward(network, first + second + third, d // 4, 1, h3, logit)
            scores[client, item] = logit[0]
