"""Counts of items before a masked sum of pairs: over the same nodes or not at all, and nothing that the plan lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fedrec as fr
from federation_in_test import WAITING, Federation, assert_right, small_plan
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import DamagedError, FedrecError, PlanError, RunError
from fedrec.federation.agreed import check_call
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall, RoundCall
from fedrec.federation.counted import counted_with, counting_spec, counts_first, counts_of
from fedrec.federation.masked import layout_of, unmasked, vectors_of
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.network.post import Failure, LocalPost
from fedrec.runs.training import train_here
from lying_in_test import Coming

EASE = small_plan({"name": "ease"}, cohort=1.0)
DATA = fr.load_data(EASE.data.source)


def agreement_of(plan: Plan) -> Agreement:
    return Agreement.of(plan.resolve(DATA, "0" * 64), DATA.catalog)


def calls_of(agreement: Agreement) -> tuple[CountCall, RoundCall]:
    """The two first calls of a masked run, the second without counts."""
    shared = agreement.model.start(agreement.catalog, {}, KeyedSource.from_seed(1)).shared
    spec = agreement.spec(shared, 0)
    assert spec is not None
    return CountCall(counting_spec(agreement), 0.0), RoundCall(0, -1, shared, spec, agreement.share)


def diagonal(total: Sum, n_items: int) -> np.ndarray:
    return np.array([total.arrays["gram"][row * n_items - row * (row - 1) // 2] for row in range(n_items)])


def test_the_counts_are_the_diagonal_and_the_model_is_that_of_plain_sums(tmp_path: Path) -> None:
    federation = Federation(tmp_path, EASE, secure=True)
    outcome = federation.train(LocalPost(federation.hosts()))
    assert outcome.error is None
    assert_right(federation, outcome)
    (line,) = outcome.rounds
    items = len(federation.catalog)
    assert line["bytes"]["secure_per_party"]["down"] == 8 * items, "there are no weights yet, only counts"
    there = Coming(tmp_path / "again", EASE)
    count, call = calls_of(there.federation.agreement)
    (counted,) = there.engine.count_items(count)
    (total,) = there.engine.contribute(replace(call, counts=counts_of(counted)))
    assert np.array_equal(diagonal(total, items), counts_of(counted))


def test_a_node_that_goes_after_the_counts_is_waited_for(tmp_path: Path) -> None:
    federation, gone = Federation(tmp_path, EASE, secure=True), {"node-1"}
    counted = []

    def interfere(name: str, frame: bytes, answer: Callable[[bytes], bytes]) -> bytes | Failure:
        if b'"kind":"contribute"' in frame and name in gone:
            return Failure("gone", "it is not up")
        counted.append(b'"kind":"count"' in frame)
        return answer(frame)

    run, post = Run(federation.plan, None), LocalPost(federation.hosts(), interfere)
    stopped = federation.train(post, run, replace(WAITING, max_retries=0))
    assert isinstance(stopped.error, RunError)
    assert "was opened together with node-1, and these nodes are missing now" in str(stopped.error)
    assert sum(counted) == 4
    gone.clear()
    finished = federation.train(post, run)
    assert finished.error is None
    assert sum(counted) == 8
    assert_right(federation, finished)


@pytest.mark.parametrize("narrow", [True, False])
def test_a_sum_is_never_opened_among_other_nodes_than_counts_before_it(narrow: bool, tmp_path: Path) -> None:
    """The difference of the two would be the counts of the node that is missing in one of them."""
    there = Coming(tmp_path, EASE)
    count, call = calls_of(there.federation.agreement)
    there.gone.add("node-3")
    if narrow:
        call = replace(call, counts=counts_of_present(there))
    there.engine.count_items(count)
    there.gone = {"node-2"}
    with pytest.raises(RunError, match="node-2, and these nodes are missing now"):
        there.engine.contribute(call)


def test_counts_are_never_opened_among_other_nodes_than_a_sum_before_them(tmp_path: Path) -> None:
    there = Coming(tmp_path, EASE)
    count, call = calls_of(there.federation.agreement)
    there.gone = {"node-3"}
    there.engine.contribute(call)
    there.gone = {"node-2"}
    with pytest.raises(RunError, match="node-2, and these nodes are missing now"):
        there.engine.count_items(count)


def counts_of_present(there: Coming) -> np.ndarray:
    """How many clients of the nodes that are up have each item."""
    data = [data for name, data in there.federation.data.items() if name not in there.gone]
    parts = [there.federation.agreement.divided(one).train for one in data]
    return np.sum([np.bincount(part.items, minlength=part.n_items) for part in parts], axis=0)


def test_a_node_that_was_not_counted_is_left_out(tmp_path: Path) -> None:
    there = Coming(tmp_path, EASE)
    count, call = calls_of(there.federation.agreement)
    there.gone.add("node-3")
    (counted,) = there.engine.count_items(count)
    there.gone.clear()
    (total,) = there.engine.contribute(replace(call, counts=counts_of(counted)))
    assert there.engine.took_part == ("node-0", "node-1", "node-2")
    assert total.clients == counted.clients
    assert any("node-3: other nodes opened their parts of this sum without this node" in text
               for text in there.federation.told)  # fmt: skip


def test_calls_with_counts_are_held_to_the_plan(tmp_path: Path) -> None:
    agreement = Federation(tmp_path, EASE, secure=True).agreement
    count, call = calls_of(agreement)
    n_items = len(agreement.catalog)
    given = replace(call, counts=np.zeros(n_items, dtype=np.int64))
    check_call(agreement, count, 2)
    check_call(agreement, given, 2)
    with pytest.raises(PlanError, match="no floor for items"):
        check_call(agreement, count, None)
    with pytest.raises(PlanError, match="noise 1; agreed was 0"):
        check_call(agreement, replace(count, noise=1.0), 2)
    with pytest.raises(PlanError, match="another grid"):
        check_call(agreement, replace(count, spec=replace(count.spec, n_max=7)), 2)
    for honest, agreed in ((None, agreement), (2, replace(agreement, plan=agreement.plan.model_copy(
            update={"compress": "none"})))):  # fmt: skip
        with pytest.raises(PlanError, match="the plan has no counts before it"):
            check_call(agreed, given, honest)
    for counts in (np.zeros(n_items + 1, dtype=np.int64), np.full(n_items, 1025), np.full(n_items, -1)):
        with pytest.raises(PlanError, match="counts that the items of the plan cannot have"):
            check_call(agreement, replace(call, counts=counts), 2)


def test_two_sums_of_a_run_belong_together_only_where_counts_come_first(tmp_path: Path) -> None:
    agreement = Federation(tmp_path, EASE, secure=True).agreement
    assert counts_first(agreement)
    assert [counted_with(agreement, name) for name in ("counts", "round 0", "round 1", "test metrics after round 0")] \
        == ["round 0", "counts", None, None]  # fmt: skip
    floored = Federation(tmp_path / "floor", small_plan({"name": "ease"}, cohort=1.0, items={"least": 3}), secure=True)
    assert counted_with(floored.agreement, "counts") is None, "these counts have noise"


def test_a_party_that_masks_other_counts_than_before_is_found() -> None:
    """Whoever adds something to the counts, or to the diagonal, breaks the one equation between the two."""
    agreement = agreement_of(EASE)
    engine = LocalEngine.build(DATA, agreement.plan, 3)
    count, call = calls_of(agreement)
    counts = np.sum([counts_of(part) for part in engine.count_items(count)], axis=0)
    parts = engine.contribute(call)
    layout = layout_of(call.spec, None, counts)

    def opened(counts: np.ndarray) -> Sum:
        total = layout_of(call.spec, None, counts).zeros()
        for part in parts:
            for name, values in vectors_of(part, None, counts).items():
                total[name] += values.view(total[name].dtype)
        for slot in layout_of(call.spec, None, counts).slots:
            slot.reduce(total[slot.name])
        return unmasked(call.spec, 0, None, total, counts)

    expected = np.sum([part.arrays["gram"] for part in parts], axis=0)
    assert np.array_equal(opened(counts).arrays["gram"], expected)
    assert {slot.ring for slot in layout.slots[:-1]} == {int(count).bit_length() for count in set(counts.tolist())} - {
        0
    }
    for place, change in ((0, 1), (7, -1), (59, 8)):
        lied = counts.copy()
        lied[place] += change
        with pytest.raises(DamagedError, match="other counts of 1 items than the parts that were summed before"):
            opened(lied)


def test_masked_counts_that_no_clients_have_stop_the_run() -> None:
    class Impossible(SecureEngine):
        def count_items(self, call: CountCall) -> list[Sum]:
            (total,) = super().count_items(call)
            total.arrays["counts"][3] = -1
            return [total]

    agreement = agreement_of(EASE)
    with pytest.raises(FedrecError, match="masked counts of items add up to impossible ones"):
        train_here(Impossible.build(DATA, agreement.plan, 3), DATA, Run(agreement.plan, None))
