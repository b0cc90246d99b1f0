"""Gaussian noise from random words (Box & Muller 1958)."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from fedrec.kernels.threads import kernel

__all__ = ["normals"]


@kernel("void(uint64[::1], float64[::1])", parallel=True)
def normals(words, out):  # type: ignore[no-untyped-def]
    """Fill `out` [n] with standard normal draws from as many random words [n], n even."""
    for pair in prange(len(out) // 2):
        u = (np.float64(words[2 * pair] >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
        v = np.float64(words[2 * pair + 1] >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        radius = math.sqrt(-2.0 * math.log(u))
        out[2 * pair] = radius * math.cos(2.0 * math.pi * v)
        out[2 * pair + 1] = radius * math.sin(2.0 * math.pi * v)
