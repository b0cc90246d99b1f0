"""How unlike the items of one list are, by the vectors that the catalog has of them."""

from __future__ import annotations

import numpy as np

from fedrec.errors import InputError
from fedrec.kernels.topk import best_of_rows

__all__ = ["ITEM_METRICS", "LARGEST_DISTANCE", "intra_list_distance"]

ITEM_METRICS = ("ild",)
"""Metrics of each user's list that compare its items with each other, whatever was held out."""
LARGEST_DISTANCE = 2.0
"""Cosine distance of opposite vectors."""


def intra_list_distance(
    scores: np.ndarray, history: tuple[np.ndarray, np.ndarray], vectors: np.ndarray | None, k: int
) -> np.ndarray:
    """Mean cosine distance, 1 − cos, over all pairs of items in each user's list (Ziegler et al. 2005, "Improving
    recommendation lists through topic diversification", equation 3, with distances in place of similarities).

    Args:
        scores: [users, items] float32; lists hold no item without a score.
        history: items of each user, `indptr` [users + 1] and `items`; lists leave them out.
        vectors: of items [items, width], each of length 1, or 0 for an item of which nothing is known, which no pair
            counts.
        k: length of a list.

    Returns:
        [users] float64, from 0 to 2; 0 for a list with fewer than two items that have a vector.

    Raises:
        InputError: if there are no vectors.

    Example:
        >>> scores, nothing = np.array([[3.0, 2.0, 1.0]], dtype=np.float32), (np.array([0, 0]), np.empty(0, np.int32))
        >>> vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> [round(float(intra_list_distance(scores, nothing, vectors, k)[0]), 4) for k in (2, 3)]
        [0.0, 0.6667]
    """
    if vectors is None:
        raise InputError("ild needs the features of items, and the catalog has none; name a file with --catalog")
    users, items = scores.shape
    best = np.empty((users, min(items, k)), dtype=np.int32)
    best_of_rows(scores, *history, np.empty(0, dtype=np.bool_), best, np.empty(best.shape, dtype=np.float32))
    known = np.append(vectors.any(axis=1), False)  # place −1 of a list holds no item
    padded = np.vstack([vectors, np.zeros((1, vectors.shape[1]))])
    total, counts = np.zeros((users, vectors.shape[1])), np.zeros(users)
    for column in best.T:
        total += padded[column]
        counts += known[column]
    pairs = counts * (counts - 1.0)
    alike = np.divide((total * total).sum(axis=1) - counts, pairs, out=np.ones(users), where=pairs > 0)
    distance: np.ndarray = np.clip(1.0 - alike, 0.0, LARGEST_DISTANCE)
    return distance
