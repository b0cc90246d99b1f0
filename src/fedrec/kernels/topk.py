"""The best items of every row of scores, without those that are excluded or not allowed."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["best_of_rows", "sift_up", "sort_heap"]

_BLOCK = 64


@kernel("boolean(float32, int32, float32, int32)")
def _worse(score: float, item: int, other_score: float, other_item: int) -> bool:
    return score < other_score or (score == other_score and item > other_item)


@kernel("void(float32[::1], int32[::1], int64, int64)")
def _sift_down(scores: np.ndarray, items: np.ndarray, at: int, size: int) -> None:
    """Restore a heap whose root is the worst entry, when only the entry `at` is out of place."""
    score, item = scores[at], items[at]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], items[child + 1], scores[child], items[child]):
            child += 1
        if not _worse(scores[child], items[child], score, item):
            break
        scores[at], items[at] = scores[child], items[child]
        at = child
    scores[at], items[at] = score, item


@kernel("void(float32[::1], int32[::1], int64)")
def sift_up(scores: np.ndarray, items: np.ndarray, at: int) -> None:
    """Restore a heap whose root is the worst entry, when only the entry `at`, the last one, is out of place."""
    score, item = scores[at], items[at]
    while at > 0:
        parent = (at - 1) // 2
        if not _worse(score, item, scores[parent], items[parent]):
            break
        scores[at], items[at] = scores[parent], items[parent]
        at = parent
    scores[at], items[at] = score, item


@kernel("void(float32[::1], int32[::1], int64)")
def sort_heap(scores: np.ndarray, items: np.ndarray, size: int) -> None:
    """Bring the `size` entries of a heap in order, by descending score and then ascending item."""
    for last in range(size - 1, 0, -1):
        score, item = scores[last], items[last]
        scores[last], items[last] = scores[0], items[0]
        scores[0], items[0] = score, item
        _sift_down(scores, items, 0, last)


@parallel_kernel(
    "void(float32[:, ::1], int64[::1], int32[::1], boolean[::1], int32[:, ::1], float32[:, ::1])",
    over=lambda scores, *_: len(scores),
)
def best_of_rows(
    begin: int,
    end: int,
    scores: np.ndarray,
    excluded_indptr: np.ndarray,
    excluded_items: np.ndarray,
    allowed: np.ndarray,
    best_items: np.ndarray,
    best_scores: np.ndarray,
) -> None:
    """Write the best n items of every row, by descending score and then ascending item.

    Args:
        scores: [c, items]; NaN and −inf are never chosen.
        excluded_indptr: [c + 1]; row `r` may not have `excluded_items[excluded_indptr[r]:excluded_indptr[r + 1]]`.
        excluded_items: positions in 0 … items − 1, not checked here.
        allowed: [items], or [0] when every item is.
        best_items: [c, n], written; −1 where fewer than n items remain.
        best_scores: [c, n], written; −inf where fewer than n items remain.
    """
    n_items = scores.shape[1]
    n = best_items.shape[1]
    all_allowed = len(allowed) == 0
    excluded_by = np.full(n_items, -1, dtype=np.int64)
    for r in range(begin, end):
        for e in range(excluded_indptr[r], excluded_indptr[r + 1]):
            excluded_by[excluded_items[e]] = r
        row = scores[r]
        items, heap = best_items[r], best_scores[r]
        size = 0
        threshold = np.float32(-np.inf)
        for start in range(0, n_items, _BLOCK):
            stop = min(start + _BLOCK, n_items)
            if stop - start == _BLOCK:
                block = row[start:stop]
                better = np.int32(0)
                for b in range(_BLOCK):  # a fixed length and no branch: the compiler uses wide registers
                    better |= np.int32(block[b] > threshold)
                if better == 0:
                    continue
            for i in range(start, stop):
                score = row[i]
                if not score > threshold or excluded_by[i] == r or not (all_allowed or allowed[i]):
                    continue
                if size < n:
                    heap[size], items[size] = score, i
                    sift_up(heap, items, size)
                    size += 1
                else:
                    heap[0], items[0] = score, i
                    _sift_down(heap, items, 0, n)
                if size == n:
                    threshold = heap[0]
        sort_heap(heap, items, size)
        heap[size:] = -np.inf
        items[size:] = -1
