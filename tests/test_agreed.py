"""Calls are answered as the plan says and not otherwise: honest runs pass, every deviation is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import PlanError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import Protocol
from fedrec.federation.agreed import check_call, check_committed
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.item_floor import ItemFloor, floor_spec
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.training import train_here
from runs_in_test import DATA, each_kind, small_plan

Call = RoundCall | CountCall | EvaluationCall


def calls_of(plan: Plan, secure: bool = False) -> tuple[Agreement, list[Call], int | None]:
    """What was agreed on for a whole training, every call that its coordinator made, and honest nodes."""
    data = fr.load_data(DATA)
    resolved, seen = plan.resolve(data, "0" * 64), list[Call]()
    base: Any = SecureEngine if secure else LocalEngine

    class Watching(base):
        def contribute(self, call: RoundCall) -> Sequence[Sum]:
            seen.append(call)
            return super().contribute(call)

        def count_items(self, call: CountCall) -> Sequence[Sum]:
            seen.append(call)
            return super().count_items(call)

        def evaluate(self, call: EvaluationCall) -> Sequence[Sum]:
            seen.append(call)
            return super().evaluate(call)

    engine = Watching.build(data, resolved, 9)
    coordinator, trained = train_here(engine, data, Run(resolved, None))
    if plan.privacy is None or not plan.privacy.distributed:
        measured = resolved.evaluation
        coordinator.evaluate(trained.state, trained.round, "test", measured.metrics, measured.protocol)
    return coordinator.agreement, seen, None if engine.parties is None else engine.parties[1]


def agreed_on(plan: Plan) -> Agreement:
    data = fr.load_data(DATA)
    return Agreement.of(plan.resolve(data, "0" * 64), data.catalog)


@pytest.mark.parametrize("model", each_kind())
def test_every_call_of_an_honest_run_is_agreed(model):
    agreement, calls, honest = calls_of(small_plan(model))
    assert any(isinstance(call, RoundCall) for call in calls)
    for call in calls:
        check_call(agreement, call, honest)


PRIVATE = {"epsilon": 40.0, "delta": 1e-4}
HONEST: dict[str, tuple[str, dict[str, Any], bool]] = {
    "items": ("mf", {"items": {"least": 5}}, False),
    "items, masked": ("mf", {"items": {"least": 5}}, True),
    "rows": ("mf", {"rows": 0.3, "release": [], "evaluation": {}}, False),
    "groups": ("mf", {"robust": {"rule": "median", "over": "groups", "groups": 3}}, True),
    "robust nodes": ("mf", {"robust": {"rule": "median"}}, False),
    "private ease": ("popularity", {"model": {"name": "ease"}, "privacy": PRIVATE}, False),
    "private popularity": ("popularity", {"privacy": PRIVATE}, False),
    "private spectral": ("popularity", {"model": {"name": "spectral", "rank": 8}, "privacy": PRIVATE}, False),
    "private ials": ("popularity", {"model": {"name": "ials", "embedding_size": 4}, "privacy": PRIVATE}, False),
    "private mf": ("mf", {"privacy": PRIVATE, "evaluation": {}}, False),
    "distributed noise": ("popularity", {"privacy": {**PRIVATE, "noise": "distributed"}}, True),
}


@pytest.mark.parametrize("case", HONEST)
def test_whatever_a_plan_asks_for_is_agreed(case):
    model, changes, secure = HONEST[case]
    agreement, calls, honest = calls_of(Plan.make({**small_plan(model).model_dump(mode="json"), **changes}), secure)
    for call in calls:
        check_call(agreement, call, honest)


@pytest.fixture(scope="module")
def run() -> tuple[Agreement, list[Call], int | None]:
    return calls_of(small_plan("mf", items={"least": 5}))


def first(calls: list[Call], kind: type) -> Any:
    return next(call for call in calls if isinstance(call, kind))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"share": 0.01}, "share of clients 0.01; agreed was 0.7"),
        ({"share": 1.0}, "share of clients 1.0; agreed was 0.7"),
        ({"groups": 3}, "groups 3; agreed was 1"),
        ({"round": 6}, "round 6 is not among the 6"),
        ({"round": -1}, "round -1 is not among the 6"),
        ({"committed": 3}, "after round 3 was committed"),
        ({"change": True}, "the plan goes on from none"),
        ({"committed": -2}, "after round -2 was committed"),
    ],
)
def test_a_round_that_was_not_agreed_on_is_named(run, changes, says):
    agreement, calls, honest = run
    with pytest.raises(PlanError, match=says):
        check_call(agreement, replace(first(calls, RoundCall), **changes), honest)


def test_room_for_other_numbers_of_clients_is_refused(run):
    agreement, calls, honest = run
    call = first(calls, RoundCall)
    with pytest.raises(PlanError, match="most clients 7; agreed was 1024"):
        check_call(agreement, replace(call, spec=replace(call.spec, n_max=7)), honest)


def test_rows_are_those_that_the_plan_draws():
    agreement, calls, _ = calls_of(small_plan("mf", rows=0.3, release=[], evaluation={}))
    asked = [call for call in calls if isinstance(call, RoundCall)]
    for call in asked:
        assert np.array_equal(agreement.rows(call.round), call.rows)
    assert not np.array_equal(asked[0].rows, asked[1].rows)
    assert agreed_on(small_plan("mf")).rows(0) is None


def test_committed_rounds_are_those_of_the_plan():
    agreement = agreed_on(small_plan("mf"))
    check_committed(agreement, 5, 3)
    for committed, kept in ((6, -1), (-2, -2), (3, 4), (10**15, 0), (2, -2)):
        with pytest.raises(PlanError, match="spoken of as committed; the plan has 6"):
            check_committed(agreement, committed, kept)


def test_counts_of_items_have_the_noise_and_grid_of_the_plan(run):
    agreement, calls, honest = run
    call = first(calls, CountCall)
    with pytest.raises(PlanError, match="noise 0; agreed was 2"):
        check_call(agreement, replace(call, noise=0.0), honest)
    with pytest.raises(PlanError, match="another grid"):
        check_call(agreement, replace(call, spec=floor_spec(len(agreement.catalog), ItemFloor(least=5), 2048)), honest)
    with pytest.raises(PlanError, match="no floor for items"):
        check_call(agreed_on(agreement.plan.model_copy(update={"items": None})), call, honest)
    check_call(agreement, replace(call, noise=1.0), 4)
    for noise in (0.9, 1.1):
        with pytest.raises(PlanError, match=rf"noise {noise}; agreed was 1"):
            check_call(agreement, replace(call, noise=noise), 4)


def test_nothing_is_measured_that_the_plan_does_not_name(run):
    agreement, calls, honest = run
    call = first(calls, EvaluationCall)
    for changes, says in (
        (
            {"metrics": parse_metrics("ndcg@10,coverage@10")},
            "metrics ndcg@10, coverage@10 are asked for; agreed were ndcg@10",
        ),
        ({"committed": -2}, "rounds -2 and"),
        ({"round": 99}, "and 99 are spoken of as committed"),
        ({"committed": 10**15}, "are spoken of as committed; the plan has"),
        ({"protocol": Protocol(1)}, "by sampled:1; agreed was full"),
        ({"n_max": 3}, "most clients 3; agreed was 1024"),
    ):
        with pytest.raises(PlanError, match=says):
            check_call(agreement, replace(call, **changes), honest)
    check_call(agreement, replace(call, part="test"), honest)


def test_a_run_whose_nodes_add_noise_is_not_measured(run):
    _, calls, _ = run
    private = agreed_on(small_plan("popularity", privacy={**PRIVATE, "noise": "distributed"}))
    with pytest.raises(PlanError, match="the plan hides every sum in noise"):
        check_call(private, first(calls, EvaluationCall), 2)
