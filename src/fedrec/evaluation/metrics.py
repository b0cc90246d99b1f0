"""Names of metrics, and means with standard errors made from sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.errors import InputError, suggestion

__all__ = ["DEFAULT_METRICS", "METRIC_NAMES", "Metric", "MetricSummary", "parse_metrics", "summarise"]

METRIC_NAMES = ("recall", "recall_capped", "precision", "ndcg", "hr", "f1", "mrr", "map", "coverage")
DEFAULT_METRICS = ("hr@10", "ndcg@10", "recall@20", "ndcg@20")


@dataclass(frozen=True)
class Metric:
    """One metric and its cutoff; written `name@k`.

    Args:
        name: one of `METRIC_NAMES`.
        k: length of the list that is looked at, ≥ 1.

    Raises:
        InputError: unknown name or k below 1.

    Example:
        >>> str(Metric("ndcg", 10))
        'ndcg@10'
    """

    name: str
    k: int

    def __post_init__(self) -> None:
        if self.name not in METRIC_NAMES:
            raise InputError(f"unknown metric {self.name!r}{suggestion(self.name, METRIC_NAMES)}")
        if self.k < 1:
            raise InputError(f"metric {self.name}@{self.k}: the cutoff must be at least 1")

    def __str__(self) -> str:
        return f"{self.name}@{self.k}"

    @property
    def per_user(self) -> bool:
        """Whether every user has a value; coverage has one for all users together."""
        return self.name != "coverage"


def parse_metrics(names: str | Iterable[str] = DEFAULT_METRICS) -> tuple[Metric, ...]:
    """Read metrics from `name@k` words, or from one text with commas between them.

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
        if not at or not (k.isascii() and k.isdigit() and len(k) <= 9):
            raise InputError(
                f"metric {str(word).strip()!r:.80} needs a whole cutoff after '@', as in {name}@10, of 9 digits at most"
            )
        metric = Metric(name, int(k))
        if metric in metrics:
            raise InputError(f"metric {metric} is listed twice; list it once")
        metrics.append(metric)
    if not metrics:
        raise InputError(f"no metric given; name at least one, such as {DEFAULT_METRICS[0]}")
    return tuple(metrics)


@dataclass(frozen=True)
class MetricSummary:
    """A metric over all users.

    Args:
        metric: what was measured.
        value: mean over users; for coverage, the share of the catalog.
        standard_error: sample standard deviation / √users; `None` for coverage and for fewer than two users.
        users: how many users the value is about: those with at least one held-out item.
    """

    metric: Metric
    value: float
    standard_error: float | None
    users: int


def summarise(
    metrics: Sequence[Metric], sums: np.ndarray, top_counts: np.ndarray | None = None
) -> tuple[MetricSummary, ...]:
    """Turn sums over users into means and standard errors, in the order of `metrics`.

    Args:
        metrics: as given to `user_metrics`, coverage included.
        sums: [1 + 2M] float64 for the M metrics that are not coverage: number of users, Σ value of each metric,
            Σ value² of each metric: the column sums of `metric_sums`.
        top_counts: [coverage metrics, items] int64, how many users' lists hold each item.

    Raises:
        InputError: sums of the wrong shape, no user to average over, or a coverage without its counts.

    Example:
        >>> metrics = parse_metrics("hr@10")
        >>> summarise(metrics, np.array([4.0, 2.0, 2.0]))
        (MetricSummary(metric=Metric(name='hr', k=10), value=0.5, standard_error=0.288..., users=4),)
    """
    columns = sum(metric.per_user for metric in metrics)
    rows = len(metrics) - columns
    if sums.shape != (1 + 2 * columns,):
        raise InputError(f"sums have shape {sums.shape}, expected ({1 + 2 * columns},) for {columns} metrics")
    if rows and (top_counts is None or top_counts.ndim != 2 or len(top_counts) != rows):
        raise InputError(f"coverage needs counts of shape ({rows}, items)")
    users = round(float(sums[0]))
    if users < 1:
        raise InputError("no user has a held-out item, so there is nothing to average; check the split")
    result: list[MetricSummary] = []
    column = row = 0
    for metric in metrics:
        if metric.per_user:
            total, squares = float(sums[1 + column]), float(sums[1 + columns + column])
            mean = total / users
            error = None
            if users > 1:
                variance = max(0.0, squares - total * mean) / (users - 1)
                error = math.sqrt(variance / users)
            result.append(MetricSummary(metric, mean, error, users))
            column += 1
        else:
            assert top_counts is not None
            result.append(MetricSummary(metric, float(np.mean(top_counts[row] > 0)), None, users))
            row += 1
    return tuple(result)
