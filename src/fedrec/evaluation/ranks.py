"""Metrics of each user from scores, held-out items and the items to leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from fedrec.errors import InputError
from fedrec.evaluation.diversity import intra_list_distance
from fedrec.evaluation.graded import graded_ndcg
from fedrec.evaluation.lists import list_counts
from fedrec.evaluation.metrics import Metric, parse_metrics
from fedrec.evaluation.protocols import Protocol, check_protocol, parse_protocol
from fedrec.kernels.rank_metrics import KINDS, full_metrics, sampled_metrics
from fedrec.kernels.ranking import count_levels

__all__ = ["ItemLists", "UserMetrics", "metric_sums", "position_sums", "score_list", "user_metrics"]

ItemLists = tuple[np.ndarray, np.ndarray]
"""Items of each user: `indptr` [users + 1] int64 and `items` int32; user `u` owns `items[indptr[u]:indptr[u + 1]]`.

Items of a user may come in any order; repeats count once. `indptr` may be a slice of a longer one.
"""


@dataclass(frozen=True, eq=False)
class UserMetrics:
    """Values of each user; nothing here may leave a node before it is summed.

    Args:
        metrics: what the columns of `values` hold: the metrics that users have, of those asked for.
        values: [users, metrics] float64, each in [0, 1], or in [0, 2] for intra-list distance; zeros for users that are
            not valid.
        valid: [users] bool, whether the user has at least one held-out item.
        top_counts: [metrics of lists, items] int64, in how many valid users' top k each item is; with a last row of in
            how many of their histories, where a metric reads these; `None` where no metric of lists was asked for.
    """

    metrics: tuple[Metric, ...]
    values: np.ndarray
    valid: np.ndarray
    top_counts: np.ndarray | None = None


def user_metrics(
    scores: np.ndarray,
    exclude: ItemLists,
    relevant: ItemLists,
    touched: ItemLists,
    metrics: Sequence[Metric],
    protocol: Protocol,
    gains: np.ndarray | None = None,
    vectors: np.ndarray | None = None,
) -> UserMetrics:
    """Expected metrics of each user, exact over the order of tied items and over the draw of sampled items.

    The result for a user has the same bits in any batch and for any number of threads.

    Args:
        scores: [users, items] float32, higher is better. NaN and −inf mean *no score*: those items tie for the
            last place.
        exclude: history, removed from the candidates of protocol `full` and from lists.
        relevant: held-out items; none may be in `exclude`. A user without any is not valid.
        touched: every item the user touched in any part, `relevant` included; never drawn by protocol `sampled`.
        metrics: from `parse_metrics`.
        protocol: from `parse_protocol`.
        gains: values [held-out] of the held-out items, in the order of `relevant`, for metrics of graded relevance.
        vectors: of items [items, width], each of length 1 or 0, for intra-list distance.

    Raises:
        InputError: arrays of the wrong shape or type, items outside the catalog, a held-out item that is in the history
            (`full`) or missing from `touched` (`sampled`), graded relevance without `gains`, intra-list distance
            without `vectors`.
        PlanError: metrics of lists or graded relevance under `sampled`, which makes no lists.

    Example:
        >>> scores = np.array([[0.9, 0.1, 0.5, 0.3]], dtype=np.float32)
        >>> def one(*items): return np.array([0, len(items)]), np.array(items, dtype=np.int32)
        >>> metrics, protocol = parse_metrics("hr@1,mrr@2"), parse_protocol("full")
        >>> result = user_metrics(scores, one(0), one(3), one(0, 3), metrics, protocol)
        >>> result.values.tolist()
        [[0.0, 0.5]]
    """
    scores = np.asarray(scores)
    if scores.ndim != 2 or scores.dtype != np.float32:
        raise InputError(f"scores must be [users, items] float32, not {scores.dtype} of shape {scores.shape}")
    scores = np.ascontiguousarray(scores)
    users, items = scores.shape
    exclude = _checked("exclude", exclude, users, items)
    relevant = _checked("relevant", relevant, users, items)
    touched = _checked("touched", touched, users, items)
    columns = tuple(metric for metric in metrics if metric.per_user)
    lists = tuple(metric for metric in metrics if metric.of_lists)
    check_protocol(metrics, protocol)
    if gains is None and any(metric.graded for metric in columns):
        raise InputError(
            f"{next(metric for metric in columns if metric.graded)} needs the values of the held-out items"
        )
    valid = np.diff(relevant[0]) > 0
    values = np.zeros((users, len(columns)))
    if columns:
        _fill(values, scores, exclude, relevant, touched, columns, protocol, gains)
    for column, metric in enumerate(columns):
        if metric.of_items:
            values[:, column] = np.where(valid, intra_list_distance(scores, exclude, vectors, metric.k), 0.0)
    counts = None
    if lists:
        reads = any(metric.reads_histories for metric in lists)
        counts = list_counts(scores, exclude, valid, [metric.k for metric in lists], reads)
    return UserMetrics(columns, values, valid, counts)


def metric_sums(result: UserMetrics) -> np.ndarray:
    """What each user adds to the sums that `summarise` reads: 1, the values, the squared values.

    Returns:
        [users, 1 + 2M] float64, zeros for users that are not valid. Sum over users before anything leaves a node.

    Example:
        >>> two = UserMetrics(parse_metrics("hr@1"), np.array([[0.5], [0.0]]), np.array([True, False]))
        >>> metric_sums(two).tolist()
        [[1.0, 0.5, 0.25], [0.0, 0.0, 0.0]]
    """
    return np.hstack([result.valid[:, None].astype(np.float64), result.values, result.values**2])


def position_sums(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """What each user adds to the sums that `summarise` reads by position: 1, n, n², and of each metric Σ v, (Σ v)² and
    n Σ v, over the user's n positions.

    Args:
        counts: n [users], at least 1.
        totals: Σ v [users, M] of each metric.

    Returns:
        [users, 3 + 3M] float64. Sum over users before anything leaves a node.

    Example:
        >>> position_sums(np.array([2]), np.array([[0.5]])).tolist()
        [[1.0, 2.0, 4.0, 0.5, 0.25, 1.0]]
    """
    n = counts.astype(np.float64)[:, None]
    return np.hstack([np.ones_like(n), n, n**2, totals, totals**2, n * totals])


def score_list(
    scores: Sequence[float],
    relevant: Sequence[int],
    metric: str,
    exclude: Sequence[int] = (),
    protocol: str = "full",
    gains: Sequence[float] | None = None,
) -> float:
    """One metric of one user, to see what a definition means.

    Args:
        scores: one score per item of the catalog, higher is better; read as float32.
        relevant: positions of the held-out items.
        metric: such as `ndcg@10`; not of the lists of all users, and no error of ratings.
        exclude: positions of the items in the user's history.
        protocol: `full` or `sampled:n`.
        gains: one value per item in `relevant`, for metrics of graded relevance.

    Raises:
        InputError: as `user_metrics`; also for metrics of the lists of all users and errors of ratings, and where
            `relevant` is empty.

    Example:
        >>> score_list([0.9, 0.8, 0.7, 0.6], relevant=[1, 3], metric="ndcg_graded@4", gains=[1.0, 5.0]).__round__(3)
        0.494
        >>> score_list([0.9, 0.8, 0.7, 0.6], relevant=[1, 3], metric="recall@2")
        0.5
    """
    (wanted,) = parse_metrics([metric])
    if wanted.of_items:
        raise InputError(f"{wanted} compares items by their vectors; see fedrec.evaluation.diversity")
    if not wanted.per_user:
        what = "predicted ratings, not of a list" if wanted.of_ratings else "the lists of all users, not of one list"
        raise InputError(f"{wanted} is a metric of {what}")
    if len(relevant) == 0:
        raise InputError("relevant is empty; metrics are defined for users with at least one held-out item")
    row = np.asarray(scores, dtype=np.float32)[None, :]
    result = user_metrics(
        row,
        _one(exclude),
        _one(relevant),
        _one([*exclude, *relevant]),
        [wanted],
        parse_protocol(protocol),
        None if gains is None else np.asarray(gains, dtype=np.float64),
    )
    return float(result.values[0, 0])


def _fill(
    values: np.ndarray,
    scores: np.ndarray,
    exclude: ItemLists,
    relevant: ItemLists,
    touched: ItemLists,
    metrics: tuple[Metric, ...],
    protocol: Protocol,
    gains: np.ndarray | None,
) -> None:
    users, items = scores.shape
    indptr = relevant[0]
    full = protocol.negatives is None
    # Metrics of graded relevance and of items are written over afterwards.
    names = ["hr" if metric.graded or metric.of_items else metric.name for metric in metrics]
    kinds = np.array([KINDS.index(name) for name in names], dtype=np.int64)
    cutoffs = np.array([metric.k for metric in metrics], dtype=np.int64)
    longest = min(int(cutoffs.max()), items)
    above, tied, hits = (np.zeros(indptr[-1], dtype=np.int64) for _ in range(3))
    candidates = np.empty(users, dtype=np.int64)
    removed = exclude if full else touched
    count_levels(scores, *removed, *relevant, longest if full else items + 1, full, above, tied, hits, candidates)
    wrong = np.flatnonzero(candidates < 0)
    if len(wrong):
        where = f"row {int(wrong[0])} of scores: a held-out item is"
        if full:
            raise InputError(f"{where} also in the history (exclude); a split must put every item in one part only")
        raise InputError(f"{where} not among the touched items; touched must hold the items of every part")
    if protocol.negatives is None:
        discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2.0, longest + 2.0)))])
        full_metrics(indptr, above, tied, hits, kinds, cutoffs, discounts, values)
        for column, metric in enumerate(metrics):
            if metric.graded and gains is not None:
                places, exponential = (above, tied, hits), metric.name == "ndcg_exponential"
                values[:, column] = graded_ndcg(scores, *relevant, gains, places, metric.k, discounts, exponential)
    else:
        log_factorials = gammaln(np.arange(1.0, items + 2.0))
        sampled_metrics(
            indptr, above, tied, hits, candidates, protocol.negatives, kinds, cutoffs, log_factorials, values
        )


def _one(items: Sequence[int]) -> ItemLists:
    return np.array([0, len(items)], dtype=np.int64), np.array(items, dtype=np.int32)


def _checked(name: str, lists: ItemLists, users: int, items: int) -> ItemLists:
    """The lists as contiguous int64 and int32 arrays that start at 0, after checking every range and item."""
    indptr, positions = np.asarray(lists[0]), np.asarray(lists[1])
    if indptr.shape != (users + 1,) or indptr.dtype.kind != "i":
        raise InputError(f"{name}: indptr must be whole numbers of shape ({users + 1},), not {indptr.shape}")
    start, stop = int(indptr[0]), int(indptr[-1])
    if start < 0 or stop > len(positions) or bool(np.any(np.diff(indptr) < 0)):
        raise InputError(f"{name}: row ranges do not lie one after the other within {len(positions)} items")
    positions = positions[start:stop]
    if len(positions) and (positions.dtype.kind != "i" or positions.min() < 0 or positions.max() >= items):
        raise InputError(f"{name}: items must be positions from 0 to {items - 1}")
    return (
        np.ascontiguousarray(indptr - start, dtype=np.int64),
        np.ascontiguousarray(positions, dtype=np.int32),
    )
