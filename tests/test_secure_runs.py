"""Training and evaluation through secure aggregation: the same model, byte for byte, and no node's part in sight."""

import json

import numpy as np
import pytest

import fedrec as fr
import runs_in_test
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import PlanError, RunError
from fedrec.federation.agreement import Agreement
from fedrec.federation.counted import counts_first
from fedrec.federation.plan import Plan
from fedrec.record.ledger import Ledger
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run
from runs_in_test import each_kind, small_plan

PLAIN, SECURE = Placement(4, "hash"), Placement(4, "hash", secure=True)


@pytest.mark.parametrize("model", each_kind())
def test_the_secure_sum_changes_no_byte_of_a_model(model, tmp_path):
    plan = small_plan(model)
    plain = train_run(plan, tmp_path / "plain", PLAIN)
    secure = train_run(plan, tmp_path / "secure", SECURE)
    runs_in_test.assert_same(tmp_path / "plain", tmp_path / "secure")
    assert plain["metrics"] == secure["metrics"]
    assert (plain["cohort"], plain["saturated"]) == (secure["cohort"], secure["saturated"])


LARGER = {"data": {"source": "synthetic:users=400,items=1500,interactions_per_user=10"}, "model": {"name": "ease"}}


def test_masked_bytes_are_those_of_the_dense_rings(tmp_path):
    report = train_run(Plan.make({**LARGER, "compress": "none"}), tmp_path / "run", SECURE)
    line = Ledger(tmp_path / "run" / "ledger.jsonl").of_kind("round")[0]["bytes"]
    dense = line["plain_per_node"]["up"]
    assert dense <= line["secure_per_party"]["up"] <= 1.05 * dense
    assert report["secure"]


@pytest.mark.parametrize("model", ["ease", "itemknn"])
def test_masked_counts_of_pairs_take_the_bits_that_counts_of_items_allow(model, tmp_path):
    data, up, models = fr.load_data(LARGER["data"]["source"]), {}, set()
    for compress in ("exact", "none"):
        plan = Plan.make({**LARGER, "model": {"name": model}, "compress": compress, "split": "none"})
        train_run(plan, tmp_path / compress, SECURE)
        line = Ledger(tmp_path / compress / "ledger.jsonl").of_kind("round")[0]
        up[compress] = line["bytes"]["secure_per_party"]["up"]
        models.add((tmp_path / compress / "model" / "shared.safetensors").read_bytes())
    assert len(models) == 1
    counts = np.bincount(data.items, minlength=data.n_items)
    bits = sum(int(min(a, b)).bit_length() for i, a in enumerate(counts.tolist()) for b in counts[i:].tolist())
    assert bits / 8 + 1500 * 12 / 8 < up["exact"] < 1.02 * bits / 8 + 1500 * 12 / 8 + 5000 < 0.5 * up["none"]


@pytest.mark.real
@pytest.mark.parametrize(("source", "most"), [("ml-100k", 700_000), ("ml-1m-sequences", 4_800_000)])
def test_ease_on_movielens_sends_what_the_page_says(source, most, tmp_path):
    models = set()
    for name, placement in (("one", Placement(1)), ("plain", Placement(5, "hash")), ("secure_per_party", SECURE)):
        plan = Plan.make({"data": {"source": source}, "model": {"name": "ease"}})
        train_run(plan, tmp_path / name, placement)
        moved = Ledger(tmp_path / name / "ledger.jsonl").of_kind("round")[0]["bytes"]
        assert moved[name if name in moved else "plain_per_node"]["up"] <= most
        models.add((tmp_path / name / "model" / "shared.safetensors").read_bytes())
    assert len(models) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"release": [{"step": "cap", "items": 5}]},
        {"cohort": 0.5},
        {"items": {"least": 3}},
        {"model": {"name": "ease", "alpha": 0.5}},
        {"model": {"name": "ease", "rank": 4}},
        {"robust": {"rule": "median"}},
    ],
)
def test_no_counts_come_first_where_they_are_not_the_diagonal_of_the_sum(other):
    data = fr.load_data(runs_in_test.DATA)
    first = {}
    for name, keys in (("plain", {}), ("other", other)):
        plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "ease"}, **keys})
        first[name] = counts_first(Agreement.of(plan.resolve(data, "0" * 64), data.catalog))
    assert first == {"plain": True, "other": False}


def test_the_coordinator_gets_one_sum_that_is_the_total():
    plan = small_plan("ease").model_copy(update={"cohort": 1.0})
    data = fr.load_data(runs_in_test.DATA)
    resolved = plan.resolve(data, "0" * 64)
    seen = []

    class Watching(SecureEngine):
        def contribute(self, call):
            totals = super().contribute(call)
            seen.append((call, totals))
            return totals

    from fedrec.federation.run import Run
    from fedrec.runs.training import train_here

    train_here(Watching.build(data, resolved, 5), data, Run(resolved, None))
    call, totals = seen[0]
    assert len(totals) == 1
    parts = LocalEngine.build(data, resolved, 5).contribute(call)
    assert np.array_equal(totals[0].arrays["gram"], sum(part.arrays["gram"] for part in parts))
    assert totals[0].clients == sum(part.clients for part in parts)
    assert not any(np.array_equal(totals[0].arrays["gram"], part.arrays["gram"]) for part in parts)


@pytest.mark.parametrize("nodes", [1, 2])
def test_fewer_than_three_nodes_are_refused(nodes, tmp_path):
    with pytest.raises(PlanError, match="3 or more"):
        train_run(small_plan("popularity"), tmp_path / "run", Placement(nodes, "hash", secure=True))
    assert not (tmp_path / "run").exists()


def test_fewer_clients_than_the_floor_end_the_sum_with_its_reason(tmp_path):
    plan = Plan.make({"data": {"source": "synthetic:users=30,items=40,interactions_per_user=8"},
                      "model": {"name": "popularity"}})  # fmt: skip
    with pytest.raises(RunError, match="too few clients"):
        train_run(plan, tmp_path / "run", SECURE)


def test_a_private_run_goes_through_the_secure_sum_too(tmp_path):
    plan = Plan.make({"data": {"source": runs_in_test.DATA}, "model": {"name": "ease"},
                      "privacy": {"epsilon": 8.0, "delta": 1e-4}})  # fmt: skip
    report = train_run(plan, tmp_path / "run", SECURE)
    assert report["privacy"]["epsilons"]["server"] == "infinite"


def test_a_secure_run_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    plan = small_plan("mf")
    whole = train_run(plan, tmp_path / "whole", SECURE)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    assert whole["secure"]
    from fedrec.runs.training import read_placement

    paused = tmp_path / "paused"
    with pytest.raises(KeyboardInterrupt):
        train_run(plan, paused, SECURE, watch=_stop_after(2))
    assert read_placement(paused, PLAIN).secure
    train_run(plan, paused, PLAIN, resume=True)
    runs_in_test.assert_same(tmp_path / "whole", paused)
    assert (paused / "ledger.jsonl").read_bytes() == (tmp_path / "whole" / "ledger.jsonl").read_bytes()


def _stop_after(round):
    def watch(progress):
        if progress.round == round:
            raise KeyboardInterrupt

    return watch


def test_the_command(fedrec, tmp_path):
    said = fedrec("train", "--data", runs_in_test.DATA, "--model", "popularity", "--nodes", 3, "--secure", "--out",
                  tmp_path / "run", "--json")  # fmt: skip
    assert said.code == 0, said.err
    assert json.loads(said.out)["secure"] is True
    said = fedrec("train", "--data", runs_in_test.DATA, "--model", "popularity", "--secure", "--out", tmp_path / "two")
    assert said.code == 2
    assert "--nodes 3" in said.err
