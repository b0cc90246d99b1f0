"""Contributions, each against the dense array that it stands for."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.aggregation.contributions import Contributions, Dense, RankOne, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.kernels.threads import limit_threads

PROPERTY = settings(deadline=None, max_examples=60)


def csr(rng, clients, n_items):
    rows = [rng.permutation(n_items)[: rng.integers(0, n_items + 1)] for _ in range(clients)]
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return indptr, np.concatenate([np.empty(0, int), *rows]).astype(np.int32)


@st.composite
def cases(draw, kinds=("rows", "triangle", "right", "weighted triangle", "weighted right", "dense")):
    """A contribution, and the released layout of each of its clients [clients, coordinates] in float64."""
    kind, clients, n = draw(st.sampled_from(kinds)), draw(st.integers(0, 6)), draw(st.integers(1, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    width = draw(st.integers(1, 3))
    factors = rng.normal(size=clients)
    indptr, items = csr(rng, clients, n)
    owner = np.repeat(np.arange(clients), np.diff(indptr))
    X = np.zeros((clients, n))
    values = rng.normal(size=len(items)).astype(np.float32) if kind.startswith("weighted") else None
    X[owner, items] = 1 if values is None else values
    kind = kind.removeprefix("weighted ")
    if kind == "rows":
        values = rng.normal(size=(len(items), width)).astype(np.float32)
        layout = np.zeros((clients, n, width))
        layout[owner, items] = values
        return RowUpdates(indptr, items, values, factors), (layout * factors[:, None, None]).reshape(clients, n * width)
    if kind == "triangle":
        layout = np.einsum("ci,cj->cij", X, X)[:, *np.triu_indices(n)]
        return RankOne(indptr, items, factors, n, None, values), layout * factors[:, None]
    if kind == "right":
        right = rng.normal(size=(clients, width))
        layout = np.einsum("ci,cr->cir", X, right * factors[:, None])
        return RankOne(indptr, items, factors, n, right, values), layout.reshape(clients, n * width)
    values = rng.normal(size=(clients, n)).astype(np.float32)
    return Dense(values, factors), values * factors[:, None]


@PROPERTY
@given(cases())
def test_squared_norms_are_of_the_released_layout(case):
    contribution, layout = case
    assert contribution.n_clients == len(layout)
    assert np.allclose(contribution.sq_norms(), np.sum(layout**2, axis=1), rtol=1e-12, atol=0)


@PROPERTY
@given(cases(), st.integers(0, 2**32 - 1))
def test_scaling_multiplies_each_client_and_leaves_the_original(case, seed):
    contribution, layout = case
    factors = np.random.default_rng(seed).normal(size=len(layout))
    before = contribution.sq_norms()
    scaled = contribution.scale(factors).scale(factors)
    assert np.allclose(scaled.sq_norms(), before * factors**4, rtol=1e-12)
    assert np.array_equal(contribution.sq_norms(), before)


@PROPERTY
@given(cases(("rows", "right", "weighted right", "weighted triangle", "dense")))
def test_adding_gives_the_layout_on_a_fine_grid(case):
    contribution, layout = case
    total = np.zeros(layout.shape[1], dtype=np.int64)
    shape = (layout.shape[1],)
    if not isinstance(contribution, Dense):
        values = contribution.values if isinstance(contribution, RowUpdates) else contribution.right
        if values is not None:
            shape = (layout.shape[1] // values.shape[1], values.shape[1])
    spec = SumSpec((ArraySpec("x", "rows", shape, bound=1e3, scale_bits=30),)).fit(100).arrays[0]
    assert contribution.add_to(total.reshape(shape), spec, np.ones(len(layout), dtype=bool)) == 0
    assert np.allclose(total / 2**30, layout.sum(axis=0), atol=len(layout) * 2.0**-31 + 1e-12)


def test_clients_that_are_not_finite_are_seen_in_every_kind():
    indptr, items = np.array([0, 2, 3, 3]), np.array([0, 1, 2], dtype=np.int32)
    values = np.array([[1, 2], [3, np.nan], [4, 5]], dtype=np.float32)
    ones = np.ones(3)
    assert RowUpdates(indptr, items, values, ones).finite().tolist() == [False, True, True]
    assert RowUpdates(indptr, items, values, np.array([1, np.inf, 1])).finite().tolist() == [False, False, True]
    assert RankOne(indptr, items, np.array([np.nan, 1, -np.inf]), 3).finite().tolist() == [False, True, False]
    right = np.array([[1.0], [np.inf], [np.nan]])
    assert RankOne(indptr, items, ones, 3, right).finite().tolist() == [True, False, False]
    weights = np.array([1, np.inf, 1], dtype=np.float32)
    assert RankOne(indptr, items, ones, 3, None, weights).finite().tolist() == [False, True, True]
    assert Dense(values, np.array([1, 1, np.nan])).finite().tolist() == [True, False, False]


def test_contributions_are_of_the_same_clients_in_all_arrays():
    ones = np.ones(2)
    parts = Contributions(
        {
            "a": Dense(np.array([[3, 0], [np.nan, 0]], dtype=np.float32), ones),
            "b": Dense(np.array([[4], [1]], dtype=np.float32), ones),
        }
    )
    assert parts.n_clients == 2
    assert parts.finite().tolist() == [True, False]
    assert parts.sq_norms()[0] == 25
    assert parts.scale(np.array([2.0, 1.0])).sq_norms()[0] == 100


INDPTR, ROWS, ONES = np.array([0, 1, 2]), np.array([0, 2], dtype=np.int32), np.ones(2)
MISTAKES = {
    "row beyond the table": (RowUpdates(INDPTR, ROWS + 1, np.ones((2, 2), "f4"), ONES), (3, 2)),
    "row below the table": (RowUpdates(INDPTR, ROWS - 1, np.ones((2, 2), "f4"), ONES), (3, 2)),
    "rows too narrow": (RowUpdates(INDPTR, ROWS, np.ones((2, 1), "f4"), ONES), (3, 2)),
    "fewer values than rows": (RowUpdates(INDPTR, ROWS, np.ones((1, 2), "f4"), ONES), (3, 2)),
    "fewer factors than clients": (RowUpdates(INDPTR, ROWS, np.ones((2, 2), "f4"), ONES[:1]), (3, 2)),
    "item beyond the catalog": (RankOne(INDPTR, ROWS + 1, ONES, 3, np.ones((2, 2))), (3, 2)),
    "right side too wide": (RankOne(INDPTR, ROWS, ONES, 3, np.ones((2, 3))), (3, 2)),
    "right sides of other clients": (RankOne(INDPTR, ROWS, ONES, 3, np.ones((1, 2))), (3, 2)),
    "values of other rows": (RankOne(INDPTR, ROWS, ONES, 3, np.ones((2, 2)), np.ones(3, "f4")), (3, 2)),
    "triangle of another catalog": (RankOne(INDPTR, ROWS, ONES, 4), (triangle_size(3),)),
    "vector too short": (Dense(np.ones((2, 5), "f4"), ONES), (6,)),
    "vectors of other clients": (Dense(np.ones((3, 6), "f4"), ONES), (6,)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_contributions_of_another_shape_are_refused_before_they_are_added(mistake):
    contribution, shape = MISTAKES[mistake]
    spec = SumSpec((ArraySpec("x", "rows", shape, bound=1.0),)).fit(10)
    total = Sum.zeros(spec)
    with pytest.raises(ValueError, match=r"array 'x'|broadcast"):
        total.add(Contributions({"x": contribution}))
    assert total.clients == 0
    assert not total.arrays["x"].any()


def test_arrays_of_different_clients_or_names_are_refused():
    spec = SumSpec((ArraySpec("a", "dense", (1,), bound=1.0), ArraySpec("b", "dense", (1,), bound=1.0))).fit(10)
    one, two = (Dense(np.ones((n, 1), "f4"), np.ones(n)) for n in (1, 2))
    with pytest.raises(ValueError, match=r"numbers of clients: \[1, 2\]"):
        Sum.zeros(spec).add(Contributions({"a": one, "b": two}))
    with pytest.raises(ValueError, match="the spec has"):
        Sum.zeros(spec).add(Contributions({"a": one}))


def weighted_case():
    """Three clients with values, one of whom is not finite: arguments of a `RankOne`."""
    indptr, items = np.array([0, 3, 5, 7]), np.array([2, 0, 3, 1, 3, 0, 1], dtype=np.int32)
    values = np.array([1.5, 40.0, 0.25, 3.0, 1.0, np.nan, 2.0], dtype=np.float32)
    return indptr, items, np.array([1.0, 0.5, 1.0]), 4, values


def test_a_weighted_triangle_is_cut_at_its_bound_and_counts_what_was_cut():
    indptr, items, weights, n, values = weighted_case()
    spec = SumSpec((ArraySpec("x", "rank_one", (triangle_size(n),), bound=50.0, scale_bits=2),)).fit(10)
    total = Sum.zeros(spec)
    total.add(Contributions({"x": RankOne(indptr, items, weights, n, None, values)}))
    first = [50.0, 0.0, 50.0, 10.0, 0, 0, 0, 2.25, 0.375, 0.0625]  # rows of the triangle: 00 01 02 03 11 12 13 22 23 33
    second = [0, 0, 0, 0, 4.5, 0, 1.5, 0, 0, 0.5]
    on_the_grid = np.round(np.array(first) * 4) + np.round(np.array(second) * 4)
    assert total.arrays["x"].tolist() == on_the_grid.tolist()
    assert (total.clients, total.left_out, total.saturated) == (2, 1, 2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("right", [None, np.array([[1.0, -2.0], [0.3, 4.0], [1.0, 1.0]])])
def test_weighted_sums_have_the_same_bits_in_any_pieces_and_threads(threads, right):
    rng = np.random.default_rng(7)
    indptr, items = csr(rng, 60, 30)
    values = rng.lognormal(size=len(items)).astype(np.float32)
    right = None if right is None else rng.normal(size=(60, 2))
    shape = (triangle_size(30),) if right is None else (30, 2)
    spec = SumSpec((ArraySpec("x", "rank_one", shape, bound=9.0, scale_bits=20),)).fit(100)

    def summed(pieces):
        total = Sum.zeros(spec)
        for piece in pieces:
            rows = np.concatenate([np.arange(indptr[c], indptr[c + 1]) for c in piece]).astype(int)
            own = np.concatenate([[0], np.cumsum(np.diff(indptr)[piece])])
            part = None if right is None else right[piece]
            total.add(Contributions({"x": RankOne(own, items[rows], np.ones(len(piece)), 30, part, values[rows])}))
        return total.arrays["x"], total.saturated

    whole, over = summed([np.arange(60)])
    with limit_threads(threads):
        parts, also = summed(np.array_split(rng.permutation(60), 7))
    assert np.array_equal(whole, parts)
    assert over == also > 0


def test_values_of_one_everywhere_are_the_sum_without_values():
    rng = np.random.default_rng(3)
    indptr, items = csr(rng, 40, 25)
    ones, weights = np.ones(len(items), dtype=np.float32), np.ones(40)
    for shape, right in (((triangle_size(25),), None), ((25, 3), rng.normal(size=(40, 3)))):
        spec = SumSpec((ArraySpec("x", "rank_one", shape, bound=9.0, scale_bits=16),)).fit(100)
        sums = [Sum.zeros(spec), Sum.zeros(spec)]
        for total, values in zip(sums, (None, ones), strict=True):
            total.add(Contributions({"x": RankOne(indptr, items, weights, 25, right, values)}))
        assert np.array_equal(sums[0].arrays["x"], sums[1].arrays["x"])
