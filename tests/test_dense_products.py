"""Products of dense factors, against the dense tables that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.dense_products import DenseProducts
from fedrec.aggregation.queries import Metric
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum

PROPERTY = settings(deadline=None, max_examples=60)


def spec_of(rows: int, width: int, bound: float = 64.0, bits: int = 24) -> SumSpec:
    return SumSpec((ArraySpec("x", "dense", (rows, width), bound=bound, scale_bits=bits),)).fit(1 << 12)


@st.composite
def cases(draw: st.DrawFn) -> tuple[DenseProducts, np.ndarray]:
    """Products of some of the clients, and the table of each client [clients, rows, d] float64."""
    clients, rows, width = draw(st.integers(0, 7)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    owners = np.flatnonzero(rng.random(clients) < 0.7)
    left = rng.normal(size=(len(owners), rows)).astype(np.float32)
    right = rng.normal(size=(len(owners), width)).astype(np.float32)
    factors = rng.random(clients)
    tables = np.zeros((clients, rows, width))
    tables[owners] = np.einsum("pi,pj->pij", left, right, dtype=np.float64)
    return DenseProducts(owners, left, right, factors, 12, 8.0), tables * factors[:, None, None]


@PROPERTY
@given(cases(), st.integers(0, 2**32 - 1))
def test_norms_are_those_of_the_tables_under_any_metric(case: tuple[DenseProducts, np.ndarray], seed: int) -> None:
    products, tables = case
    weights = np.random.default_rng(seed).random(tables.shape[1])
    assert np.allclose(products.sq_norms(), np.square(tables).sum(axis=(1, 2)), rtol=1e-12)
    weighed = np.square(3.0 * weights[:, None] * tables).sum(axis=(1, 2))
    assert np.allclose(products.sq_norms(Metric(weight=3.0, rows=weights)), weighed, rtol=1e-6)
    assert np.allclose(products.scale(products.factors).sq_norms(), products.sq_norms() * products.factors**2)


@PROPERTY
@given(cases())
def test_the_sum_is_that_of_the_tables_to_the_grid_of_the_factors(case: tuple[DenseProducts, np.ndarray]) -> None:
    products, tables = case
    total = Sum.zeros(spec_of(*tables.shape[1:]))
    total.add(Contributions({"x": products}))
    step = 2.0**-13 * (np.abs(products.left).max(initial=0.0) + np.abs(products.right).max(initial=0.0) + 1.0)
    assert np.allclose(total.value("x"), tables.sum(axis=0), atol=len(tables) * step)
    assert (total.clients, total.saturated) == (len(tables), 0)


@PROPERTY
@given(cases(), st.floats(0.1, 3.0))
def test_no_row_is_longer_than_the_limit_after_clipping_rows(
    case: tuple[DenseProducts, np.ndarray], limit: float
) -> None:
    products, tables = case
    clipped = products.clip_rows(limit)
    longest = np.sqrt(np.square(tables).sum(axis=2)).max(axis=1, initial=0.0)
    assert np.allclose(clipped.factors, products.factors * np.minimum(1.0, limit / np.maximum(longest, limit)))


def drawn(clients: int = 300, rows: int = 41, width: int = 5) -> DenseProducts:
    rng = np.random.default_rng(7)
    owners = np.flatnonzero(rng.random(clients) < 0.6)
    left = (3.0 * rng.normal(size=(len(owners), rows))).astype(np.float32)
    right = rng.normal(size=(len(owners), width)).astype(np.float32)
    return DenseProducts(owners, left, right, rng.random(clients), 12, 8.0)


def of_some(products: DenseProducts, clients: np.ndarray) -> DenseProducts:
    """The products of ascending `clients` only."""
    mine = np.isin(products.owners, clients)
    places = np.searchsorted(clients, products.owners[mine])
    return DenseProducts(places, products.left[mine], products.right[mine], products.factors[clients], 12, 8.0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pieces", [1, 2, 7, 300])
def test_bits_and_saturations_are_the_same_in_any_pieces_and_threads(pieces: int, threads: int) -> None:
    whole, cut = (Sum.zeros(spec_of(41, 5, bound=32.0)) for _ in range(2))
    whole.add(Contributions({"x": drawn()}))
    order = np.random.default_rng(1).permutation(300)
    with threadpool_limits(threads, "blas"):
        for piece in np.array_split(order, pieces):
            cut.add(Contributions({"x": of_some(drawn(), np.sort(piece))}))
    assert cut.arrays["x"].tobytes() == whole.arrays["x"].tobytes()
    assert cut.saturated == whole.saturated > 0


def test_sums_near_the_end_of_float64_are_exact() -> None:
    """Blocks are cut so that no partial sum reaches 2^53; one matrix product of all would round."""
    rng = np.random.default_rng(3)
    left = rng.integers(2**22, 2**23, (200, 3)).astype(np.float32)
    right = rng.integers(2**22, 2**23, (200, 2)).astype(np.float32)
    spec = SumSpec((ArraySpec("x", "dense", (3, 2), bound=2.0**46, scale_bits=0),)).fit(1 << 12)
    total = Sum.zeros(spec)
    total.add(Contributions({"x": DenseProducts(np.arange(200), left, right, np.ones(200), 0, 2.0**23)}))
    exact = left.astype(int).T.astype(object) @ right.astype(int).astype(object)
    assert total.arrays["x"].tolist() == exact.tolist()


def test_a_coordinate_saturates_in_either_factor_and_is_counted_once() -> None:
    left, right = np.array([[9.0, 1.0, -1.0]], np.float32), np.array([[9.0, 2.0]], np.float32)
    total = Sum.zeros(spec_of(3, 2, bound=32.0))
    total.add(Contributions({"x": DenseProducts(np.array([0]), left, right, np.ones(1), 12, 8.0)}))
    assert total.value("x").tolist() == [[32.0, 16.0], [4.0, 2.0], [-4.0, -2.0]]
    assert total.saturated == 4


def test_clients_that_are_not_finite_are_left_out_and_the_others_counted() -> None:
    left = np.array([[1.0, np.nan], [1.0, 1.0], [1.0, 1.0]], np.float32)
    right = np.array([[1.0], [np.inf], [2.0]], np.float32)
    factors = np.array([1.0, 1.0, 1.0, np.nan, 1.0])
    products = DenseProducts(np.array([0, 1, 4]), left, right, factors, 12, 8.0)
    assert products.finite().tolist() == [False, False, True, False, True]
    total = Sum.zeros(spec_of(2, 1))
    total.add(Contributions({"x": products}))
    assert total.value("x").tolist() == [[2.0], [2.0]]
    assert (total.clients, total.left_out) == (2, 3)


def test_clipping_of_all_arrays_bounds_the_joint_norm() -> None:
    products = DenseProducts(np.array([1]), np.full((1, 4), 2.0, "f4"), np.ones((1, 1), "f4"), np.ones(2), 12, 8.0)
    both = Contributions({"x": products, "y": Dense(np.array([[3.0], [3.0]], "f4"), np.ones(2))})
    assert both.sq_norms().tolist() == [9.0, 25.0]
    clipped = both.clip(dict.fromkeys(both.arrays, Metric()), 4.0)
    assert np.allclose(clipped.sq_norms(), [9.0, 16.0])


ONES = np.ones((1, 3), "f4")
MISTAKES = {
    "too few rows": (DenseProducts(np.array([0]), ONES[:, :2], ONES[:, :2], np.ones(2), 12, 8.0), "left factors"),
    "vectors of other clients": (
        DenseProducts(np.array([0]), ONES, np.ones((2, 2), "f4"), np.ones(2), 12, 8.0),
        "left",
    ),
    "a client that is not there": (DenseProducts(np.array([2]), ONES, ONES[:, :2], np.ones(2), 12, 8.0), "from 0 to 1"),
    "a grid that is too coarse": (DenseProducts(np.array([0]), ONES, ONES[:, :2], np.ones(2), 30, 8.0), "24 bits"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_factors_that_do_not_fit_are_refused(mistake: str) -> None:
    products, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        products.add_to(np.zeros((3, 2), np.int64), spec_of(3, 2).arrays[0], np.ones(2, dtype=bool))


def test_products_that_float64_cannot_hold_are_refused() -> None:
    products = DenseProducts(np.array([0]), ONES, ONES[:, :2], np.ones(1), 30, 8.0)
    spec = ArraySpec("x", "dense", (3, 2), bound=64.0, scale_bits=50, ring=64)
    with pytest.raises(ValueError, match="not exact"):
        products.add_to(np.zeros((3, 2), np.int64), spec, np.ones(1, dtype=bool))
