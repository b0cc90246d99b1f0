"""Row by row work of splits: keyed draws of parts, repeats, and a hash that does not depend on the partition."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.keyed import below, next_word, sip_word
from fedrec.kernels.threads import kernel

__all__ = [
    "content_hashes",
    "count_items",
    "count_shared",
    "draw_parts",
    "first_repeat",
    "kept_offsets",
    "latest_of_repeats",
]


@kernel("void(int64[::1], uint64[::1], int64[::1], int64[::1], int8, int8, int8[::1])")
def draw_parts(indptr, seeds, first_counts, second_counts, first, second, part):  # type: ignore[no-untyped-def]
    """Draw `first_counts[u]` rows of user u for the code `first` and `second_counts[u]` for the code `second`."""
    for user in range(len(indptr) - 1):
        state = seeds[user]
        wanted_first, wanted_second = first_counts[user], second_counts[user]
        for row in range(indptr[user], indptr[user + 1]):
            state, word = next_word(state)
            draw = below(word, indptr[user + 1] - row)
            if draw < wanted_first:
                part[row] = first
                wanted_first -= 1
            elif draw < wanted_first + wanted_second:
                part[row] = second
                wanted_second -= 1


@kernel("void(int32[::1], int64[::1])")
def count_items(items, out):  # type: ignore[no-untyped-def]
    """Add one to `out` [items] for every row."""
    for row in range(len(items)):
        out[items[row]] += 1


@kernel("int64(int64[::1], int32[::1], int64)")
def first_repeat(indptr, items, n_items):  # type: ignore[no-untyped-def]
    """The first row whose item its user already had, or −1."""
    owner = np.full(n_items, -1, dtype=np.int64)
    for user in range(len(indptr) - 1):
        for row in range(indptr[user], indptr[user + 1]):
            if owner[items[row]] == user:
                return row
            owner[items[row]] = user
    return -1


@kernel("int64(int64[::1], int32[::1], int64[::1], int32[::1], int64)")
def count_shared(indptr, items, other_indptr, other_items, n_items):  # type: ignore[no-untyped-def]
    """How many of the second rows have an item that the same user has in the first."""
    owner = np.full(n_items, -1, dtype=np.int64)
    shared = 0
    for user in range(len(indptr) - 1):
        for row in range(indptr[user], indptr[user + 1]):
            owner[items[row]] = user
        for row in range(other_indptr[user], other_indptr[user + 1]):
            shared += owner[other_items[row]] == user
    return shared


@kernel("void(int64[::1], boolean[::1], int64[::1])")
def kept_offsets(indptr, keep, out):  # type: ignore[no-untyped-def]
    """Row ranges `out` [users + 1] of what is left where only rows in `keep` stay."""
    out[0] = 0
    for user in range(len(indptr) - 1):
        kept = 0
        for row in range(indptr[user], indptr[user + 1]):
            kept += keep[row]
        out[user + 1] = out[user] + kept


@kernel("void(int64[::1], int32[::1], int64, boolean[::1])")
def latest_of_repeats(indptr, items, n_items, keep):  # type: ignore[no-untyped-def]
    """Mark in `keep` the last row of every (user, item) pair."""
    owner = np.full(n_items, -1, dtype=np.int64)
    for user in range(len(indptr) - 1):
        for row in range(indptr[user + 1] - 1, indptr[user] - 1, -1):
            keep[row] = owner[items[row]] != user
            owner[items[row]] = user


@kernel("void(int64[::1], int32[::1], int8[::1], uint64[::1], uint64[::1])")
def content_hashes(indptr, items, part, keys, out):  # type: ignore[no-untyped-def]
    """A hash [users] of each user's key, items and parts, in order."""
    for user in range(len(indptr) - 1):
        state = keys[user]
        for row in range(indptr[user], indptr[user + 1]):
            word = (np.uint64(items[row]) << np.uint64(8)) | np.uint64(part[row])
            state = sip_word(keys[user], state, word)
        out[user] = state
