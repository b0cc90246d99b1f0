"""Folders with hostile changes end in an error told in words: no crash, no traceback, no memory, no stray writes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from chosen_in_test import chosen

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from fuzz_folders import fuzz

KINDS = ("run itemknn", "run gpfedrec", "stopped", "budget")


@pytest.mark.parametrize("mutations", chosen([25], [25, 200]))
def test_a_seeded_part_of_the_fuzzing_finds_nothing(mutations: int) -> None:
    found = fuzz(mutations, seed=11, kinds=KINDS)
    assert [outcome for outcome in found if outcome.problems] == []
    assert sorted(outcome.number for outcome in found) == list(range(mutations))
    refused = [outcome for outcome in found if outcome.code not in (0, None)]
    assert {outcome.kind for outcome in refused} == set(KINDS)
    assert len(refused) > mutations / 3
