"""What a client trains on in a round: its interactions in a drawn order, drawn negatives, and the rows they touch.

A touched row has a slot: first the client's history in its order, then negatives in the order of their first draw.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrec.kernels.draws import shuffle
from fedrec.kernels.keyed import below, next_word
from fedrec.kernels.records import HISTORIES, record, takes
from fedrec.kernels.threads import parallel_kernel

__all__ = ["Slots", "compact_rows", "draw_samples"]

_BARRED = np.int64(0x7FFFFFFF)
"""Stands for a slot at items that are barred from being drawn and have none."""
_LOW = np.int64(0xFFFFFFFF)


class Slots(NamedTuple):
    """Room for the rows that clients touch.

    Args:
        room: [c + 1] int64; client `c` has the room from `room[c]` on.
        rows: [room] int32, items.
        sampled: [c] int64, how many rows each client drew or has in its history.
        counts: [c] int64, how many it touches, those of `more` included.
    """

    room: np.ndarray
    rows: np.ndarray
    sampled: np.ndarray
    counts: np.ndarray


_SLOTS = record(Slots, "int64[::1], int32[::1], int64[::1], int64[::1]")


@parallel_kernel(
    takes(
        HISTORIES,
        "int64[::1], int32[::1], int64, int64, int64",
        _SLOTS,
        "int32[::1], int32[::1]",
    ),
    over=lambda histories, *_: histories.indptr,
)
def draw_samples(  # type: ignore[no-untyped-def]
    begin, end, histories, more_indptr, more_items, n_items, epochs, negatives, slots, samples, more_slots
):
    """Draw every client's samples: slots of a positive and of its negatives, place by place and epoch by epoch.

    Args: `histories`; in CSR rows that are to have a slot besides (`more`). Out: `slots`; `samples` from
    `indptr[c] · epochs · (1 + negatives)` on; `more_slots` beside `more_items`. A negative's slot is −1 where the
    client has every item.
    """
    indptr, items, barred_indptr, barred_items, seeds = histories
    room, rows, sampled, counts = slots
    width = 1 + negatives
    tags = np.full(n_items, -1, dtype=np.int64)  # client << 32 | slot
    longest = np.int64(0)
    for client in range(begin, end):
        longest = max(longest, indptr[client + 1] - indptr[client])
    order = np.empty(longest, dtype=np.int64)
    for client in range(begin, end):
        start, length = indptr[client], indptr[client + 1] - indptr[client]
        mark = client << 32
        base = room[client]
        for place in range(length):
            item = items[start + place]
            tags[item] = mark | place
            rows[base + place] = item
        left = n_items - length
        for entry in range(barred_indptr[client], barred_indptr[client + 1]):
            item = barred_items[entry]
            if tags[item] >> 32 != client:
                tags[item] = mark | _BARRED
                left -= 1
        used = length
        state = seeds[client]
        cursor = start * epochs * width
        for _ in range(epochs):
            state = shuffle(state, order, length)
            for place in range(length):
                samples[cursor] = order[place]
                for other in range(1, width):
                    slot = np.int64(-1)
                    while left > 0:
                        state, word = next_word(state)
                        item = below(word, n_items)
                        tag = tags[item]
                        if tag >> 32 != client:
                            slot = used
                            tags[item] = mark | slot
                            rows[base + slot] = item
                            used += 1
                            break
                        slot = tag & _LOW
                        if slot >= length and slot != _BARRED:
                            break
                    samples[cursor + other] = slot
                cursor += width
        sampled[client] = used
        for entry in range(more_indptr[client], more_indptr[client + 1]):
            item = more_items[entry]
            if tags[item] >> 32 != client or tags[item] & _LOW == _BARRED:
                tags[item] = mark | used
                rows[base + used] = item
                used += 1
            more_slots[entry] = tags[item] & _LOW
        counts[client] = used


@parallel_kernel("void(int64[::1], int32[::1], int64[::1], int32[::1])", over=lambda room, rows, indptr, out: indptr)
def compact_rows(begin, end, room, rows, indptr, out):  # type: ignore[no-untyped-def]
    """out[indptr[c]:indptr[c + 1]] = rows[room[c]:…], as many."""
    for client in range(begin, end):
        for place in range(indptr[client + 1] - indptr[client]):
            out[indptr[client] + place] = rows[room[client] + place]
