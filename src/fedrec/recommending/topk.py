"""Finds the best items of every client, without seen and blocked items."""

from __future__ import annotations

import numpy as np

from fedrec.errors import InputError
from fedrec.kernels.topk import best_of_rows

__all__ = ["top_items"]


def top_items(
    scores: np.ndarray,
    n: int,
    exclude: tuple[np.ndarray, np.ndarray] | None = None,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `n` best items of every client, by descending score; among equal scores the lower position comes first.

    An item whose score is NaN or −inf is never recommended. The result has the same bits for any number of threads,
    and `scores` stays as it is.

    Args:
        scores: [c, items] float32.
        n: how many items to return for each client, at least 1.
        exclude: `(indptr [c + 1] int64, items int32)`: client `r` does not get `items[indptr[r]:indptr[r + 1]]`,
            usually what it has seen. `None` excludes nothing.
        allowed: [items] bool, the items that may be recommended. `None` allows every item.

    Returns:
        Item positions [c, n] int32, −1 where fewer than `n` items remain, and their scores [c, n] float32, −inf there.

    Raises:
        InputError: if an argument has a wrong shape, or an excluded position is not in the catalog.

    Example:
        >>> import numpy as np
        >>> scores = np.array([[0.1, 0.9, 0.9, 0.5]], dtype=np.float32)
        >>> items, best = top_items(scores, 3, exclude=(np.array([0, 1]), np.array([2])))
        >>> items.tolist()
        [[1, 3, 0]]
    """
    if scores.ndim != 2 or not np.issubdtype(scores.dtype, np.floating):
        raise InputError(f"scores must be floats [clients, items], not {scores.dtype} with shape {scores.shape}")
    if n < 1:
        raise InputError(f"n is {n}; it must be at least 1")
    clients, n_items = scores.shape
    if n_items > np.iinfo(np.int32).max:
        raise InputError(f"scores have {n_items} items; at most 2,147,483,647 can be ranked")
    indptr, excluded = _excluded(exclude, clients, n_items)
    if allowed is None:
        allowed = np.empty(0, dtype=np.bool_)
    elif allowed.shape != (n_items,) or allowed.dtype != np.bool_:
        raise InputError(f"allowed must be bool [{n_items}], not {allowed.dtype} with shape {allowed.shape}")
    best_items = np.full((clients, n), -1, dtype=np.int32)
    best_scores = np.full((clients, n), -np.inf, dtype=np.float32)
    if clients and n_items:
        best_of_rows(
            np.ascontiguousarray(scores, dtype=np.float32),
            indptr,
            excluded,
            np.ascontiguousarray(allowed),
            best_items,
            best_scores,
        )
    return best_items, best_scores


def _excluded(
    exclude: tuple[np.ndarray, np.ndarray] | None, clients: int, n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Check the excluded row ranges and give them the types that the kernel takes."""
    if exclude is None:
        return np.zeros(clients + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    indptr, items = np.asarray(exclude[0]), np.asarray(exclude[1])
    covers = indptr.shape == (clients + 1,) and indptr[0] == 0 and indptr[-1] == len(items)
    if not covers or bool((np.diff(indptr) < 0).any()):
        raise InputError(
            f"the row ranges of the excluded items do not cover {len(items)} items of {clients} clients: "
            f"indptr must have {clients + 1} ascending entries from 0 to {len(items)}"
        )
    if len(items):
        low, high = int(items.min()), int(items.max())
        if low < 0 or high >= n_items:
            wrong = low if low < 0 else high
            raise InputError(f"excluded item position {wrong} is not among 0 to {n_items - 1}")
    return np.ascontiguousarray(indptr, dtype=np.int64), np.ascontiguousarray(items, dtype=np.int32)
