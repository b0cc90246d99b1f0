"""The round that counts for a node is the last committed one with a sum of its own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedrec.federation.own_rounds import OwnRounds

NAMES = ["a", "b", "c"]
SOME = st.lists(st.sampled_from(NAMES), unique=True, min_size=1)


@given(st.lists(st.one_of(st.none(), SOME), max_size=6), st.integers(-1, 6))
def test_it_is_the_last_round_up_to_the_committed_one_that_the_node_took_part_in(who: list[Any], upto: int) -> None:
    lines = [{"round": round} | ({} if names is None else {"nodes": names}) for round, names in enumerate(who)]
    for name in NAMES:
        there = [round for round, names in enumerate(who[: upto + 1]) if names is None or name in names]
        due = max(there, default=-1) if lines else upto
        assert OwnRounds.after(lines, upto)[name] == due


@given(st.lists(st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9)), max_size=3), min_size=1, max_size=6))
def test_of_sums_in_their_own_time_it_is_the_version_of_the_last_one(buffers: list[list[tuple[str, int]]]) -> None:
    buffers = [list(dict(parts).items()) for parts in buffers]
    lines = [
        {"round": round, "parts": [{"node": name, "version": version} for name, version in parts]}
        for round, parts in enumerate(buffers)
    ]
    due = dict.fromkeys(NAMES, -1)
    for round, parts in enumerate(buffers):
        due |= dict(parts)
        assert OwnRounds.after(lines, round).of(NAMES) == due


@pytest.mark.parametrize("committed", [-1, 0, 7])
def test_without_a_ledger_it_is_the_committed_round_for_every_node(committed: int) -> None:
    assert OwnRounds.after([], committed).of(NAMES) == dict.fromkeys(NAMES, committed)
