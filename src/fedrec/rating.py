"""Explicit ratings in one place: the model that predicts them, its predictions, and how far they are off.

>>> import fedrec as fr
>>> from fedrec.rating import BiasedMF, mae, predict, rmse
>>> table = {"user": [1, 1, 2, 2, 3], "item": ["a", "b", "a", "c", "b"], "rating": [5, 3, 4, 1, 3]}
>>> model = BiasedMF(embedding_size=2, lowest=1, highest=5).fit(fr.interactions_from(table))
>>> predict(model, {"user": [3, 1], "item": ["a", "c"]}).columns
['user_id', 'item_id', 'rating']
>>> rmse([5, 3], [4, 3]), mae([5, 3], [4, 3])
(0.7071..., 0.5)

For a table of held-out ratings `fedrec.evaluate(model, split)` gives both, with standard errors, from sums over users.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.errors import InputError
from fedrec.estimators.estimator import BiasedMF, Estimator, Table
from fedrec.runs.visitors import Unknown

__all__ = ["BiasedMF", "mae", "predict", "rmse"]


def predict(
    model: Estimator, pairs: Table | str | Path, *, unknown: Unknown = "raise", unknown_items: Unknown = "raise"
) -> Any:
    """Predicted ratings of pairs of user and item; see `fedrec.estimators.estimator.Estimator.predict`."""
    return model.predict(pairs, unknown=unknown, unknown_items=unknown_items)


def rmse(actual: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray) -> float:
    """Root of the mean squared error √(Σ (r − r̂)² / n).

    Args:
        actual, predicted: ratings [n], in the same order.

    Raises:
        InputError: if the lengths differ, there is no rating, or one is not a number.

    Example:
        >>> rmse([1, 5], [1, 3])
        1.4142...
    """
    return float(np.sqrt(np.mean(_errors(actual, predicted) ** 2)))


def mae(actual: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray) -> float:
    """Mean absolute error Σ |r − r̂| / n; arguments and errors as of `rmse`.

    Example:
        >>> mae([1, 5], [1, 3])
        1.0
    """
    return float(np.mean(np.abs(_errors(actual, predicted))))


def _errors(actual: Sequence[float] | np.ndarray, predicted: Sequence[float] | np.ndarray) -> np.ndarray:
    try:
        given = [np.asarray(values, dtype=np.float64) for values in (actual, predicted)]
    except (TypeError, ValueError):
        raise InputError("actual and predicted must be ratings as numbers, such as a column of a table") from None
    if given[0].ndim != 1 or given[0].shape != given[1].shape or not len(given[0]):
        raise InputError(
            f"actual and predicted must hold one rating each for the same pairs; their shapes are {given[0].shape} and "
            f"{given[1].shape}"
        )
    if not np.isfinite(given).all():
        raise InputError("actual and predicted must be numbers; some are missing or infinite")
    errors: np.ndarray = given[0] - given[1]
    return errors
