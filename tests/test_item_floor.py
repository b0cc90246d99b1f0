"""Items of too few clients: out of sums, out of recommendations, counted with noise."""

import numpy as np
import pytest

import fedrec as fr
import runs_in_test
from fedrec.audit.exposure import exposed
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.loading import Placement
from fedrec.runs.saved import open_run
from fedrec.runs.training import train_run
from runs_in_test import MODELS, each_kind, small_plan

pytestmark = pytest.mark.filterwarnings("ignore:ratings .or weights. from")  # values do not matter here

FLOOR = {"least": 12, "noise": 0.0}


def counts_of(plan):
    data = fr.load_data(runs_in_test.DATA)
    engine = LocalEngine.build(data, plan.resolve(data, "0" * 64), 1)
    return np.bincount(engine.shards[0].clients.items, minlength=data.n_items)


def watched(plan, nodes=1):
    """Train in memory; returns every sum, and the end."""
    data = fr.load_data(runs_in_test.DATA)
    resolved = plan.resolve(data, "0" * 64)
    engine = LocalEngine.build(data, resolved, nodes)
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    gather, sums = coordinator.gathering.gather, []

    def gathered(call):
        found = gather(call)
        sums.append(found.total)
        return found

    coordinator.gathering.gather = gathered
    return sums, coordinator.train()


@pytest.mark.parametrize("model", each_kind())
def test_no_model_sums_or_serves_items_of_too_few(model, tmp_path):
    plan = small_plan(model).model_copy(update={"items": Plan.make(
        {"data": {"source": runs_in_test.DATA}, "model": MODELS[model], "items": FLOOR}).items})  # fmt: skip
    out = counts_of(plan) < 12
    assert 0 < out.sum() < len(out)
    sums, _ = watched(plan)
    for total in sums:
        for name, array in total.arrays.items():
            if array.ndim == 2 and len(array) == len(out):
                assert not array[out].any(), name
    train_run(plan, tmp_path / "run")
    opened = open_run(tmp_path / "run")
    shard = opened.engine.shards[0]
    for _, _, scores in shard.scores(opened.trained.state.shared, opened.trained.round, shard.known, np.arange(50)):
        assert np.isneginf(scores[:, out]).all()
        assert np.isfinite(scores[:, ~out]).any()


def test_entries_of_the_gram_matrix_are_clear_too():
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "ease"}, "items": FLOOR})
    out = counts_of(plan) < 12
    sums, _ = watched(plan)
    from fedrec.models.linear.gram import gram_matrix

    gram = gram_matrix(sums[0], len(out))
    assert not gram[out].any()
    assert not gram[:, out].any()
    assert gram[~out].any()


@pytest.mark.parametrize("secure", [False, True])
def test_nodes_and_masks_change_nothing_without_noise(secure, tmp_path):
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": MODELS["mf"], "items": FLOOR})
    train_run(plan, tmp_path / "one")
    train_run(plan, tmp_path / "many", Placement(4, "hash", secure=secure))
    runs_in_test.assert_same(tmp_path / "one", tmp_path / "many")


def test_noise_moves_the_line_and_repeats_itself():
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "popularity"},
                      "items": {"least": 12, "noise": 3.0}})  # fmt: skip
    exact = counts_of(plan) >= 12
    _, first = watched(plan, 3)
    _, second = watched(plan, 3)
    served = first.state.shared["served"]
    assert np.array_equal(served, second.state.shared["served"])
    assert 0 < np.count_nonzero(served != exact) < len(exact) / 2
    assert served[counts_of(plan) >= 30].all()


def test_a_stopped_run_goes_on_with_the_same_items(tmp_path):
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": MODELS["mf"], "items": {"least": 12}})
    train_run(plan, tmp_path / "whole", Placement(3, "hash"))

    def stop(progress):
        if progress.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(plan, tmp_path / "run", Placement(3, "hash"), watch=stop)
    train_run(plan, tmp_path / "run", resume=True)
    runs_in_test.assert_same(tmp_path / "whole", tmp_path / "run")


def test_a_cold_item_cannot_be_pushed_over_the_floor():
    data = fr.load_data(runs_in_test.DATA)
    model = {"name": "mf", "embedding_size": 8, "rounds": 20}
    plain = Plan.make({"data": {"source": runs_in_test.DATA}, "model": model})
    floored = Plan.make({"data": {"source": runs_in_test.DATA}, "model": model, "items": {"least": 12, "noise": 1.0}})
    assert exposed(plain, data, "0" * 64, "a-hum", 0.2).ratio > 0.5
    assert exposed(floored, data, "0" * 64, "a-hum", 0.2).ratio == 0.0


def test_no_measurement_counts_the_histories_that_hold_them():
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "ease"}, "items": FLOOR})
    data = fr.load_data(runs_in_test.DATA)
    resolved = plan.resolve(data, "0" * 64)
    engine = LocalEngine.build(data, resolved, 1)
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    trained, evaluate, sums = coordinator.train(), engine.evaluate, []
    engine.evaluate = lambda call: sums.extend(evaluate(call)) or sums
    assert coordinator.evaluate(trained.state, trained.round, "test", ["novelty@5"], "full")
    listed, having = sums[0].arrays["top_counts"]
    served = counts_of(plan) >= 12
    assert not having[~served].any()
    assert not listed[~served].any()
    assert having[served].all()


def test_recommendations_and_similar_items_leave_them_out():
    plan = {"items": FLOOR}
    data = fr.load_data(runs_in_test.DATA)
    model = fr.EASE(plan=plan).fit(data)
    counts = np.bincount(data.items, minlength=data.n_items)
    few = set(np.asarray(data.catalog.items.take(np.flatnonzero(counts < 12))).tolist())
    best = model.recommend(list(range(1, 60)), n=20)
    assert not few & set(best["item_id"].to_list())
    assert not few & set(model.similar(next(iter(set(best["item_id"].to_list()))), n=30)["item_id"].to_list())


@pytest.mark.parametrize(
    "changes",
    [
        {"items": {"least": 1}},
        {"items": {"least": 5, "noise": -1.0}},
        {"items": {"least": 5}, "privacy": {"epsilon": 1.0, "delta": 1e-4}},
        {"items": {"least": 5}, "keep_sums": True},
    ],
)
def test_plans_that_make_no_sense(changes):
    with pytest.raises(PlanError, match="items"):
        Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "ease"}} | changes)


def test_a_floor_that_no_item_reaches_is_an_error(tmp_path):
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "ease"}, "items": {"least": 500}})
    with pytest.raises(PlanError, match="no item has 500 clients"):
        train_run(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()
