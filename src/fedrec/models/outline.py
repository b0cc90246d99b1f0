"""What a model sums, worked out from the shapes of its arrays alone: without data, and without a model."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.models.base import Recommender, State
from fedrec.models.shapes import Shape

__all__ = ["first_sum"]

_ITEMS = 8


def first_sum(model: Recommender, n_items: int = _ITEMS) -> SumSpec:
    """What round 0 sums for a catalog of `n_items`: names, kinds and roles of arrays, with rings not chosen yet.

    Example:
        >>> from fedrec.models.factors.mf import MF
        >>> first_sum(MF()).changes
        ('items',)
    """
    form = model.forms(n_items)[0]
    spec = model.spec(State({name: np.zeros(_lengths(shape), shape.dtype) for name, shape in form.shared.items()}), 0)
    assert spec is not None, "a model has at least one round"
    return spec


def _lengths(shape: Shape) -> tuple[int, ...]:
    """Lengths of axes, with 1 for those that the catalog does not decide."""
    return tuple(axis if isinstance(axis, int) else 1 for axis in shape.axes)
