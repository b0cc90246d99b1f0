"""Gaussian noise from random words: continuous (Box & Muller 1958), and discrete by rejection (Canonne et al. 2020)."""

from __future__ import annotations

import math

import numpy as np

from fedrec.kernels.threads import parallel_kernel

__all__ = ["discrete_gaussians", "normals"]


@parallel_kernel("void(uint64[::1], float64[::1])", over=lambda words, out: len(out) // 2)
def normals(begin, end, words, out):  # type: ignore[no-untyped-def]
    """Fill `out` [n] with standard normal draws from as many random words [n], n even."""
    for pair in range(begin, end):
        u = (np.float64(words[2 * pair] >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
        v = np.float64(words[2 * pair + 1] >> np.uint64(11)) * (1.0 / 9007199254740992.0)
        radius = math.sqrt(-2.0 * math.log(u))
        out[2 * pair] = radius * math.cos(2.0 * math.pi * v)
        out[2 * pair + 1] = radius * math.sin(2.0 * math.pi * v)


@parallel_kernel(
    "void(uint64[::1], float64[::1], int64[::1], boolean[::1])", over=lambda words, deviations, out, kept: len(out)
)
def discrete_gaussians(begin, end, words, deviations, out, kept):  # type: ignore[no-untyped-def]
    """One try per deviation σ [n] from two words each: `kept` says which tries gave a draw of exp(−k² / 2σ²) in `out`.

    A try is a discrete Laplace variable of scale ⌊σ⌋ + 1, kept with probability exp(−(|k| − σ² / scale)² / 2σ²). The
    first word gives its sign and 63 bits of its size, of which a float64 keeps all that matter in the tail.
    """
    unit, fine = 1.0 / 9007199254740992.0, 1.0 / 9223372036854775808.0
    for place in range(begin, end):
        first, second = words[2 * place], words[2 * place + 1]
        deviation = deviations[place]
        scale = np.floor(deviation) + 1.0
        size = np.floor(-math.log((np.float64(first >> np.uint64(1)) + 1.0) * fine) * scale)
        off = size - deviation * deviation / scale
        fits = np.float64(second >> np.uint64(11)) * unit < math.exp(-off * off / (2.0 * deviation * deviation))
        negative = (first & np.uint64(1)) != 0
        kept[place] = fits and not (negative and size == 0.0)
        out[place] = np.int64(-size if negative else size)
