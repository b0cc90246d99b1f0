"""A round of FedRAP for many clients: a private head, a private item table and a shared one, trained together."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np

from fedrec.kernels.draws import mark_items
from fedrec.kernels.keyed import below, next_word
from fedrec.kernels.lanes import lane_dot
from fedrec.kernels.personal_draws import drawn_samples, residual
from fedrec.kernels.records import HISTORIES, ROWS, record, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = ["Ranges", "add_own_rows", "pair_round"]


@numba.njit(inline="always")
def _sign(value):  # type: ignore[no-untyped-def]
    return np.float32(value > 0) - np.float32(value < 0)


class Ranges(NamedTuple):
    """Rows of items that each client owns.

    Args:
        starts: [c] int64; client `c` owns `items[starts[c]:starts[c] + lengths[c]]` and their values.
        lengths: [c] int64.
        items: [room] int32.
        values: [room, d] float32.
    """

    starts: np.ndarray
    lengths: np.ndarray
    items: np.ndarray
    values: np.ndarray


_RANGES = record(Ranges, "int64[::1], int64[::1], int32[::1], float32[:, ::1]")


@parallel_kernel(
    takes(
        HISTORIES,
        "float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[::1]",
        _RANGES,
        "float32[::1], int64, int64, int64[::1]",
        ROWS,
        ROWS,
    ),
    over=lambda histories, *_: histories.indptr,
)
def pair_round(  # type: ignore[no-untyped-def]
    begin, end, histories, common, first, heads, shrunk, own, settings, epochs, batch, sample_indptr, new, changed
):
    """Train `heads` [c, d + 1], the clients' own rows and their copies of the common table.

    Args: `histories`; `common`, `first` [items, width], zeros beyond d to a multiple of 16: the shared table, and the
    private table that all begin with (a row that client c never touched is `shrunk[c]` times it); `own` rows;
    `settings`: rates of head and items, their decay per batch, λ, μ, weight decay; `sample_indptr` has the samples that
    a client draws once and passes over `epochs` times.
    Out: in `new` all rows that client c owns now; in `changed` what it changed in the common table besides shrinking
    it; `shrunk` times the shrinking of this round.
    """
    indptr, items, excluded_indptr, excluded_items, seeds = histories
    own_starts, own_lengths, own_items, own_values = own
    new_indptr, new_items, new_values, new_counts = new
    change_indptr, change_items, change_values, change_counts = changed
    n_items, width = common.shape
    d = heads.shape[1] - 1
    rate_head, rate_items, decay, lam, mu, weight_decay = settings
    most = 0
    for client in range(begin, end):
        most = max(most, sample_indptr[client + 1] - sample_indptr[client])
    room = min(most, n_items)
    marks, slot_of = np.full(n_items, -1, dtype=np.int32), np.empty(n_items, dtype=np.int32)
    place_of = np.full(n_items, -1, dtype=np.int32)
    drawn, slots = np.empty(most, dtype=np.int32), np.empty(room, dtype=np.int32)
    mine, theirs = np.zeros((room, width), dtype=np.float32), np.zeros((room, width), dtype=np.float32)
    both, head = np.zeros((1, width), dtype=np.float32), np.zeros((1, width), dtype=np.float32)
    logits, pulls = np.empty(room, dtype=np.float32), np.zeros(room, dtype=np.float32)
    times, slope = np.zeros(room, dtype=np.int32), np.empty(width, dtype=np.float32)
    for client in range(begin, end):
        start, stop = indptr[client], indptr[client + 1]
        samples = sample_indptr[client + 1] - sample_indptr[client]
        for k in range(d):
            head[0, k] = heads[client, k]
        bias = heads[client, d]
        old, base = own_starts[client], new_indptr[client]
        for row in range(own_lengths[client]):
            place_of[own_items[old + row]] = row
        used, shrink = 0, np.float32(1.0)
        now, now_head = rate_items, rate_head
        state = seeds[client]
        if samples > 0:
            mark_items(marks, client, items, start, stop)
            mark_items(marks, client, excluded_items, excluded_indptr[client], excluded_indptr[client + 1])
            draws = samples // (stop - start) - 1
            state = drawn_samples(state, marks, client, items, start, stop, draws, drawn)
            for i in range(samples):
                item = drawn[i] if drawn[i] >= 0 else ~drawn[i]
                marks[item] = -2
            for i in range(samples):
                item = drawn[i] if drawn[i] >= 0 else ~drawn[i]
                if marks[item] == -2:
                    marks[item] = -1
                    slot_of[item] = used
                    slots[used] = item
                    place = place_of[item]
                    for k in range(d):
                        theirs[used, k] = common[item, k]
                        mine[used, k] = own_values[old + place, k] if place >= 0 else shrunk[client] * first[item, k]
                    used += 1
        for epoch in range(epochs if samples > 0 else 0):
            for i in range(samples - 1 if epoch > 0 and samples > batch else 0, 0, -1):
                state, word = next_word(state)
                other = below(word, i + 1)
                drawn[i], drawn[other] = drawn[other], drawn[i]
            for low in range(0, samples, batch):
                size = min(batch, samples - low)
                scale = np.float32(1.0) / np.float32(size)
                for slot in range(used):
                    for k in range(width):
                        both[0, k] = mine[slot, k] + theirs[slot, k]
                    logits[slot] = lane_dot(both, 0, head, 0, width) + bias
                for i in range(low, low + size):
                    positive = drawn[i] >= 0
                    slot = slot_of[drawn[i] if positive else ~drawn[i]]
                    pulls[slot] += residual(logits[slot], positive) * scale
                    times[slot] += 1
                total = np.float32(0.0)
                for k in range(width):
                    slope[k] = np.float32(0.0)
                for slot in range(used):
                    total += pulls[slot]
                    for k in range(width):
                        slope[k] += pulls[slot] * (mine[slot, k] + theirs[slot, k])
                keep = np.float32(1.0) - now * weight_decay
                each = scale / np.float32(d)
                for slot in range(used):
                    pull, apart = pulls[slot], np.float32(2.0) * lam * each * np.float32(times[slot])
                    sparse = mu * each * np.float32(times[slot])
                    for k in range(width):
                        p, c = mine[slot, k], theirs[slot, k]
                        mine[slot, k] = keep * p - now * (pull * head[0, k] - apart * (p - c))
                        theirs[slot, k] = keep * c - now * (pull * head[0, k] + apart * (p - c) + sparse * _sign(c))
                    pulls[slot] = np.float32(0.0)
                    times[slot] = 0
                shrink *= keep
                keep = np.float32(1.0) - now_head * weight_decay
                for k in range(d):
                    head[0, k] = keep * head[0, k] - now_head * slope[k]
                bias = keep * bias - now_head * total
                now *= decay
                now_head *= decay
        for row in range(own_lengths[client]):
            item = own_items[old + row]
            new_items[base + row] = item
            for k in range(d):
                new_values[base + row, k] = shrink * own_values[old + row, k]
        more = own_lengths[client]
        change = change_indptr[client]
        for slot in range(used):
            item = slots[slot]
            row = np.int64(place_of[item])
            if row < 0:
                row = more
                new_items[base + row] = item
                more += 1
            change_items[change + slot] = item
            for k in range(d):
                new_values[base + row, k] = mine[slot, k]
                change_values[change + slot, k] = theirs[slot, k] - shrink * common[item, k]
        for row in range(own_lengths[client]):
            place_of[own_items[old + row]] = -1
        new_counts[client] = more
        change_counts[client] = used
        for k in range(d):
            heads[client, k] = head[0, k]
        heads[client, d] = bias
        shrunk[client] *= shrink


@parallel_kernel(
    "void(int64[::1], int64[::1], int32[::1], float32[:, ::1], float32[::1], float32[:, ::1], float32[:, ::1],"
    " float32[:, ::1])",
    over=lambda starts, *_: len(starts),
)
def add_own_rows(begin, end, starts, lengths, items, values, shrunk, first, heads, scores):  # type: ignore[no-untyped-def]
    """scores [c, items] += ⟨head, own row − `shrunk` · first row⟩ at each client's own items."""
    width = values.shape[1]
    for client in range(begin, end):
        for row in range(starts[client], starts[client] + lengths[client]):
            item = items[row]
            total = np.float32(0.0)
            for k in range(width):
                total += heads[client, k] * (values[row, k] - shrunk[client] * first[item, k])
            scores[client, item] += total
