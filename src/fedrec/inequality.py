"""How unequal counts are."""

from __future__ import annotations

import numpy as np

__all__ = ["gini"]


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of non-negative counts: 0 if all are equal, near 1 if one has almost everything.

    >>> gini(np.array([1, 1, 1, 1]))
    0.0
    >>> gini(np.array([0, 0, 0, 1]))
    0.75
    """
    ordered = np.sort(counts).astype(np.float64)
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = np.arange(1, len(ordered) + 1)
    return float(2 * (ranks * ordered).sum() / (len(ordered) * total) - (len(ordered) + 1) / len(ordered))
