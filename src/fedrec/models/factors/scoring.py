"""Scores of factor models: products of a user's factor with rows of the item table."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.scoring import dot_rows
from fedrec.models.base import Arrays
from fedrec.models.served import COLUMNS

__all__ = ["factor_scores"]


def factor_scores(users: np.ndarray, shared: Arrays, items: np.ndarray | None) -> np.ndarray:
    """⟨user, item⟩, and the item's bias where rows have one: [clients, n] float32.

    Args:
        users: [clients, d] float32.
        shared: `items`, [items, d] float32 item factors, or [items, d + 1] with biases last; and what `with_columns`
            adds, if it is there.
        items: positions [n] of the items to score; `None` for all.

    Example:
        >>> table = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]], dtype=np.float32)
        >>> factor_scores(np.array([[3.0, 4.0]], dtype=np.float32), {"items": table}, np.array([1, 0])).tolist()
        [[8.0, 3.5]]
    """
    if items is None and COLUMNS in shared:
        rows = shared[COLUMNS]
    else:
        rows = np.ascontiguousarray((shared["items"] if items is None else shared["items"][items]).T)
    d = users.shape[1]
    biases = rows[d] if len(rows) > d else np.zeros(rows.shape[1], np.float32)
    scores = np.empty((len(users), rows.shape[1]), dtype=np.float32)
    dot_rows(users, rows[:d], biases, scores)
    return scores
