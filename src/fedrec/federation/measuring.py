"""Metrics as fixed-point sums: the spec, what a chunk of clients adds, and the summary of the total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.evaluation.errors import ERRORS, SQUARES, in_ratings, with_squares
from fedrec.evaluation.metrics import Metric, MetricSummary, rows_of_lists, summarise
from fedrec.evaluation.ranks import UserMetrics, metric_sums, position_sums

__all__ = ["Positions", "add_metrics", "measuring_spec", "summaries"]

_SCALE_BITS = 30
_USERS, _POSITIONS, _TOP, _ERRORS, _SQUARES = "metrics", "positions", "top_counts", "errors", "errors_squared"
_RING_BITS = 62
_FEWEST_BITS, _MOST_BITS = 10, 24


def measuring_spec(metrics: Sequence[Metric], n_items: int, n_max: int, positions: int = 0) -> SumSpec:
    """Number of users, Σ value and Σ value² of each metric; for metrics of lists, how many lists hold each item,
    and how many histories where one reads them; for errors of ratings, the sums of `fedrec.evaluation.errors`.

    Args:
        metrics: that are asked for.
        n_items: length of the catalog.
        n_max: most users of the sum.
        positions: most positions of a user, where every position counts and not every user; the sums are then those of
            `position_sums`.
    """
    per_user = sum(metric.per_user for metric in metrics)
    most = float(max(1, positions))
    if positions:
        room = _RING_BITS - (n_max - 1).bit_length() - 2 * positions.bit_length()
        shape, bits = (3 + 3 * per_user,), max(0, min(_SCALE_BITS, room))
        arrays = [ArraySpec(_POSITIONS, "dense", shape, bound=most**2, scale_bits=bits, ring=64)]
    else:
        arrays = [ArraySpec(_USERS, "dense", (1 + 2 * per_user,), bound=1.0, scale_bits=_SCALE_BITS, ring=64)]
    if any(metric.of_ratings for metric in metrics):
        arrays += _error_specs(n_items, n_max)
    rows = rows_of_lists(metrics)
    if rows:
        arrays.append(ArraySpec(_TOP, "dense", (rows, n_items), bound=most, pooled=True))
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
    of_ratings = None if errors is None else errors[result.valid]
    _add(total, {_USERS: metric_sums(result)[result.valid]}, of_ratings)
    _add_lists(total, result)


class Positions:
    """Metrics of users of whom several positions are measured, gathered until each user is added as a whole.

    Args:
        total: the sum that users are added to, by `add_users`.
        users: how many there are.
    """

    def __init__(self, total: Sum, users: int) -> None:
        self._total = total
        self._counts = np.zeros(users, dtype=np.int64)
        self._values = np.zeros((users, (total.spec[_POSITIONS].size - 3) // 3))
        self._errors = np.zeros((users, len(ERRORS))) if _ERRORS in total.arrays else None

    def add(self, users: np.ndarray, result: UserMetrics, errors: np.ndarray | None = None) -> None:
        """Add one position of each of the users at positions [n], all of whom are valid in `result`."""
        self._counts[users] += 1
        self._values[users] += result.values
        if self._errors is not None and errors is not None:
            self._errors[users] += errors[:, : len(ERRORS)]
        _add_lists(self._total, result)

    def add_users(self) -> None:
        """Add every user who has a position to the sum."""
        measured = self._counts > 0
        errors = None if self._errors is None else with_squares(self._errors[measured])
        _add(self._total, {_POSITIONS: position_sums(self._counts[measured], self._values[measured])}, errors)


def _add(total: Sum, rows: dict[str, np.ndarray], errors: np.ndarray | None) -> None:
    """Add rows of users by the name of their array, with their `errors` [users, 8] of ratings."""
    if errors is not None:
        rows |= {_ERRORS: errors[:, : len(ERRORS)], _SQUARES: errors[:, len(ERRORS) :]}
    spec = SumSpec(tuple(array for array in total.spec.arrays if array.name in rows), total.spec.n_max)
    part = Sum.zeros(spec, total.round)
    ones = np.ones(len(next(iter(rows.values()))))
    part.add(Contributions({name: Dense(values.astype(np.float32), ones) for name, values in rows.items()}))
    for name, array in part.arrays.items():
        total.arrays[name] += array
    total.clients += part.clients
    total.left_out += part.left_out
    total.saturated += part.saturated


def _add_lists(total: Sum, result: UserMetrics) -> None:
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
    by_position = _POSITIONS in total.arrays
    found = summarise(metrics, total.value(_POSITIONS if by_position else _USERS), top, errors, by_position)
    return {str(summary.metric): summary for summary in found}
