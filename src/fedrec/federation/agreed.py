"""A coordinator held to the plan in every call: what a node agreed to is all that it answers."""

from __future__ import annotations

import math

import numpy as np

from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.item_floor import floor_spec
from fedrec.federation.partial_rows import drawn_rows
from fedrec.federation.plan import Plan

__all__ = ["check_call"]

_SLACK = 1.0 - 1e-9


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
        _check_round(plan, call, n_items)
    elif isinstance(call, CountCall):
        _check_count(plan, call, n_items, honest)
    else:
        _check_evaluation(plan, call)


def _check_round(plan: Plan, call: RoundCall, n_items: int) -> None:
    model = plan.build_model()
    rounds = int(getattr(model, "rounds", 1)) if plan.privacy is None else len(model.budget_shares)
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
    if call.committed >= call.round:
        raise PlanError(f"round {call.round} is asked for after round {call.committed} was committed")
    if call.change and (plan.warm_start is None or call.round > 0):
        raise PlanError(f"round {call.round} asks for what changed since an earlier run; the plan goes on from none")
    everything = np.arange(n_items)
    drawn = (
        everything if plan.rows == 1 else drawn_rows(KeyedSource.from_seed(plan.seed), call.round, n_items, plan.rows)
    )
    if not np.array_equal(drawn, everything if call.rows is None else call.rows):
        raise PlanError(f"round {call.round} asks for other item rows than the plan draws")


def _check_count(plan: Plan, call: CountCall, n_items: int, honest: int | None) -> None:
    if plan.items is None:
        raise PlanError("counts of items are asked for; the plan has no floor for items")
    least = plan.items.noise / math.sqrt(honest or 1)
    if call.noise < least * _SLACK:
        raise PlanError(f"counts of items are asked for with noise {call.noise:g}; agreed was {least:g}")
    if plan.n_max is None or call.spec != floor_spec(n_items, plan.items, plan.n_max):
        raise PlanError("counts of items are asked for on another grid than the plan's")


def _check_evaluation(plan: Plan, call: EvaluationCall) -> None:
    if plan.privacy is not None and plan.privacy.distributed:
        raise PlanError("metrics are asked for; they are exact sums over users, and the plan hides every sum in noise")
    measured = plan.evaluation
    others = [str(metric) for metric in call.metrics if metric not in parse_metrics(measured.metrics)]
    if others:
        raise PlanError(f"metrics {', '.join(others)} are asked for; agreed were {', '.join(measured.metrics)}")
    if call.protocol != parse_protocol(measured.protocol):
        raise PlanError(f"metrics are asked for by {call.protocol}; agreed was {measured.protocol}")
    if call.n_max != plan.n_max:
        raise PlanError(f"metrics are asked for with most clients {call.n_max}; agreed was {plan.n_max}")
