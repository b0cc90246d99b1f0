"""A node's share of the noise, which is added before the sum is masked, so that nobody sees a sum without noise.

Shares are discrete Gaussians (Canonne, Kamath & Steinke 2020, "The discrete Gaussian for differential privacy"), drawn
by their rejection from discrete Laplace variables. The sum of shares is not a
discrete Gaussian, but with a deviation of four steps of the grid or more it is one up to a factor of e^τ, τ < 10⁻⁶⁰
(Kairouz et al. 2021, "The distributed discrete Gaussian mechanism", theorem 1), and a discrete Gaussian costs no more
than a continuous one of its deviation. Each share has the deviation of the whole noise over √h, where h is the
minimum number of honest nodes in the sum; more honest nodes make more noise, never less privacy.

Limits of the deviation of a share. The size of a discrete Laplace variable of scale s is ⌊−s log U⌋ with U of 63 bits,
so a value k = t σ comes from about e^−t 2⁶³ / s words, and its probability is off by a factor of up to 1 ± e^t s 2⁻⁶³.
Where that is above 1, some whole numbers are never drawn, and a drawn number rules out some sums. With σ = 2⁴⁰ the
first such numbers are at 15.9 σ, which a Gaussian exceeds with probability 2⁻¹⁸⁶, and at 5 σ probabilities are off by
2⁻¹⁵; a coordinate's expected loss grows by about 2⁻⁴⁵. For larger σ both effects grow with σ and its square, and from
2⁴⁹ on float64 cannot represent every whole number within 16 σ. So the maximum is 2⁴⁰ steps; `queries.private_spec`
chooses a coarser grid if the noise is wider.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedrec.aggregation.queries import WIDEST, Query, deviations
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError
from fedrec.kernels.noise import discrete_gaussians

__all__ = ["Stream", "discrete_gaussian", "with_share"]

_BLOCK = 1 << 20
_LEAST = 4.0


class Stream:
    """Pseudorandom words from a key: SHAKE-256 in counter mode."""

    def __init__(self, key: bytes) -> None:
        self._key, self._count = key, 0

    def words(self, count: int) -> np.ndarray:
        """The next words [count] uint64."""
        self._count += 1
        text = self._key + self._count.to_bytes(8, "little")
        return np.frombuffer(bytearray(hashlib.shake_256(text).digest(8 * count)), dtype="<u8")


def discrete_gaussian(deviations: np.ndarray, words: Callable[[int], np.ndarray]) -> np.ndarray:
    """One draw per deviation: whole numbers k with probability in proportion to exp(−k² / 2σ²).

    Args:
        deviations: σ [n] float64, above 0 and at most 2⁴⁰.
        words: returns random uint64.

    Returns:
        [n] int64.

    Raises:
        ValueError: if a deviation is out of that range, where some numbers would never be drawn.
    """
    if len(deviations) and not 0.0 < float(deviations.min()) <= float(deviations.max()) <= WIDEST:
        raise ValueError(
            f"deviations must be above 0 and at most {WIDEST:g}, not from {deviations.min():g} to {deviations.max():g}"
        )
    out = np.zeros(len(deviations), dtype=np.int64)
    left = np.arange(len(deviations))
    while len(left):
        tried, kept = np.empty(len(left), dtype=np.int64), np.empty(len(left), dtype=np.bool_)
        discrete_gaussians(words(2 * len(left)), np.ascontiguousarray(deviations[left]), tried, kept)
        out[left[kept]] = tried[kept]
        left = left[~kept]
    return out


def with_share(total: Sum, queries: Sequence[Query], noise_multiplier: float, honest: int, key: bytes) -> Sum:
    """A node's sum with its share of the noise on every coordinate, and without exact counts.

    Args:
        total: the exact sum of the node; its arrays are overwritten.
        queries: queries of the round.
        noise_multiplier: noise multiplier of the whole noise.
        honest: number of shares that add up to the whole noise.
        key: key of the share; the same key gives the same share.

    Raises:
        PlanError: if the deviation of a share is too small or too large for the grid.
    """
    if honest < 1:
        raise PlanError(f"privacy: noise: distributed needs at least 1 honest node in a sum, not {honest}")
    stream = Stream(key)
    for query in queries:
        deviation = query.deviation(noise_multiplier) / math.sqrt(honest)
        for name, metric in query.metrics.items():
            spec, flat = total.spec[name], total.arrays[name].reshape(-1)
            for tile, sds in deviations(metric, spec, deviation):
                steps = sds * spec.unit
                if float(steps.max()) > WIDEST:
                    raise PlanError(
                        f"privacy: a share of the noise of {name!r} has a deviation of {float(steps.max()):.2g} steps "
                        f"of the grid, more than {WIDEST:g}; use a coarser grid"
                    )
                if float(steps.min()) < _LEAST:
                    raise PlanError(
                        f"privacy: a share of the noise of {name!r} has a deviation of {float(steps.min()):.2g} steps "
                        f"of the grid, less than {_LEAST:g}; use fewer nodes or a finer grid"
                    )
                for start in range(tile.start, tile.stop, _BLOCK):
                    stop = min(start + _BLOCK, tile.stop)
                    part = steps[start - tile.start : stop - tile.start] if len(steps) > 1 else steps
                    drawn = discrete_gaussian(np.broadcast_to(part, (stop - start,)), stream.words)
                    flat[start:stop] += drawn.astype(flat.dtype)
    return replace(total, clients=0, left_out=0, saturated=0)
