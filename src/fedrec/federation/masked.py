"""Sums as the vectors of a secure aggregation, and back."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import DamagedError
from fedrec.secagg.layout import Layout, Slot

__all__ = ["COUNTERS", "COUNTS", "layout_of", "unmasked", "vectors_of"]

COUNTERS = "#counters"
"""Clients, left out, saturated: summed with the arrays, under a name that no array has."""
COUNTS = Slot(COUNTERS, 3, 64)


def layout_of(spec: SumSpec, rows: np.ndarray | None) -> Layout:
    """What is summed of a spec: arrays in its rings, of changes of rows `rows` only, and the counters."""
    sizes = {
        array.name: array.size if rows is None or array.kind != "rows" else array.size // array.shape[0] * len(rows)
        for array in spec.arrays
    }
    return Layout((*(Slot(array.name, sizes[array.name], array.ring) for array in spec.arrays), COUNTS))


def vectors_of(part: Sum, rows: np.ndarray | None) -> dict[str, np.ndarray]:
    """A sum as integers by name, for a layout of `layout_of`."""
    counters = np.array([part.clients, part.left_out, part.saturated], dtype=np.int64)
    kept = {
        array.name: part.arrays[array.name] if rows is None or array.kind != "rows" else part.arrays[array.name][rows]
        for array in part.spec.arrays
    }
    return {**{name: np.ascontiguousarray(array) for name, array in kept.items()}, COUNTERS: counters}


def unmasked(spec: SumSpec, round: int, rows: np.ndarray | None, vectors: dict[str, np.ndarray]) -> Sum:
    """The sum that the outcome of a secure aggregation holds.

    Raises:
        DamagedError: if no true parts add up to its counts: a party masked something else.
    """
    total = Sum.zeros(spec, round)
    for array in spec.arrays:
        found, home = vectors[array.name].view(f"i{array.ring // 8}"), total.arrays[array.name]
        if rows is None or array.kind != "rows":
            home[...] = found.reshape(array.shape)
        else:
            home[rows] = found.reshape(len(rows), -1)
    counts = vectors[COUNTERS].view(np.int64)
    total.clients, total.left_out, total.saturated = (int(number) for number in counts)
    cells = sum(array.size for array in spec.arrays)
    if min(counts) < 0 or total.clients + total.left_out > spec.n_max or total.saturated > spec.n_max * cells:
        raise DamagedError(
            f"the masked parts add up to {total.clients} clients, {total.left_out} left out and {total.saturated} "
            f"values cut, where n_max = {spec.n_max}"
        )
    return total
