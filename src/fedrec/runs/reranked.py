"""What a causal model of language does to the lists of a trained model, measured at the node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedrec.errors import InputError
from fedrec.evaluation.metrics import check_metrics, parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.evaluation.ranks import user_metrics
from fedrec.federation.calls import Part
from fedrec.kernels.keyed import sip_words
from fedrec.recommending.reranking import Reranker
from fedrec.runs.finished import OpenedRun

__all__ = ["RerankedMetric", "measure_reranked"]


@dataclass(frozen=True)
class RerankedMetric:
    """A metric before and after, over the same users.

    Args:
        name: of the metric.
        before, after: means over users.
        gain: mean of the users' differences.
        standard_error: of the gain.
        users: how many.
        seconds: of processor time that the language model took for a user.
    """

    name: str
    before: float
    after: float
    gain: float
    standard_error: float
    users: int
    seconds: float


def measure_reranked(
    opened: OpenedRun, reranker: Reranker, metrics: Sequence[str], part: Part, users: int
) -> list[RerankedMetric]:
    """Metrics of lists of all items, of the recommender and in the order of the language model, for the same users.

    Args:
        opened: the model, with users in this process.
        reranker: the language model.
        metrics: of single users.
        part: that is held out.
        users: how many are drawn, of those that something is held out of.

    Raises:
        InputError: if nothing is held out, or a metric is not of single users.
    """
    asked = parse_metrics(metrics)
    check_metrics(asked, opened.model.name, False)
    if others := [str(metric) for metric in asked if not metric.per_user or metric.graded]:
        raise InputError(f"metric {others[0]!r} cannot be compared user by user; use ndcg, recall, hr, mrr or the like")
    protocol, trained = parse_protocol("full"), opened.trained
    before: list[np.ndarray] = []
    after: list[np.ndarray] = []
    spent = 0.0
    for shard in opened.measured.shards:
        relevant = shard.split.relevant(part)
        held = np.flatnonzero(relevant.lengths)
        share = max(1, round(users * len(held) / max(_holding(opened, part), 1)))
        chosen = np.sort(_drawn(shard.clients.keys, held)[:share])
        history = shard.split.history(part)
        for positions, clients, scores in shard.scores(trained.state.shared, trained.round, history, chosen):
            began = time.process_time()
            ((_, _, changed),) = reranker.reordered(iter([(positions, clients, scores)]))
            spent += time.process_time() - began
            wanted = relevant.take_users(positions)
            lists = (clients.indptr, clients.items), (wanted.indptr, wanted.items)
            for values, told in ((before, scores), (after, changed)):
                values.append(user_metrics(told, *lists, lists[0], asked, protocol).values)
    if not before or not sum(map(len, before)):
        raise InputError(f"the split {opened.plan.split!r} leaves nothing in {part!r} to evaluate on")
    plain, changed = np.concatenate(before), np.concatenate(after)
    number = len(plain)
    error = (changed - plain).std(axis=0, ddof=1) / number**0.5 if number > 1 else np.full(len(asked), np.nan)
    return [
        RerankedMetric(
            str(metric),
            float(plain[:, place].mean()),
            float(changed[:, place].mean()),
            float((changed - plain)[:, place].mean()),
            float(error[place]),
            number,
            spent / number,
        )
        for place, metric in enumerate(asked)
    ]


def _holding(opened: OpenedRun, part: Part) -> int:
    """How many users something is held out of."""
    return sum(int(np.count_nonzero(shard.split.relevant(part).lengths)) for shard in opened.measured.shards)


def _drawn(keys: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Users in an order that follows from their keys alone."""
    words = np.empty(len(held), dtype=np.uint64)
    sip_words(np.uint64(0), np.uint64(0), np.ascontiguousarray(keys[held]), words)
    return held[np.argsort(words, kind="stable")]
