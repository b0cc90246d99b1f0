"""Solver `cg` of iALS, against preconditioned conjugate gradients on dense pooled data, and against solving exactly."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import fedrec as fr
from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource
from fedrec.errors import DamagedError
from fedrec.kernels import item_columns, weighted_sums
from fedrec.kernels.conjugate_gradients import entry_errors, step_users, turn_rows
from fedrec.kernels.least_squares import solve_users
from fedrec.kernels.threads import limit_threads
from fedrec.models.base import Given, Private, PrivateTerms, State
from fedrec.models.factors.conjugate_gradients import SWEEP
from fedrec.models.factors.ials import IALS

SOURCE = KeyedSource.from_seed(0)
NOTHING = np.empty(0, dtype=np.float32)


def clients_of(matrix: np.ndarray, values: np.ndarray | None = None) -> Clients:
    users, items = np.nonzero(matrix)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(matrix)))]).astype(np.int64)
    keys, none = np.arange(len(matrix), dtype=np.uint64), np.zeros(len(matrix) + 1, dtype=np.int64)
    return Clients(indptr, items.astype(np.int32), values, None, keys, matrix.shape[1], none, np.empty(0, np.int32))


def random_matrix(users: int, items: int, seed: int) -> np.ndarray:
    popularity = np.minimum(1.2 / np.arange(1, items + 1) ** 0.7, 0.9)
    matrix = (np.random.default_rng(seed).random((users, items)) < popularity).astype(np.int64)
    matrix[:, 0], matrix[:, -1] = 1, 0
    return matrix


class Training:
    """A training with one node, round by round."""

    def __init__(self, model: IALS, clients: Clients) -> None:
        self.model, self.clients, self.round = model, clients, 0
        catalog = Catalog(Identifiers.of(list(range(clients.n_items))))
        self.state: State = model.start(catalog, {}, SOURCE)
        self.private: Private | None = model.join(Given(0, self.state.shared), clients)

    def next(self, present: np.ndarray | None = None) -> Sum:
        """A round over the clients at `present` [n], or all."""
        chosen = np.arange(len(self.clients)) if present is None else present
        spec = self.model.spec(self.state.shared, self.round)
        assert spec is not None
        total = Sum.zeros(spec.fit(1 << 13), self.round)
        given_ = Given(self.round, self.state.shared, {}, SOURCE)
        rows = None if self.private is None else {name: array[chosen] for name, array in self.private.items()}
        contributions, renewed = self.model.contribute(given_, self.clients.take(chosen), rows)
        total.add(contributions)
        if renewed is not None:
            assert self.private is not None
            for name, array in renewed.items():
                self.private[name][chosen] = array
        self.state = self.model.step(self.state, total, self.round)
        self.round += 1
        return total

    def run(self) -> Training:
        while self.model.spec(self.state.shared, self.round) is not None:
            self.next()
        return self

    @property
    def items(self) -> np.ndarray:
        return self.state.shared["items"].astype(np.float64)


def equations(model: IALS, fixed: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The matrix and right side of one user or item, whose weights on the rows of `fixed` are `marks`; and the
    preconditioner, which has the share of all rows for its own."""
    gram, n, others, d = fixed.T @ fixed, np.count_nonzero(marks), len(fixed), fixed.shape[1]
    pull = model.reg * (n + model.unobserved_weight * others) ** model.nu * np.eye(d)
    matrix = fixed.T * marks @ fixed + model.unobserved_weight * gram + pull
    return matrix, fixed.T @ marks, (model.unobserved_weight + marks.sum() / others) * gram + pull


def stepped(system: tuple[np.ndarray, np.ndarray, np.ndarray], start: np.ndarray, steps: int) -> np.ndarray:
    """Preconditioned conjugate gradients, as in a book."""
    matrix, right, preconditioner = system
    point, residual = start.copy(), right - matrix @ start
    direction = conditioned = np.linalg.solve(preconditioner, residual)
    for _ in range(steps):
        length = residual @ conditioned / (direction @ matrix @ direction)
        energy = residual @ conditioned
        point, residual = point + length * direction, residual - length * (matrix @ direction)
        conditioned = np.linalg.solve(preconditioner, residual)
        direction = conditioned + residual @ conditioned / energy * direction
    return point


def loss(model: IALS, users: np.ndarray, items: np.ndarray, matrix: np.ndarray) -> float:
    weight, scores = model.unobserved_weight, users @ items.T
    pull_users = (matrix.sum(1) + weight * len(items)) ** model.nu @ (users**2).sum(1)
    pull_items = (matrix.sum(0) + weight * len(users)) ** model.nu @ (items**2).sum(1)
    squares = (matrix * (scores - 1) ** 2).sum() + weight * (scores**2).sum()
    return float(squares + model.reg * (pull_users + pull_items))


def solved(model: IALS, items: np.ndarray, clients: Clients) -> np.ndarray:
    table, users = items.astype(np.float32), np.empty((len(clients), items.shape[1]))
    base, offset = model.unobserved_weight * items.T @ items, model.unobserved_weight * len(items)
    solve_users(clients.indptr, clients.items, clients.weights, table, base, offset, model.reg, model.nu, users)
    return users


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("d", "nu"), [(5, 1.0), (20, 0.5)])
def test_a_sweep_takes_three_steps_for_users_and_two_for_items(d: int, nu: float, weighted: bool) -> None:
    matrix = random_matrix(60, 30, seed=d)
    marks = matrix * np.random.default_rng(1).choice([0.5, 1.0, 2.0], matrix.shape) if weighted else matrix
    clients = clients_of(matrix, marks[matrix > 0].astype(np.float32) if weighted else None)
    model = IALS(embedding_size=d, nu=nu, solver="cg", scale_bits=30, init_sd=1.0)
    training = Training(model._weighted(2.0) if weighted else model, clients)
    users, items = np.zeros((60, d)), training.items
    for _ in range(2):
        users = np.array([
            stepped(equations(model, items, row), user, 3) for row, user in zip(marks, users, strict=True)
        ])  # fmt: skip
        factors = items.copy()
        items = np.array([
            stepped(equations(model, users, column), item, 2) if column.any() else np.zeros(d)
            for column, item in zip(marks.T, items, strict=True)
        ])  # fmt: skip
        for _ in range(SWEEP):
            assert np.array_equal(training.items, factors.astype(np.float32))
            training.next()
        assert training.private is not None
        np.testing.assert_allclose(training.private["users"], users, atol=2e-5)
        np.testing.assert_allclose(training.items, items, atol=2e-5)
        users, items = training.private["users"].astype(np.float64), training.items


def test_the_loss_falls_with_every_sweep_to_that_of_solving_exactly() -> None:
    matrix = random_matrix(150, 60, seed=3)
    clients = clients_of(matrix)
    model = IALS(embedding_size=6, rounds=180, reg=0.02, init_sd=1.0, solver="cg")
    training, before = Training(model, clients), np.inf
    while training.round < model.rounds:
        for _ in range(SWEEP):
            training.next()
        now = loss(model, solved(model, training.items, clients), training.items, matrix)
        assert now <= before * (1 + 1e-6)
        before = now
    exact = Training(IALS(embedding_size=6, rounds=60, reg=0.02, init_sd=1.0), clients).run()
    least = loss(model, solved(model, exact.items, clients), exact.items, matrix)
    assert abs(now - least) < 1e-3 * least


def test_clients_that_miss_rounds_of_a_sweep_are_stood_for_by_the_others() -> None:
    """Whoever comes in the middle of a sweep fits its factor then, and sums of few count for as many as began."""
    matrix = random_matrix(400, 40, seed=4)
    clients = clients_of(matrix)
    model = IALS(embedding_size=6, rounds=45, reg=0.02, solver="cg")
    draws, training = np.random.default_rng(0), Training(model, clients)
    while training.round < model.rounds:
        training.next(np.flatnonzero(draws.random(400) < 0.6))
    full = Training(model, clients).run()
    some, all_ = (loss(model, solved(model, one.items, clients), one.items, matrix) for one in (training, full))
    assert some < 1.05 * all_
    nobody = Training(model, clients)
    for _ in range(SWEEP):
        nobody.next(np.empty(0, dtype=np.int64))
    assert np.isfinite(nobody.items).all()


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-4, 1), st.floats(-4, 1), st.floats(-3, 1.5), st.integers(0, 10**6))
def test_no_client_reaches_the_bound_whatever_the_settings(
    nu: float, reg: float, weight: float, sd: float, seed: int
) -> None:
    """Extreme users: with one item, with all, and with factors from items that were far away."""
    matrix = random_matrix(6, 12, seed)
    matrix[0], matrix[1], matrix[2:4] = 1, 0, 0
    matrix[1, 3] = matrix[2:4, 5] = 1
    model = IALS(
        embedding_size=3, nu=nu, reg=10.0**reg, unobserved_weight=10.0**weight, init_sd=10.0**sd, solver="cg",
        scale_bits=8,
    )  # fmt: skip
    training = Training(model, clients_of(matrix))
    for _ in range(2 * SWEEP):
        total = training.next()
        assert (total.saturated, total.left_out) == (0, 0)
    assert np.isfinite(training.items).all()


def test_sums_of_a_sweep_are_less_than_a_tenth_of_those_of_solving_exactly_at_64_factors() -> None:
    shared = {"items": np.zeros((1682, 64), np.float32)}
    light = [IALS(solver="cg").spec(shared, round) for round in range(SWEEP)]
    whole = IALS().spec(shared, 0)
    assert whole is not None
    assert sum(spec.fit(943).nbytes for spec in light if spec is not None) < 0.1 * whole.fit(943).nbytes


def test_a_training_of_cg_has_eight_sweeps_and_leaves_an_unfinished_one_out() -> None:
    assert (IALS(solver="cg").rounds, IALS(solver="cg", rounds=6).rounds, IALS().rounds) == (24, 6, 8)
    data = fr.synthetic(users=80, items=40, interactions_per_user=8, seed=3)
    three, five = (fr.IALS(embedding_size=4, solver="cg", rounds=rounds).fit(data) for rounds in (3, 5))
    for name in ("items", "gram"):
        assert np.array_equal(three.shared[name], five.shared[name])


def test_without_a_direction_for_each_item_no_client_adds_anything() -> None:
    training = Training(IALS(embedding_size=4, solver="cg"), clients_of(random_matrix(9, 7, seed=1)))
    training.round = 1
    with pytest.raises(DamagedError, match="shared array 'direction' has 0 rows; it should have 7"):
        training.next()


def test_a_private_sweep_is_one_round_that_sums_a_row_of_each_item() -> None:
    form = IALS(solver="cg").privately(PrivateTerms(None, 50))
    assert (form.rounds, form.embedding_size, len(form.budget_shares)) == (3, 16, 4)
    shared = form.start(Catalog(Identifiers.of(list(range(30)))), {}, SOURCE).shared
    spec = form.spec(shared, 1)
    assert spec is not None
    assert [array.shape for array in spec.arrays] == [(30, 16), (136,)]
    assert form.spec(shared, 4) is None


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 40))
def test_kernels_are_their_twins_and_steps_as_many_as_dimensions_solve(seed: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    width = -(-d // 16) * 16
    rows, matrix = rng.normal(size=(7, d)).astype(np.float32), rng.normal(size=(d, d)).astype(np.float32)
    turned = np.full((7, width), np.nan, dtype=np.float32)
    turn_rows(rows, matrix, turned)
    np.testing.assert_allclose(turned[:, :d], rows @ matrix, atol=1e-4)
    assert not turned[:, d:].any()
    clients = clients_of(random_matrix(5, 7, seed))
    table, users = np.pad(rows, ((0, 0), (0, width - d))), np.zeros((5, width), dtype=np.float32)
    users[:, :d] = rng.normal(size=(5, d))
    weights = rng.random(len(clients.items)).astype(np.float32)
    errors = np.empty(len(clients.items), dtype=np.float32)
    owners = np.repeat(np.arange(5), clients.lengths)
    entry_errors(clients.indptr, clients.items, weights, table, users, np.float32(1), np.float32(-1), errors)
    products = np.einsum("ed,ed->e", users[owners], table[clients.items])
    np.testing.assert_allclose(errors, weights * (1 - products), atol=1e-4)

    values, vectors = np.linalg.eigh(rows.T.astype(np.float64) @ rows)
    frame = np.pad((rows @ vectors).astype(np.float32), ((0, 0), (0, width - d)))
    spectrum = np.pad(np.maximum(values, 0), (0, width - d)).astype(np.float32)
    exact = np.empty((5, d))
    turned_rows = np.ascontiguousarray(frame[:, :d])
    base = 0.5 * np.diag(np.maximum(values, 0))
    solve_users(clients.indptr, clients.items, weights, turned_rows, base, 2.0, 0.3, 0.5, exact)
    settings_ = 0.5, 2.0, 0.3, 0.5
    step_users(clients.indptr, clients.items, weights, frame, spectrum, *settings_, 1e3, 12, users)
    np.testing.assert_allclose(users[:, :d], exact, atol=2e-3)
    longest = 0.5 * float(np.linalg.norm(exact, axis=1).max())
    step_users(clients.indptr, clients.items, weights, frame, spectrum, *settings_, longest, 12, users)
    lengths = np.minimum(np.linalg.norm(exact, axis=1), longest)
    np.testing.assert_allclose(np.linalg.norm(users, axis=1), lengths, rtol=1e-3, atol=2e-3)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([32, 64]), st.sampled_from([1, 2]), st.integers(1, 9))
def test_exact_products_have_the_bits_of_products_one_by_one(seed: int, ring: Any, threads: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    clients = clients_of(random_matrix(9, 11, seed))
    indptr, items = clients.indptr, clients.items
    right, factors = rng.normal(size=(9, width)), rng.normal(size=9)
    values = rng.normal(size=len(items)).astype(np.float32)
    spec = SumSpec((ArraySpec("x", "rank_one", (11, width), bound=1e3, scale_bits=12, ring=ring),)).fit(50)
    contribution = RankOne(indptr, items, factors, 11, right, values)
    total, one_by_one = Sum.zeros(spec), np.zeros((11, width), dtype=f"int{ring}")
    item_indptr, over = np.empty(12, dtype=np.int64), np.empty(11, dtype=np.int64)
    holder, source = np.empty((2, len(items)), dtype=np.int64)
    with limit_threads(threads):
        total.add(Contributions({"x": contribution}))
        item_columns.item_columns(indptr, items, item_indptr, np.empty(12, dtype=np.int64), holder, source)
        add = weighted_sums.add_weighted_rank_one[ring]
        add(one_by_one, values, item_indptr, holder, source, right, factors, 1e3, 2.0**12, over)
    assert np.array_equal(total.integers("x"), one_by_one)
    assert np.array_equal(np.diff(item_indptr), np.bincount(items, minlength=11))
    tight = SumSpec((ArraySpec("x", "rank_one", (11, width), bound=0.5, scale_bits=12, ring=ring),)).fit(50)
    cut = Sum.zeros(tight)
    cut.add(Contributions({"x": contribution}))
    add(one_by_one * 0, values, item_indptr, holder, source, right, factors, 0.5, 2.0**12, over)
    assert cut.saturated == over.sum()
