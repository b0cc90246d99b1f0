"""Sketched EASE against dense float64 algebra and exact EASE; bits, bounds, items that nobody has, real figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.kernels.scoring import dot_items, gather_rows
from fedrec.kernels.threads import limit_threads
from fedrec.models.base import Given
from fedrec.models.linear.ease import EASE
from fedrec.models.linear.sketch import Sketched, basis_table, draw_signs, leading_spectrum, sketch_spec
from sketching_in_test import (
    SOURCE,
    clients_of,
    dense_basis,
    dense_ridge,
    last_out,
    long_tail,
    measured,
    one_round,
    train,
)


@settings(deadline=None)
@given(st.integers(0, 7), st.integers(0, 300), st.integers(0, 270), st.integers(1, 2))
def test_dot_items_adds_in_the_order_of_d(n_clients, n_items, width, threads):
    rng = np.random.default_rng(n_clients + n_items + width)
    left = rng.normal(size=(n_clients, width)).astype(np.float32)
    table = rng.normal(size=(n_items, width)).astype(np.float32)
    twin = np.zeros((n_clients, n_items), dtype=np.float32)
    for place in range(width):
        twin += left[:, place, None] * table[None, :, place]
    scores = np.full((n_clients, n_items), np.nan, dtype=np.float32)
    with limit_threads(threads):
        dot_items(left, table, scores)
    np.testing.assert_array_equal(scores, twin)


def test_gather_rows_adds_in_the_order_of_rows():
    clients = clients_of(long_tail(30, 40))
    shuffled = np.random.default_rng(0).permutation(clients.items).astype(np.int32)
    table = np.random.default_rng(1).normal(size=(40, 9)).astype(np.float32)
    twin = np.zeros((30, 9))
    for client in range(30):
        for item in shuffled[clients.indptr[client] : clients.indptr[client + 1]]:
            twin[client] += table[item].astype(np.float64)
    out = np.full((30, 9), np.nan)
    gather_rows(clients.indptr, shuffled, clients.weights, table, out)
    np.testing.assert_array_equal(out, twin)


@pytest.mark.parametrize(("alpha", "passes"), [(0.0, 1), (0.0, 2), (0.4, 2), (0.0, 3)])
def test_scores_equal_the_dense_formulas(alpha, passes):
    matrix = long_tail(120, 50)
    clients, seen = clients_of(matrix), {}
    model = EASE(rank=12, passes=passes, alpha=alpha, reg=7.5)
    state = train(model, clients, watch=lambda round, state, total: seen.update(omega=state.shared["sketch"]))
    omega = seen["omega"].astype(np.float64)
    right = (matrix @ omega) * (matrix.sum(axis=1) ** -alpha)[:, None]
    unit = 2.0 ** (15 if passes > 1 else 9 if alpha else 0)
    weights = dense_ridge(*dense_basis(matrix.T @ (np.rint(right * unit) / unit), omega), 7.5)
    np.testing.assert_allclose(
        model.score(Given.to_score(state.shared, {}), clients, None), matrix @ weights, atol=1e-6
    )


def test_passes_are_subspace_iteration():
    matrix, seen = long_tail(200, 60), []
    train(
        EASE(rank=8, passes=3),
        clients_of(matrix),
        watch=lambda round, state, total: seen.append(state.shared["sketch"]),
    )
    gram = matrix.T @ matrix
    for before, after in itertools.pairwise(seen):
        wanted = np.linalg.qr(gram @ before)[0]
        np.testing.assert_allclose(after.T @ after, np.eye(8), atol=1e-5)
        np.testing.assert_allclose(after @ after.T, wanted @ wanted.T, atol=1e-3)


def test_full_rank_is_exact_ease():
    clients = clients_of(long_tail(400, 40))
    exact, sketched = EASE(reg=50.0), EASE(reg=50.0, rank=40)
    wanted = exact.score(Given.to_score(train(exact, clients).shared, {}), clients, None)
    found = sketched.score(Given.to_score(train(sketched, clients).shared, {}), clients, None)
    assert np.abs(wanted).max() > 0.3
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_automatic_ridge_is_eight_mean_item_counts():
    matrix = long_tail(150, 30)
    clients = clients_of(matrix)
    for alpha in (0.0, 0.5):
        mean = (matrix.sum(axis=1) ** (1 - alpha)).sum() / 30
        auto, given_ = EASE(rank=10, alpha=alpha), EASE(rank=10, alpha=alpha, reg=8 * mean)
        found, wanted = (
            model.score(Given.to_score(train(model, clients).shared, {}), clients, None) for model in (auto, given_)
        )
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_more_directions_than_users_are_dropped():
    matrix = long_tail(9, 40)
    clients, widths = clients_of(matrix), []
    model = EASE(rank=30, reg=2.0)
    state = train(model, clients, watch=lambda round, state, total: widths.append(state.shared["sketch"].shape[1]))
    assert widths[0] == 30
    assert widths[1] == np.linalg.matrix_rank(matrix)
    exact = EASE(reg=2.0)
    wanted = exact.score(Given.to_score(train(exact, clients).shared, {}), clients, None)
    np.testing.assert_allclose(model.score(Given.to_score(state.shared, {}), clients, None), wanted, atol=2e-3)


def test_items_that_nobody_has_score_nothing():
    clients = clients_of(long_tail(80, 30))
    model = EASE(rank=6)
    state = train(model, clients)
    scores = model.score(Given.to_score(state.shared, {}), clients, None)
    assert np.isfinite(scores).all()
    assert not state.shared["factors"][-2:].any()
    assert not scores[:, -2:].any()


def test_without_any_interaction_everything_scores_nothing():
    clients = clients_of(np.zeros((3, 5), dtype=np.int64))
    model = EASE(rank=2)
    assert not model.score(Given.to_score(train(model, clients).shared, {}), clients, None).any()


def test_unseen_users_are_scored_from_their_history():
    matrix = long_tail(120, 40)
    model = EASE(rank=40, reg=20.0)
    state = train(model, clients_of(matrix[:100]))
    weights = model.similarity(Given.to_score(state.shared, {}), np.arange(40))
    np.testing.assert_allclose(np.diag(weights), 0.0, atol=1e-6)
    scores = model.score(Given.to_score(state.shared, {}), clients_of(matrix[100:]), None)
    np.testing.assert_allclose(scores, matrix[100:] @ weights, atol=1e-5)


def test_a_score_has_the_same_bits_in_any_batch():
    clients = clients_of(long_tail(37, 150))
    model = EASE(rank=20)
    shared = train(model, clients).shared
    together = model.score(Given.to_score(shared, {}), clients, None)
    for position in range(37):
        alone = model.score(Given.to_score(shared, {}), clients.take(np.array([position])), None)
        assert alone.tobytes() == together[position].tobytes()


def test_same_bits_for_any_threads_nodes_and_chunks(monkeypatch):
    monkeypatch.setattr("fedrec.models.linear.sketch._TILE", 16)
    clients, model = clients_of(long_tail(90, 70)), EASE(rank=15, alpha=0.3, passes=3)
    order = np.random.default_rng(0).permutation(90)
    states = []
    for threads, parts, chunk in [
        (1, None, None),
        (2, None, 7),
        (2, [order[:31], order[31:33], order[33:]], 5),
        (1, np.array_split(order, 7), None),
    ]:
        with limit_threads(threads):
            states.append(train(model, clients, parts, chunk).shared)
    for state in states[1:]:
        assert {name: array.tobytes() for name, array in state.items()} == {
            name: array.tobytes() for name, array in states[0].items()
        }


@settings(deadline=None)
@given(st.integers(1, 200), st.floats(0.0, 2.0), st.booleans(), st.integers(0, 5))
def test_no_history_reaches_the_bound(n_items, power, signs, seed):
    rng = np.random.default_rng(seed)
    table = draw_signs(SOURCE, n_items, 4).astype(np.float32)
    if not signs:
        table = np.linalg.qr(rng.normal(size=(n_items, min(4, n_items))))[0].astype(np.float32)
    aligned = table[:, 0] > 0
    bound = sketch_spec(table, power, signs, whole=False).bound
    for history in (aligned, ~aligned, np.ones(n_items, dtype=bool), rng.random(n_items) < 0.5):
        if history.any():
            assert np.abs(table[history].sum(axis=0)).max() * history.sum() ** -power <= bound


def test_nothing_saturates_when_someone_has_everything():
    matrix = long_tail(50, 30)
    matrix[0] = 1
    saturated = []
    train(EASE(rank=9), clients_of(matrix), watch=lambda round, state, total: saturated.append(total.saturated))
    assert saturated == [0, 0]


def test_signs_are_summed_as_whole_numbers():
    matrix = long_tail(70, 25)
    model = EASE(rank=5)
    state = model.start(_catalog(25), {}, SOURCE)
    total = one_round(model, state, clients_of(matrix), 0)
    signs = state.shared["sketch"].astype(np.int64)
    np.testing.assert_array_equal(total.integers("sketch"), matrix.T @ (matrix @ signs))
    np.testing.assert_array_equal(total.integers("counts")[:, 0], matrix.sum(axis=0))


def test_spectrum_is_that_of_the_gram_matrix_at_full_rank():
    matrix = long_tail(300, 20)[:, :-2]
    model = EASE(rank=18, passes=1)
    state = model.start(_catalog(18), {}, SOURCE)
    total = one_round(model, state, clients_of(matrix), 0)
    sketched = Sketched.of(state.shared["sketch"], total)
    spectrum = leading_spectrum(sketched)
    np.testing.assert_allclose(spectrum.values, np.linalg.eigvalsh(matrix.T @ matrix)[::-1], rtol=1e-3)
    basis = spectrum.basis(slice(0, 18), np.ones(18))
    np.testing.assert_allclose(basis.T @ basis, np.eye(18), atol=1e-6)
    assert basis_table(sketched).shape == (18, 18)


def test_movielens_100k_at_rank_64(real):
    hits, ndcg = measured(EASE(rank=64), last_out(real("ml-100k")), "hr@10,ndcg@10", "sampled:99")
    assert hits > 0.64
    assert ndcg > 0.37


@pytest.mark.real
def test_movielens_1m_at_rank_256(real):
    hits, ndcg = measured(EASE(rank=256), last_out(real("ml-1m-sequences")), "hr@10,ndcg@10", "sampled:99")
    assert hits >= 0.685
    assert ndcg > 0.415


def _catalog(n_items):
    return Catalog(Identifiers.of(list(range(n_items))))
