"""Clipping holds the norm that noise is measured against: in the released layout, after rounding, for any weights."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.contributions import Contributions, Dense, RankOne, RowUpdates
from fedrec.aggregation.queries import PLAIN, Metric, Query, clip_limit, deviations, private_spec
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError

ITEMS, WIDTH = 7, 3


def _rows(rng, clients=4):
    picked = [np.sort(rng.choice(ITEMS, rng.integers(0, ITEMS + 1), replace=False)) for _ in range(clients)]
    indptr = np.concatenate([[0], np.cumsum([len(items) for items in picked])]).astype(np.int64)
    return indptr, np.concatenate(picked).astype(np.int32)


def _kinds(rng):
    indptr, items = _rows(rng)
    n, factors = len(indptr) - 1, rng.uniform(0.1, 2, len(indptr) - 1)
    values = rng.normal(size=(len(items), WIDTH)).astype(np.float32)
    triangle = ArraySpec("x", "rank_one", (triangle_size(ITEMS),), bound=64.0, scale_bits=8)
    table = ArraySpec("x", "rank_one", (ITEMS, WIDTH), bound=64.0, scale_bits=8)
    return {
        "rows": (RowUpdates(indptr, items, values, factors), ArraySpec("x", "rows", (ITEMS, WIDTH), 64.0, 8), ITEMS),
        "triangle": (RankOne(indptr, items, factors, ITEMS), triangle, ITEMS),
        "rank_one": (RankOne(indptr, items, factors, ITEMS, rng.normal(size=(n, WIDTH))), table, ITEMS),
        "dense": (
            Dense(rng.normal(size=(n, 5)).astype(np.float32), factors),
            ArraySpec("x", "dense", (5,), 64.0, 8),
            5,
        ),
    }


def _each(contribution, spec):
    """What each client alone adds to the sum, in units, flat."""
    out = []
    for client in range(contribution.n_clients):
        total = Sum.zeros(SumSpec((spec,)).fit(100))
        keep = np.zeros(contribution.n_clients, dtype=np.bool_)
        keep[client] = True
        contribution.add_to(total.arrays["x"], total.spec["x"], keep)
        out.append(total.value("x").reshape(-1))
    return np.array(out)


def _weights(metric, spec):
    flat = np.empty(spec.size)
    for part, sd in deviations(metric, spec, 1.0):
        flat[part] = 1.0 / sd
    return flat


@pytest.mark.parametrize("kind", ["rows", "triangle", "rank_one", "dense"])
@pytest.mark.parametrize("weighted", [False, True])
def test_norms_are_of_the_weighted_layout(kind, weighted):
    rng = np.random.default_rng(len(kind) + weighted)
    contribution, spec, rows = _kinds(rng)[kind]
    metric = Metric(1.7, rng.uniform(0.2, 3, rows), 0.5 if kind == "triangle" else 1.0) if weighted else PLAIN
    fine = ArraySpec(spec.name, spec.kind, spec.shape, 2.0**10, 36, 64)
    expected = np.sum((_each(contribution, fine) * _weights(metric, fine)) ** 2, axis=1)
    assert np.allclose(contribution.sq_norms(metric), expected, rtol=1e-6, atol=1e-12)
    assert math.isclose(metric.square_sum(spec), np.sum(_weights(metric, spec) ** 2), rel_tol=1e-12)
    assert metric.smallest() <= _weights(metric, spec).min() + 1e-12


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), clip=st.floats(0.01, 10), weighted=st.booleans())
def test_no_client_adds_more_than_the_clip_after_rounding(seed, clip, weighted):
    rng = np.random.default_rng(seed)
    for contribution, spec, rows in _kinds(rng).values():
        metric = Metric(0.6, rng.uniform(0.5, 2, rows)) if weighted else PLAIN
        query = Query({"x": metric}, clip)
        fine = private_spec(SumSpec((spec,)), (query,), 1.0, 1000)
        clipped = Contributions({"x": contribution}).clip(query.metrics, clip_limit(query, fine)).arrays["x"]
        norms = np.linalg.norm(_each(clipped, fine["x"]) * _weights(metric, fine["x"]), axis=1)
        assert np.all(norms <= clip)
        whole = np.sqrt(contribution.sq_norms(metric))
        assert np.allclose(norms, np.minimum(whole, clip), rtol=4e-3, atol=clip * 2e-3)


def test_arrays_of_a_query_are_clipped_jointly_and_zero_updates_stay_zero():
    dense = Dense(np.array([[3.0, 0.0], [0.0, 0.0]], dtype=np.float32), np.ones(2))
    other = Dense(np.array([[4.0], [0.0]], dtype=np.float32), np.ones(2))
    both = Contributions({"a": dense, "b": other}).clip({"a": PLAIN, "b": PLAIN}, 1.0)
    assert both.arrays["a"].factors.tolist() == [0.2, 1.0]
    assert np.allclose(both.sq_norms(), [1.0, 0.0])


def test_infinite_contributions_are_left_out_and_not_clipped_into_sight():
    values = np.array([[np.inf, 0.0], [np.nan, 1.0], [3e38, 3e38]], dtype=np.float32)
    clipped = Contributions({"a": Dense(values, np.ones(3))}).clip({"a": PLAIN}, 1.0)
    total = Sum.zeros(SumSpec((ArraySpec("a", "dense", (2,), 1.0, 20),)).fit(10))
    total.add(clipped)
    assert (total.clients, total.left_out) == (1, 2)
    assert np.linalg.norm(total.value("a")) <= 1.0


def test_rows_are_clipped_one_by_one():
    indptr, rows = np.array([0, 2]), np.array([1, 4], dtype=np.int32)
    updates = RowUpdates(indptr, rows, np.array([[3, 4], [0.3, 0.4]], dtype=np.float32), np.ones(1))
    assert np.allclose(updates.clip_rows(1.0).values, [[0.6, 0.8], [0.3, 0.4]])


def test_a_query_that_does_not_cover_the_arrays_is_refused():
    spec = SumSpec((ArraySpec("a", "dense", (2,), 1.0), ArraySpec("b", "dense", (2,), 1.0)))
    only_a, both = Query({"a": PLAIN}, 1.0), Query({"a": PLAIN, "b": PLAIN}, 1.0)
    for queries in ((only_a,), (only_a, both), (Query(both.metrics, 1.0, 0.5),)):
        with pytest.raises(PlanError):
            private_spec(spec, queries, 1.0, 10)


def test_rings_have_room_for_ten_deviations_of_noise():
    spec = SumSpec((ArraySpec("a", "dense", (4,), 1.0),))
    for bits, clients in itertools.product((1.0, 100.0, 1e5), (10, 10**6)):
        fine = private_spec(spec, (Query({"a": PLAIN}, 1.0),), bits, clients)["a"]
        assert clients * math.ceil(fine.bound * fine.unit) + 10 * bits * fine.unit < 2 ** (fine.ring - 1)
        assert bits * fine.unit >= 2**8
