"""Private runs: noise before release, charges before sums, owners who say no, and crashes that cost nothing twice."""

import json
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import fedrec as fr
from chosen_in_test import chosen
from fedrec.aggregation.queries import PLAIN, Metric, Query, private_spec
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError, FedrecError, InputError, PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.node.cohorts import cohort
from fedrec.privacy.budget import Budget, Limits
from fedrec.privacy.chance import SYSTEM, SeededChance
from fedrec.privacy.noise import noised
from fedrec.privacy.terms import Privacy
from fedrec.record.durable import load_arrays
from fedrec.runs.training import Placement, train_run
from kill_driver import is_killed

DATA = "synthetic:users=240,items=90,interactions_per_user=14,seed=3"
TERMS = {"epsilon": 40.0, "delta": 1e-4}
MODELS = {
    "popularity": {"name": "popularity"},
    "content": {"name": "content"},
    "ease": {"name": "ease"},
    "itemknn": {"name": "itemknn"},
    "slit": {"name": "slit", "rank": 8},
    "spectral": {"name": "spectral", "rank": 8},
    "ials": {"name": "ials", "embedding_size": 4},
    "ials-cg": {"name": "ials", "embedding_size": 4, "solver": "cg"},
    "mf": {"name": "mf", "embedding_size": 4, "rounds": 3},
}


def plan(kind="ease", **changes):
    return Plan.make({"data": {"source": DATA}, "model": MODELS[kind], "privacy": TERMS} | changes)


def built(made, **options):
    data = fr.load_data(DATA)
    resolved = made.resolve(data, "0" * 64)
    return data, resolved, LocalEngine.build(data, resolved, 1, "hash", **options)


# --- noise ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_every_coordinate_gets_noise_of_the_deviation_that_is_charged(weighted):
    n = 300
    metric = Metric(0.5, np.linspace(0.5, 2, n), 3.0) if weighted else PLAIN
    query = Query({"gram": metric}, 0.7, 0.5), Query({"rest": PLAIN}, 2.0, 0.5)
    spec = SumSpec((ArraySpec("gram", "rank_one", (triangle_size(n),), 1.0), ArraySpec("rest", "dense", (4000,), 1.0)))
    fine = private_spec(spec, query, 1.5, 1000)
    released = noised(Sum.zeros(fine), query, 1.5, 100, SYSTEM)
    expected = 1.5 * 0.7 / np.sqrt(0.5)
    draws = released.value("gram") / expected
    if weighted:
        upper = np.triu_indices(n)
        weights = 0.5 * metric.rows[upper[0]] * metric.rows[upper[1]]
        draws = draws * np.where(upper[0] == upper[1], 3.0 * weights, weights)
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    assert stats.kstest(released.value("rest") / (1.5 * 2.0 / np.sqrt(0.5)), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 5 / np.sqrt(len(draws))
    assert released.noise == {"gram": pytest.approx(expected), "rest": pytest.approx(1.5 * 2.0 / np.sqrt(0.5))}
    assert (released.clients, released.left_out, released.saturated) == (100, 0, 0)


def test_noise_is_never_drawn_twice():
    spec = private_spec(SumSpec((ArraySpec("x", "dense", (64,), 1.0),)), (Query({"x": PLAIN}, 1.0),), 1.0, 10)
    first, second = (noised(Sum.zeros(spec), (Query({"x": PLAIN}, 1.0),), 1.0, 1, SYSTEM) for _ in range(2))
    assert np.mean(first.arrays["x"] == second.arrays["x"]) < 0.1


def test_a_large_epsilon_gives_nearly_what_no_privacy_gives():
    data = fr.load_data(DATA)
    plain = fr.Popularity().fit(data).shared["counts"]
    model = fr.Popularity(plan={"privacy": {"epsilon": 1e6, "delta": 1e-4, "clip": 50.0}}).fit(data)
    assert np.abs(model.shared["counts"] - plain).max() < 1.0


# --- the run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_a_private_run_says_what_it_cost(model, tmp_path):
    report = train_run(plan(model), tmp_path / "run")
    cost = report["privacy"]["epsilons"]
    assert cost["cohort"] == pytest.approx(40.0, rel=1e-5)
    assert cost["server"] == "infinite"
    lines = [json.loads(line) for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if line["kind"] == "round"]
    assert all(line["charge"]["noise_multiplier"] > 0 and line["left_out"] is None for line in rounds)
    assert rounds[-1]["epsilon_cohort"] == pytest.approx(40.0, rel=1e-5)
    assert not list((tmp_path / "run").rglob("noised-*"))
    opened = fr.load_model(tmp_path / "run")
    assert opened.recommend([1], n=3).height == 3


def test_two_runs_of_one_plan_have_nothing_in_common_but_the_plan(tmp_path):
    for name in ("a", "b"):
        train_run(plan("popularity"), tmp_path / name)
    files = [(tmp_path / name / "model" / "shared.safetensors").read_bytes() for name in ("a", "b")]
    assert files[0] != files[1]
    digests = [Plan.read(tmp_path / name / "plan.yaml").data.digest for name in ("a", "b")]
    assert digests[0] != digests[1], "a digest of the data would tell who guesses the data"


def test_what_is_public_has_no_exact_count(tmp_path):
    train_run(plan("mf", cohort=0.5), tmp_path / "run")
    for line in (tmp_path / "run" / "ledger.jsonl").read_text().splitlines():
        round_ = json.loads(line)
        if round_["kind"] == "round":
            assert round_["cohort"] == 120
            assert round_["bytes"]["plain_per_node"]["up"] == round_["bytes"]["secure_per_party"]["up"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluation": {"every": 1}, "model": MODELS["mf"]}, "validations"),
        ({"keep_sums": True}, "kept sums"),
        ({"split": "temporal:0.8"}, "temporal"),
        ({"negatives": "paper-leaky", "model": MODELS["mf"]}, "leaky"),
        ({"model": {"name": "pfedrec"}}, "no form under differential privacy"),
        ({"model": {"name": "fedrecon"}}, "no form under differential privacy"),
        ({"model": {"name": "mf", "scaffold": True}}, "scaffold"),
        ({"model": {"name": "mf", "denominator": "per_row"}}, "divisor is fixed"),
        ({"model": {"name": "ease", "rank": 5}}, "leave out rank"),
        ({"cohort": 50}, "users"),
        ({"privacy": TERMS | {"sampling": "poisson"}}, "cohort below 1"),
        ({"privacy": TERMS | {"participations": 9}}, "limits no client"),
        ({"privacy": TERMS | {"epsilon": 0}}, "epsilon"),
        ({"privacy": TERMS | {"delta": 0.01, "users": 240}}, "fully exposed"),
        ({"privacy": {"epsilon": 1}}, "delta"),
        ({"privacy": TERMS | {"unit": "event"}}, "unit"),
        ({"privacy": TERMS | {"max_cohort": 5}}, "poisson"),
        (
            {
                "privacy": TERMS | {"max_cohort": 5, "sampling": "poisson", "users": 240},
                "model": MODELS["mf"],
                "cohort": 0.5,
            },
            "max_cohort for mf: the model keeps private rows",
        ),
        ({"data": {"source": DATA, "cleaning": {"k_core": 3}}}, "k_core"),
        ({"data": {"source": DATA, "cleaning": {"min_item_interactions": 3}}}, "other users' histories"),
    ],
)
def test_plans_that_cannot_keep_the_promise_are_refused(changes, message):
    with pytest.raises(PlanError, match=message):
        plan(**changes)


def test_a_plan_over_its_budget_is_refused_before_data_is_read(tmp_path):
    over = plan(privacy=TERMS | {"epsilon": 0.5, "noise_multiplier": 1.0}, data={"source": "no-such-file.csv"})
    with pytest.raises(PlanError, match="costs epsilon"):
        train_run(over, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_delta_for_more_users_than_there_are_is_refused():
    with pytest.raises(PlanError, match="of 240 users"):
        built(plan(privacy={"epsilon": 1.0, "delta": 0.5}))


def test_more_users_than_the_public_number_are_refused(tmp_path):
    with pytest.raises(PlanError, match="more users than users = 200"):
        train_run(plan("popularity", privacy=TERMS | {"users": 200}), tmp_path / "run")


def test_choosing_hyperparameters_under_privacy_is_refused():
    with pytest.raises(PlanError, match="not covered"):
        fr.tune(fr.EASE, fr.load_data(DATA), {"reg": [1.0, 2.0]}, plan={"privacy": TERMS})


# --- the owner's budget ---------------------------------------------------------------------------------------------


def test_a_second_run_over_the_lifetime_budget_is_refused(tmp_path):
    journal = tmp_path / "budget.jsonl"
    Budget(journal, Limits(50.0, 1e-4))
    train_run(plan("popularity"), tmp_path / "first", budget=Budget.open(journal))
    assert Budget.open(journal).epsilon("node-0") == pytest.approx(40.0, rel=1e-5)
    with pytest.raises(PlanError, match="budget over all runs is 50"):
        train_run(
            plan("popularity", data={"source": "no-such-file.csv"}), tmp_path / "second", budget=Budget.open(journal)
        )
    small = plan("popularity", privacy=TERMS | {"epsilon": 1.0})
    train_run(small, tmp_path / "third", budget=Budget.open(journal))
    assert 40.0 < Budget.open(journal).epsilon("node-0") < 50.0
    assert Budget.open(journal).runs("node-0") == 2


@pytest.mark.parametrize(
    ("limits", "terms", "message"),
    [
        (Limits(500.0, 1e-4, min_noise_multiplier=5.0), {}, "less than the owner's minimum"),
        (Limits(500.0, 1e-4, max_clip=1.0), {"clip": 2.0}, "above the owner's maximum"),
    ],
)
def test_plans_beneath_the_owners_floors_are_refused(limits, terms, message, tmp_path):
    budget = Budget(tmp_path / "budget", limits)
    with pytest.raises(PlanError, match=message):
        train_run(plan("popularity", privacy=TERMS | terms), tmp_path / "run", budget=budget)


class _Asked:
    """A node, and the calls that a coordinator makes of it."""

    def __init__(self, tmp_path, model="mf"):
        self.data, self.plan, self.engine = built(plan(model), budget=Budget(tmp_path / "budget"))
        self.node = self.engine.nodes[0]
        self.coordinator = Coordinator(
            Agreement.of(self.plan, self.data.catalog), self.engine, Run(self.plan, None), True, chance=SeededChance(1)
        )

    def call(self, round=0):
        state = self.coordinator.beginning.state()
        spec = self.coordinator.agreement.spec(state.shared, round)
        terms = self.coordinator.gathering.protection.round_terms(round)
        return RoundCall(round, round - 1, state.shared, spec, 1.0, privacy=terms)


def test_a_call_again_gives_the_same_sum_and_is_not_charged_again(tmp_path):
    asked = _Asked(tmp_path)
    first, second = (asked.node.contribute(asked.call()) for _ in range(2))
    assert np.array_equal(first.arrays["items"], second.arrays["items"])
    assert (tmp_path / "budget").read_text().count('"charge"') == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"noise_multiplier": 0.01}, "noise multiplier"),
        ({"clip": 100.0}, "clip"),
        ({"delta": 0.5}, "delta"),
    ],
)
def test_a_coordinator_that_changes_the_terms_is_refused(changed, message, tmp_path):
    asked = _Asked(tmp_path)
    call = asked.call()
    with pytest.raises(PlanError, match=message):
        asked.node.contribute(replace(call, privacy=replace(call.privacy, **changed)))
    assert not (tmp_path / "budget").exists()


def test_a_round_is_answered_once_and_for_one_model(tmp_path):
    asked = _Asked(tmp_path)
    call = asked.call()
    asked.node.contribute(call)
    other = {**call.shared, "items": call.shared["items"] + 1}
    with pytest.raises(PlanError, match="answered already for another request"):
        asked.node.contribute(replace(call, shared=other))
    with pytest.raises(PlanError, match="committed already"):
        asked.node.contribute(replace(call, committed=0))
    with pytest.raises(PlanError, match="has no privacy terms"):
        asked.node.contribute(replace(call, privacy=None))
    with pytest.raises(PlanError, match="not among the 3"):
        asked.node.contribute(replace(call, round=3, committed=2))
    with pytest.raises(PlanError, match="share of clients"):
        asked.node.contribute(replace(call, share=0.5))
    asked.node.contribute(asked.call(1))
    with pytest.raises(PlanError, match="a later round was answered already"):
        asked.node.guard.budget.charge(call.privacy.run, "node-0", -1, 1.0, "")


def test_arrays_that_clipping_does_not_cover_are_not_summed(tmp_path):
    asked = _Asked(tmp_path, "popularity")
    call = asked.call()
    spec = SumSpec((*call.spec.arrays, ArraySpec("more", "dense", (1,), 1.0))).fit(1024)
    with pytest.raises(PlanError, match="does not cover"):
        asked.node.contribute(replace(call, spec=spec))


def test_a_node_without_such_a_plan_refuses_a_private_call(tmp_path):
    asked = _Asked(tmp_path)
    _, _, engine = built(Plan.make({"data": {"source": DATA}, "model": MODELS["mf"]}))
    with pytest.raises(PlanError, match="does not know of"):
        engine.nodes[0].contribute(asked.call())


def test_a_stopped_run_keeps_its_reservation_and_its_budget(tmp_path):
    """Stopped after one of its rounds, a run has reserved all of them; and it goes on with the owner's journal."""
    journal = tmp_path / "budget.jsonl"
    Budget(journal, Limits(50.0, 1e-4))
    first = plan("mf")

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(first, tmp_path / "first", watch=stop, budget=Budget.open(journal))
    with pytest.raises(PlanError, match="budget over all runs is 50"):
        train_run(first, tmp_path / "second", budget=Budget.open(journal))
    with pytest.raises(PlanError, match="goes on with it"):
        train_run(first, tmp_path / "first", resume=True, budget=Budget(tmp_path / "other", Limits(99.0, 1e-4)))
    train_run(first, tmp_path / "first", resume=True)
    assert Budget.open(journal).epsilon("node-0") == pytest.approx(40.0, rel=1e-3)
    assert journal.read_text().count('"charge"') == 3


def test_two_processes_with_one_journal_take_turns(tmp_path):
    journal = tmp_path / "budget.jsonl"
    Budget(journal, Limits(1.3, 1e-4))
    one, other = Budget.open(journal), Budget.open(journal)
    one.begin("a" * 32, "node-0", {"participations": None}, [3.0], None, None)
    with pytest.raises(PlanError, match=r"budget over all runs is 1\.3"):
        other.begin("b" * 32, "node-0", {"participations": None}, [3.0], None, None)
    one.charge("a" * 32, "node-0", 0, 3.0, "x")
    with pytest.raises(PlanError, match="answered already"):
        other.charge("a" * 32, "node-0", 0, 3.0, "y")


@pytest.mark.parametrize("model", ["popularity", "mf"])
def test_the_owners_largest_clip_binds_plans_that_name_none(model, tmp_path):
    budget = Budget(tmp_path / "budget", Limits(100.0, 1e-3, max_clip=0.01))
    with pytest.raises(PlanError, match="above the owner's maximum"):
        train_run(plan(model), tmp_path / "run", budget=budget)


def test_budgets_are_strict_about_their_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        Budget.open(tmp_path / "none")
    path = tmp_path / "budget"
    Budget(path, Limits(1.0, 1e-5))
    with pytest.raises(PlanError, match="other limits"):
        Budget(path, Limits(2.0, 1e-5))
    good = path.read_text()
    for line in ('{"kind":"charge","run":"a","node":"b","round":0,"noise_multiplier":-1,"call":"c"}',
                 '{"kind":"open","run":"a","node":"b"}', "[]"):  # fmt: skip
        path.write_text(good + line + "\n")
        with pytest.raises(DamagedError, match="line 2"):
            Budget.open(path)
    path.write_text('{"kind":"limits","epsilon":1.0,"delta":2.0}\n')
    with pytest.raises(DamagedError, match="limits are damaged"):
        Budget.open(path)
    with pytest.raises(FedrecError, match="private plans"):
        train_run(Plan.make({"data": {"source": DATA}, "model": MODELS["ease"]}), tmp_path / "r", budget=Budget())


# --- cohorts --------------------------------------------------------------------------------------------------------


def test_nobody_takes_part_more_often_than_the_cap_and_cohorts_are_truncated():
    source, keys, active = KeyedSource.from_seed(1), np.arange(500, dtype=np.uint64), np.arange(500)
    free = [cohort(source, keys, active, t, 0.4) for t in range(12)]
    capped = [cohort(source, keys, active, t, 0.4, Privacy(**TERMS, participations=3)) for t in range(12)]
    times = np.bincount(np.concatenate(capped), minlength=500)
    assert times.max() == 3
    assert all(np.isin(mine, all_).all() for mine, all_ in zip(capped, free, strict=True))
    expected = np.minimum(np.bincount(np.concatenate(free), minlength=500), 3)
    assert np.array_equal(times, expected)
    terms = Privacy(**TERMS, users=500, max_cohort=150, sampling="poisson")
    assert [len(cohort(source, keys, active, t, 0.4, terms)) for t in range(12)] == [min(len(c), 150) for c in free]


def test_secrets_of_nodes_are_their_own():
    made = plan("mf", cohort=0.5)
    engines = [built(made)[2] for _ in range(2)]
    draws = [engine.nodes[0].drawn(0, 0.5)[0] for engine in engines]
    assert not np.array_equal(*draws)


@pytest.mark.exhaustive
def test_sampling_is_charged_by_who_looks(tmp_path):
    terms = {"epsilon": 3.0, "delta": 1e-4, "sampling": "poisson", "view": "release"}
    report = train_run(plan("mf", privacy=terms, cohort=0.2), tmp_path / "run")
    cost = report["privacy"]["epsilons"]
    assert cost["release"] <= 3.0 < cost["cohort"]


# --- crashes --------------------------------------------------------------------------------------------------------


def _killed_at(folder, made, write, half):
    def work():
        train_run(made, folder, Placement(2), resume=True, chance=SeededChance(9))

    return is_killed(work, write, half)


def _left(folder):
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    kept = {
        str(path): (folder / path).read_bytes()
        for path in files
        if path.parts[0] in ("model", "ledger.jsonl", "plan.yaml")
    }
    return [str(path) for path in files], kept


@pytest.mark.parametrize(
    ("model", "stride"), chosen([("ease", 7), ("mf", 11)], [("ease", 1), ("ease", 7), ("mf", 1), ("mf", 11)])
)
def test_killed_at_any_write_a_private_run_ends_the_same_and_charges_once(model, stride, tmp_path):
    made = plan(model, cohort=0.8 if model == "mf" else 1.0)
    train_run(made, tmp_path / "whole", Placement(2), chance=SeededChance(9))
    tries = 0
    while _killed_at(tmp_path / "run", made, tries, tries % 2 == 0):
        train_run(made, tmp_path / "run", Placement(2), resume=True, chance=SeededChance(9))
        assert _left(tmp_path / "run") == _left(tmp_path / "whole")
        for node in ("node-0", "node-1"):
            charges = [
                json.loads(line) for line in (tmp_path / "run/private" / node / "budget.jsonl").read_text().splitlines()
            ]
            rounds = [line["round"] for line in charges if line["kind"] == "charge"]
            assert rounds == sorted(set(rounds))
        shutil.rmtree(tmp_path / "run")
        tries += stride
    assert tries > 20


def test_killed_and_resumed_twenty_times_the_ledger_is_the_same(tmp_path):
    made, draws = plan("mf", cohort=0.8), random.Random(4)
    train_run(made, tmp_path / "whole", Placement(2), chance=SeededChance(9))
    died = sum(_killed_at(tmp_path / "run", made, draws.randrange(6), draws.random() < 0.5) for _ in range(20))
    assert died >= 10
    train_run(made, tmp_path / "run", Placement(2), resume=True, chance=SeededChance(9))
    ledger = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    assert ledger == (tmp_path / "whole" / "ledger.jsonl").read_bytes()
    assert json.loads(ledger.splitlines()[0])["noise_is_secret"] is False


def test_noise_of_a_round_that_was_not_committed_is_used_again(tmp_path):
    """With real noise a crash between noise and commit must not give two noisy versions of one sum."""
    made = plan("popularity")
    tries = 0
    while True:
        folder = tmp_path / str(tries)
        is_killed(lambda: train_run(made, folder, resume=True), tries)  # noqa: B023
        found = list(folder.rglob("noised-*.safetensors"))
        if found:
            break
        tries += 1
        assert tries < 60
    kept = load_arrays(found[0])["counts"]
    train_run(made, folder, resume=True)
    spec_unit = kept[:, 0] / fr.load_model(folder).shared["counts"]
    assert np.allclose(spec_unit, spec_unit[0], rtol=1e-5)
