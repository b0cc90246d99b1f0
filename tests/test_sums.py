"""Sums: the same bits whatever the order, the chunks, the threads and the nodes, and equal to a plain twin."""

import math
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.aggregation.contributions import Contributions, Dense, RankOne, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.errors import DamagedError, PlanError
from fedrec.kernels.threads import limit_threads

BITS, BOUND, WIDTH = 4, 2.0, 2
SPECIAL = np.array([0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 16, 31, 32, 32.5, 33, -32, -32.5, -99, 1e30]) / 2**BITS


def numbers(rng, shape):
    """Values with many ties of the grid and values round the bound."""
    return np.where(rng.random(shape) < 0.5, rng.choice(SPECIAL, shape), rng.normal(scale=1.5, size=shape))


class Crowd:
    """Clients with all four kinds of contributions, some of them not finite."""

    def __init__(self, seed, clients, n_items, ring):
        rng = np.random.default_rng(seed)
        self.n, self.n_items = clients, n_items
        self.items = [rng.permutation(n_items)[: rng.integers(0, n_items + 1)].astype(np.int32) for _ in range(clients)]
        self.updates = [numbers(rng, (len(items), WIDTH)).astype(np.float32) for items in self.items]
        self.vectors = numbers(rng, (clients, 3)).astype(np.float32)
        self.right = numbers(rng, (clients, WIDTH))
        self.weights = numbers(rng, clients)
        self.factors = np.where(rng.random(clients) < 0.2, 0.0, rng.choice([1.0, 0.5, 0.3, -1.0], clients))
        for client in np.flatnonzero(rng.random(clients) < 0.15):
            bad = rng.choice([np.nan, np.inf, -np.inf])
            place = rng.integers(0, 4)
            if place == 0:
                self.vectors[client, rng.integers(0, 3)] = bad
            elif place == 1:
                self.right[client, 0] = bad
            elif place == 2:
                self.weights[client] = bad
            else:
                self.factors[client] = bad
        self.spec = SumSpec(
            (
                ArraySpec("rows", "rows", (n_items, WIDTH), BOUND, BITS, ring),
                ArraySpec("triangle", "rank_one", (triangle_size(n_items),), BOUND, BITS, ring),
                ArraySpec("right", "rank_one", (n_items, WIDTH), BOUND, BITS, ring),
                ArraySpec("dense", "dense", (3,), BOUND, BITS, ring),
            )
        ).fit(1000)

    def chunk(self, clients):
        """Contributions of some clients."""
        items = [self.items[client] for client in clients]
        indptr = np.cumsum([0, *map(len, items)]).astype(np.int64)
        flat = np.concatenate([np.empty(0, np.int32), *items])
        updates = np.concatenate([np.empty((0, WIDTH), np.float32), *(self.updates[client] for client in clients)])
        weights, factors = self.weights[clients], self.factors[clients]
        return Contributions(
            {
                "rows": RowUpdates(indptr, flat, updates, factors),
                "triangle": RankOne(indptr, flat, weights, self.n_items),
                "right": RankOne(indptr, flat, weights, self.n_items, self.right[clients]),
                "dense": Dense(self.vectors[clients], factors),
            }
        )

    def twin(self):
        """The sum client by client in plain Python: exact integers, then the ring."""
        arrays = {array.name: np.zeros(array.shape, dtype=object) for array in self.spec.arrays}
        clients = saturated = 0
        for client in range(self.n):
            items, weight, factor = self.items[client], self.weights[client], self.factors[client]
            floats = [self.updates[client], self.vectors[client], self.right[client], weight, factor]
            if not all(np.isfinite(part).all() for part in floats):
                continue
            clients += 1
            for entry, item in enumerate(items):
                for column in range(WIDTH):
                    whole, over = fixed(float(self.updates[client][entry, column]) * factor)
                    arrays["rows"][item, column] += whole
                    saturated += over
                    whole, over = fixed(self.right[client, column] * weight)
                    arrays["right"][item, column] += whole
                    saturated += over
                for other in items:
                    if item <= other:
                        whole, over = fixed(weight)
                        base = item * self.n_items - item * (item + 1) // 2
                        arrays["triangle"][base + other] += whole
                        saturated += over
            for column in range(3):
                whole, over = fixed(float(self.vectors[client, column]) * factor)
                arrays["dense"][column] += whole
                saturated += over
        return arrays, clients, saturated


def fixed(value):
    """Saturate, then round half to even on the grid: (integer, saturated)."""
    cut = min(max(value, -BOUND), BOUND)
    return round(Fraction(float(cut)) * 2**BITS), int(abs(value) > BOUND)


def wrapped(number, ring):
    return (int(number) + 2 ** (ring - 1)) % 2**ring - 2 ** (ring - 1)


def summed(crowd, groups, threads):
    """One sum per group of chunks, merged."""
    total = Sum.zeros(crowd.spec, 3)
    with limit_threads(threads):
        for group in groups:
            part = Sum.zeros(crowd.spec, 3)
            for chunk in group:
                part.add(crowd.chunk(chunk))
            total.merge(part)
    return total


def same(a, b):
    return (a.clients, a.left_out, a.saturated) == (b.clients, b.left_out, b.saturated) and all(
        np.array_equal(a.arrays[name], b.arrays[name]) and a.arrays[name].dtype == b.arrays[name].dtype
        for name in a.arrays
    )


crowds = st.builds(Crowd, st.integers(0, 2**32 - 1), st.integers(0, 14), st.integers(1, 7), st.sampled_from([32, 64]))


@settings(deadline=None, max_examples=60)
@given(crowds)
def test_a_sum_equals_its_plain_twin(crowd):
    total = summed(crowd, [[np.arange(crowd.n)]], 2)
    arrays, clients, saturated = crowd.twin()
    for array in crowd.spec.arrays:
        assert total.arrays[array.name].dtype == np.dtype(f"i{array.word // 8}")
        expected = np.vectorize(lambda number, ring=array.ring: wrapped(number, ring), otypes=[object])(
            arrays[array.name]
        )
        assert np.array_equal(total.arrays[array.name], expected)
        assert np.array_equal(total.value(array.name), expected.astype(np.float64) / 2**BITS)
    assert (total.clients, total.left_out, total.saturated) == (clients, crowd.n - clients, saturated)


@settings(deadline=None, max_examples=60)
@given(crowds, st.data())
def test_order_chunks_threads_and_nodes_do_not_change_a_bit(crowd, data):
    reference = summed(crowd, [[np.arange(crowd.n)]], 1)
    order = np.array(data.draw(st.permutations(range(crowd.n))), dtype=np.int64)
    cuts = sorted(data.draw(st.lists(st.integers(0, crowd.n), max_size=5)))
    chunks = np.split(order, cuts)
    homes = data.draw(st.lists(st.integers(0, 2), min_size=len(chunks), max_size=len(chunks)))
    nodes = [[chunk for chunk, home in zip(chunks, homes, strict=True) if home == node] for node in range(3)]
    for threads in (1, 2):
        assert same(summed(crowd, nodes, threads), reference)


def test_add_says_which_clients_were_summed():
    spec = SumSpec((ArraySpec("a", "dense", (1,), 1.0), ArraySpec("b", "dense", (1,), 1.0))).fit(10)
    total = Sum.zeros(spec)
    a = Dense(np.array([[1], [np.nan], [1], [1]], "f4"), np.ones(4))
    b = Dense(np.array([[1], [1], [-np.inf], [9]], "f4"), np.ones(4))
    assert total.add(Contributions({"a": a, "b": b})).tolist() == [True, False, False, True]
    assert (total.integers("a")[0], total.integers("b")[0]) == (2, 2)
    assert (total.clients, total.left_out, total.saturated) == (2, 2, 1)


def test_products_that_overflow_saturate_and_unfinite_ones_are_left_out_in_silence():
    indptr, items = np.array([0, 1, 2, 3]), np.zeros(3, dtype=np.int32)
    weights, right = np.array([1e300, 0.0, np.inf]), np.array([[-1e300], [np.inf], [0.0]])
    spec = SumSpec((ArraySpec("x", "rank_one", (1, 1), 1.0),)).fit(10)
    total = Sum.zeros(spec)
    assert total.add(Contributions({"x": RankOne(indptr, items, weights, 1, right)})).tolist() == [True, False, False]
    assert (total.integers("x")[0, 0], total.saturated, total.left_out) == (-1, 1, 2)


@pytest.mark.parametrize("ring", [32, 64])
def test_rings_wrap_around(ring):
    spec = SumSpec((ArraySpec("x", "dense", (2,), 2.0 ** (ring - 3), ring=ring),)).fit(3)
    total, other = Sum.zeros(spec), Sum.zeros(spec)
    part = Contributions({"x": Dense(np.array([[1, -1]], "f4") * 2.0 ** (ring - 3), np.ones(1))})
    for _ in range(5):  # more clients than planned, on purpose
        total.add(part)
    assert total.integers("x").tolist() == [5 * 2 ** (ring - 3) - 2**ring, 2**ring - 5 * 2 ** (ring - 3)]
    total.clients = 1
    for _ in range(2):
        other.add(part)
    total.merge(other)
    assert total.integers("x").tolist() == [7 * 2 ** (ring - 3) - 2**ring, 2**ring - 7 * 2 ** (ring - 3)]


def test_sums_of_another_round_spec_or_too_many_clients_are_not_merged():
    spec = SumSpec((ArraySpec("x", "dense", (1,), 1.0),)).fit(3)
    total = Sum.zeros(spec, 1)
    two = Contributions({"x": Dense(np.ones((2, 1), "f4"), np.ones(2))})
    total.add(two)
    other = Sum.zeros(spec, 1)
    other.add(two)
    for wrong, message in (
        (Sum.zeros(spec, 2), "round 2"),
        (Sum.zeros(SumSpec((ArraySpec("y", "dense", (1,), 1.0),)).fit(3), 1), "different spec"),
        (Sum.zeros(SumSpec((ArraySpec("x", "dense", (1,), 1.5),)).fit(3), 1), "different spec"),
        (other, "4 clients.*n_max = 3"),
    ):
        with pytest.raises(DamagedError, match=message):
            total.merge(wrong)
    assert (total.clients, total.integers("x").tolist()) == (2, [2])


@settings(max_examples=200)
@given(
    st.integers(1, 2**40),
    st.floats(2.0**-40, 2.0**60),
    st.integers(0, 40),
    st.integers(1, 64).map(lambda ring: 0 if ring == 1 else ring),
)
def test_rings_are_the_narrowest_that_all_clients_at_their_bound_cannot_fill(n_max, bound, bits, ring):
    spec = SumSpec((ArraySpec("x", "dense", (1,), bound, bits, ring),))
    largest = n_max * math.ceil(Fraction(bound) * 2**bits)
    fitting = [r for r in range(2, 65) if largest < 2 ** (r - 1) and ring in (0, r)]
    if not fitting:
        with pytest.raises(PlanError, match="'x' overflows its ring"):
            spec.fit(n_max)
        return
    fitted = spec.fit(n_max)
    assert (fitted["x"].ring, fitted.n_max) == (fitting[0], n_max)
    assert fitted.fit(n_max) == fitted


@pytest.mark.parametrize(
    ("array", "n_max", "message"),
    [
        (ArraySpec("x", "dense", (1,), 1.0), 2**31, 33),
        (ArraySpec("x", "dense", (1,), 1.0), 2**31 - 1, 32),
        (ArraySpec("x", "dense", (1,), 1.0), 2**62, 64),
        (ArraySpec("x", "dense", (1,), 1.0, ring=32), 2**31 - 1, 32),
        (ArraySpec("x", "dense", (1,), 1.0, ring=11), 2**10, "overflows"),
        (ArraySpec("x", "dense", (1,), 1.0, ring=32), 2**31, "overflows"),
        (ArraySpec("x", "dense", (1,), 1.0), 2**63, "overflows"),
        (ArraySpec("x", "dense", (1,), 1.0, scale_bits=5000), 1, "overflows"),
        (ArraySpec("x", "dense", (1,), 1e308, scale_bits=1000), 1, "overflows"),
        (ArraySpec("x", "dense", (1,), 0.0), 1, "bound"),
        (ArraySpec("x", "dense", (1,), -1.0), 1, "bound"),
        (ArraySpec("x", "dense", (1,), math.inf), 1, "bound"),
        (ArraySpec("x", "dense", (1,), math.nan), 1, "bound"),
        (ArraySpec("x", "dense", (1,), 1.0), 0, "n_max"),
        (ArraySpec("x", "dense", (0, 3), 1.0), 1, "shape"),
        (ArraySpec("x", "dense", (), 1.0), 1, "shape"),
    ],
)
def test_impossible_specs_are_plan_errors(array, n_max, message):
    if isinstance(message, int):
        fitted = SumSpec((array,)).fit(n_max)["x"]
        assert (fitted.ring, fitted.word) == (message, 32 if message <= 32 else 64)
        return
    with pytest.raises(PlanError, match=message):
        SumSpec((array,)).fit(n_max)


def test_digest_changes_with_everything_in_a_spec():
    arrays = [
        ArraySpec("x", "dense", (2,), 1.0),
        ArraySpec("y", "dense", (2,), 1.0),
        ArraySpec("x", "rows", (2,), 1.0),
        ArraySpec("x", "dense", (2, 1), 1.0),
        ArraySpec("x", "dense", (2,), 2.0),
        ArraySpec("x", "dense", (2,), 1.0, scale_bits=1),
        ArraySpec("x", "dense", (2,), 1.0, ring=64),
        ArraySpec("x", "dense", (2,), 1.0, denominator="count"),
        ArraySpec("x", "dense", (2,), 1.0, pooled=True),
    ]
    digests = {SumSpec((array,)).fit(n).digest for array in arrays for n in (5, 6)}
    assert len(digests) == 2 * len(arrays)


def test_what_an_array_is_for_is_no_part_of_its_layout():
    """The digests of sums in receipts of earlier versions stay what they are."""
    spec = SumSpec((ArraySpec("x", "rows", (2, 3), 1.0, 20, role="change"),)).fit(5)
    assert spec.digest == SumSpec((ArraySpec("x", "rows", (2, 3), 1.0, 20, role="count"),)).fit(5).digest
    assert spec.digest == "6cc33822fe699e7f82f30c75f86236c62f395bca12d5f62023b59a0336280b9e"
    assert SumSpec.of_layout(spec.layout).digest == spec.digest


def test_bytes_of_a_spec_are_dense_at_ring_width():
    spec = SumSpec((ArraySpec("a", "dense", (5, 3), 1.0), ArraySpec("b", "dense", (7,), 1.0, ring=64))).fit(10)
    assert spec["a"].ring == 5, "up to ten clients, and a sign"
    assert (spec.nbytes, spec.names, spec["b"].size) == (5 * 3 * 5 // 8 + 1 + 7 * 8, ("a", "b"), 7)
    with pytest.raises(KeyError, match="c"):
        spec["c"]
