"""Values of interactions as ratings on a scale."""

from __future__ import annotations

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.errors import InputError

__all__ = ["check_ratings"]


def check_ratings(data: Interactions, lowest: float, highest: float, model: str) -> None:
    """Check that every interaction has a rating on the scale.

    Raises:
        InputError: if there are no ratings, or if a rating is missing or outside the scale; the message names user and
            item, and the lowest and highest rating of the data.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user": [1, 1], "item": [5, 6], "rating": [2.0, 10.0]})
        >>> check_ratings(data, 1, 5, "biased-mf")
        Traceback (most recent call last):
        fedrec.errors.InputError: biased-mf: 1 rating is outside the scale from 1 to 5, the first, 10, of user 1 ...
    """
    if len(data) == 0:
        return
    if data.values is None:
        raise InputError(
            f"{model} predicts ratings, but the data has no ratings. Name their column (columns={{'rating': …}}, "
            "--columns rating=…), or use a model that needs no ratings"
        )
    missing = np.flatnonzero(np.isnan(data.values))
    if len(missing):
        raise InputError(
            f"{model}: {_ratings(len(missing))} missing, the first of {data.named(int(missing[0]))}. Remove such rows "
            "(cleaning: drop_missing)"
        )
    outside = np.flatnonzero((data.values < lowest) | (data.values > highest))
    if len(outside):
        row = int(outside[0])
        low, high = f"{data.values.min():g}", f"{data.values.max():g}"
        raise InputError(
            f"{model}: {_ratings(len(outside))} outside the scale from {lowest:g} to {highest:g}, the first, "
            f"{data.values[row]:g}, of {data.named(row)}. The data has ratings from {low} to {high}: set the model's "
            f"lowest and highest to the scale (lowest={low}, highest={high}), or remove such rows (cleaning: "
            "rating_at_least, rating_at_most)"
        )


def _ratings(count: int) -> str:
    return "1 rating is" if count == 1 else f"{count:,} ratings are"
