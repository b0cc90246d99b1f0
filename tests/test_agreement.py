"""What is agreed on follows from the plan and its catalog alone, on both sides alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.training import train_here
from runs_in_test import DATA, small_plan

PRIVATE = {"epsilon": 40.0, "delta": 1e-4}
CASES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "plain": ("mf", {}, False),
    "private": ("mf", {"privacy": PRIVATE, "evaluation": {}}, False),
    "noise of nodes": ("popularity", {"privacy": {**PRIVATE, "noise": "distributed"}}, True),
    "clipped": ("mf", {"release": [{"step": "clip", "norm": 1.0}]}, False),
}


@pytest.mark.parametrize("case", CASES)
def test_a_node_works_out_what_the_coordinator_asks_for(case: str) -> None:
    model, changes, secure = CASES[case]
    base: Any = SecureEngine if secure else LocalEngine
    seen: list[RoundCall] = []

    class Watching(base):
        def contribute(self, call: RoundCall) -> Sequence[Sum]:
            seen.append(call)
            found: Sequence[Sum] = super().contribute(call)
            return found

    data = fr.load_data(DATA)
    plan = Plan.make({**small_plan(model).model_dump(mode="json"), **changes}).resolve(data, "0" * 64)
    engine = Watching.build(data, plan, 4)
    train_here(engine, data, Run(plan, None))
    agreement = Agreement.of(Plan.make(plan.model_dump(mode="json")), data.catalog)
    parties = engine.parties
    excess = 1.0 if parties is None else math.sqrt(parties[0] / parties[1])
    assert [call.round for call in seen] == list(range(len(seen)))
    for call in seen:
        assert agreement.spec(call.shared, call.round, excess) == call.spec
        assert (agreement.share, agreement.n_max) == (call.share, call.spec.n_max)
    assert len(seen) <= agreement.rounds
    assert len(agreement.charges) == (0 if plan.privacy is None else agreement.rounds)


def test_a_finished_training_sums_nothing_more() -> None:
    data = fr.load_data(DATA)
    agreement = Agreement.of(small_plan("popularity").resolve(data, "0" * 64), data.catalog)
    state = agreement.start()
    assert agreement.spec(state.shared, 0) is not None
    assert agreement.spec(state.shared, agreement.rounds) is None


def test_nothing_is_agreed_on_without_data_or_with_another_catalog() -> None:
    data = fr.load_data(DATA)
    with pytest.raises(PlanError, match="n_max is missing"):
        Agreement.of(small_plan("mf"), data.catalog)
    other = fr.load_data("synthetic:users=40,items=100,interactions_per_user=10,seed=1").catalog
    with pytest.raises(PlanError, match=r"the digest of the catalog is .*, but the plan expects"):
        Agreement.of(small_plan("mf").resolve(data, "0" * 64), other)
    unresolved = small_plan("mf", privacy=PRIVATE, evaluation={}, n_max=1024, catalog=data.catalog.digest)
    with pytest.raises(PlanError, match="noise_multiplier is missing"):
        Agreement.of(unresolved, data.catalog)
