"""Errors of predicted ratings: what each user adds to the sums from which RMSE and MAE follow."""

from __future__ import annotations

import numpy as np

from fedrec.errors import InputError

__all__ = ["ERRORS", "SQUARES", "cut", "error_sums", "in_ratings", "with_squares"]

ERRORS = ("ratings", "rmse", "mae")
"""Per user: n held-out ratings, Σ e², Σ |e|, where e is an error divided by the range of the scale."""
SQUARES = ("ratings squared", "rmse squared", "rmse times ratings", "mae squared", "mae times ratings")
"""Per user: n², (Σ e²)², n Σ e², (Σ |e|)², n Σ |e|: standard errors over users follow from their sums."""


def cut(predictions: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    """Predictions cut to the lowest and the highest rating; what is not a number stays so.

    >>> cut(np.array([0.2, 3.3, 9.0]), (1, 5)).tolist()
    [1.0, 3.3, 5.0]
    """
    return np.clip(predictions, scale[0], scale[1])


def error_sums(
    scores: np.ndarray, held_out: tuple[np.ndarray, np.ndarray], ratings: np.ndarray, scale: tuple[float, float]
) -> np.ndarray:
    """What each user adds to sums over users.

    Args:
        scores: predicted ratings [users, items] float32, cut to the scale here.
        held_out: `indptr` [users + 1] and `items` [held-out] of each user's held-out ratings.
        ratings: [held-out], in the order of the items.
        scale: lowest and highest rating.

    Returns:
        [users, 8] float64: `ERRORS`, then `SQUARES`. Sum over users before anything leaves a node.

    Raises:
        InputError: if there is not one rating per held-out item.

    Example:
        >>> scores = np.array([[3.0, 9.0]], dtype=np.float32)
        >>> error_sums(scores, (np.array([0, 2]), np.array([0, 1])), np.array([2.0, 5.0]), (1, 5))[0, :3].tolist()
        [2.0, 0.0625, 0.25]
    """
    indptr, items = held_out
    if ratings.shape != items.shape:
        raise InputError(
            f"ratings have shape {ratings.shape}, expected one rating for each of {len(items)} held-out items"
        )
    users = len(indptr) - 1
    owners = np.repeat(np.arange(users), np.diff(indptr))
    errors = (cut(scores[owners, items].astype(np.float64), scale) - ratings) / (scale[1] - scale[0])
    counts = np.diff(indptr).astype(np.float64)
    squared = np.bincount(owners, weights=errors**2, minlength=users)
    absolute = np.bincount(owners, weights=np.abs(errors), minlength=users)
    return with_squares(np.stack([counts, squared, absolute], axis=1))


def with_squares(sums: np.ndarray) -> np.ndarray:
    """`ERRORS` of each user [users, 3] with their `SQUARES` beside them [users, 8]."""
    counts, squared, absolute = sums.T
    columns = (counts**2, squared**2, counts * squared, absolute**2, counts * absolute)
    return np.column_stack([sums, *columns])


def in_ratings(sums: np.ndarray, scale: tuple[float, float]) -> dict[str, float]:
    """Sums over users [8] by name, with errors in steps of the scale instead of parts of its range.

    >>> in_ratings(np.array([2, 0.0625, 0.25, 4, 1, 1, 1, 1]), (1, 5))["rmse"]
    1.0
    """
    unit = scale[1] - scale[0]
    powers = (0, 2, 1, 0, 4, 2, 2, 1)
    return {
        name: float(value) * unit**power for name, value, power in zip((*ERRORS, *SQUARES), sums, powers, strict=True)
    }
