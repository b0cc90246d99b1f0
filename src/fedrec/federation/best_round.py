"""Which round a run keeps, and whether it stops early, by the validations in its ledger."""

from __future__ import annotations

from fedrec.evaluation.metrics import parse_metrics
from fedrec.federation.plan import Plan
from fedrec.record.ledger import Ledger

__all__ = ["kept_round", "stops_early"]


def kept_round(plan: Plan, ledger: Ledger) -> int:
    """The round to keep: the best on validation (the earliest of equals), or the last."""
    scores = _scores(plan, ledger)
    if plan.evaluation.keep == "best" and scores:
        return max(scores, key=lambda score: (score[1], -score[0]))[0]
    return int(ledger.of_kind("round")[-1]["round"])


def stops_early(plan: Plan, ledger: Ledger) -> bool:
    """Whether the last `patience` validations brought nothing better."""
    patience = plan.evaluation.patience
    values = [value for _, value in _scores(plan, ledger)]
    return patience is not None and len(values) > patience and max(values[:-patience]) >= max(values[-patience:])


def _scores(plan: Plan, ledger: Ledger) -> list[tuple[int, float]]:
    """(round, deciding metric, turned so that more is better) of every validation."""
    (metric,) = parse_metrics(plan.evaluation.metrics[:1])
    first, lines = plan.evaluation.metrics[0], ledger.of_kind("validation")
    return [(line["round"], metric.better(line["metrics"][first])) for line in lines if first in line["metrics"]]
