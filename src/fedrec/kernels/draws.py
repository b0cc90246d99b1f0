"""Draws that a client makes with its own seed: which interactions to use, which items are negatives."""

from __future__ import annotations

import numba
import numpy as np

from fedrec.kernels.keyed import below, next_word
from fedrec.kernels.threads import kernel

__all__ = ["draw_halves", "draw_unmarked", "mark_items", "newest_or_drawn", "shuffle"]


@kernel("void(int64[::1], int64, boolean, uint64[::1], boolean[::1])")
def newest_or_drawn(indptr, limit, drawn, seeds, keep):  # type: ignore[no-untyped-def]
    """Mark at most `limit` rows of each client in `keep`: the last ones, or a uniform draw without replacement."""
    for client in range(len(indptr) - 1):
        start, stop = indptr[client], indptr[client + 1]
        length = stop - start
        if not drawn or length <= limit:
            keep[max(start, stop - limit) : stop] = True
            continue
        state = seeds[client]
        wanted = limit
        for row in range(start, stop):
            state, word = next_word(state)
            if below(word, stop - row) < wanted:
                keep[row] = True
                wanted -= 1


@kernel("void(int64[::1], uint64[::1], boolean[::1])")
def draw_halves(indptr, seeds, keep):  # type: ignore[no-untyped-def]
    """Mark a uniform draw of half of each client's rows, rounded down, in `keep`."""
    for client in range(len(indptr) - 1):
        start, stop = indptr[client], indptr[client + 1]
        state = seeds[client]
        wanted = (stop - start) // 2
        for row in range(start, stop):
            state, word = next_word(state)
            if below(word, stop - row) < wanted:
                keep[row] = True
                wanted -= 1


@numba.njit(inline="always")
def mark_items(marks, mark, items, start, stop):  # type: ignore[no-untyped-def]
    """Write `mark` at `items[start:stop]`; returns how many items were not marked before."""
    fresh = 0
    for entry in range(start, stop):
        if marks[items[entry]] != mark:
            marks[items[entry]] = mark
            fresh += 1
    return fresh


@numba.njit(inline="always")
def draw_unmarked(state, marks, mark):  # type: ignore[no-untyped-def]
    """A uniform draw from the items not marked with `mark`, which must exist: (new state, item)."""
    item = np.int64(0)
    while True:
        state, word = next_word(state)
        item = below(word, len(marks))
        if marks[item] != mark:
            break
    return state, item


@numba.njit(inline="always")
def shuffle(state, order, length):  # type: ignore[no-untyped-def]
    """Fill `order[:length]` with a uniform permutation of 0…length − 1 (Fisher-Yates); returns the new state."""
    for place in range(length):
        order[place] = place
    for place in range(length - 1, 0, -1):
        state, word = next_word(state)
        other = below(word, place + 1)
        order[place], order[other] = order[other], order[place]
    return state
