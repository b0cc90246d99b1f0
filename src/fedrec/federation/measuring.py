"""Metrics as fixed-point sums, of everybody or of groups of users too: the spec, what a chunk of clients adds, and the
summary of the total."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.evaluation.diversity import LARGEST_DISTANCE
from fedrec.evaluation.errors import ERRORS, SQUARES, in_ratings, with_squares
from fedrec.evaluation.groups import EVERYONE, Groups, merges_of
from fedrec.evaluation.metrics import Metric, MetricSummary, rows_of_lists, summarise
from fedrec.evaluation.ranks import UserMetrics, metric_sums, position_sums

__all__ = ["Measured", "PerUser", "add_lists", "measuring_spec", "merge_small"]

_SCALE_BITS = 30
_USERS, _POSITIONS, _TOP, _ERRORS, _SQUARES = "metrics", "positions", "top_counts", "errors", "errors_squared"
_RING_BITS = 62
_FEWEST_BITS, _MOST_BITS = 10, 24


def measuring_spec(
    metrics: Sequence[Metric], n_items: int, n_max: int, positions: int = 0, groups: Groups | None = None
) -> SumSpec:
    """Number of users, Σ value and Σ value² of each metric; for metrics of lists, how many lists hold each item,
    and how many histories where one reads them; for errors of ratings, the sums of `fedrec.evaluation.errors`.

    Args:
        metrics: that are asked for.
        n_items: length of the catalog.
        n_max: most users of the sum.
        positions: most positions of a user, where every position counts and not every user; the sums are then those of
            `position_sums`.
        groups: of users, whose sums stand one after the other in the arrays of users; together they are everybody's.
    """
    parts = 1 if groups is None else len(groups.named)
    per_user = sum(metric.per_user for metric in metrics)
    most = float(max(1, positions))
    largest = LARGEST_DISTANCE**2 if any(metric.of_items for metric in metrics) else 1.0
    if positions:
        room = _RING_BITS - (n_max - 1).bit_length() - 2 * positions.bit_length() - int(largest).bit_length() + 1
        shape, bits = (parts * (3 + 3 * per_user),), max(0, min(_SCALE_BITS, room))
        arrays = [ArraySpec(_POSITIONS, "dense", shape, bound=largest * most**2, scale_bits=bits, ring=64)]
    else:
        arrays = [
            ArraySpec(_USERS, "dense", (parts * (1 + 2 * per_user),), bound=largest, scale_bits=_SCALE_BITS, ring=64)
        ]
    if any(metric.of_ratings for metric in metrics):
        arrays += _error_specs(n_items, n_max, parts)
    rows = rows_of_lists(metrics)
    if rows:
        arrays.append(ArraySpec(_TOP, "dense", (rows, n_items), bound=most, pooled=True))
    return SumSpec(tuple(arrays)).fit(n_max)


def _error_specs(n_items: int, n_max: int, parts: int) -> list[ArraySpec]:
    """A user has at most one rating of every item. Squares of so many would not fit into a ring where there are very
    many users and items: there they saturate, and are counted, beyond what does."""
    room = _RING_BITS - (n_max - 1).bit_length()
    of_items = (n_items - 1).bit_length()
    bits = min(_MOST_BITS, max(room - 2 * of_items, _FEWEST_BITS))
    most = float(min(n_items**2, 2 ** max(room - bits, 0)))
    finer = min(_MOST_BITS, room - of_items)
    return [
        ArraySpec(_ERRORS, "dense", (parts * len(ERRORS),), bound=float(n_items), scale_bits=finer, ring=64),
        ArraySpec(_SQUARES, "dense", (parts * len(SQUARES),), bound=most, scale_bits=bits, ring=64),
    ]


class PerUser:
    """Metrics of each user, gathered until every user is added to a sum as a whole.

    Args:
        users: how many there are.
        metrics: all that are measured.

    Attributes:
        metrics: those that users have.
        counts: how many positions were measured of each user [users] int64: 0 or 1 where users have one.
        values: of each metric of `metrics`, added up over these [users, metrics] float64.
    """

    def __init__(self, users: int, metrics: Sequence[Metric]) -> None:
        self.metrics = tuple(metric for metric in metrics if metric.per_user)
        self.counts = np.zeros(users, dtype=np.int64)
        self.values = np.zeros((users, len(self.metrics)))
        of_ratings = any(metric.of_ratings for metric in metrics)
        self._errors = np.zeros((users, len(ERRORS))) if of_ratings else None

    def with_values(self, values: np.ndarray) -> PerUser:
        """The same users with other values [users, metrics], such as by how much those of two models differ."""
        other = PerUser(len(self.counts), self.metrics)
        other.counts, other.values = self.counts, values
        return other

    def add(self, users: np.ndarray, result: UserMetrics, errors: np.ndarray | None = None) -> None:
        """Add what was measured of the users at positions [n], all of whom are valid in `result`: everything, or one
        position of those of whom several are measured."""
        self.counts[users] += 1
        self.values[users] += result.values
        if self._errors is not None and errors is not None:
            self._errors[users] += errors[:, : len(ERRORS)]

    def add_to(self, total: Sum, places: np.ndarray | None = None) -> None:
        """Add every user who was measured to a sum; with the group of each [users], where they are grouped."""
        there = self.counts > 0
        counts, values = self.counts[there], self.values[there]
        if _POSITIONS in total.arrays:
            rows = {_POSITIONS: position_sums(counts, values)}
        else:
            rows = {_USERS: metric_sums(UserMetrics(self.metrics, values, counts > 0))}
        errors = None if self._errors is None else with_squares(self._errors[there])
        _add(total, rows, errors, None if places is None else places[there])


def add_lists(total: Sum, result: UserMetrics) -> None:
    """Add the lists of a chunk of users, where metrics of lists are measured."""
    if result.top_counts is not None:
        total.arrays[_TOP] += result.top_counts.astype(total.arrays[_TOP].dtype)


def _add(total: Sum, rows: dict[str, np.ndarray], errors: np.ndarray | None, places: np.ndarray | None) -> None:
    """Add rows of users by the name of their array, with their `errors` [users, 8] of ratings."""
    if errors is not None:
        rows |= {_ERRORS: errors[:, : len(ERRORS)], _SQUARES: errors[:, len(ERRORS) :]}
    widths = {name: values.shape[1] for name, values in rows.items()}
    arrays = (replace(array, shape=(widths[array.name],)) for array in total.spec.arrays if array.name in rows)
    spec = SumSpec(tuple(arrays), total.spec.n_max)
    users = len(next(iter(rows.values())))
    for place in np.unique(places := np.zeros(users, dtype=np.int64) if places is None else places):
        part = Sum.zeros(spec, total.round)
        here = {name: values[places == place].astype(np.float32) for name, values in rows.items()}
        ones = np.ones(len(next(iter(here.values()))))
        part.add(Contributions({name: Dense(values, ones) for name, values in here.items()}))
        for name, array in part.arrays.items():
            total.arrays[name][place * widths[name] : (place + 1) * widths[name]] += array
        total.clients += part.clients
        total.left_out += part.left_out
        total.saturated += part.saturated


@dataclass(frozen=True)
class Measured:
    """What a measurement found.

    Args:
        everyone: mean and standard error of every metric by name; empty where no user had anything held out.
        groups: the same of each group with users, by name, without metrics of lists; empty where users are not grouped.
        merged: names of groups whose users are among the others, as they are too few.
    """

    everyone: dict[str, MetricSummary]
    groups: dict[str, dict[str, MetricSummary]] = field(default_factory=dict)
    merged: tuple[str, ...] = ()

    @property
    def named(self) -> dict[str, dict[str, MetricSummary]]:
        """Everyone, then each group."""
        return {EVERYONE: self.everyone, **self.groups}

    @classmethod
    def of(
        cls,
        metrics: Sequence[Metric],
        total: Sum,
        scale: tuple[float, float] | None = None,
        groups: Groups | None = None,
        least: int = 1,
    ) -> Measured:
        """What a sum says.

        Args:
            metrics: that were asked for.
            total: the sum over nodes.
            scale: lowest and highest rating, for errors of ratings.
            groups: of users, where they are grouped.
            least: fewest users of a group that is shown apart.
        """
        if total.clients == 0:
            return cls({})
        if groups is None:
            return cls(_summaries(metrics, total, scale))
        everyone = _summaries(metrics, total, scale, len(groups.named))
        merged = merge_small(total, groups, least)
        users = _users(total, groups)
        each = [metric for metric in metrics if not metric.of_lists]
        found = {
            name: _summaries(each, total, scale, len(users), place)
            for place, name in enumerate(groups.named)
            if users[place]
        }
        return cls(everyone, found, tuple(groups.labels[place] for place in merged))


def merge_small(total: Sum, groups: Groups, least: int) -> list[int]:
    """Add the sums of groups with too few users to those of the others, see `fedrec.evaluation.groups.merges_of`.

    Returns:
        Places of these groups.
    """
    merged = merges_of(_users(total, groups), least)
    for name, array in total.arrays.items():
        if name != _TOP:
            parts = array.reshape(len(groups.named), -1)
            parts[-1] += parts[merged].sum(axis=0, dtype=parts.dtype)
            parts[merged] = 0
    return merged


def _users(total: Sum, groups: Groups) -> list[int]:
    """How many users of each group are in a sum."""
    name = _POSITIONS if _POSITIONS in total.arrays else _USERS
    return np.rint(total.value(name).reshape(len(groups.named), -1)[:, 0]).astype(int).tolist()


def _summaries(
    metrics: Sequence[Metric],
    total: Sum,
    scale: tuple[float, float] | None,
    parts: int = 1,
    place: int | None = None,
) -> dict[str, MetricSummary]:
    """Of one of the parts of which the arrays of users consist, or of all of them together."""

    def values(name: str) -> np.ndarray:
        sums = total.arrays[name].reshape(parts, -1)
        chosen: np.ndarray = sums.sum(axis=0) if place is None else sums[place]
        return chosen / total.spec[name].unit

    counts, errors = total.arrays.get(_TOP), None
    if scale is not None and _ERRORS in total.arrays:
        errors = in_ratings(np.concatenate([values(_ERRORS), values(_SQUARES)]), scale)
    top = None if counts is None else counts.astype(np.int64)
    by_position = _POSITIONS in total.arrays
    found = summarise(metrics, values(_POSITIONS if by_position else _USERS), top, errors, by_position)
    return {str(summary.metric): summary for summary in found}
