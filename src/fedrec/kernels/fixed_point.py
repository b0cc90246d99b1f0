"""Numbers on the grid of a sum: what kernels that add contributions take in."""

from __future__ import annotations

import numba
import numpy as np

__all__ = ["fixed", "fixed_row"]


@numba.njit(inline="always")
def fixed(value, factor, bound, unit):  # type: ignore[no-untyped-def]
    """Round `value · factor` to the grid of `unit` steps after saturating at ±`bound`: (integer, saturated)."""
    scaled = np.float64(value) * factor
    over = 0
    if scaled > bound:
        scaled = bound
        over = 1
    elif scaled < -bound:
        scaled = -bound
        over = 1
    return np.int64(np.rint(scaled * unit)), over


@numba.njit(error_model="numpy", nogil=True)
def fixed_row(target, source, factor, bound, unit):  # type: ignore[no-untyped-def]
    """target += fixed(source · factor); returns how many saturated. Without branches, so that it runs on vectors."""
    beyond = np.int32(0)
    for column in range(len(target)):
        scaled = np.float64(source[column]) * factor
        kept = min(max(scaled, -bound), bound)
        beyond += np.int32(kept != scaled)
        target[column] += target.dtype.type(np.rint(kept * unit))
    return np.int64(beyond)
