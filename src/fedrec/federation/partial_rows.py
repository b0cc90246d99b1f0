"""Partial updates: a round sums some item rows only, drawn by the coordinator in public, whoever has which items.

Which rows a client touches is what nobody may learn, so it must not decide which rows travel. A random part of the
catalog, the same for everybody and another one in every round, cuts what is sent and masked to that part.
"""

from __future__ import annotations

import math

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Recommender
from fedrec.models.registry import models_where

__all__ = ["check_rows", "drawn_rows", "only_rows"]


def check_rows(spec: SumSpec, model: Recommender) -> None:
    """Check that leaving out rows leaves a model as it is there.

    Raises:
        PlanError: if it does not: a model that steps along more than its changes of rows, or sums none.
    """
    if not model.traits.moves_by_rows:
        raise PlanError(
            f"rows: {model.name} does not step along changes of item rows alone; "
            f"{models_where(lambda other: other.traits.moves_by_rows)} do"
        )
    if spec.statistics:
        raise PlanError(
            f"rows: with these settings {model.name} also sums {' and '.join(spec.statistics)}, which count on every "
            "row that a client touched; leave out the setting that asks for them"
        )


def drawn_rows(source: KeyedSource, round: int, n_items: int, share: float) -> np.ndarray:
    """The rows of a round, ascending; the same for the same seed.

    >>> drawn_rows(KeyedSource.from_seed(0), 0, 10, 0.3).shape
    (3,)
    """
    rng = source.child("rows", round).generator()
    return np.sort(rng.choice(n_items, max(1, math.ceil(share * n_items)), replace=False))


def only_rows(total: Sum, rows: np.ndarray | None) -> None:
    """Clear all other rows of changes."""
    if rows is None:
        return
    for array in total.spec.arrays:
        if array.kind == "rows":
            kept = total.arrays[array.name][rows].copy()
            total.arrays[array.name][...] = 0
            total.arrays[array.name][rows] = kept
