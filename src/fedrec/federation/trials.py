"""A model against another one, user by user: how much better it is, as sums that tell nothing of single users.

Where a plan chooses how strongly a source is followed, or how much items count that nobody has, the coordinator sends
two models at once; a node measures both on each user's validation items, and adds up differences and squared
differences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.data.splits import SplitMethod
from fedrec.evaluation.metrics import Metric, MetricSummary
from fedrec.evaluation.protocols import Protocol
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays, State
from fedrec.models.cold_items import ColdItems
from fedrec.models.factors.following import FollowsFactors

__all__ = [
    "Choice",
    "boosts_of",
    "both",
    "chosen_of",
    "deciding",
    "divided",
    "is_careful",
    "protocol_of",
    "strengths_of",
    "trials_of",
]

_OTHER = "other."
"""Begins the names of the arrays of the model that is compared with."""
_SURE, _OF_SOURCE = 2.0, 1.0
"""Standard errors that a gain must exceed: over the model alone, and then over one that is drawn towards 0, which says
whether it is the source that helps or the stronger regularisation."""
KNOWN = Protocol(known=True)
_STRENGTHS, _FACTOR_STRENGTHS = (20.0, 100.0, 500.0), (3.0, 10.0, 30.0)


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
    """How strongly a source may be followed, in mean item counts or, of factors, in usual ridges, where the plan leaves
    that to validation."""
    if plan.transfer is None or plan.transfer.how != "auto":
        return ()
    if plan.transfer.strength is not None:
        return (plan.transfer.strength,)
    return _FACTOR_STRENGTHS if isinstance(plan.build_model(), FollowsFactors) else _STRENGTHS


def boosts_of(plan: Plan) -> tuple[float, ...]:
    """Boosts that are tried against the usual one; none where validation is not asked about both kinds of items.

    >>> split = {"split": "cold-items:0.1,0.1", "data": {"source": "memory"}}
    >>> boosts_of(Plan.make(split | {"model": {"name": "ease", "item_features": "auto"}}))
    (1.0, 1.5, 2.0, 4.0, 6.0, 10.0, 15.0)
    """
    model = plan.build_model()
    if not isinstance(model, ColdItems) or plan.refit or not SplitMethod.parse(plan.split).others:
        return ()
    return tuple(boost for boost in model.boosts if boost != model.first_boost)


def trials_of(plan: Plan) -> int:
    """Most trials of a plan: one for each strength, and one for the best of them; or one for each boost, and if the
    boost shall be careful, as many of known items, one with the first boost, and one of what known items are worth."""
    strengths, boosts = strengths_of(plan), boosts_of(plan)
    if strengths:
        return len(strengths) + 1
    return 2 * len(boosts) + 2 if boosts and is_careful(plan) else len(boosts)


def is_careful(plan: Plan) -> bool:
    """Whether a boost may cost items that training knows a twentieth of their figure at most."""
    return bool(plan.model.get("boost") == "careful")


def protocol_of(plan: Plan, trial: int, agreed: Protocol) -> Protocol:
    """How a trial is measured: as `agreed`, or by known items only."""
    return KNOWN if is_careful(plan) and trial > len(boosts_of(plan)) > 0 else agreed


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
        said: for the ledger; of a source: the `metric` that decided; for each strength that was `tried`, the gain over
            the model alone; under `source`, the gain of the best of them over a model that is drawn towards 0 instead;
            and `strength`, that of the source in the model, `None` where the source is left out. Of boosts: `metric`,
            for each that was `tried` the gain over the usual one, and the `boost` of the model.
    """

    state: State
    said: dict[str, Any]


def chosen_of(
    strengths: Sequence[float],
    alone: State,
    drawn: Callable[[float, bool], State],
    gain: Callable[[int, State, State], MetricSummary | None],
) -> Choice:
    """The model that is drawn towards the source as strongly as serves validation best, if it is better than the model
    alone by more than two standard errors, and than one that is drawn towards 0 as strongly by more than one; otherwise
    the model alone.

    Args:
        strengths: those to try.
        alone: the model without the source.
        drawn: the model that is drawn so strongly, towards the source or, for `False`, towards 0.
        gain: how much better one model is than another, by the number of the trial (from 1) and their states; `None`
            where nobody was measured.
    """
    tried = []
    best: tuple[_Gain, State] | None = None
    for number, strength in enumerate(strengths, 1):
        candidate = drawn(strength, True)
        found = _Gain.of(strength, gain(number, candidate, alone))
        tried.append(found.said)
        if found.error is not None and (best is None or found.mean > best[0].mean):
            best = found, candidate
    metric = None if best is None else best[0].metric
    if best is None or not best[0].exceeds(_SURE):
        return Choice(alone, {"metric": metric, "tried": tried, "source": None, "strength": None})
    strength, candidate = best[0].strength, best[1]
    of_source = _Gain.of(strength, gain(len(strengths) + 1, candidate, drawn(strength, False)))
    said = {"metric": metric, "tried": tried, "source": of_source.said}
    if not of_source.exceeds(_OF_SOURCE):
        return Choice(alone, {**said, "strength": None})
    return Choice(candidate, {**said, "strength": strength})


@dataclass(frozen=True)
class _Gain:
    """How much better one model is than another on validation; an `error` of `None` where that was not measured."""

    strength: float
    metric: str | None = None
    mean: float = 0.0
    error: float | None = None
    users: int = 0

    @classmethod
    def of(cls, strength: float, found: MetricSummary | None) -> _Gain:
        if found is None or found.standard_error is None:
            return cls(strength)
        return cls(strength, str(found.metric), found.metric.better(found.value), found.standard_error, found.users)

    def exceeds(self, errors: float) -> bool:
        return self.error is not None and self.mean > errors * self.error

    @property
    def said(self) -> dict[str, Any]:
        gain = None if self.error is None else self.mean
        return {"strength": self.strength, "gain": gain, "standard_error": self.error, "users": self.users}
