"""NDCG with graded relevance: a held-out item counts as much as its value says."""

from __future__ import annotations

import numpy as np

from fedrec.errors import InputError

__all__ = ["graded_ndcg"]


def graded_ndcg(
    scores: np.ndarray,
    indptr: np.ndarray,
    items: np.ndarray,
    gains: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    k: int,
    discount_sums: np.ndarray,
    exponential: bool = False,
) -> np.ndarray:
    """Expected NDCG@k of each user [users] float64 over a uniformly random order of tied candidates.

    An item of value v has gain v, or 2^v − 1 where `exponential` (Burges et al. 2005, "Learning to rank using gradient
    descent"), and 0 where v is not above 0; the discount of rank r is 1 / log2(r + 1). The ideal list has the user's
    held-out items in the order of their values. A user without any gain has 0.

    Args:
        scores: [users, items] float32.
        indptr: [users + 1] int64, ranges of the held-out `items` [held-out] int32, distinct within a user.
        gains: values [held-out] of the held-out items.
        places: `above`, `tied` and `hits` of `fedrec.kernels.ranking.count_levels`, held-out items kept.
        k: length of the list.
        discount_sums: [≥ min(k, items) + 1] float64, Σ_{r ≤ i} 1 / log2(r + 1).

    Raises:
        InputError: if an item is held out twice, or `gains` does not have one value per item.
    """
    users = len(indptr) - 1
    if gains.shape != items.shape:
        raise InputError(f"gains have shape {gains.shape}, expected one value for each of {len(items)} held-out items")
    above, tied, hits = places
    if int(hits.sum()) != len(items):
        raise InputError("an item is held out twice for one user; graded relevance needs distinct items")
    owners = np.repeat(np.arange(users), np.diff(indptr))
    # A user's gains may be multiplied by any number: those of 2^v − 1 are kept below 1.
    values = np.where(np.isfinite(gains) & (gains > 0), gains, 0.0).astype(np.float64)
    if exponential:
        largest = np.zeros(users)
        np.maximum.at(largest, owners, values)
        values = np.exp2(values - largest[owners]) - np.exp2(-largest[owners])
    found = scores[owners, items]
    by_score = np.lexsort((-np.where(np.isnan(found), -np.inf, found), owners))
    up, at = np.repeat(above, hits), np.repeat(tied, hits)
    last = min(k, len(discount_sums) - 1)
    discounts = (discount_sums[np.minimum(up + at, last)] - discount_sums[np.minimum(up, last)]) / at
    total = np.bincount(owners, weights=values[by_score] * discounts, minlength=users)
    by_value = np.lexsort((-values, owners))
    ranks = np.arange(len(items)) - indptr[owners]
    discounts = np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)
    ideal = np.bincount(owners, weights=values[by_value] * discounts, minlength=users)
    return np.clip(total / np.where(ideal > 0.0, ideal, 1.0), 0.0, 1.0)
