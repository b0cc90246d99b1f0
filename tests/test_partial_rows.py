"""Rounds that sum a public, random part of the item rows."""

import itertools

import numpy as np
import pytest

import fedrec as fr
import runs_in_test
from fedrec.data.keys import KeyedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.partial_rows import drawn_rows
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.record.ledger import Ledger
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_here, train_run

MF = {"name": "mf", "embedding_size": 8, "rounds": 6}
SECURE = Placement(4, "hash", secure=True)


def plan(**changes):
    return Plan.make({"data": {"source": runs_in_test.DATA}, "model": MF, "rows": 0.3} | changes)


def test_rows_are_another_part_in_every_round_and_cover_all_in_time():
    source = KeyedSource.from_seed(4)
    drawn = [drawn_rows(source, round, 200, 0.25) for round in range(60)]
    assert {len(rows) for rows in drawn} == {50}
    assert all((np.diff(rows) > 0).all() for rows in drawn)
    assert not np.array_equal(drawn[0], drawn[1])
    assert np.array_equal(drawn[7], drawn_rows(source, 7, 200, 0.25))
    times = np.bincount(np.concatenate(drawn), minlength=200)
    assert times.min() > 0
    assert abs(times.mean() - 15) < 1e-9


RECON = {"name": "fedrecon", "embedding_size": 8, "rounds": 3}
NCF = {"name": "fedncf", "embedding_size": 8, "rounds": 3}


@pytest.mark.parametrize("model", [MF, {**MF, "denominator": "per_row"}, NCF, RECON])
def test_only_those_rows_change(model):
    data = fr.load_data(runs_in_test.DATA)
    resolved = plan(model=model).resolve(data, "0" * 64)
    calls = []

    class Watching(LocalEngine):
        def contribute(self, call):
            sums = super().contribute(call)
            calls.append((call, sums[0]))
            return sums

    train_here(Watching.build(data, resolved), data, Run(resolved, None))
    for (call, total), (after, _) in itertools.pairwise(calls):
        others = np.delete(np.arange(data.n_items), call.rows)
        for array in total.spec.arrays:
            if array.kind == "rows":
                assert not total.arrays[array.name][others].any()
                assert total.arrays[array.name].any()
        assert np.array_equal(call.shared["items"][others], after.shared["items"][others])
        assert not np.array_equal(call.shared["items"][call.rows], after.shared["items"][call.rows])


def test_the_secure_sum_gives_the_same_and_sends_that_part(tmp_path):
    train_run(plan(), tmp_path / "plain", Placement(4, "hash"))
    train_run(plan(), tmp_path / "secure", SECURE)
    runs_in_test.assert_same(tmp_path / "plain", tmp_path / "secure")
    whole = train_run(plan(rows=1.0), tmp_path / "whole", SECURE)
    part = Ledger(tmp_path / "secure" / "ledger.jsonl").of_kind("round")[0]["bytes"]["secure_per_party"]["up"]
    all_rows = Ledger(tmp_path / "whole" / "ledger.jsonl").of_kind("round")[0]["bytes"]["secure_per_party"]["up"]
    assert whole["secure"]
    assert part < 0.6 * all_rows


def test_half_of_the_rows_learn_too():
    data = fr.load_data("synthetic:users=600,items=120,interactions_per_user=15,seed=3")

    def quality(rows, rounds):
        made = Plan.make({"data": {"source": "memory"}, "model": {**MF, "rounds": rounds}, "rows": rows})
        resolved = made.resolve(data, "0" * 64)
        coordinator, trained = train_here(LocalEngine.build(data, resolved), data, Run(resolved, None))
        return coordinator.evaluate(trained.state, trained.round, "test", ["ndcg@10"], "full")["ndcg@10"].value

    assert quality(0.5, 60) > 0.8 * quality(1.0, 30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"name": "ease"}}, "changes of item rows alone"),
        ({"model": {"name": "fcf", "rounds": 2}}, "changes of item rows alone"),
        ({"model": {**MF, "scaffold": True}}, "also sums controls"),
        ({"rows": 0.0}, "rows"),
        ({"rows": 1.5}, "rows"),
        ({"privacy": {"epsilon": 8.0, "delta": 1e-4}}, "rows"),
    ],
)
def test_where_parts_are_refused(changes, words, tmp_path):
    with pytest.raises(PlanError, match=words):
        train_run(plan(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
