"""What an owner refuses: every floor, every reason, and no more than that."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.models.registry import MODELS, build_model
from fedrec.owner.config import NodeConfig
from fedrec.owner.policy import admit, refusals, secure_floors
from fedrec.owner.privacy_floors import expected_clients
from fedrec.privacy.accounting import epsilon_of
from fedrec.privacy.budget import Budget, Limits
from fedrec.privacy.terms import schedule
from fedrec.record.keys import SigningKey
from fedrec.secagg.reasons import AbortError
from owners_in_test import KEYS, PARTIES, PRIVATE, SECRETS, owned, planned

NOISE = {**PRIVATE, "noise": "distributed"}


def reasons(config: NodeConfig, plan: Plan, **asked: Any) -> list[str]:
    masked = asked.get("secure", False)
    told: dict[str, Any] = {
        "coordinator": KEYS["coordinator"], "parties": PARTIES if masked else (), "secure": masked, "budget": None,
    }  # fmt: skip
    return refusals(config, plan, **{**told, **asked})


LEAKY = {"negatives": "paper-leaky"}
FEW = {"cohort": 0.005}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, dict[str, Any]]] = {
    # floors of the owner, plan, how it is asked, what the reason begins with, and what the owner could change
    "a stranger's orders": (
        {}, {}, {"coordinator": KEYS["eve"]}, "policy.coordinator", {"policy__coordinator": KEYS["eve"]},
    ),
    "a known name with another key": (
        {"policy__coordinator": str(type(SECRETS["eve"])("coordinator", SECRETS["eve"].secret).public())},
        {}, {}, "policy.coordinator", {"policy__coordinator": KEYS["coordinator"]},
    ),
    "nobody is pinned": (
        {"policy__coordinator": None}, {}, {}, "policy.coordinator", {"policy__coordinator": KEYS["coordinator"]},
    ),
    "a stranger in the secure aggregation": (
        {}, {}, {"secure": True, "parties": [*PARTIES, KEYS["eve"]]}, "policy.parties",
        {"policy__parties": [*PARTIES, KEYS["eve"]]},
    ),
    "own key not pinned": (
        {"policy__parties": [*PARTIES[1:], KEYS["eve"]]}, {},
        {"secure": True, "parties": [*PARTIES[1:], KEYS["eve"]]}, "policy.parties: the node's own key",
        {"policy__parties": [*PARTIES, KEYS["eve"]], "name": "shop-b"},
    ),
    "another plan than those listed": (
        {"policy__plans": ["0" * 64]}, {}, {}, "policy.plans", {"policy__plans": ["0" * 64, planned().digest]},
    ),
    "a model that is not listed": (
        {"policy__models": ["mf", "ials"]}, {}, {}, "policy.models", {"policy__models": ["mf", "ease"]},
    ),
    "a blend of a model that is not listed": (
        {"policy__models": ["blend", "ease"]}, {"model": {"name": "blend", "models": ["ease", "ials"]}}, {},
        "policy.models: model ials is not", {"policy__models": ["blend", "ease", "ials"]},
    ),
    "told about the future": ({}, LEAKY, {}, "policy.allow_leaky", {"policy__allow_leaky": True}),
    "kept sums": ({}, {"keep_sums": True}, {}, "policy.allow_updates", {"policy__allow_updates": True}),
    "sums of what changed": (
        {}, {"warm_start": {"run": "earlier", "digest": "ab" * 32}}, {}, "policy.allow_updates",
        {"policy__allow_updates": True},
    ),
    "sums in the clear": ({"policy__secure": True}, {}, {}, "policy.secure", {"policy__secure": False}),
    "sums over few": ({}, {"min_clients": 8}, {}, "policy.min_clients", {"policy__min_clients": 8}),
    "sums over few, masked": (
        {}, {"min_clients": 31}, {"secure": True}, "policy.min_clients", {"policy__min_clients": 31},
    ),
    "small cohorts in the clear": ({}, FEW, {}, "policy.min_clients", {"policy__min_clients": 20}),
    "small cohorts of a node that is known": (
        {}, {"cohort": 0.1}, {"users": 300}, "policy.min_clients", {"policy__min_clients": 30},
    ),
    "small cohorts, masked": ({}, FEW, {"secure": True}, "policy.min_clients", {"policy__min_clients": 20}),
    "metrics of few new users": (
        {}, {"split": "new-users:0.05", "n_max": 600}, {}, "policy.min_clients: split ", {"policy__min_clients": 30},
    ),
    "metrics of few new users of a node that is known": (
        {}, {"split": "new-users:0.1"}, {"users": 310}, "policy.min_clients: split ", {"policy__min_clients": 31},
    ),
    "metrics of few new users, masked": (
        {}, {"split": "new-users:0.05", "n_max": 600}, {"secure": True}, "policy.min_clients: split ",
        {"policy__min_clients": 30},
    ),
    "rare items": (
        {"policy__min_item_clients": 5}, {}, {}, "policy.min_item_clients", {"policy__min_item_clients": None},
    ),
    "items that are rarer than the floor": (
        {"policy__min_item_clients": 5}, {"items": {"least": 4}}, {}, "policy.min_item_clients",
        {"policy__min_item_clients": 4},
    ),
    "no privacy": (
        {"privacy": {"required": True, "epsilon": 8, "delta": 1e-6}}, {}, {}, "privacy.required",
        {"privacy__required": False},
    ),
    "noise of the coordinator": (
        {"privacy__distributed": True}, {"privacy": PRIVATE}, {"secure": True}, "privacy.distributed",
        {"privacy__distributed": False},
    ),
    "too large a clip": (
        {"privacy": {"epsilon": 8.0, "delta": 1e-6, "max_clip": 1.0}}, {"privacy": {**PRIVATE, "clip": 1.5}}, {},
        "privacy.max_clip", {"privacy__max_clip": 1.5},
    ),
    "too large a clip of the model's own": (
        {"privacy": {"epsilon": 8.0, "delta": 1e-6, "max_clip": 0.5}}, {"privacy": PRIVATE}, {}, "privacy.max_clip",
        {"privacy__max_clip": 1.0},
    ),
    "too little noise": (
        {"privacy__min_noise_multiplier": 5.0}, {"privacy": PRIVATE}, {}, "privacy.min_noise_multiplier",
        {"privacy__min_noise_multiplier": 1.0},
    ),
    "too dear a run": (
        {"privacy": {"max_run_epsilon": 1.9, "delta": 1e-6}}, {"privacy": PRIVATE}, {}, "privacy.max_run_epsilon",
        {"privacy__max_run_epsilon": 2.0},
    ),
    "dearer at the owner's delta": (
        {"privacy": {"max_run_epsilon": 2.1, "delta": 1e-7}}, {"privacy": PRIVATE}, {}, "privacy.max_run_epsilon",
        {"privacy__max_run_epsilon": 2.5},
    ),
    "more than the budget": (
        {"privacy": {"epsilon": 1.9, "delta": 1e-6}}, {"privacy": PRIVATE}, {}, "privacy.epsilon",
        {"privacy__epsilon": 2.0},
    ),
    "small rounds": (
        {"privacy__min_cohort": 100}, {"cohort": 0.02}, {}, "privacy.min_cohort", {"privacy__min_cohort": 80},
    ),
    "rounds of nobody knows how many": (
        {"privacy__min_cohort": 100}, {"n_max": None}, {}, "privacy.min_cohort", {"privacy__min_cohort": None},
    ),
    "more memory than there may be": (
        {"limits__memory_gb": 1.0}, {}, {"items": 50_000}, "limits.memory_gb", {"limits__memory_gb": None},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_refused_for_the_one_reason_and_allowed_once_the_owner_changes_what_it_names(case):
    floors, asks, how, begins, change = CASES[case]
    said = reasons(owned(**floors), planned(**asks), **how)
    assert len(said) == 1, said
    assert said[0].startswith(begins)
    name = next(iter(change)).replace("__", ".")
    assert name in said[0] or name == "privacy.epsilon", "the reason names what the owner could change"
    assert reasons(owned(**{**floors, **change}), planned(**asks), **how) == []


ALWAYS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # what no owner can allow
    "a cut that needs everybody's data": ({"split": "temporal:0.8"}, {}, "split: temporal:0.8"),
    "an earlier run without a digest": ({"warm_start": "runs/ease-1"}, {}, "warm_start: the plan has no digest"),
    "nodes apart under secure aggregation": ({"robust": {"rule": "median"}}, {"secure": True}, "robust: over: nodes"),
    "groups in the clear": ({"robust": {"rule": "median", "over": "groups", "groups": 3}}, {}, "robust: over: groups"),
    "shares of noise in the clear": ({"privacy": NOISE}, {}, "privacy: noise: distributed"),
    "sums that wait under secure aggregation": (
        {"model": {"name": "mf"}, "asynchronous": {"buffer": 3}}, {"secure": True}, "asynchronous: the coord",
    ),
    "two parties": ({}, {"secure": True, "parties": PARTIES[:2]}, "parties: secure aggregation"),
    "one party thrice": ({}, {"secure": True, "parties": [PARTIES[0]] * 3}, "parties: secure aggregation"),
    "a secure aggregation of others": (
        {}, {"secure": True, "parties": [*PARTIES[1:], KEYS["eve"]]}, "parties: the key of shop-a",
    ),
    "no key at all": ({}, {"coordinator": "coordinator"}, "coordinator: not a public key"),
    "a party without a key": ({}, {"secure": True, "parties": [*PARTIES, "shop-d"]}, "party 4: not a public key"),
    "noise too little for its epsilon": ({"privacy": {**PRIVATE, "noise_multiplier": 0.1}}, {}, "privacy: noise_mult"),
}  # fmt: skip


@pytest.mark.parametrize("case", ALWAYS)
def test_some_plans_are_refused_whatever_the_owner_allows(case):
    asks, how, begins = ALWAYS[case]
    pins = [*PARTIES, KEYS["eve"]]
    config = owned(policy__allow_updates=True, policy__allow_leaky=True, policy__min_clients=2, policy__parties=pins)
    said = reasons(config, planned(**asks), **how)
    assert len(said) == 1, said
    assert said[0].startswith(begins)


@pytest.mark.parametrize(
    ("asks", "taken", "refused"),
    [
        ({}, 3, True),
        ({}, 4, False),
        ({"robust": {"rule": "median", "over": "groups", "groups": 4}}, 12, True),
        ({"robust": {"rule": "median", "over": "groups", "groups": 4}}, 20, False),
        ({"privacy": NOISE}, 4, True),
        ({"privacy": NOISE}, 6, False),
    ],
)
def test_a_node_that_pins_twenty_is_hidden_from_two_of_them(asks: dict[str, Any], taken: int, refused: bool) -> None:
    others = [str(SigningKey(f"shop-{number}", bytes(31) + bytes([number])).public()) for number in range(100, 117)]
    pins = [*PARTIES, *others]
    said = reasons(owned(policy__parties=pins), planned(**asks), secure=True, parties=pins[:taken])
    assert ["if 2 of the 20 nodes in policy.parties collude" in reason for reason in said] == [True] * refused


ALLOWED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a plain plan": ({}, {}, {}),
    "a secure one": ({"policy__secure": True}, {}, {"secure": True}),
    "cuts that are given": ({}, {"split": "temporal@8e8,9e8"}, {}),
    "robust over nodes in the clear": ({}, {"robust": {"rule": "median"}}, {}),
    "robust over groups under secure aggregation": (
        {}, {"robust": {"rule": "median", "over": "groups", "groups": 3}}, {"secure": True},
    ),
    "buffers in the clear": ({}, {"model": {"name": "mf"}, "asynchronous": {"buffer": 2}}, {}),
    "an item floor": ({"policy__min_item_clients": 5}, {"items": {"least": 5}}, {}),
    "noise instead of an item floor": ({"policy__min_item_clients": 5}, {"privacy": PRIVATE}, {}),
    "distributed noise": (
        {"policy__secure": True,
         "privacy": {"required": True, "distributed": True, "epsilon": 8.0, "delta": 1e-6, "max_run_epsilon": 4.0,
                     "min_noise_multiplier": 0.5, "max_clip": 2.0, "min_cohort": 100}},
        {"privacy": NOISE}, {"secure": True},
    ),
    "no privacy where a budget is kept but not required": ({"privacy": {"epsilon": 1.0, "delta": 1e-6}}, {}, {}),
    "a listed plan of a listed model": (
        {"policy__plans": [planned().digest], "policy__models": ["ease"]}, {}, {},
    ),
    "parties in another order": ({}, {}, {"secure": True, "parties": PARTIES[::-1]}),
}  # fmt: skip


@pytest.mark.parametrize("case", ALLOWED)
def test_plans_that_meet_every_floor_are_allowed(case):
    floors, asks, how = ALLOWED[case]
    assert reasons(owned(**floors), planned(**asks), **how) == []


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_allowed_unless_models_are_listed(name):
    plan = planned(model={"name": name})
    assert reasons(owned(), plan) == []
    assert len(reasons(owned(policy__models=[other for other in MODELS if other != name][:1]), plan)) == 1


def test_all_reasons_are_told_at_once_and_raised_together():
    config = owned(
        policy__secure=True, policy__models=["mf"], policy__plans=["0" * 64], limits__memory_gb=1.0,
        policy__min_item_clients=5,
        privacy={"required": True, "epsilon": 8.0, "delta": 1e-6, "min_cohort": 5000},
    )  # fmt: skip
    plan = planned(min_clients=8, negatives="paper-leaky", keep_sums=True, split="temporal:0.8")
    asked: dict[str, Any] = {"coordinator": KEYS["eve"], "secure": False, "budget": None, "items": 50_000}
    said = refusals(config, plan, **asked)
    heads = [text.partition(":")[0] for text in said]
    assert heads == [
        "policy.coordinator", "policy.plans", "policy.models", "policy.allow_leaky", "split", "policy.allow_updates",
        "policy.secure", "policy.min_clients", "policy.min_item_clients", "privacy.min_cohort", "privacy.required",
        "limits.memory_gb",
    ]  # fmt: skip
    with pytest.raises(PlanError) as raised:
        admit(config, plan, **asked)
    assert str(raised.value).startswith(f"node shop-a refuses the plan {plan.digest[:12]}…: (1) policy.coordinator: ")
    assert all(text in str(raised.value) for text in said)
    with pytest.raises(PlanError, match=r"…: policy\.secure: "):
        admit(owned(policy__secure=True), planned(), coordinator=KEYS["coordinator"], secure=False, budget=None)
    admit(owned(), planned(), coordinator=KEYS["coordinator"], secure=False, budget=None)


def test_reasons_tell_the_coordinator_nothing_of_the_data():
    config = owned(data={"source": "very-private-place.csv"}, policy__min_clients=50)
    said = " ".join(reasons(config, planned(cohort=0.1, split="new-users:0.1"), users=347, items=4321))
    assert said
    for word in ("very-private-place", "347", "4321", "34.7", "/srv"):
        assert word not in said


# --- the budget over all runs -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0.3, 3.0), max_size=3), st.floats(0.3, 6.0), st.floats(1.0, 8.0))
def test_a_plan_is_refused_exactly_where_the_journal_would_refuse_it(earlier, epsilon, limit):
    config = owned(privacy={"epsilon": limit, "delta": 1e-6})
    budget = Budget(None, Limits(limit, 1e-6))
    for number, spent in enumerate(earlier):
        noise = schedule_of(spent)
        try:
            budget.begin(f"run-{number}", "shop-a", {}, noise, None, None)
        except PlanError:
            break
    plan = planned(privacy={**PRIVATE, "epsilon": epsilon})
    said = reasons(config, plan, budget=budget)
    try:
        budget.admit("shop-a", schedule_of(epsilon), None, None)
    except PlanError:
        assert [text.partition(":")[0] for text in said] == ["privacy.epsilon"]
    else:
        assert said == []


def schedule_of(epsilon: float) -> list[float]:
    plan = planned(privacy={**PRIVATE, "epsilon": epsilon}).with_noise()
    assert plan.privacy is not None
    return [charge.effective for charge in schedule(plan.privacy, plan.build_model().budget_shares, plan.share())]


def test_a_run_that_has_its_reservation_is_not_charged_twice():
    config = owned(privacy={"epsilon": 2.5, "delta": 1e-6})
    budget = Budget(None, Limits(2.5, 1e-6))
    plan = planned(privacy=PRIVATE)
    assert reasons(config, plan, budget=budget) == []
    budget.begin("run", "shop-a", {}, schedule_of(2.0), None, None)
    assert reasons(config, plan, budget=budget)[0].startswith("privacy.epsilon: with this run all runs cost epsilon")
    assert reasons(config, plan, budget=None) == []
    assert "of which 2 is spent" in reasons(config, plan, budget=budget)[0]


def test_other_nodes_of_the_same_journal_do_not_count():
    budget = Budget(None, Limits(2.5, 1e-6))
    budget.begin("run", "shop-b", {}, schedule_of(2.0), None, None)
    assert reasons(owned(privacy={"epsilon": 2.5, "delta": 1e-6}), planned(privacy=PRIVATE), budget=budget) == []


def test_the_loss_of_a_run_is_counted_at_the_owners_delta_not_the_plans():
    plan = planned(privacy={**PRIVATE, "delta": 1e-5, "epsilon": 1.0}).with_noise()
    assert plan.privacy is not None
    assert plan.privacy.noise_multiplier is not None
    at_own = epsilon_of(plan.privacy.noise_multiplier, 1e-9, 1)
    assert at_own > 1.3
    said = reasons(owned(privacy={"max_run_epsilon": 1.3, "delta": 1e-9}), plan)
    assert f"this run costs epsilon {at_own:.4g} at delta 1e-09" in said[0]


def test_a_truncated_cohort_counts_with_half_its_noise():
    terms = {**PRIVATE, "sampling": "poisson", "max_cohort": 500}
    plan = planned(model={"name": "ials"}, cohort=0.1, privacy=terms).with_noise()
    assert plan.privacy is not None
    charges = schedule(plan.privacy, plan.build_model().budget_shares, plan.share())
    least = min(charge.noise_multiplier for charge in charges) / 2
    allowed, refused = (owned(privacy__min_noise_multiplier=least * factor) for factor in (0.999, 1.001))
    assert reasons(allowed, plan) == []
    assert [text.partition(":")[0] for text in reasons(refused, plan)] == ["privacy.min_noise_multiplier"]


def test_a_cap_on_a_nodes_cohort_below_the_floor_is_refused_in_the_clear():
    plan = planned(model={"name": "ials"}, cohort=0.1, privacy={**PRIVATE, "sampling": "poisson", "max_cohort": 20})
    assert [text.partition(":")[0] for text in reasons(owned(), plan)] == ["policy.min_clients"]
    assert reasons(owned(), plan, secure=True) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"n_max": None}, None),
        ({}, 4096.0),
        ({"cohort": 0.25}, 1024.0),
        ({"cohort": 300, "n_max": None}, 300.0),
        ({"cohort": 0.5, "privacy": PRIVATE}, 2000.0),
    ],
)
def test_how_many_clients_a_plan_expects(changes, expected):
    assert expected_clients(planned(**changes)) == expected


# --- floors of secure aggregation, and limits -------------------------------------------------------------------------


def test_floors_of_the_secure_sum_are_those_of_owner_and_plan():
    floors = secure_floors(owned(policy__min_clients=40), planned(min_clients=64))
    assert floors.coordinator == SECRETS["coordinator"].public().key
    assert floors.pinned == {SECRETS[name].public().key for name in ("shop-a", "shop-b", "shop-c")}
    assert (floors.clients, floors.parties, floors.strangers) == (64, 3, 0)
    assert secure_floors(owned(policy__min_clients=80), planned(min_clients=64)).clients == 80
    with pytest.raises(AbortError):
        floors.check_parties(tuple(SECRETS[name].public().key for name in ("shop-a", "shop-b", "eve")))
    with pytest.raises(PlanError, match="set the coordinator's public key"):
        secure_floors(owned(policy__coordinator=None), planned())


def test_plans_of_endless_rounds_are_refused_before_anything_is_worked_out_for_them():
    (reason,) = reasons(owned(), planned(model={"name": "mf", "rounds": 5_000_000}))
    assert reason.startswith("limits.rounds: the plan has 5,000,000 rounds, and this node accepts at most 10,000")
    assert reasons(owned(limits__rounds=20), planned(model={"name": "mf", "rounds": 20})) == []
    blend = {"name": "blend", "models": ["ease", {"name": "mf", "rounds": 21}]}
    (reason,) = reasons(owned(limits__rounds=20), planned(model=blend))
    assert reason.startswith("limits.rounds: the plan has 21 rounds")


def test_the_memory_of_a_model_is_compared_with_the_owners_limit():
    limits = owned(limits__memory_gb=2.0).limits
    ease = build_model("ease", {})
    most = max(n for n in range(1000, 60_000, 1000) if ease.cost(n).memory <= 2 * 2**30)
    limits.check_model(ease, most)
    with pytest.raises(PlanError, match=r"limits\.memory_gb: ease needs about 2\.\d GiB .* may use 2 GiB\."):
        limits.check_model(ease, most + 1000)
    owned().limits.check_model(ease, 10**9)


def test_plan_digests_of_the_allow_list_are_those_of_whole_plans():
    digest = hashlib.sha256(b"another").hexdigest()
    config = owned(policy__plans=[digest, planned(seed=1).digest])
    assert reasons(config, planned(seed=1)) == []
    assert planned(seed=2).digest in reasons(config, planned(seed=2))[0]


def test_a_refusal_reads_no_data(tmp_path: Path):
    config = owned(tmp_path, data={"source": "not-there.csv"})
    assert reasons(config, planned()) == []
    assert list(tmp_path.iterdir()) == []
