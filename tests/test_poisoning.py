"""Malicious clients: what their updates look like, and what a plan lets them do."""

import json

import numpy as np
import pytest

import fedrec as fr
from fedrec.audit.exposure import exposed, poisoned
from fedrec.audit.poisoning import POISONS, View
from fedrec.audit.running import audit
from fedrec.errors import InputError
from fedrec.federation.plan import Plan

DATA = "synthetic:users=300,items=120,interactions_per_user=15,seed=3"
MF = {"name": "mf", "embedding_size": 8, "rounds": 30}


def plan(**changes):
    return Plan.make({"data": {"source": DATA}, "model": MF} | changes)


def told(items=80, d=6, seed=0):
    rng = np.random.default_rng(seed)
    public = (rng.random((200, items)) < 0.02).astype(float)
    first = rng.normal(0, 0.1, (items, d + 1))
    return View(rng.normal(0, 0.3, (items, d + 1)), first, np.array([3, 40]), public, rng)


@pytest.mark.parametrize("name", POISONS)
def test_an_attack_gives_a_direction_per_row(name):
    view = told()
    rows, direction = POISONS[name](view)
    assert direction.shape == (len(rows), view.table.shape[1])
    assert len(np.unique(rows)) == len(rows)
    assert np.isfinite(direction).all() == (name != "nan")


@pytest.mark.parametrize("name", ["a-hum", "fedrecattack", "label-flip"])
def test_promotion_raises_the_targets_biases(name):
    view = told()
    rows, direction = POISONS[name](view)
    assert (direction[np.isin(rows, view.targets), -1] > 0).all()


def test_the_rows_that_changed_most_are_imitated():
    view = told()
    table = view.first.copy()
    table[10:20] += 2.0
    view = view._replace(table=table)
    _, direction = POISONS["pieck-ipe"](view)
    assert np.allclose(table[view.targets] + direction, table[10:20].mean(axis=0))


def test_clusters_pull_every_row_towards_one_of_two():
    view = told()
    rows, direction = POISONS["cluster"](view)
    assert np.array_equal(rows, np.arange(len(view.table)))
    assert len(np.unique((view.table + direction).round(9), axis=0)) == 2


@pytest.fixture(scope="module")
def data():
    return fr.load_data(DATA)


def test_many_attackers_are_seen_and_a_clip_holds_them_down(data):
    undefended = exposed(plan(), data, "0" * 64, "a-hum", 0.1)
    clipped = plan(release=[{"step": "clip", "norm": 1.2, "row": 0.2}])
    defended = exposed(clipped, data, "0" * 64, "a-hum", 0.1)
    assert undefended.ratio > 0.5
    assert defended.ratio < undefended.ratio / 2


@pytest.mark.parametrize("name", ["nan", "scaled", "count-inflation"])
def test_what_is_out_of_bounds_is_cut_or_left_out(data, name):
    clean = exposed(plan(), data, "0" * 64)
    found = exposed(plan(), data, "0" * 64, name, 0.003)
    assert abs(found.quality - clean.quality) < 0.03
    if name == "nan":
        assert found.ratio == clean.ratio


def test_a_finding_compares_with_the_undisturbed_training(data):
    clean = exposed(plan(), data, "0" * 64)
    found = poisoned(plan(), data, "0" * 64, "cluster", 0.3, clean)
    assert found.verdict == "fail"
    assert found.limit == max(0.02, 2 * clean.ratio)
    assert found.against == "clients"


def test_poison_by_the_command_and_what_it_refuses(fedrec, tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(plan(model={**MF, "rounds": 3}).to_yaml())
    said = fedrec("audit", path, "--attack", "poisoning", "--json")
    assert said.code == 0, said.err
    assert [each["attack"] for each in json.loads(said.out)["findings"]] == list(POISONS)
    said = fedrec("audit", path, "--attack", "a-hum", "--malicious", "1.5")
    assert said.code == 2
    assert "above 0 and at most 1" in said.err
    with pytest.raises(InputError, match="such as fedrecon and mf; ease does not"):
        audit(plan(model={"name": "ease"}), ["a-hum"])


def test_privacy_bounds_attackers_too(data):
    made = plan(model={"name": "mf", "rounds": 5}, privacy={"epsilon": 8.0, "delta": 1e-4})
    found = exposed(made, data, "0" * 64, "a-hum", 0.02)
    assert 0.0 <= found.ratio <= 1.0
