"""A remark for data with ratings if the user did not say which ratings count."""

from __future__ import annotations

import numpy as np

from fedrec.data.interactions import Interactions

__all__ = ["remark_on_values"]


def remark_on_values(data: Interactions) -> str | None:
    """A remark if all interactions count equally although their values differ; `None` otherwise.

    Example:
        >>> from fedrec.data.reading.frames import interactions_from
        >>> data = interactions_from({"user": [1, 1, 2], "item": [5, 6, 5], "rating": [-1, 1, 1]})
        >>> remark_on_values(data)[:79]
        'ratings (or weights) from -1 to 1 all count alike: the lowest, -1 of 1 interact'
    """
    if data.values is None or data.judged or len(data) == 0:
        return None
    least, most = float(data.values.min()), float(data.values.max())
    if not least < most:
        return None
    lowest = int(np.sum(data.values == data.values.min()))
    return (
        f"ratings (or weights) from {least:g} to {most:g} all count alike: the lowest, {least:g} of {lowest:,} "
        f"interaction{'s' if lowest > 1 else ''}, counts as liked, as the highest does. Remove low ratings with "
        "rating_at_least=… (--clean rating_at_least=…, fr.clean), set rating_at_least=none to count all of them, or "
        "use --weights with a model that can weigh interactions by their values"
    )
