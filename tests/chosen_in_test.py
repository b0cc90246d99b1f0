"""Which of a test's cases are tried ordinarily, and which among the exhaustive tests only."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable
from typing import Any

import pytest


def chosen(kept: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases; those that are not kept are exhaustive. A case of several arguments is a tuple."""
    return [_case(case, case in kept) for case in cases]


def every(step: int, cases: Iterable[Any], start: int = 0) -> list[Any]:
    """All cases; all but every so manieth, from the one at `start`, are exhaustive."""
    return [_case(case, place % step == start) for place, case in enumerate(cases)]


def in_turn(*lists: Iterable[Any]) -> list[Any]:
    """All combinations of what lists hold; all but one with each element of the first list are exhaustive.

    Combinations of the other lists take turns, so that each of them is tried ordinarily too.
    """
    first, *others = map(list, lists)
    rest = list(itertools.product(*others))
    return [
        _case((name, *one), place == turn % len(rest))
        for turn, name in enumerate(first)
        for place, one in enumerate(rest)
    ]


def _case(case: Any, ordinary: bool) -> Any:
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=[] if ordinary else [pytest.mark.exhaustive])
