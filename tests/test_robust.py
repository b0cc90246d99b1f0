"""Robust means over parts: what they take, what they throw out, and where they are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fedrec as fr
import runs_in_test
from fedrec.aggregation.robust import Robust, robust_sum
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run

RULES = ["median", "trimmed-mean", "krum", "geometric-median", "norm-filter"]
SPEC = SumSpec((ArraySpec("a", "dense", (4,), 100.0, 10), ArraySpec("b", "dense", (2,), 100.0, 10))).fit(1000)


def part(mean, clients=10):
    total = Sum.zeros(SPEC)
    values = {"a": np.asarray(mean[:4], dtype=float), "b": np.asarray(mean[4:], dtype=float)}
    for name, value in values.items():
        total.arrays[name][...] = np.rint(value * clients * SPEC[name].unit)
    total.clients = clients
    return total


def mean_of(total):
    return np.concatenate([total.value(name).reshape(-1) for name in ("a", "b")]) / total.clients


@pytest.mark.parametrize("rule", RULES)
def test_equal_parts_are_their_own_robust_mean(rule):
    mean = [1.0, -2.0, 0.5, 3.0, 0.25, -0.75]
    total = robust_sum(SPEC, [part(mean, clients) for clients in (10, 20, 30, 40, 50)], 3, Robust(rule=rule))
    assert np.allclose(mean_of(total), mean, atol=1e-3)
    assert (total.clients, total.round) == (150, 3)


@pytest.mark.parametrize("rule", RULES)
@given(seed=st.integers(0, 10_000))
def test_one_hostile_part_of_five_moves_the_mean_a_little(rule, seed):
    rng = np.random.default_rng(seed)
    honest = [rng.normal(1.0, 0.1, 6) for _ in range(4)]
    hostile = rng.normal(0, 1, 6)
    hostile *= 50 / np.abs(hostile).max()
    parts = [part(mean) for mean in honest] + [part(hostile)]
    found = mean_of(robust_sum(SPEC, parts, 0, Robust(rule=rule)))
    spread = np.linalg.norm(np.std(honest, axis=0))
    assert np.linalg.norm(found - np.mean(honest, axis=0)) < 6 * spread + 0.02
    plain = np.mean([*honest, hostile], axis=0)
    assert np.linalg.norm(plain - np.mean(honest, axis=0)) > 5


def test_claiming_more_clients_gives_no_more_say():
    honest = [part([1.0] * 6) for _ in range(4)]
    for rule in ("median", "trimmed-mean", "krum", "geometric-median"):
        found = mean_of(robust_sum(SPEC, [*honest, part([9.0] * 6, clients=900)], 0, Robust(rule=rule)))
        assert np.allclose(found, 1.0, atol=0.05), rule


def test_krum_takes_a_part_that_there_is():
    rng = np.random.default_rng(3)
    means = [rng.normal(0, 1, 6).round(2) for _ in range(5)]
    found = mean_of(robust_sum(SPEC, [part(mean) for mean in means], 0, Robust(rule="krum")))
    assert min(np.abs(found - mean).max() for mean in means) < 2e-3


def test_median_and_trimmed_mean_by_hand():
    means = [[k] * 6 for k in (1.0, 2.0, 3.0, 4.0, 90.0)]
    parts = [part(mean) for mean in means]
    assert np.allclose(mean_of(robust_sum(SPEC, parts, 0, Robust(rule="median"))), 3.0)
    assert np.allclose(mean_of(robust_sum(SPEC, parts, 0, Robust(rule="trimmed-mean"))), 3.0)
    assert np.allclose(mean_of(robust_sum(SPEC, parts, 0, Robust(rule="norm-filter"))), 2.5)


def test_parts_without_clients_have_no_say_and_too_few_are_refused():
    parts = [part([1.0] * 6) for _ in range(3)] + [part([0.0] * 6, clients=0)]
    assert np.allclose(mean_of(robust_sum(SPEC, parts, 0, Robust(rule="median"))), 1.0)
    with pytest.raises(PlanError, match="needs 3 nodes with clients; only 2 have clients; add nodes"):
        robust_sum(SPEC, parts[:2], 0, Robust(rule="median"))
    with pytest.raises(PlanError, match="needs 5"):
        robust_sum(SPEC, parts[:3], 0, Robust(rule="krum"))


# --- in a training ----------------------------------------------------------------------------------------------------

MF = {"name": "mf", "embedding_size": 8, "rounds": 15}


def plan(**changes):
    return Plan.make({"data": {"source": runs_in_test.DATA}, "model": MF, "min_clients": 8} | changes)


class Hostile(LocalEngine):
    """The first node sends what makes the model useless."""

    def contribute(self, call):
        sums = super().contribute(call)
        bound = call.spec["items"].bound * call.spec["items"].unit * sums[0].clients
        sums[0].arrays["items"][...] = np.random.default_rng(call.round).choice(
            [-bound, bound], sums[0].arrays["items"].shape
        )
        return sums


def quality(made, engine_type):
    data = fr.load_data(runs_in_test.DATA)
    resolved = made.resolve(data, "0" * 64)
    engine = engine_type.build(data, resolved, 7)
    coordinator = Coordinator(Agreement.of(resolved, data.catalog), engine, Run(resolved, None), engine.has_valid)
    trained = coordinator.train()
    return coordinator.evaluate(trained.state, trained.round, "test", ["ndcg@10"], "full")["ndcg@10"].value


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "geometric-median", "norm-filter"])
def test_a_hostile_node_ruins_a_plain_sum_and_not_a_robust_one(rule):
    undisturbed, ruined = quality(plan(), LocalEngine), quality(plan(), Hostile)
    robust = quality(plan(robust={"rule": rule}), Hostile)
    assert ruined < 0.6 * undisturbed
    assert robust > 0.75 * undisturbed


def test_groups_under_the_secure_sum(tmp_path):
    made = plan(robust={"rule": "median", "over": "groups", "groups": 3})
    report = train_run(made, tmp_path / "run", Placement(9, "hash", secure=True))
    assert report["secure"]
    assert report["cohort"] == 240
    with pytest.raises(PlanError, match="take 9 nodes"):
        train_run(made, tmp_path / "few", Placement(8, "hash", secure=True))


@pytest.mark.parametrize(
    ("changes", "placement", "words"),
    [
        ({"robust": {"rule": "krum"}}, Placement(6, "hash", secure=True), "use over: groups"),
        ({"robust": {"rule": "krum", "over": "groups", "groups": 3}}, Placement(9, "hash"), "give --secure"),
        ({"robust": {"rule": "median"}}, Placement(2, "hash"), "needs 3 nodes with clients; only 2 have clients"),
    ],
)
def test_where_robust_means_are_refused(changes, placement, words, tmp_path):
    with pytest.raises(PlanError, match=words):
        train_run(plan(**changes), tmp_path / "run", placement)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"robust": {"rule": "median", "over": "groups"}},
        {"robust": {"rule": "median", "groups": 3}},
        {"robust": {"rule": "mode"}},
        {"robust": {"rule": "median", "tolerated": 0.5}},
        {"robust": {"rule": "median"}, "privacy": {"epsilon": 1.0, "delta": 1e-4}},
    ],
)
def test_plans_that_make_no_sense(changes):
    with pytest.raises(PlanError):
        plan(**changes)
