import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import InputError
from fedrec.kernels.threads import limit_threads
from fedrec.recommending.topk import top_items


def twin(scores, n, exclude=None, allowed=None):
    """Sort every row whole, best score first and then the lower item."""
    items = np.full((len(scores), n), -1, dtype=np.int32)
    best = np.full((len(scores), n), -np.inf, dtype=np.float32)
    for r, row in enumerate(scores):
        possible = ~np.isnan(row) & (row != -np.inf)
        if allowed is not None:
            possible &= allowed
        if exclude is not None:
            possible[exclude[1][exclude[0][r] : exclude[0][r + 1]]] = False
        candidates = np.flatnonzero(possible)
        order = candidates[np.lexsort((candidates, -row[candidates]))][:n]
        items[r, : len(order)], best[r, : len(order)] = order, row[order]
    return items, best


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clients, n_items = draw(st.integers(0, 40)), draw(st.integers(0, 300))
    levels = draw(st.sampled_from([2, 7, 10_000]))
    scores = (rng.integers(-levels, levels, (clients, n_items)) / 4).astype(np.float32)
    odd = rng.random(scores.shape)
    scores[odd < 0.05] = np.nan
    scores[odd > 0.95] = -np.inf
    scores[(odd > 0.9) & (odd < 0.91)] = np.inf
    exclude = None
    if n_items and draw(st.booleans()):
        lengths = rng.integers(0, n_items + 1, clients)
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        exclude = indptr, rng.integers(0, n_items, indptr[-1]).astype(np.int32)
    allowed = rng.random(n_items) < 0.7 if draw(st.booleans()) else None
    return scores, draw(st.integers(1, 320)), exclude, allowed


@given(cases())
@settings(max_examples=150, deadline=None)
def test_equals_a_full_sort(case):
    scores, n, exclude, allowed = case
    before = scores.copy()
    items, best = top_items(scores, n, exclude, allowed)
    wanted_items, wanted_best = twin(scores, n, exclude, allowed)
    np.testing.assert_array_equal(items, wanted_items)
    np.testing.assert_array_equal(best, wanted_best)
    assert items.dtype == np.int32
    assert best.dtype == np.float32
    np.testing.assert_array_equal(scores, before)


def test_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 50, (300, 700)).astype(np.float32)
    exclude = np.arange(0, 3001, 10), rng.integers(0, 700, 3000).astype(np.int32)
    results = []
    for threads in (1, 2):
        with limit_threads(threads):
            results.append([part.tobytes() for part in top_items(scores, 25, exclude)])
    assert results[0] == results[1]


def test_ascending_scores_are_the_worst_case_and_still_right():
    scores = np.arange(5 * 1000, dtype=np.float32).reshape(5, 1000)
    items, _ = top_items(scores, 3)
    assert items.tolist() == [[999, 998, 997]] * 5


def test_a_constant_scorer_gives_the_lowest_positions():
    items, best = top_items(np.ones((2, 500), dtype=np.float32), 4)
    assert items.tolist() == [[0, 1, 2, 3]] * 2
    assert (best == 1).all()


def test_a_view_that_is_not_contiguous_is_ranked_by_its_values():
    scores = np.random.default_rng(0).random((50, 8), dtype=np.float32).T
    np.testing.assert_array_equal(top_items(scores, 5)[0], twin(scores, 5)[0])


SCORES = np.zeros((2, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SCORES, 0), "at least 1"),
        ((SCORES[0], 1), "must be floats"),
        ((SCORES.astype(int), 1), "must be floats"),
        ((SCORES, 1, (np.array([0, 1]), np.array([0]))), "3 ascending entries from 0 to 1"),
        ((SCORES, 1, (np.array([0, 2, 1]), np.array([0]))), "ascending"),
        ((SCORES, 1, (np.array([0, 0, 1]), np.array([3]))), "position 3 is not among 0 to 2"),
        ((SCORES, 1, (np.array([0, 0, 1]), np.array([-1]))), "position -1"),
        ((SCORES, 1, None, np.ones(2, dtype=bool)), r"bool \[3\]"),
        ((SCORES, 1, None, np.ones(3)), r"bool \[3\]"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        top_items(*arguments)
