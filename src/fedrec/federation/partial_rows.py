"""Partial updates: a round sums some item rows only, drawn by the coordinator in public, whoever has which items.

Which rows a client touches is what nobody may learn, so it must not decide which rows travel. A random part of the
catalog, the same for everybody and another one in every round, cuts what is sent and masked to that part.
"""

from __future__ import annotations

import math

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource

__all__ = ["drawn_rows", "only_rows"]


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
