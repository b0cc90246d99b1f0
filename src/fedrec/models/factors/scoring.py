"""Scores of factor models: products of a user's factor with rows of the item table."""

from __future__ import annotations

import numpy as np

from fedrec.kernels.scoring import dot_rows

__all__ = ["factor_scores"]


def factor_scores(
    users: np.ndarray, table: np.ndarray, items: np.ndarray | None, columns: np.ndarray | None = None
) -> np.ndarray:
    """⟨user, item⟩, and the item's bias where rows have one: [clients, n] float32.

    Args:
        users: [clients, d] float32.
        table: [items, d] float32 item factors, or [items, d + 1] with biases last.
        items: positions [n] of the items to score; `None` for all.
        columns: the table in the order [d, items], if it is there.

    Example:
        >>> table = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]], dtype=np.float32)
        >>> factor_scores(np.array([[3.0, 4.0]], dtype=np.float32), table, np.array([1, 0])).tolist()
        [[8.0, 3.5]]
    """
    if columns is None or items is not None:
        columns = np.ascontiguousarray((table if items is None else table[items]).T)
    rows = columns
    d = users.shape[1]
    biases = rows[d] if len(rows) > d else np.zeros(rows.shape[1], np.float32)
    scores = np.empty((len(users), rows.shape[1]), dtype=np.float32)
    dot_rows(users, rows[:d], biases, scores)
    return scores
