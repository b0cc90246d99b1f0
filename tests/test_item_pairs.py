"""Pairs of items of histories, against prefixes that are formed one by one."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.item_pairs import ItemPairs
from fedrec.aggregation.queries import Metric
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.kernels.threads import limit_threads

PROPERTY = settings(deadline=None, max_examples=60)
KINDS = ("triangle", "square", "following")


def formed(kind, indptr, items, fades, others, onwards, n):
    """What each client adds [clients, items, items] float64, with every prefix and what follows it as a vector."""
    out = np.zeros((len(indptr) - 1, n, n))
    for client in range(len(indptr) - 1):
        rows = range(indptr[client], indptr[client + 1])
        for last in list(rows)[:-1]:
            left, right = np.zeros(n), np.zeros(n)
            for row in range(rows.start, last + 1):
                left[items[row]] += np.prod(fades[row + 1 : last + 1])
                right[items[row]] += np.prod((fades if kind == "triangle" else others)[row + 1 : last + 1])
            if kind == "following":
                right = np.zeros(n)
                for row in range(last + 1, rows.stop):
                    right[items[row]] += np.prod(onwards[last + 2 : row + 1])
            out[client] += np.outer(left, right)
    return out


@st.composite
def cases(draw, kinds=KINDS):
    """Pairs of a few clients, and the released layout of each [clients, coordinates] in float64."""
    kind, n = draw(st.sampled_from(kinds)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    again = draw(st.booleans())
    histories = [
        rng.integers(0, n, rng.integers(0, 9)) if again else rng.permutation(n)[: rng.integers(0, n + 1)]
        for _ in range(draw(st.integers(0, 6)))
    ]
    indptr = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    items = np.concatenate([np.empty(0, int), *histories]).astype(np.int32)
    fades, others, onwards = rng.uniform(0.5, 1.0, (3, len(items)))
    factors = rng.normal(size=len(histories))
    layout = formed(kind, indptr, items, fades, others, onwards, n) * factors[:, None, None]
    flat = layout[:, *np.triu_indices(n)] if kind == "triangle" else layout.reshape(len(layout), n * n)
    if kind == "following":
        return ItemPairs.following(indptr, items, fades, onwards, factors, n), flat
    return ItemPairs.past(indptr, items, fades, None if kind == "triangle" else others, factors, n), flat


def spec_of(pairs, bound=1e3, bits=20):
    n = pairs.n_items
    shape = (triangle_size(n),) if pairs.triangle else (n, n)
    return SumSpec((ArraySpec("pairs", "pairs", shape, bound=bound, scale_bits=bits),)).fit(100)


@PROPERTY
@given(cases(), st.sampled_from([1, 2]))
def test_pairs_are_the_sums_over_prefixes_on_the_grid(case, threads):
    pairs, layout = case
    spec = spec_of(pairs)["pairs"]
    total = np.zeros(spec.shape, dtype=f"i{spec.word // 8}")
    with limit_threads(threads):
        assert pairs.add_to(total, spec, np.ones(len(layout), dtype=bool)) == 0
    assert np.allclose(total.reshape(-1) / spec.unit, layout.sum(axis=0), atol=(len(layout) + 1) / spec.unit)


@PROPERTY
@given(cases(), st.integers(0, 2**32 - 1))
def test_a_sum_of_clients_has_the_bits_of_the_clients_one_by_one(case, seed):
    pairs, layout = case
    spec = spec_of(pairs, bound=1.5, bits=12)["pairs"]
    keep = np.random.default_rng(seed).random(len(layout)) < 0.7
    total = np.zeros(spec.shape, dtype=np.int64 if spec.word == 64 else np.int32)
    saturated = pairs.add_to(total, spec, keep)
    alone = np.zeros_like(total)
    for client in np.flatnonzero(keep):
        rows = slice(pairs.indptr[client], pairs.indptr[client + 1])
        fades = [array[rows] for array in (pairs.ahead, pairs.behind, pairs.later, pairs.onwards)]
        indptr = np.array([0, rows.stop - rows.start])
        one = ItemPairs(
            indptr, pairs.items[rows], *fades, pairs.factors[client : client + 1], pairs.n_items, pairs.triangle
        )
        saturated -= one.add_to(alone, spec, np.ones(1, dtype=bool))
    assert saturated == 0
    assert np.array_equal(total, alone)
    cut = np.clip(layout[keep], -spec.bound, spec.bound).sum(axis=0)
    assert np.allclose(total.reshape(-1) / spec.unit, cut, atol=(len(layout) + 1) / spec.unit)


@PROPERTY
@given(cases())
def test_squared_norms_are_of_the_released_layout(case):
    pairs, layout = case
    assert np.allclose(pairs.sq_norms(), np.sum(layout**2, axis=1), rtol=1e-9, atol=0)
    assert np.allclose(pairs.sq_norms(Metric(weight=2.0)), 4 * np.sum(layout**2, axis=1), rtol=1e-9, atol=0)
    assert np.allclose(pairs.scale(np.full(len(layout), 3.0)).sq_norms(), 9 * pairs.sq_norms())


@PROPERTY
@given(cases())
def test_no_row_of_clipped_pairs_is_longer_than_the_limit(case):
    pairs, _ = case
    assert np.all(pairs.clip_rows(0.7).sq_norms() <= 0.7**2 * (1 + 1e-9))


HALF, ONE = np.full(3, 0.5), np.ones(1)
ROWS = np.array([0, 3]), np.array([0, 1, 2], dtype=np.int32)


def test_clients_that_are_not_finite_are_seen_and_left_out():
    indptr, items = np.array([0, 2, 4, 6]), np.array([0, 1, 0, 1, 1, 0], dtype=np.int32)
    fades = np.full(6, 0.5)
    fades[3] = np.nan
    pairs = ItemPairs.past(indptr, items, fades, None, np.array([1.0, 1.0, np.inf]), 2)
    assert pairs.finite().tolist() == [True, False, False]
    assert ItemPairs.following(indptr, items, np.full(6, 0.5), fades, np.ones(3), 2).finite().tolist() == [
        True, False, True,
    ]  # fmt: skip
    total = Sum.zeros(spec_of(pairs))
    assert total.add(Contributions({"pairs": pairs})).tolist() == [True, False, False]
    assert (total.clients, total.left_out, total.value("pairs").tolist()) == (1, 2, [1.0, 0.0, 0.0])


def test_what_repeats_add_is_cut_to_the_bound_as_one_number():
    indptr, items = np.array([0, 6]), np.zeros(6, dtype=np.int32)
    pairs = ItemPairs.past(indptr, items, np.full(6, 0.5), None, ONE, 1)
    total = np.zeros(1, dtype=np.int32)
    assert pairs.add_to(total, spec_of(pairs, bound=2.0, bits=4)["pairs"], np.ones(1, dtype=bool)) == 1
    assert total.tolist() == [32]


MISTAKES = {
    "an item beyond the catalog": ItemPairs.past(ROWS[0], ROWS[1] + 1, HALF, None, ONE, 3),
    "fewer fades than rows": ItemPairs(*ROWS, HALF[:2], HALF, HALF, np.empty(0), ONE, 3, True),
    "more factors than clients": ItemPairs.past(*ROWS, HALF, None, np.ones(2), 3),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_pairs_that_do_not_fit_are_errors(mistake):
    spec = spec_of(ItemPairs.past(*ROWS, HALF, None, ONE, 3))["pairs"]
    with pytest.raises(ValueError, match="array 'pairs'"):
        MISTAKES[mistake].add_to(np.zeros(6, dtype=np.int32), spec, np.ones(1, dtype=bool))


def test_pairs_of_another_shape_and_weights_per_item_are_errors():
    pairs = ItemPairs.past(*ROWS, HALF, None, ONE, 3)
    square = ArraySpec("pairs", "pairs", (3, 3), bound=1.0, ring=32)
    with pytest.raises(ValueError, match="pairs of 3 items"):
        pairs.add_to(np.zeros((3, 3), dtype=np.int32), square, np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match="weights per item"):
        pairs.sq_norms(Metric(rows=np.ones(3)))
