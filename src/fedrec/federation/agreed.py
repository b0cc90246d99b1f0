"""A coordinator held to the plan in every call: what a node agreed to is all that it answers."""

from __future__ import annotations

import math

from fedrec.errors import PlanError
from fedrec.evaluation.groups import Groups
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.counted import counting_spec, counts_first, fit_counts
from fedrec.federation.trials import divided, protocol_of, trials_of

__all__ = ["check_call", "check_committed"]


def check_call(agreement: Agreement, call: RoundCall | CountCall | EvaluationCall, honest: int | None) -> None:
    """Check that a call asks for nothing but what the plan says; `privacy.guard.Guard` checks noise and clips besides.

    A smaller cohort than the plan's would be a sum over fewer clients, another choice of rows or groups one of a kind
    that the owner never saw, and metrics of a private run would be exact sums beside the noised ones.

    Args:
        agreement: what the node agreed to.
        call: what is asked.
        honest: nodes of a secure aggregation that are honest and left in it at least; `None` where sums are plain.

    Raises:
        PlanError: saying what is asked and what was agreed.
    """
    if isinstance(call, RoundCall):
        _check_round(agreement, call, honest)
    elif isinstance(call, CountCall):
        _check_count(agreement, call, honest)
    else:
        _check_evaluation(agreement, call)


def check_committed(agreement: Agreement, committed: int, kept: int = -1) -> None:
    """Check numbers of committed rounds: the last one, and the one that is kept.

    Raises:
        PlanError: if the plan has no such rounds.
    """
    if not -1 <= kept <= committed < agreement.rounds:
        raise PlanError(f"rounds {kept} and {committed} are spoken of as committed; the plan has {agreement.rounds}")


def _check_round(agreement: Agreement, call: RoundCall, honest: int | None) -> None:
    if not 0 <= call.round < agreement.rounds:
        raise PlanError(f"round {call.round} is not among the {agreement.rounds} that were agreed on")
    robust = agreement.plan.robust
    agreed = {
        "share of clients": (call.share, agreement.drawn(call.shared, call.round)),
        "groups": (call.groups, 1 if robust is None else robust.groups or 1),
        "most clients": (call.spec.n_max, agreement.n_max),
    }
    for name, (asked, said) in agreed.items():
        if asked != said:
            raise PlanError(f"round {call.round} is asked for with {name} {asked}; agreed was {said}")
    if not -1 <= call.committed < call.round:
        raise PlanError(f"round {call.round} is asked for after round {call.committed} was committed")
    if call.change and (agreement.plan.warm_start is None or call.round > 0):
        raise PlanError(f"round {call.round} asks for what changed since an earlier run; the plan goes on from none")
    if call.counts is not None:
        if call.round > 0 or call.change or honest is None or not counts_first(agreement):
            raise PlanError(f"round {call.round} is asked for in as few bits as counts of items allow; the plan has no "
                            "counts before it")  # fmt: skip
        if not fit_counts(agreement, call.counts):
            raise PlanError(f"round {call.round} is asked for with counts that the items of the plan cannot have")


def _check_count(agreement: Agreement, call: CountCall, honest: int | None) -> None:
    floor = agreement.plan.items
    if floor is None and (honest is None or not counts_first(agreement)):
        raise PlanError("counts of items are asked for; the plan has no floor for items")
    least = 0.0 if floor is None else floor.noise / math.sqrt(honest or 1)
    if not math.isclose(call.noise, least, rel_tol=1e-9):
        raise PlanError(f"counts of items are asked for with noise {call.noise:g}; agreed was {least:g}")
    if call.spec.digest != counting_spec(agreement).digest:
        raise PlanError("counts of items are asked for on another grid than the plan's")


def _check_evaluation(agreement: Agreement, call: EvaluationCall) -> None:
    privacy = agreement.plan.privacy
    if privacy is not None and privacy.distributed:
        raise PlanError("metrics are asked for; they are exact sums over users, and the plan hides every sum in noise")
    if call.metrics != agreement.metrics:
        asked, agreed = (", ".join(map(str, metrics)) for metrics in (call.metrics, agreement.metrics))
        raise PlanError(f"metrics {asked} are asked for; agreed were {agreed}")
    protocol = protocol_of(agreement.plan, call.trial, agreement.protocol) if call.trial else agreement.protocol
    if call.protocol != protocol:
        raise PlanError(f"metrics are asked for by {call.protocol}; agreed was {protocol}")
    groups = None if call.trial else agreement.groups
    if call.groups != groups:
        raise PlanError(f"metrics are asked for {_grouped(call.groups)}; agreed was {_grouped(groups)}")
    if call.trial:
        _check_trial(agreement, call)
    check_committed(agreement, call.after, call.committed)
    if call.n_max != agreement.n_max:
        raise PlanError(f"metrics are asked for with most clients {call.n_max}; agreed was {agreement.n_max}")


def _grouped(groups: Groups | None) -> str:
    return "without groups" if groups is None else f"by {groups.column} in groups {', '.join(groups.labels)}"


def _check_trial(agreement: Agreement, call: EvaluationCall) -> None:
    """Check that a trial is one of those by which a plan chooses, on validation, before its last round counts."""
    trials = trials_of(agreement.plan)
    if not 0 < call.trial <= trials:
        raise PlanError(f"trial {call.trial} is asked for; the plan has {trials}")
    if not all(divided(call.shared)):
        raise PlanError(f"trial {call.trial} is asked for with one model; a trial compares two")
    if (call.part, call.after) != ("valid", agreement.model.rounds - 2):
        raise PlanError(f"trial {call.trial} is asked for on {call.part} after round {call.after}; trials are on "
                        "validation, before the last round counts")  # fmt: skip
