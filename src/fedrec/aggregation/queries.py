"""How far one client can move a round's sums: the norms in which contributions are clipped and noise is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.errors import PlanError

__all__ = ["PLAIN", "WIDEST", "Metric", "Query", "clip_limit", "deviations", "private_spec"]

_ROUNDING = 1.0 / 1024
_GRID = 8
WIDEST = 2.0**40
"""Most steps of the grid in a deviation of noise; `fedrec.privacy.shares` says why."""


@dataclass(frozen=True, eq=False)
class Metric:
    """A public weight per coordinate of an array; the norm of a contribution is that of the weighted contribution.

    A coordinate that weighs more is clipped harder and gets less noise: noise of deviation s in the weighted space is
    noise of deviation s / weight at the coordinate.

    Args:
        weight: of every coordinate.
        rows: weight per row [n] of a table, or per item of a triangle, whose entry (i, j) then weighs
            rows[i] · rows[j]; `None` where all weigh 1.
        diagonal: extra weight of a triangle's diagonal.
    """

    weight: float = 1.0
    rows: np.ndarray | None = None
    diagonal: float = 1.0

    def square_sum(self, spec: ArraySpec) -> float:
        """Sum of squared weights over the coordinates of an array."""
        return sum(
            float(np.sum(np.square(1.0 / sd) * np.ones(part.stop - part.start)))
            for part, sd in deviations(self, spec, 1.0)
        )

    def smallest(self) -> float:
        """A weight that no coordinate is below."""
        least = 1.0 if self.rows is None else float(self.rows.min())
        return self.weight * min(1.0, self.diagonal) * min(least, least * least)


PLAIN = Metric()


@dataclass(frozen=True, eq=False)
class Query:
    """Arrays of a round that are clipped together, and their share of the round's privacy budget.

    A client's arrays have a joint weighted L2 norm of at most `clip`; each coordinate then gets Gaussian noise of
    deviation z · clip / (√share · weight), where z is the noise multiplier of the round. Shares of a round's queries
    add up to 1, so that together they cost what one Gaussian with multiplier z costs.

    Args:
        metrics: the arrays by name.
        clip: C.
        share: of the round's 1 / z².
    """

    metrics: Mapping[str, Metric]
    clip: float
    share: float = field(default=1.0)

    def deviation(self, noise_multiplier: float) -> float:
        """Deviation of the noise in the weighted space."""
        return noise_multiplier * self.clip / math.sqrt(self.share)


def private_spec(
    spec: SumSpec, queries: tuple[Query, ...], noise_multiplier: float, n_max: int, excess: float = 1.0
) -> SumSpec:
    """The spec with bounds that clipping gives, a grid on which rounding costs at most 1/1024 of the clip and noise is
    smooth, and rings with room for the noise, of which there may be `excess` times as much.

    Where noise would be wider than `WIDEST` steps of such a grid, the grid is coarser: it is fine beside that noise.

    Raises:
        PlanError: if an array is in no query or in several, or is pooled, so that no client can be clipped in it; if
            shares do not add up to 1, or nothing fits.
    """
    named = [name for query in queries for name in query.metrics]
    if sorted(named) != sorted(spec.names):
        raise PlanError(
            f"privacy: queries over {sorted(named)} must cover each of the arrays {sorted(spec.names)} exactly once"
        )
    if spec.pooled:
        raise PlanError(
            f"privacy: clients cannot be clipped in {' and '.join(spec.pooled)}, because the model pools them"
        )
    if not math.isclose(sum(query.share for query in queries), 1.0, rel_tol=1e-9):
        raise PlanError(f"privacy: shares {[query.share for query in queries]} do not add up to 1")
    fine, room = [], {}
    for array in spec.arrays:
        query = next(query for query in queries if array.name in query.metrics)
        metric, deviation = query.metrics[array.name], query.deviation(noise_multiplier)
        coarse = 0.5 * math.sqrt(metric.square_sum(array) * len(query.metrics))
        least = min(float(np.min(sd)) for _, sd in deviations(metric, array, deviation))
        most = max(float(np.max(sd)) for _, sd in deviations(metric, array, deviation))
        bits = math.ceil(math.log2(max(coarse / (query.clip * _ROUNDING), 2.0**_GRID / least, 1.0)))
        bits = min(max(bits, array.scale_bits), math.floor(math.log2(WIDEST / most)))
        room[array.name] = 10.0 * most * excess
        bound = min(array.bound, query.clip / metric.smallest())
        fine.append(replace(array, bound=bound, scale_bits=bits, ring=0))
    return SumSpec(tuple(fine)).fit(n_max, room)


def clip_limit(query: Query, spec: SumSpec) -> float:
    """The norm to which contributions are scaled, so that after rounding to the grid none exceeds `query.clip`.

    Rounding moves a coordinate by at most half a step, hence a contribution by at most half a step times the root of
    the summed squared weights.
    """
    moved = sum(query.metrics[name].square_sum(spec[name]) * (0.5 / spec[name].unit) ** 2 for name in query.metrics)
    return (query.clip - math.sqrt(moved)) * (1.0 - 1e-9)


def deviations(metric: Metric, spec: ArraySpec, scale: float) -> Iterator[tuple[slice, np.ndarray]]:
    """Noise deviation per coordinate, tile by tile of the flat array: (slice, deviations [tile] or [1])."""
    if metric.rows is None and metric.diagonal == 1.0:
        yield slice(0, spec.size), np.array([scale / metric.weight])
        return
    if len(spec.shape) > 1:
        assert metric.rows is not None
        width = spec.size // spec.shape[0]
        yield slice(0, spec.size), np.repeat(scale / (metric.weight * metric.rows), width)
        return
    if spec.kind != "rank_one":
        assert metric.rows is not None
        yield slice(0, spec.size), scale / (metric.weight * metric.rows)
        return
    n = (math.isqrt(8 * spec.size + 1) - 1) // 2
    rows = np.ones(n) if metric.rows is None else metric.rows
    start = 0
    for row in range(n):
        weights = metric.weight * rows[row] * rows[row:]
        weights[0] *= metric.diagonal
        yield slice(start, start + n - row), scale / weights
        start += n - row
