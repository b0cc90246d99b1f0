"""A model against another one, user by user: how much better it is, as sums that tell nothing of single users.

Where a plan chooses how strongly a source is followed, the coordinator sends two models at once; a node measures both
on each user's validation items, and adds up differences and squared differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.evaluation.metrics import Metric, MetricSummary
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays, State

__all__ = ["Choice", "both", "chosen_of", "deciding", "divided", "strengths_of", "trials_of"]

_OTHER = "other."
"""Begins the names of the arrays of the model that is compared with."""
_SURE = 2.0
"""Standard errors that a gain must exceed."""
_STRENGTHS = (20.0, 100.0, 500.0)


def both(shared: Arrays, other: Arrays) -> dict[str, Any]:
    """Shared arrays of two models as one set of arrays."""
    return {**shared, **{_OTHER + name: array for name, array in other.items()}}


def divided(shared: Arrays) -> tuple[Arrays, Arrays]:
    """What `both` made of two models, as two again; without the other one, that is empty.

    >>> divided({"weights": 1, "other.weights": 2})
    ({'weights': 1}, {'weights': 2})
    """
    other = {name.removeprefix(_OTHER): array for name, array in shared.items() if name.startswith(_OTHER)}
    return {name: array for name, array in shared.items() if not name.startswith(_OTHER)}, other


def strengths_of(plan: Plan) -> tuple[float, ...]:
    """How strongly a source may be followed, in mean item counts, where the plan leaves that to validation."""
    if plan.transfer is None or plan.transfer.how != "auto":
        return ()
    return _STRENGTHS if plan.transfer.strength is None else (plan.transfer.strength,)


def trials_of(plan: Plan) -> int:
    """How many trials a plan has."""
    return len(strengths_of(plan))


def deciding(metrics: Sequence[Metric]) -> Metric | None:
    """The metric that decides: the first NDCG, which tells single users apart most finely, or else the first that every
    user has; `None` if there is none.

    >>> from fedrec.evaluation.metrics import parse_metrics
    >>> str(deciding(parse_metrics("hr@10,ndcg@10"))), deciding(parse_metrics("coverage@5"))
    ('ndcg@10', None)
    """
    each = [metric for metric in metrics if metric.per_user]
    return next((metric for metric in each if metric.name == "ndcg"), each[0] if each else None)


@dataclass(frozen=True, eq=False)
class Choice:
    """What trials have shown.

    Args:
        state: of the model that is kept.
        said: for the ledger: `metric`, `tried` (strength, gain, standard error and users of each trial) and `strength`,
            that of the source in the model; `None` where the source is left out.
    """

    state: State
    said: dict[str, Any]


def chosen_of(
    strengths: Sequence[float],
    alone: State,
    towards: Callable[[float], State],
    gain: Callable[[int, State], MetricSummary | None],
) -> Choice:
    """The model that follows the source as strongly as serves validation best, if it is better than the model alone by
    more than two standard errors; otherwise the model alone.

    Args:
        strengths: those to try.
        alone: the model without the source.
        towards: the model that follows the source so strongly.
        gain: how much better a model is than `alone`, by its trial (from 1) and state; `None` where nobody was
            measured.
    """
    tried: list[dict[str, Any]] = []
    best: tuple[float, float, State, float] | None = None
    metric = None
    for number, strength in enumerate(strengths, 1):
        candidate = towards(strength)
        found = gain(number, candidate)
        if found is None or found.standard_error is None:
            tried.append({"strength": strength, "gain": None, "standard_error": None, "users": 0})
            continue
        metric, mean, error = str(found.metric), found.metric.better(found.value), found.standard_error
        tried.append({"strength": strength, "gain": mean, "standard_error": error, "users": found.users})
        if best is None or mean > best[0]:
            best = mean, error, candidate, strength
    if best is None or best[0] <= _SURE * best[1]:
        return Choice(alone, {"metric": metric, "tried": tried, "strength": None})
    return Choice(best[2], {"metric": metric, "tried": tried, "strength": best[3]})
