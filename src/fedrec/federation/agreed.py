"""A coordinator held to the plan in every call: what a node agreed to is all that it answers."""

from __future__ import annotations

import math

import numpy as np

from fedrec.aggregation.queries import private_spec
from fedrec.aggregation.release import Release
from fedrec.aggregation.specs import SumSpec
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.item_floor import floor_spec
from fedrec.federation.partial_rows import drawn_rows
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays
from fedrec.privacy.terms import schedule

__all__ = ["agreed_rows", "agreed_spec", "check_call", "check_committed"]


def check_call(plan: Plan, call: RoundCall | CountCall | EvaluationCall, n_items: int, honest: int | None) -> None:
    """Check that a call asks for nothing but what the plan says; `privacy.guard.Guard` checks noise and clips besides.

    A smaller cohort than the plan's would be a sum over fewer clients, another choice of rows or groups one of a kind
    that the owner never saw, and metrics of a private run would be exact sums beside the noised ones.

    Args:
        plan: that the node agreed to, resolved.
        call: what is asked.
        n_items: of the catalog.
        honest: nodes of a secure sum that are honest and left in it at least; `None` where sums are plain.

    Raises:
        PlanError: saying what is asked and what was agreed.
    """
    if isinstance(call, RoundCall):
        _check_round(plan, call)
    elif isinstance(call, CountCall):
        _check_count(plan, call, n_items, honest)
    else:
        _check_evaluation(plan, call)


def check_committed(plan: Plan, committed: int, kept: int = -1) -> None:
    """Check numbers of committed rounds: the last one, and the one that is kept.

    Raises:
        PlanError: if the plan has no such rounds.
    """
    if not -1 <= kept <= committed < _rounds_of(plan):
        raise PlanError(f"rounds {kept} and {committed} are spoken of as committed; the plan has {_rounds_of(plan)}")


def agreed_rows(plan: Plan, round: int, n_items: int) -> np.ndarray | None:
    """The item rows that a round sums, ascending; `None` for all."""
    return None if plan.rows == 1 else drawn_rows(KeyedSource.from_seed(plan.seed), round, n_items, plan.rows)


def agreed_spec(plan: Plan, shared: Arrays, round: int, excess: float = 1.0) -> SumSpec:
    """What a round sums: shapes, bounds and grid follow from the plan and the shared arrays.

    Args:
        plan: resolved.
        shared: arrays of the model's, see `fitting`.
        round: one of the plan's.
        excess: of a private plan, how much more noise there may be than the plan's, by which nodes add too much.

    Raises:
        PlanError: if the round sums nothing.
    """
    model = plan.build_model()
    found = model.spec(shared, round)
    if found is None or plan.n_max is None:
        raise PlanError(f"round {round} sums nothing")
    spec = Release(plan.release).adjust(found)
    if plan.privacy is None:
        return spec.fit(plan.n_max)
    charge = schedule(plan.privacy, model.budget_shares, plan.share())[round]
    return private_spec(spec, model.queries(shared, round), charge.noise_multiplier, plan.n_max, excess)


def _rounds_of(plan: Plan) -> int:
    """How many rounds there are at most."""
    model = plan.build_model()
    return model.rounds if plan.privacy is None else len(model.budget_shares)


def _check_round(plan: Plan, call: RoundCall) -> None:
    rounds = _rounds_of(plan)
    if not 0 <= call.round < rounds:
        raise PlanError(f"round {call.round} is not among the {rounds} that were agreed on")
    robust = plan.robust
    agreed = {
        "share of clients": (call.share, plan.share()),
        "groups": (call.groups, 1 if robust is None else robust.groups or 1),
        "most clients": (call.spec.n_max, plan.n_max),
    }
    for name, (asked, said) in agreed.items():
        if asked != said:
            raise PlanError(f"round {call.round} is asked for with {name} {asked}; agreed was {said}")
    if not -1 <= call.committed < call.round:
        raise PlanError(f"round {call.round} is asked for after round {call.committed} was committed")
    if call.change and (plan.warm_start is None or call.round > 0):
        raise PlanError(f"round {call.round} asks for what changed since an earlier run; the plan goes on from none")


def _check_count(plan: Plan, call: CountCall, n_items: int, honest: int | None) -> None:
    if plan.items is None:
        raise PlanError("counts of items are asked for; the plan has no floor for items")
    least = plan.items.noise / math.sqrt(honest or 1)
    if not math.isclose(call.noise, least, rel_tol=1e-9):
        raise PlanError(f"counts of items are asked for with noise {call.noise:g}; agreed was {least:g}")
    if plan.n_max is None or call.spec.digest != floor_spec(n_items, plan.items, plan.n_max).digest:
        raise PlanError("counts of items are asked for on another grid than the plan's")


def _check_evaluation(plan: Plan, call: EvaluationCall) -> None:
    if plan.privacy is not None and plan.privacy.distributed:
        raise PlanError("metrics are asked for; they are exact sums over users, and the plan hides every sum in noise")
    measured = plan.evaluation
    if call.metrics != parse_metrics(measured.metrics):
        asked = ", ".join(map(str, call.metrics))
        raise PlanError(f"metrics {asked} are asked for; agreed were {', '.join(measured.metrics)}")
    if call.protocol != parse_protocol(measured.protocol):
        raise PlanError(f"metrics are asked for by {call.protocol}; agreed was {measured.protocol}")
    check_committed(plan, call.after, call.committed)
    if call.n_max != plan.n_max:
        raise PlanError(f"metrics are asked for with most clients {call.n_max}; agreed was {plan.n_max}")
