"""Metrics as fixed-point sums: the spec, what a chunk of clients adds, and the summary of the total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.evaluation.metrics import Metric, MetricSummary, summarise
from fedrec.evaluation.ranks import UserMetrics, metric_sums

__all__ = ["add_metrics", "measuring_spec", "summaries"]

_SCALE_BITS = 30
_TOP = "top_counts"


def measuring_spec(metrics: Sequence[Metric], n_items: int, n_max: int) -> SumSpec:
    """Number of users, Σ value and Σ value² of each metric; for coverage, how many lists hold each item."""
    per_user = sum(metric.per_user for metric in metrics)
    arrays = [ArraySpec("metrics", "dense", (1 + 2 * per_user,), bound=1.0, scale_bits=_SCALE_BITS, ring=64)]
    covered = len(metrics) - per_user
    if covered:
        arrays.append(ArraySpec(_TOP, "dense", (covered, n_items), bound=1.0, granularity="node"))
    return SumSpec(tuple(arrays)).fit(n_max)


def add_metrics(total: Sum, result: UserMetrics) -> None:
    """Add a chunk of users."""
    rows = metric_sums(result)[result.valid]
    part = Sum.zeros(SumSpec(total.spec.arrays[:1], total.spec.n_max), total.round)
    part.add(Contributions({"metrics": Dense(rows.astype(np.float32), np.ones(len(rows)))}))
    total.arrays["metrics"] += part.arrays["metrics"]
    total.clients += part.clients
    total.left_out += part.left_out
    total.saturated += part.saturated
    if result.top_counts is not None:
        total.arrays[_TOP] += result.top_counts.astype(total.arrays[_TOP].dtype)


def summaries(metrics: Sequence[Metric], total: Sum) -> dict[str, MetricSummary]:
    """Mean and standard error of every metric by name; empty where no user had anything held out."""
    if total.clients == 0:
        return {}
    counts = total.arrays.get(_TOP)
    found = summarise(metrics, total.value("metrics"), None if counts is None else counts.astype(np.int64))
    return {str(summary.metric): summary for summary in found}
