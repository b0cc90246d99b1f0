"""Summing kernels against plain NumPy, and the packed triangle against the full matrix."""

from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.aggregation.specs import triangle_size
from fedrec.kernels import sums as kernels
from fedrec.kernels.threads import limit_threads
from fedrec.models.linear.gram import unpack_triangle

PROPERTY = settings(deadline=None, max_examples=60)


@st.composite
def histories(draw):
    """CSR rows of distinct items in no order: (indptr, items, n_items)."""
    n_items = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(st.integers(0, n_items - 1), unique=True, max_size=n_items), max_size=8))
    indptr = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return indptr, np.array([item for row in rows for item in row], dtype=np.int32), n_items


def matrix(indptr, items, n_items):
    out = np.zeros((len(indptr) - 1, n_items), dtype=np.int64)
    out[np.repeat(np.arange(len(indptr) - 1), np.diff(indptr)), items] = 1
    return out


def columns(indptr, items, n_items):
    item_indptr = np.empty(n_items + 1, dtype=np.int64)
    holder, source, place = np.empty((3, len(items)), dtype=np.int64)
    ordered = np.empty(len(items), dtype=np.int32)
    cursor = np.empty(max(n_items, len(indptr) - 1), dtype=np.int64)
    kernels.by_item(indptr, items, item_indptr, cursor, holder, source, place, ordered)
    assert np.array_equal(items[source], ordered[place])
    return item_indptr, holder, place, ordered


@PROPERTY
@given(histories())
def test_by_item_transposes_and_sorts(history):
    indptr, items, n_items = history
    item_indptr, holder, place, ordered = columns(*history)
    X = matrix(*history)
    assert np.array_equal(np.diff(item_indptr), X.sum(axis=0))
    for item in range(n_items):
        entries = slice(item_indptr[item], item_indptr[item + 1])
        assert np.array_equal(holder[entries], np.flatnonzero(X[:, item]))
        assert np.all(ordered[place[entries]] == item)
    for client in range(len(indptr) - 1):
        assert np.array_equal(ordered[indptr[client] : indptr[client + 1]], np.flatnonzero(X[client]))
    assert len(items) == 0 or sorted(items) == sorted(ordered)


@PROPERTY
@given(histories(), st.sampled_from([32, 64]), st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))
def test_triangle_is_the_upper_triangle_of_the_weighted_gram_matrix(history, ring, threads, seed):
    indptr, _, n_items = history
    limit = 2 ** (ring - 3)
    weights = np.random.default_rng(seed).integers(-limit, limit, len(indptr) - 1)
    item_indptr, holder, place, ordered = columns(*history)
    out = np.ones(triangle_size(n_items), dtype=f"i{ring // 8}")
    with limit_threads(threads):
        kernels.add_triangle[ring](out, indptr, ordered, item_indptr, holder, place, weights)
    X = matrix(*history).astype(object)
    full = X.T @ (X * weights.astype(object)[:, None]) if len(X) else np.zeros((n_items, n_items), dtype=object)
    expected = [wrapped(1 + full[row, column], ring) for row in range(n_items) for column in range(row, n_items)]
    assert out.tolist() == expected


def wrapped(number, ring):
    """A whole number as the signed view of its ring."""
    return (int(number) + 2 ** (ring - 1)) % 2**ring - 2 ** (ring - 1)


@PROPERTY
@given(histories(), st.sampled_from([32, 64]), st.integers(1, 4), st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))
def test_rank_one_is_the_transposed_product(history, ring, r, threads, seed):
    indptr, _, n_items = history
    rng = np.random.default_rng(seed)
    limit = 2 ** (ring - 2)
    right = rng.integers(-limit, limit, (len(indptr) - 1, r), dtype=f"i{ring // 8}")
    item_indptr, holder, _, _ = columns(*history)
    out = np.zeros((n_items, r), dtype=f"i{ring // 8}")
    with limit_threads(threads):
        kernels.add_rank_one[ring](out, item_indptr, holder, right)
    X = matrix(*history).astype(object)
    expected = X.T @ right.astype(object) if len(X) else np.zeros((n_items, r), dtype=object)
    assert out.tolist() == [[wrapped(value, ring) for value in row] for row in expected]


@pytest.mark.parametrize("ring", [32, 64])
def test_rows_are_rounded_halves_to_even_cut_and_counted(ring):
    values = np.array([[0.5, 1.5, -2.5], [9.0, -9.0, np.inf], [np.nan, 1.0, 1.0], [1.0, 2.0, 3.0]])
    out, over = np.full((4, 3), 7, dtype=f"i{ring // 8}"), np.full(4, 7)
    kernels.fixed_rows[ring](out, values, np.array([1.0, 0.5, 0.0, 1.0]), 4.0, 1.0, over)
    assert out.tolist() == [[0, 2, -2], [4, -4, 4], [0, 0, 0], [1, 2, 3]]
    assert over.tolist() == [0, 3, 0, 0]


def test_triangle_of_a_larger_matrix_equals_the_product():
    rng = np.random.default_rng(0)
    X = rng.random((700, 300)) < 0.05
    indptr = np.concatenate([[0], np.cumsum(X.sum(axis=1))]).astype(np.int64)
    items = np.nonzero(X)[1].astype(np.int32)
    item_indptr, holder, place, ordered = columns(indptr, items, 300)
    out = np.zeros(triangle_size(300), dtype=np.int32)
    weights = rng.integers(1, 9, 700)
    kernels.add_triangle[32](out, indptr, ordered, item_indptr, holder, place, weights)
    assert np.array_equal(unpack_triangle(out, 300), X.T.astype(np.int64) @ (X * weights[:, None]))


@pytest.mark.parametrize("n", [1, 2, 511, 512, 513, 1100])
def test_packed_triangle_unpacks_to_its_symmetric_matrix(n):
    matrix = np.random.default_rng(n).integers(-1000, 1000, (n, n))
    matrix += matrix.T
    packed = matrix[np.triu_indices(n)]
    assert len(packed) == triangle_size(n)
    assert np.array_equal(unpack_triangle(packed, n), matrix)
    assert np.array_equal(unpack_triangle(packed, n, 0.5), matrix / 2)


def test_triangle_size_of_a_large_catalog_is_exact():
    assert triangle_size(3_000_000_000) == 3_000_000_000 * 3_000_000_001 // 2


@PROPERTY
@given(histories(), st.integers(1, 3), st.sampled_from([1, 2, 5]), st.integers(0, 2**32 - 1))
def test_norms_and_finiteness_are_per_client(history, width, unfinite, seed):
    indptr, items, _ = history
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(len(items), width)).astype(np.float32)
    norms = np.full(len(indptr) - 1, 10.0)
    kernels.squared_norms(indptr, values, norms)
    expected = [10 + np.sum(values[a:b].astype(np.float64) ** 2) for a, b in pairwise(indptr)]
    assert np.allclose(norms, expected, rtol=1e-14)
    broken = rng.integers(0, max(len(items), 1), unfinite)
    if len(items):
        values[broken, 0] = [np.nan, np.inf, -np.inf][unfinite % 3]
    finite = np.ones(len(indptr) - 1, dtype=np.bool_)
    kernels.finite_rows(indptr, values, finite)
    expected = [np.isfinite(values[a:b]).all() for a, b in pairwise(indptr)]
    assert finite.tolist() == expected


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("ring", [32, 64])
def test_values_round_half_to_even_and_saturate_just_beyond_the_bound(ring, threads):
    values = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, 3.0, np.nextafter(np.float32(3), np.float32(4)), -9.0]], "f4")
    over = np.zeros(threads, dtype=np.int64)
    out = np.zeros(8, dtype=f"i{ring // 8}")
    with limit_threads(threads):
        kernels.add_dense[ring](out, values, np.ones(1), 3.0, 1.0, over)
    assert out.tolist() == [0, 2, 2, 0, -2, 3, 3, -3]
    assert over.sum() == 2
