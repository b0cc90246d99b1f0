"""Loops that place held-out items among a user's candidates.

Scores never need sorting. What a metric depends on is, for each distinct score of a held-out item (a *level*), how many
candidates score above it, how many score the same, and how many of those are held out. Levels of a user fill the slots
of that user's range in `relevant_indptr`, best first; slots left over have `hits` 0.

Every user is counted alone, so results do not depend on threads or on the batch.
"""

from __future__ import annotations

import numpy as np

from fedrec.kernels.threads import kernel, parallel_kernel
from fedrec.kernels.topk import sift_up, sort_heap

__all__ = ["count_levels"]

CHUNK = 4096  # scores counted before looking whether to stop
FEW = 64  # up to this many levels, a plain pass per level beats a binary search per score


@kernel("int64(float32[::1], float32, int64)")
def _above(values: np.ndarray, threshold: np.float32, limit: int) -> int:
    """How many values exceed `threshold`; counting may stop at any number not below `limit`."""
    total = 0
    for start in range(0, values.size, CHUNK):
        stop = min(start + CHUNK, values.size)
        part = 0
        for i in range(start, stop):
            part += values[i] > threshold
        total += part
        if total >= limit:
            break
    return total


@kernel("void(float32[::1], float32[::1], int64[::1], int64[::1])")
def _place(values: np.ndarray, levels: np.ndarray, above: np.ndarray, tied: np.ndarray) -> None:
    """Count values above and at each of the descending `levels`. NaN counts nowhere."""
    n_levels = levels.size
    if n_levels <= FEW:
        for j in range(n_levels):
            level = levels[j]
            greater, equal = 0, 0
            for i in range(values.size):
                greater += values[i] > level
                equal += values[i] == level
            above[j], tied[j] = greater, equal
        return
    above[:] = 0
    tied[:] = 0
    for i in range(values.size):
        value = values[i]
        if not value >= levels[n_levels - 1]:
            continue
        low, high = 0, n_levels - 1  # the first level that is not above the value lies in low..high
        while low < high:
            middle = (low + high) // 2
            if levels[middle] > value:
                low = middle + 1
            else:
                high = middle
        if levels[low] == value:
            tied[low] += 1
        else:
            above[low] += 1
    running = 0
    for j in range(n_levels):
        running += above[j]
        above[j] = running
        running += tied[j]


@kernel(
    "int64(int64, float32[::1], int32[::1], int32[::1], int64, boolean, float32[::1], int64[::1], int64[::1],"
    " int64[::1], int64[::1])"
)
def _count_user(
    user: int,
    row: np.ndarray,
    removed: np.ndarray,
    relevant: np.ndarray,
    limit: int,
    keep_relevant: bool,
    buffer: np.ndarray,
    holder: np.ndarray,
    above: np.ndarray,
    tied: np.ndarray,
    hits: np.ndarray,
) -> int:
    """Fill the slots of one user and return its number of candidates; −1 if a relevant item is on the wrong side."""
    lowest = np.float32(-np.inf)
    for i in range(row.size):
        buffer[i] = row[i] if row[i] > lowest else lowest  # NaN joins −inf
    held, found = np.empty(relevant.size, dtype=np.int32), np.empty(relevant.size, dtype=np.float32)
    n_held = 0
    for item in relevant:
        if holder[item] != user:
            holder[item] = user
            held[n_held], found[n_held] = item, buffer[item]
            sift_up(found, held, n_held)
            n_held += 1
    sort_heap(found, held, n_held)
    levels = np.empty(n_held, dtype=np.float32)
    n_levels = 0
    for i in range(n_held):
        if n_levels == 0 or found[i] != levels[n_levels - 1]:
            levels[n_levels] = found[i]
            n_levels += 1
        hits[n_levels - 1] += 1
    levels = levels[:n_levels]
    candidates = row.size
    for item in removed:
        if not np.isnan(buffer[item]):
            buffer[item] = np.nan
            candidates -= 1
    for i in range(n_held):
        if np.isnan(buffer[held[i]]) == keep_relevant:
            return -1
    if limit > row.size:
        _place(buffer, levels, above[:n_levels], tied[:n_levels])
        return candidates
    # Only levels with fewer than `limit` candidates above them count: find the last one by bisection.
    low, high = 0, n_levels
    while low < high:
        middle = 0 if low == 0 and high == n_levels else (low + high) // 2
        if _above(buffer, levels[middle], limit) < limit:
            low = middle + 1
        else:
            high = middle
    for j in range(low, n_levels):
        above[j], tied[j] = limit, hits[j]
    if low == 0:
        return candidates
    last = levels[low - 1]
    better = np.empty(limit, dtype=np.float32)
    n_better, n_tied = 0, 0
    for i in range(row.size):
        if buffer[i] >= last:
            if buffer[i] > last:
                better[n_better] = buffer[i]
                n_better += 1
            else:
                n_tied += 1
    _place(better[:n_better], levels[: low - 1], above[: low - 1], tied[: low - 1])
    above[low - 1], tied[low - 1] = n_better, n_tied
    return candidates


@parallel_kernel(
    "void(float32[:, ::1], int64[::1], int32[::1], int64[::1], int32[::1], int64, boolean,"
    " int64[::1], int64[::1], int64[::1], int64[::1])",
    over=lambda scores, *_: len(scores),
)
def count_levels(
    begin: int,
    end: int,
    scores: np.ndarray,
    removed_indptr: np.ndarray,
    removed: np.ndarray,
    relevant_indptr: np.ndarray,
    relevant: np.ndarray,
    limit: int,
    keep_relevant: bool,
    above: np.ndarray,
    tied: np.ndarray,
    hits: np.ndarray,
    candidates: np.ndarray,
) -> None:
    """Place each user's relevant items among the items that are not `removed`. NaN and −inf tie at the bottom.

    Args:
        scores: [users, items] float32.
        removed_indptr: [users + 1] int64, with `removed` the items that are not candidates, in any order.
        removed: item positions int32.
        relevant_indptr: [users + 1] int64, with `relevant` the held-out items, in any order.
        relevant: item positions int32.
        limit: levels with this many candidates above them are not told apart (`above` = limit, `tied` = hits);
            more than the number of items places every level.
        keep_relevant: whether relevant items are themselves candidates (else they must be among the removed).
        above: [slots] int64, out: candidates that score higher than the level.
        tied: [slots] int64, out: candidates at the level, the relevant ones included where they are candidates.
        hits: [slots] int64, zeros in; out: relevant items at the level.
        candidates: [users] int64, out: number of candidates; 0 for users without relevant items, −1 where a relevant
            item is removed although `keep_relevant`, or is not removed otherwise.
    """
    buffer = np.empty(scores.shape[1], dtype=np.float32)
    holder = np.full(scores.shape[1], -1, dtype=np.int64)
    for u in range(begin, end):
        start, stop = relevant_indptr[u], relevant_indptr[u + 1]
        if start == stop:
            candidates[u] = 0
            continue
        candidates[u] = _count_user(
            u,
            scores[u],
            removed[removed_indptr[u] : removed_indptr[u + 1]],
            relevant[start:stop],
            limit,
            keep_relevant,
            buffer,
            holder,
            above[start:stop],
            tied[start:stop],
            hits[start:stop],
        )
