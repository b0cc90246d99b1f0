"""Names of metrics, and means with standard errors made from sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.errors import InputError, suggestion
from fedrec.evaluation.diversity import ITEM_METRICS
from fedrec.evaluation.lists import LIST_METRICS, READ_HISTORIES, figure_of_lists

__all__ = [
    "BINARY_METRICS",
    "DEFAULT_METRICS",
    "METRIC_NAMES",
    "RATING_METRICS",
    "Metric",
    "MetricSummary",
    "check_metrics",
    "deciding_metric",
    "default_metrics",
    "parse_metrics",
    "rows_of_lists",
    "summarise",
]

RATING_METRICS = ("rmse", "mae")
"""Errors of predicted ratings; without a cutoff, less is better."""
GRADED_METRICS = ("ndcg_graded", "ndcg_exponential")
"""Metrics of lists that read the values of held-out interactions as how relevant their items are."""
BINARY_METRICS = ("recall", "recall_capped", "precision", "ndcg", "hr", "f1", "mrr", "map")
"""Metrics of lists to which a held-out item is relevant, and no other is."""
METRIC_NAMES = (*BINARY_METRICS, *ITEM_METRICS, *LIST_METRICS, *GRADED_METRICS, *RATING_METRICS)
DEFAULT_METRICS = ("hr@10", "ndcg@10", "recall@20", "ndcg@20")


@dataclass(frozen=True)
class Metric:
    """One metric and its cutoff; written `name@k`, or `name` for an error of predicted ratings.

    Args:
        name: one of `METRIC_NAMES`.
        k: length of the list that is looked at, ≥ 1; 0 for an error of predicted ratings, which looks at none.

    Raises:
        InputError: unknown name or k below 1.

    Example:
        >>> str(Metric("ndcg", 10))
        'ndcg@10'
    """

    name: str
    k: int = 0

    def __post_init__(self) -> None:
        if self.name not in METRIC_NAMES:
            raise InputError(f"unknown metric {self.name!r}{suggestion(self.name, METRIC_NAMES)}")
        if self.of_ratings and self.k:
            raise InputError(f"metric {self.name}@{self.k}: {self.name} has no cutoff; write {self.name}")
        if self.k < 1 and not self.of_ratings:
            raise InputError(f"metric {self.name}@{self.k}: the cutoff must be at least 1")

    def __str__(self) -> str:
        return self.name if self.of_ratings else f"{self.name}@{self.k}"

    @property
    def per_user(self) -> bool:
        """Whether every user has a value that is averaged over users."""
        return not self.of_lists and not self.of_ratings

    @property
    def of_lists(self) -> bool:
        """Whether the value is of all users' lists together, as coverage is."""
        return self.name in LIST_METRICS

    @property
    def reads_histories(self) -> bool:
        """Whether it compares what is listed with what users have, as novelty does."""
        return self.name in READ_HISTORIES

    @property
    def of_items(self) -> bool:
        """Whether it compares the items of a user's list with each other, as intra-list distance does."""
        return self.name in ITEM_METRICS

    @property
    def of_ratings(self) -> bool:
        """Whether it is an error of predicted ratings, over all held-out ratings together."""
        return self.name in RATING_METRICS

    @property
    def graded(self) -> bool:
        """Whether it reads the values of held-out interactions as how relevant their items are."""
        return self.name in GRADED_METRICS

    def better(self, value: float) -> float:
        """The value turned so that more is better: less error, and lists that are less alike and less popular.

        >>> Metric("rmse").better(0.9), Metric("ndcg", 10).better(0.3), Metric("gini", 10).better(0.8)
        (-0.9, 0.3, -0.8)
        """
        return -value if self.of_ratings or self.name in ("gini", "average_popularity") else value


def parse_metrics(names: str | Iterable[str] = DEFAULT_METRICS) -> tuple[Metric, ...]:
    """Read metrics from `name@k` words (`rmse` and `mae` have no cutoff), or from one text with commas between them.

    Raises:
        InputError: no metric, a word that is not `name@k`, an unknown name, k below 1, or a metric listed twice.

    Example:
        >>> parse_metrics("ndcg@10, recall@20")
        (Metric(name='ndcg', k=10), Metric(name='recall', k=20))
        >>> parse_metrics(["ndgc@10"])
        Traceback (most recent call last):
        fedrec.errors.InputError: unknown metric 'ndgc'. Did you mean 'ndcg'?
    """
    words = names.split(",") if isinstance(names, str) else list(names)
    metrics: list[Metric] = []
    for word in words:
        name, at, k = str(word).strip().lower().partition("@")
        if name not in METRIC_NAMES:
            raise InputError(f"unknown metric {name!r}{suggestion(name, METRIC_NAMES)}")
        of_ratings = name in RATING_METRICS
        if of_ratings and at:
            raise InputError(f"metric {str(word).strip()!r:.80}: {name} has no cutoff; write {name}")
        if not of_ratings and not (k.isascii() and k.isdigit() and len(k) <= 9):
            raise InputError(
                f"metric {str(word).strip()!r:.80} needs a whole cutoff after '@', as in {name}@10, of 9 digits at most"
            )
        metric = Metric(name, 0 if of_ratings else int(k))
        if metric in metrics:
            raise InputError(f"metric {metric} is listed twice; list it once")
        metrics.append(metric)
    if not metrics:
        raise InputError(f"no metric given; name at least one, such as {DEFAULT_METRICS[0]}")
    return tuple(metrics)


def rows_of_lists(metrics: Iterable[Metric]) -> int:
    """How many rows of counts the metrics of lists need: one each, and one of histories if any reads them.

    >>> rows_of_lists(parse_metrics("hr@5,coverage@5")), rows_of_lists(parse_metrics("coverage@5,novelty@5"))
    (1, 3)
    """
    of_lists = [metric for metric in metrics if metric.of_lists]
    return len(of_lists) + any(metric.reads_histories for metric in of_lists)


def default_metrics(reads_ratings: bool) -> tuple[str, ...]:
    """What is measured of a model where nothing else is asked for."""
    return RATING_METRICS if reads_ratings else DEFAULT_METRICS


def deciding_metric(reads_ratings: bool) -> str:
    """What decides between hyperparameters of a model where nothing else is asked for."""
    return RATING_METRICS[0] if reads_ratings else "ndcg@10"


def check_metrics(metrics: Iterable[Metric], model: str, reads_ratings: bool) -> None:
    """Check that a model can be measured by metrics.

    Raises:
        InputError: for an error of predicted ratings, if the model predicts none.
    """
    for metric in metrics:
        if metric.of_ratings and not reads_ratings:
            raise InputError(
                f"metric {metric}: model {model!r} ranks items and predicts no ratings; use a model that predicts "
                "ratings ('fedrec models' shows how each model uses ratings), or a metric of lists such as ndcg@10"
            )


@dataclass(frozen=True)
class MetricSummary:
    """A metric over all users.

    Args:
        metric: what was measured.
        value: mean over users, or over positions; for metrics of lists, the figure of all lists together; for errors
            of ratings, over all ratings.
        standard_error: sample standard deviation / √users; for positions and errors of ratings that of a ratio of sums
            over users; `None` for metrics of lists and for fewer than two users.
        users: how many users the value is about: those with at least one held-out item.
    """

    metric: Metric
    value: float
    standard_error: float | None
    users: int


def summarise(
    metrics: Sequence[Metric],
    sums: np.ndarray,
    top_counts: np.ndarray | None = None,
    errors: Mapping[str, float] | None = None,
    by_position: bool = False,
) -> tuple[MetricSummary, ...]:
    """Turn sums over users into means and standard errors, in the order of `metrics`.

    Args:
        metrics: all that were asked for.
        sums: [1 + 2M] float64 for the M metrics that users have: number of users, Σ value of each metric,
            Σ value² of each metric: the column sums of `metric_sums`. By position, those of `position_sums`.
        top_counts: [metrics of lists, items] int64, how many users' lists hold each item; with a last row of how many
            histories do, where a metric reads them.
        errors: sums of `fedrec.evaluation.errors`, by name, where errors of ratings were asked for.
        by_position: means are over positions, of which a user has one or several.

    Raises:
        InputError: sums of the wrong shape, no user to average over, a metric of lists without its counts, or errors of
            ratings without theirs.

    Example:
        >>> metrics = parse_metrics("hr@10")
        >>> summarise(metrics, np.array([4.0, 2.0, 2.0]))
        (MetricSummary(metric=Metric(name='hr', k=10), value=0.5, standard_error=0.288..., users=4),)
    """
    columns = sum(metric.per_user for metric in metrics)
    rows = rows_of_lists(metrics)
    width = 3 + 3 * columns if by_position else 1 + 2 * columns
    if sums.shape != (width,):
        raise InputError(f"sums have shape {sums.shape}, expected ({width},) for {columns} metrics")
    if rows and (top_counts is None or top_counts.ndim != 2 or len(top_counts) != rows):
        raise InputError(f"metrics of lists, such as coverage, need counts of shape ({rows}, items)")
    if errors is None and any(metric.of_ratings for metric in metrics):
        raise InputError("rmse and mae need the sums of squared and absolute errors")
    users = round(float(sums[0]))
    if users < 1:
        raise InputError("no user has a held-out item, so no metric can be computed; check the split")
    lists = round(float(sums[1])) if by_position else users
    result: list[MetricSummary] = []
    column = row = 0
    for metric in metrics:
        if metric.per_user:
            mean = _mean_of_positions if by_position else _mean_of_users
            result.append(MetricSummary(metric, *mean(sums, column, columns, users), users))
            column += 1
        elif metric.of_ratings:
            assert errors is not None
            result.append(MetricSummary(metric, *_error(metric.name, errors, users), users))
        else:
            assert top_counts is not None
            having = top_counts[-1] if metric.reads_histories else None
            figure = figure_of_lists(metric.name, top_counts[row], having, lists)
            result.append(MetricSummary(metric, figure, None, users))
            row += 1
    return tuple(result)


def _mean_of_users(sums: np.ndarray, column: int, columns: int, users: int) -> tuple[float, float | None]:
    """Mean of a metric over users, and its standard error."""
    total, squares = float(sums[1 + column]), float(sums[1 + columns + column])
    mean = total / users
    if users < 2:
        return mean, None
    variance = max(0.0, squares - total * mean) / (users - 1)
    return mean, math.sqrt(variance / users)


def _mean_of_positions(sums: np.ndarray, column: int, columns: int, users: int) -> tuple[float, float | None]:
    """Mean of a metric over the positions of all users, and its standard error."""
    positions, squared_positions = float(sums[1]), float(sums[2])
    total, squares, products = (float(sums[3 + part * columns + column]) for part in range(3))
    return _ratio(total, positions, squares, products, squared_positions, users)


def _ratio(
    total: float, of: float, squares: float, products: float, squares_of: float, users: int
) -> tuple[float, float | None]:
    """Σ y / Σ x over users, and its standard error as a ratio of sums (Cochran 1977, "Sampling techniques", equation
    2.46), from Σ y, Σ x, Σ y², Σ y x and Σ x²."""
    ratio = total / of
    deviations = max(0.0, squares - 2.0 * ratio * products + ratio**2 * squares_of)
    return ratio, None if users < 2 else math.sqrt(users / (users - 1) * deviations) / of


def _error(name: str, sums: Mapping[str, float], users: int) -> tuple[float, float | None]:
    """RMSE or MAE over all ratings, and its standard error; for a root, by the delta method."""
    ratings, total = sums["ratings"], sums[name]
    if ratings < 1:
        raise InputError("no user has a held-out rating, so no metric can be computed; check the split")
    squares, products = sums[f"{name} squared"], sums[f"{name} times ratings"]
    ratio, error = _ratio(total, ratings, squares, products, sums["ratings squared"], users)
    if name == "mae":
        return ratio, error
    root = math.sqrt(ratio)
    return root, error if error is None or root == 0.0 else error / (2.0 * root)
