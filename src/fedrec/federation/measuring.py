"""Metrics as fixed-point sums: the spec, what a chunk of clients adds, and the summary of the total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.evaluation.errors import ERRORS, SQUARES, in_ratings
from fedrec.evaluation.metrics import Metric, MetricSummary, summarise
from fedrec.evaluation.ranks import UserMetrics, metric_sums

__all__ = ["add_metrics", "measuring_spec", "summaries"]

_SCALE_BITS = 30
_TOP, _ERRORS, _SQUARES = "top_counts", "errors", "errors_squared"
_RING_BITS = 62
_FEWEST_BITS, _MOST_BITS = 10, 24


def measuring_spec(metrics: Sequence[Metric], n_items: int, n_max: int) -> SumSpec:
    """Number of users, Σ value and Σ value² of each metric; for coverage, how many lists hold each item; for errors of
    ratings, the sums of `fedrec.evaluation.errors`."""
    per_user = sum(metric.per_user for metric in metrics)
    arrays = [ArraySpec("metrics", "dense", (1 + 2 * per_user,), bound=1.0, scale_bits=_SCALE_BITS, ring=64)]
    if any(metric.of_ratings for metric in metrics):
        arrays += _error_specs(n_items, n_max)
    covered = sum(metric.of_lists for metric in metrics)
    if covered:
        arrays.append(ArraySpec(_TOP, "dense", (covered, n_items), bound=1.0, pooled=True))
    return SumSpec(tuple(arrays)).fit(n_max)


def _error_specs(n_items: int, n_max: int) -> list[ArraySpec]:
    """A user has at most one rating of every item. Squares of so many would not fit into a ring where there are very
    many users and items: there they saturate, and are counted, beyond what does."""
    room = _RING_BITS - (n_max - 1).bit_length()
    of_items = (n_items - 1).bit_length()
    bits = min(_MOST_BITS, max(room - 2 * of_items, _FEWEST_BITS))
    most = float(min(n_items**2, 2 ** max(room - bits, 0)))
    finer = min(_MOST_BITS, room - of_items)
    return [
        ArraySpec(_ERRORS, "dense", (len(ERRORS),), bound=float(n_items), scale_bits=finer, ring=64),
        ArraySpec(_SQUARES, "dense", (len(SQUARES),), bound=most, scale_bits=bits, ring=64),
    ]


def add_metrics(total: Sum, result: UserMetrics, errors: np.ndarray | None = None) -> None:
    """Add a chunk of users, with their `errors` [users, 8] of ratings where these are measured."""
    rows = {"metrics": metric_sums(result)[result.valid]}
    if errors is not None:
        of_ratings = errors[result.valid]
        rows |= {_ERRORS: of_ratings[:, : len(ERRORS)], _SQUARES: of_ratings[:, len(ERRORS) :]}
    spec = SumSpec(tuple(array for array in total.spec.arrays if array.name in rows), total.spec.n_max)
    part = Sum.zeros(spec, total.round)
    ones = np.ones(int(result.valid.sum()))
    part.add(Contributions({name: Dense(values.astype(np.float32), ones) for name, values in rows.items()}))
    for name, array in part.arrays.items():
        total.arrays[name] += array
    total.clients += part.clients
    total.left_out += part.left_out
    total.saturated += part.saturated
    if result.top_counts is not None:
        total.arrays[_TOP] += result.top_counts.astype(total.arrays[_TOP].dtype)


def summaries(
    metrics: Sequence[Metric], total: Sum, scale: tuple[float, float] | None = None
) -> dict[str, MetricSummary]:
    """Mean and standard error of every metric by name; empty where no user had anything held out.

    Args:
        metrics: that were asked for.
        total: the sum over nodes.
        scale: lowest and highest rating, for errors of ratings.
    """
    if total.clients == 0:
        return {}
    counts, errors = total.arrays.get(_TOP), None
    if scale is not None and _ERRORS in total.arrays:
        errors = in_ratings(np.concatenate([total.value(_ERRORS), total.value(_SQUARES)]), scale)
    top = None if counts is None else counts.astype(np.int64)
    found = summarise(metrics, total.value("metrics"), top, errors)
    return {str(summary.metric): summary for summary in found}
