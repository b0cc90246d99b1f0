"""Two trained models on the same users: how much better one is than the other, and whether that is more than luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import polars as pl

from fedrec.aggregation.sums import Sum
from fedrec.data.identifiers import Identifiers
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError, enumerated
from fedrec.evaluation.metrics import Metric, MetricSummary, parse_metrics
from fedrec.evaluation.protocols import check_protocol, parse_protocol
from fedrec.federation.calls import EvaluationCall, Part
from fedrec.federation.measuring import Measured, measuring_spec
from fedrec.runs.finished import OpenedRun

__all__ = ["Difference", "differences", "differences_in_words"]

_SURE = 0.95


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same users.

    Args:
        metric: what was measured.
        first, other: values of the two models.
        difference: other − first, the mean over users of the difference of each user.
        standard_error: of the difference; `None` for fewer than two users.
        users: how many were measured.
        metrics: how many metrics were compared beside each other, this one included.

    Example:
        >>> found = Difference(Metric("ndcg", 10), 0.30, 0.33, 0.03, 0.01, users=900, metrics=4)
        >>> [round(end, 4) for end in found.interval()], found.verdict, found.holds_together
        ([0.0104, 0.0496], 'better', True)
    """

    metric: Metric
    first: float
    other: float
    difference: float
    standard_error: float | None
    users: int
    metrics: int

    def interval(self, share: float = _SURE) -> tuple[float, float]:
        """The ends of an interval that holds the true difference in this share of comparisons."""
        if self.standard_error is None:
            return -math.inf, math.inf
        reach = NormalDist().inv_cdf((1.0 + share) / 2.0) * self.standard_error
        return self.difference - reach, self.difference + reach

    @property
    def verdict(self) -> str:
        """Whether the other model is `better` or `worse` (intra-list distance: `higher` or `lower`), or the 95 %
        interval holds 0, so that one `cannot tell`."""
        low, high = self.interval()
        more, less = ("higher", "lower") if self.metric.of_items else ("better", "worse")
        return more if low > 0.0 else less if high < 0.0 else "cannot tell"

    @property
    def holds_together(self) -> bool:
        """Whether the verdict is one, and still is if all metrics together shall be right in 95 % of comparisons: each
        interval is then as wide as 1 − 5 % / metrics asks for (Bonferroni)."""
        low, high = self.interval(1.0 - (1.0 - _SURE) / self.metrics)
        return low > 0.0 or high < 0.0


def differences(
    first: OpenedRun,
    other: OpenedRun,
    metrics: Sequence[str] | None = None,
    protocol: str | None = None,
    part: Part = "test",
    engines: tuple[LocalEngine, LocalEngine] | None = None,
) -> list[Difference]:
    """Measure two models on the same users. Each node of the first sums up the differences of its own users and their
    squares; nothing else is read of them.

    Args:
        first, other: the models.
        metrics: metrics that each user has, such as `ndcg@10`; by default those of the first model's plan.
        protocol: how held-out items are ranked; by default as both plans say.
        part: `test` or `valid`.
        engines: nodes with the users, where these are not the models' own.

    Raises:
        InputError: if the models were not trained on the same items, are not measured on the same held-out interactions
            in the same way, or a metric is none that each user has.
    """
    nodes = engines or (first.measured, other.measured)
    asked = _metrics(first, metrics)
    agreed = parse_protocol(_protocol(first, other, protocol))
    check_protocol(asked, agreed)
    _check_alike(first, other, nodes, part)
    ours, theirs = (
        [shard.per_user(_call(opened, asked, str(agreed), part)) for shard in engine.shards]
        for opened, engine in zip((first, other), nodes, strict=True)
    )
    users = Identifiers.of(pl.concat([shard.data.users.series for shard in nodes[1].shards]))
    order = np.argsort(np.concatenate([users.find(shard.data.users.series) for shard in nodes[1].shards]))
    counts, values = (np.concatenate([getattr(part, name) for part in theirs])[order] for name in ("counts", "values"))
    spec = measuring_spec(asked, len(first.catalog), first.agreement.n_max, nodes[0].shards[0].split.positions)
    totals = [Sum.zeros(spec) for _ in range(3)]
    for shard, mine in zip(nodes[0].shards, ours, strict=True):
        places = users.find(shard.data.users.series)
        if (counts[places] != mine.counts).any():
            raise InputError(
                f"of some users only one of the models is measured, by protocol {agreed} or by the weights of its "
                "plan; take protocol full, and train both with the same weights"
            )
        for total, each in zip(totals, (mine.values, values[places], values[places] - mine.values), strict=True):
            mine.with_values(each).add_to(total)
    one, two, between = (Measured.of(asked, total).everyone for total in totals)
    if not between:
        raise InputError(f"the split {first.plan.split!r} leaves nothing in {part!r} to compare on")
    return [_difference(one[name], two[name], between[name], len(asked)) for name in between]


def differences_in_words(found: Sequence[Difference], first: str, other: str) -> str:
    """What differences say, in plain sentences.

    Args:
        found: of `differences`.
        first, other: names of the models.

    Example:
        >>> one = Difference(Metric("ndcg", 10), 0.30, 0.33, 0.03, 0.01, users=900, metrics=1)
        >>> differences_in_words([one], "a", "b")
        'b is better than a by ndcg@10.'
    """
    lines = []
    for verdict, words in (
        ("better", f"{other} is better than {first} by"),
        ("worse", f"{other} is worse than {first} by"),
        ("higher", f"{other} is higher than {first} by"),
        ("lower", f"{other} is lower than {first} by"),
        ("cannot tell", "These users cannot tell the two apart by"),
    ):
        names = [str(each.metric) for each in found if each.verdict == verdict]
        lines += [f"{words} {enumerated(names)}."] if names else []
    if len(found) > 1:
        sure = [str(each.metric) for each in found if each.holds_together]
        lines.append(
            f"An interval of one metric misses the truth in 1 of 20 comparisons, and there are {len(found)} here. "
            "Taken together (Bonferroni), "
            + (f"the verdict holds for {enumerated(sure)}." if sure else "no verdict holds.")
        )
    return " ".join(lines)


def _difference(one: MetricSummary, two: MetricSummary, between: MetricSummary, metrics: int) -> Difference:
    return Difference(one.metric, one.value, two.value, between.value, between.standard_error, between.users, metrics)


def _metrics(first: OpenedRun, names: Sequence[str] | None) -> tuple[Metric, ...]:
    asked = parse_metrics(names or first.plan.evaluation.metrics)
    wrong = [str(metric) for metric in asked if not metric.per_user]
    if names is None and 0 < len(wrong) < len(asked):
        return tuple(metric for metric in asked if metric.per_user)
    if wrong:
        raise InputError(
            f"{wrong[0]} is not a mean over users, so it has no difference of each user; name metrics that users have, "
            "such as ndcg@10"
        )
    return asked


def _protocol(first: OpenedRun, other: OpenedRun, named: str | None) -> str:
    one, two = first.plan.evaluation.protocol, other.plan.evaluation.protocol
    if named is None and one != two:
        raise InputError(f"one model is measured by {one} and the other by {two}; name one protocol for both")
    return named or one


def _call(opened: OpenedRun, metrics: tuple[Metric, ...], protocol: str, part: Part) -> EvaluationCall:
    trained, n_max = opened.trained, opened.agreement.n_max
    return EvaluationCall(trained.round, trained.state.shared, part, parse_protocol(protocol), metrics, n_max)


def _check_alike(first: OpenedRun, other: OpenedRun, nodes: tuple[LocalEngine, LocalEngine], part: Part) -> None:
    """Check that both are asked the same about the same users.

    Raises:
        InputError: saying what differs.
    """
    if not first.catalog.items.same_as(other.catalog.items):
        raise InputError(
            f"the models know different items, {len(first.catalog):,} and {len(other.catalog):,}; train both on the "
            "same data"
        )
    for what in ("held out", "known"):
        one, two = (_interactions(engine, part, what) for engine in nodes)
        if not one.equals(two):
            raise InputError(
                f"the models are not measured on the same users and interactions: what is {what} for {part} differs "
                f"({one.height:,} interactions by split {first.plan.split}, seed {first.plan.seed}, and {two.height:,} "
                f"by split {other.plan.split}, seed {other.plan.seed}). Train both on the same data with the same split"
            )


def _interactions(engine: LocalEngine, part: Part, what: str) -> pl.DataFrame:
    parts = [shard.split.relevant(part) if what == "held out" else shard.split.history(part) for shard in engine.shards]
    return pl.concat([each.to_frame().select("user_id", "item_id") for each in parts]).sort("user_id", "item_id")
