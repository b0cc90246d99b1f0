"""EASE that is drawn towards the weights of another model: a ridge on the difference instead of on the weights."""

from __future__ import annotations

import numpy as np

from fedrec.models.linear.gram import ridge_inverse

__all__ = ["POOL", "PULL", "SOURCE", "solve_towards"]

SOURCE, PULL = "source", "pull"
"""Arrays of the coordinator before the first round: weights [items, items] float32 to be drawn towards, and how
strongly [1], in mean item counts. Of factors, before every step: those to be drawn to [items, d] float32, and what the
ridge of each item is multiplied by [items] float64."""
POOL = "pool"
"""Array of the coordinator before the first round: what is added to G [items, items] float32, the Gram matrix of other
users times a small weight."""


def solve_towards(gram: np.ndarray, reg: float, source: np.ndarray) -> np.ndarray:
    """The weights B that minimise ‖X − XB‖² + reg · ‖B − S‖² with a zero diagonal.

    With P = (G + reg I)⁻¹ and C = P (G + reg S): B = C − P · diag(C) / diag(P), column by column.

    Args:
        gram: G [items, items] float64, overwritten.
        reg: strength of the ridge, above 0.
        source: S [items, items] with a zero diagonal; an all-zero S gives the plain solution.

    Returns:
        [items, items] float32.

    >>> solve_towards(np.eye(2) * 4.0, 4.0, np.array([[0.0, 1.0], [0.0, 0.0]])).tolist()
    [[0.0, 0.5], [0.0, 0.0]]
    """
    towards = gram + reg * source
    lower = ridge_inverse(gram, reg, "raise transfer.strength")
    inverse = np.tril(lower)
    inverse += np.tril(lower, -1).T
    weights = inverse @ towards
    weights -= inverse * (np.diag(weights) / np.diag(inverse))
    weights[np.diag_indices(len(weights))] = 0.0
    return weights.astype(np.float32)
