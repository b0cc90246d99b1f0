"""Who is in a round: what one user's absence changes, for all coins there can be, is no more than what is charged."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chosen_in_test import every
from fedrec.data.keys import KeyedSource
from fedrec.node.cohorts import cohort
from fedrec.privacy.accounting import Charge, cohort_epsilon, epsilon_of
from fedrec.privacy.terms import Privacy, schedule

SHARE = 0.5
OUT = 2**64 - 1


@dataclass(frozen=True)
class Coins:
    """A source whose draws are given: [rounds][users]; keys are positions."""

    table: tuple[tuple[int, ...], ...]
    round: int = -1

    def child(self, _purpose, round):
        return Coins(self.table, round)

    def seeds(self, keys):
        return np.array(self.table[self.round], dtype=np.uint64)[keys]


def orders(users):
    """Every way in which coins can fall in one round: who is drawn, and in which order of draws."""
    for size in range(users + 1):
        for order in itertools.permutations(range(users), size):
            yield tuple(order.index(user) if user in order else OUT for user in range(users))


def terms_of(participations, most, users=100):
    sampling = {"sampling": "poisson", "max_cohort": most, "users": users} if most is not None else {}
    return Privacy(epsilon=1.0, delta=1e-5, participations=participations, **sampling)


def rounds_of(source, users, present, rounds, terms, share=SHARE):
    keys = np.arange(users, dtype=np.uint64)
    return [set(cohort(source, keys, present, round, share, terms).tolist()) for round in range(rounds)]


@pytest.mark.parametrize(
    ("users", "rounds", "participations", "most"),
    every(3, itertools.product([3], [3], [1, 2, None], [1, 2, None]), start=1)
    + every(3, itertools.product([4], [2], [1, 2, None], [1, 2, None])),
)
def test_for_all_coins_one_users_absence_changes_what_is_charged_and_no_more(users, rounds, participations, most):
    terms = terms_of(participations, most)
    everyone, without = np.arange(users), np.arange(1, users)
    worst = 0
    for table in itertools.product(list(orders(users)), repeat=rounds):
        there = rounds_of(Coins(table), users, everyone, rounds, terms)
        gone = rounds_of(Coins(table), users, without, rounds, terms)
        changed = [(here - then, then - here) for here, then in zip(there, gone, strict=True) if here != then]
        assert all(out == {0} and len(into) <= (most is not None) for out, into in changed), table
        assert len(changed) <= (participations or rounds), table
        for user in range(users):
            assert sum(user in here for here in there) <= (participations or rounds)
        worst = max(worst, sum((len(out) + len(into)) ** 2 for out, into in changed))
    charged = min(participations or rounds, rounds) * (1 if most is None else 4)
    assert worst == charged, "the bound is met by some coins, so nothing smaller would do"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(20, 80),
    st.integers(1, 20),
    st.floats(0.05, 0.95),
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 4)),
)
def test_with_real_coins_the_change_of_all_sums_is_at_most_what_is_charged(
    seed, users, rounds, share, most, participations
):
    participations = None if participations is None or participations > rounds else participations
    terms = terms_of(participations, most).model_copy(update={"noise_multiplier": 3.0})
    charges = schedule(terms, (1 / rounds,) * rounds, share)
    source = KeyedSource.from_seed(seed)
    there = rounds_of(source, users, np.arange(users), rounds, terms, share)
    gone = rounds_of(source, users, np.arange(1, users), rounds, terms, share)
    changed = sum(
        len(here ^ then) ** 2 / charge.noise_multiplier**2
        for here, then, charge in zip(there, gone, charges, strict=True)
    )
    dearest = sorted(charge.effective for charge in charges)[:participations]
    assert changed <= sum(noise**-2 for noise in dearest) * (1 + 1e-9)


def test_a_truncated_round_is_charged_as_one_of_twice_the_clip():
    assert Charge(0, 3.0, 0.5, (100, 20)).effective == 1.5
    four = [Charge(round, 3.0, 0.5, (100, 20)) for round in range(4)]
    assert cohort_epsilon(four, 1e-5, 2) == pytest.approx(epsilon_of(1.5 / 2**0.5, 1e-5, 1))
