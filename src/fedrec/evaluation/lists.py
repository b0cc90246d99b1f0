"""Figures of the lists of all users together, from how many lists and how many histories hold each item."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrec.inequality import gini
from fedrec.kernels.topk import best_of_rows

__all__ = ["LIST_METRICS", "READ_HISTORIES", "figure_of_lists", "list_counts"]

LIST_METRICS = ("coverage", "gini", "average_popularity", "novelty")
"""Metrics of all users' lists together, whatever was held out."""
READ_HISTORIES = ("average_popularity", "novelty")
"""Those that compare what is listed with what users have."""


def list_counts(
    scores: np.ndarray,
    history: tuple[np.ndarray, np.ndarray],
    valid: np.ndarray,
    cutoffs: Sequence[int],
    histories: bool,
) -> np.ndarray:
    """How many valid users' lists hold each item, by cutoff, and how many of their histories.

    Args:
        scores: [users, items] float32; lists hold no item without a score.
        history: items of each user, `indptr` [users + 1] and `items`; lists leave them out. Repeats count once.
        valid: [users] bool.
        cutoffs: length of each list, at least one.
        histories: whether a last row counts histories.

    Returns:
        [cutoffs, items] int64, or [cutoffs + 1, items] with histories.
    """
    users, items = scores.shape
    best = np.empty((users, min(items, max(cutoffs))), dtype=np.int32)
    best_of_rows(scores, *history, np.empty(0, dtype=np.bool_), best, np.empty(best.shape, dtype=np.float32))
    listed = (best[valid, :k] for k in cutoffs)
    rows = [np.bincount(top[top >= 0], minlength=items) for top in listed]
    if histories:
        indptr, positions = history
        owners = np.repeat(np.arange(users, dtype=np.int64), np.diff(indptr))
        pairs = np.unique((owners * items + positions)[valid[owners]])
        rows.append(np.bincount(pairs % items, minlength=items))
    return np.stack(rows)


def figure_of_lists(name: str, listed: np.ndarray, having: np.ndarray | None, lists: int) -> float:
    """The value of a metric of lists.

    Args:
        name: one of `LIST_METRICS`.
        listed: [items] int64, how many lists hold each item.
        having: [items] int64, how many histories hold it; for those of `READ_HISTORIES`.
        lists: how many lists there are, and histories, at least 1.

    Returns:
        For `READ_HISTORIES` the mean over all places of all lists; 0 where no list holds anything.

    Example:
        >>> listed, having = np.array([3, 1, 0, 0]), np.array([4, 1, 0, 0])
        >>> [figure_of_lists(name, listed, having, 4) for name in ("coverage", "gini", "average_popularity")]
        [0.5, 0.625, 0.8125]
        >>> round(figure_of_lists("novelty", listed, having, 4), 4)
        0.3305
    """
    if name == "coverage":
        return float(np.mean(listed > 0))
    if name == "gini":
        return gini(listed)
    assert having is not None
    places = int(listed.sum())
    if not places:
        return 0.0
    of_items = having / lists if name == "average_popularity" else -np.log2((having + 1.0) / (lists + 1.0))
    return float((listed * of_items).sum() / places)
