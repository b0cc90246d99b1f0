"""The accountant against published and independently computed values, to the digits given, and its properties."""

import math

import dp_accounting as dpa
import dp_accounting.pld
import dp_accounting.rdp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chosen_in_test import every
from fedrec.errors import DamagedError, PlanError
from fedrec.privacy.accounting import (
    Charge,
    Epsilons,
    cohort_epsilon,
    epsilon_of,
    epsilon_of_event,
    epsilons,
    noise_for,
)

NOISE = st.floats(0.6, 20)
PROPERTY = settings(deadline=None, max_examples=25)


def sampled(q, z, rounds):
    return dpa.SelfComposedDpEvent(dpa.PoissonSampledDpEvent(q, dpa.GaussianDpEvent(z)), rounds)


@pytest.mark.parametrize(
    ("q", "z", "rounds", "delta", "pld", "rdp"),
    every(
        2,
        [
            (0.01, 1.0, 1000, 1e-5, "1.82824", "2.10137"),
            (0.01, 1.0, 1000, 1e-6, "2.12452", "2.43669"),
            (0.001, 0.8, 5000, 1e-6, "0.73363", "1.59231"),
            (0.1, 2.0, 100, 1e-5, "2.33740", "2.58057"),
            (0.05, 1.5, 200, 1e-5, "2.34855", "2.60262"),
        ],
    ),
)
def test_poisson_samples_of_a_gaussian(q, z, rounds, delta, pld, rdp):
    event = sampled(q, z, rounds)
    assert f"{epsilon_of_event(event, delta):.5f}" == pld
    assert f"{epsilon_of_event(event, delta, 'rdp'):.5f}" == rdp


def test_the_main_case_to_all_digits_and_under_other_relations():
    event = sampled(0.01, 1.0, 1000)
    assert f"{epsilon_of_event(event, 1e-5):.7f}" in ("1.8282436", "1.8282437")
    assert f"{epsilon_of_event(event, 1e-5, 'rdp'):.7f}" == "2.1013665"
    assert f"{epsilon_of_event(event, 1e-5, relation='replace'):.5f}" == "2.84345"
    assert f"{epsilon_of_event(event, 1e-5, relation='zero-out'):.5f}" == "1.82824"


def test_one_gaussian_in_a_hundred_rounds():
    whole = dpa.SelfComposedDpEvent(dpa.GaussianDpEvent(10.0), 100)
    assert f"{epsilon_of(1.0, 1e-5, 100):.6f}" == "4.377178"
    assert f"{epsilon_of_event(whole, 1e-5):.4f}" == "4.3772"
    assert f"{epsilon_of_event(whole, 1e-5, 'rdp'):.4f}" == "4.7285"
    assert f"{cohort_epsilon([Charge(t, 10.0) for t in range(100)], 1e-5):.6f}" == "4.377178"


def test_published_elsewhere():
    event = sampled(0.1, 1.76044921875, 50)
    assert f"{epsilon_of_event(event, 1e-5):.4f}" == "1.9831"
    assert f"{epsilon_of_event(event, 1e-5, 'rdp'):.4f}" == "2.2206"


def test_fixed_size_samples_are_known_to_renyi_accounting_alone():
    for z, expected in ((1.0, "3.576111"), (2.0, "1.445298")):
        event = dpa.SelfComposedDpEvent(dpa.SampledWithoutReplacementDpEvent(10_000, 100, dpa.GaussianDpEvent(z)), 1000)
        assert f"{epsilon_of_event(event, 1e-5, 'rdp', 'replace'):.6f}" == expected
    with pytest.raises(dpa.UnsupportedEventError):
        epsilon_of_event(event, 1e-5, "pld", "replace")


def test_different_mechanisms_composed():
    five = dpa.ComposedDpEvent([dpa.GaussianDpEvent(5.0), dpa.GaussianDpEvent(5.0)])
    event = dpa.ComposedDpEvent([dpa.GaussianDpEvent(20.0), dpa.SelfComposedDpEvent(five, 3), sampled(0.01, 1.0, 500)])
    assert f"{epsilon_of_event(event, 1e-5):.4f}" == "2.3830"


def test_a_tree_of_sums():
    event = dpa.SingleEpochTreeAggregationDpEvent(5.0, 1024)
    assert f"{epsilon_of_event(event, 1e-5, 'rdp', 'zero-out'):.5f}" == "2.96801"


@pytest.mark.parametrize(("k", "z", "expected"), [(1, 1, "4.3772"), (10, 1, "17.857"), (1, 4, "0.9263"),
                                                  (10, 4, "3.3414"), (100, 10, "4.3772")])  # fmt: skip
def test_rounds_that_one_client_may_take_part_in(k, z, expected):
    charges = [Charge(t, float(z)) for t in range(3 * k)]
    found = cohort_epsilon(charges, 1e-5, participations=k)
    assert f"{found:.{len(expected.split('.')[1])}f}" == expected


@pytest.mark.parametrize(
    ("epsilon", "pld", "rdp"),
    [
        (1, 1.41473, 1.51322),
        pytest.param(2, 0.95911, 1.02238, marks=pytest.mark.exhaustive),
        pytest.param(4, 0.73488, 0.77762, marks=pytest.mark.exhaustive),
        pytest.param(8, 0.58635, 0.61595, marks=pytest.mark.exhaustive),
    ],
)
def test_calibrated_noise_of_sampled_rounds(epsilon, pld, rdp):
    def made(z):
        return sampled(0.01, z, 1000)

    guess = dpa.LowerEndpointAndGuess(0.3, 1.0)
    with_rdp = dpa.calibrate_dp_mechanism(dpa.rdp.RdpAccountant, made, epsilon, 1e-5, guess, tol=1e-4)
    bracket = dpa.ExplicitBracketInterval(0.85 * with_rdp, with_rdp)
    by_library = dpa.calibrate_dp_mechanism(
        lambda: dpa.pld.PLDAccountant(value_discretization_interval=1e-3), made, epsilon, 1e-5, bracket, tol=1e-4
    )
    # The expected values come from a search that ends within 1e-3, so their last digits depend on its path.
    assert (with_rdp, by_library) == pytest.approx((rdp, pld), rel=1e-3)
    found = noise_for(epsilon, 1e-5, 1000, sampling=0.01)
    assert found == pytest.approx(by_library, abs=2e-4)
    assert epsilon_of(found, 1e-5, 1000, sampling=0.01) <= epsilon


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"),
    [(1, 1e-5, "3.73063"), (2, 1e-5, "1.99381"), (4, 1e-5, "1.08116"), (8, 1e-5, "0.60023"),
     (1, 1e-6, "4.22468"), (2, 1e-6, "2.23048"), (4, 1e-6, "1.19352"), (8, 1e-6, "0.65294")],
)  # fmt: skip
def test_noise_of_one_release(epsilon, delta, sigma):
    assert f"{noise_for(epsilon, delta, 1):.5f}" == sigma
    assert epsilon_of(noise_for(epsilon, delta, 1), delta, 1) <= epsilon * (1 + 1e-9)


@pytest.mark.parametrize("examples", [5, pytest.param(25, marks=pytest.mark.exhaustive)])
def test_epsilon_grows_with_rounds_and_sampling_and_falls_with_noise(examples):
    @settings(PROPERTY, max_examples=examples)
    @given(NOISE, st.integers(1, 50), st.floats(0.01, 0.5))
    def holds(z, rounds, q):
        base = epsilon_of_event(sampled(q, z, rounds), 1e-5, step=1e-3)
        assert epsilon_of_event(sampled(q, z, rounds + 5), 1e-5, step=1e-3) >= base - 1e-6
        assert epsilon_of_event(sampled(q, 1.2 * z, rounds), 1e-5, step=1e-3) <= base + 1e-6
        assert epsilon_of_event(sampled(min(1.0, 1.2 * q), z, rounds), 1e-5, step=1e-3) >= base - 1e-6
        by_renyi = epsilon_of_event(sampled(q, z, rounds), 1e-5, "rdp")
        assert base <= by_renyi + 0.01  # the grid of a coarse step costs some

    holds()


@PROPERTY
@given(st.floats(0.05, 20), st.floats(1e-9, 1e-3), st.integers(1, 200), st.integers(1, 200))
def test_noise_for_keeps_the_epsilon_and_caps_only_help(epsilon, delta, rounds, cap):
    cap = min(cap, rounds)
    z = noise_for(epsilon, delta, rounds, participations=cap)
    assert epsilon_of(z, delta, rounds, participations=cap) <= epsilon * (1 + 1e-6)
    assert z <= noise_for(epsilon, delta, rounds)


def test_shares_cost_what_their_sum_costs():
    z = noise_for(2.0, 1e-6, 3, shares=(0.1, 0.3, 0.6))
    charges = [Charge(t, z / math.sqrt(share)) for t, share in enumerate((0.1, 0.3, 0.6))]
    assert cohort_epsilon(charges, 1e-6) == pytest.approx(2.0, rel=1e-6)
    capped = noise_for(2.0, 1e-6, 3, shares=(0.1, 0.3, 0.6), participations=1)
    assert capped == pytest.approx(z * math.sqrt(0.6), rel=1e-9)


def test_secret_draws_help_who_sees_models_only_and_only_without_a_cap():
    charges = [Charge(t, 2.0, sampling=0.1) for t in range(20)]
    free, capped = epsilons(charges, 1e-5), epsilons(charges, 1e-5, participations=15)
    assert free.release < free.cohort
    assert free.server == math.inf
    assert capped.release == capped.cohort < free.cohort
    assert epsilons([], 1e-5) == Epsilons(0.0, 0.0, math.inf, 1e-5)
    truncated = [Charge(t, 2.0, 0.1, (1000, 120)) for t in range(20)]
    halved = [Charge(t, 1.0, 0.1) for t in range(20)]  # who is drawn may push somebody out: twice the clip
    assert epsilons(truncated, 1e-5) == epsilons(halved, 1e-5)
    assert free.release <= epsilons(truncated, 1e-5).release


def test_charges_survive_the_ledger_and_damage_is_named():
    for charge in (Charge(3, 1.5), Charge(0, 0.7, 0.25), Charge(0, 0.7, 0.25, (1000, 300))):
        assert Charge.from_json(charge.to_json()) == charge
    assert Epsilons(1.0, 2.0, math.inf, 1e-5).to_json()["server"] == "infinite"
    good = Charge(3, 1.5, 0.5, (10, 5)).to_json()
    for key, value in (("mechanism", "laplace"), ("round", -1), ("round", True), ("noise_multiplier", 0),
                       ("noise_multiplier", "2"), ("sampling", 1.5), ("truncated", [1])):  # fmt: skip
        with pytest.raises(DamagedError, match=key if key != "mechanism" else "Gaussian"):
            Charge.from_json(good | {key: value})
    with pytest.raises(DamagedError):
        Charge.from_json(None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0.0, 1e-5, 1), "epsilon"), ((1.0, 0.0, 1), "delta"), ((1.0, 1.0, 1), "delta"), ((1.0, 1e-5, 0), "rounds")],
)
def test_impossible_values_name_the_key(arguments, message):
    with pytest.raises(PlanError, match=message):
        noise_for(*arguments)


def test_a_cap_on_participations_with_sampling_is_met_by_training():
    from fedrec.privacy.terms import Privacy, schedule

    for more in ({}, {"view": "release"}, {"users": 1000, "max_cohort": 150}):
        terms = Privacy(epsilon=4.0, delta=1e-5, sampling="poisson", participations=5, **more)
        resolved = terms.resolve((0.05,) * 20, 0.1)
        cost = resolved.cost(schedule(resolved, (0.05,) * 20, 0.1))
        assert cost.cohort == pytest.approx(4.0, rel=1e-3)
        assert cost.release <= 4.0 * (1 + 1e-6)


@pytest.mark.parametrize("view", ["cohort", pytest.param("release", marks=pytest.mark.exhaustive)])
def test_truncated_cohorts_are_calibrated_for_twice_the_clip(view):
    from fedrec.privacy.terms import Privacy, schedule

    terms = Privacy(epsilon=2.0, delta=1e-5, sampling="poisson", users=943, max_cohort=400, view=view)
    resolved = terms.resolve((0.1,) * 10, 0.5)
    cost = resolved.cost(schedule(resolved, (0.1,) * 10, 0.5))
    assert getattr(cost, view) == pytest.approx(2.0, rel=2e-2)
    assert cost.cohort >= cost.release
