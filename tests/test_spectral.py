"""Spectral filtering against dense algebra on the normalised Gram matrix; bits, items without users, real figures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedrec as fr
from fedrec.errors import PlanError
from fedrec.kernels.threads import limit_threads
from fedrec.models.base import Given
from fedrec.models.linear.spectral import Spectral
from fedrec.models.registry import build_model
from sketching_in_test import clients_of, dense_basis, dense_ridge, last_out, long_tail, measured, train


def normalised(matrix, alpha, beta):
    """A = diag(n_u^−α) X diag(n_i^−β) with zero columns where nobody has the item, and n_i^−β."""
    counts = matrix.sum(axis=0)
    weights = np.where(counts > 0, np.maximum(counts, 1.0) ** -beta, 0.0)
    return matrix.sum(axis=1)[:, None] ** -alpha * matrix * weights, weights


@pytest.mark.parametrize("filter", ["ridge", "low-pass"])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (0.0, 0.0), (0.6, 0.3)])
def test_scores_equal_the_dense_formulas(filter, alpha, beta):
    matrix = long_tail(150, 45)
    clients, seen = clients_of(matrix), {}
    model = Spectral(rank=10, alpha=alpha, beta=beta, filter=filter, reg=0.2)
    state = train(model, clients, watch=lambda round, state, total: seen.update(state.shared))
    weights = normalised(matrix, alpha, beta)[1]
    table = seen["sketch"].astype(np.float64)
    omega = np.divide(table, weights[:, None], out=np.zeros_like(table), where=weights[:, None] > 0)
    right = (matrix @ table) * (matrix.sum(axis=1) ** (-2 * alpha))[:, None]
    product = weights[:, None] * (matrix.T @ (np.rint(right * 2.0**15) / 2.0**15))
    basis, values = dense_basis(product, omega)
    inner = dense_ridge(basis, values, 0.2) if filter == "ridge" else basis @ basis.T
    inverse = np.divide(1.0, weights, out=np.zeros(45), where=weights > 0)
    wanted = ((matrix * weights) @ inner) * inverse
    np.testing.assert_allclose(model.score(Given.to_score(state.shared, {}), clients, None), wanted, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 100), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_full_rank_ridge_is_ease_of_the_normalised_matrix(seed, alpha, beta):
    matrix = long_tail(200, 24, seed)
    clients = clients_of(matrix)
    model = Spectral(rank=24, alpha=alpha, beta=beta, reg=1.0)
    found = model.score(Given.to_score(train(model, clients).shared, {}), clients, None)
    scaled, weights = normalised(matrix, alpha, beta)
    values, basis = np.linalg.eigh(scaled.T @ scaled)
    inverse = np.divide(1.0, weights, out=np.zeros(24), where=weights > 0)
    wanted = ((matrix * weights) @ dense_ridge(basis, np.maximum(values, 0), 1.0)) * inverse
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_low_pass_keeps_the_leading_eigenvectors():
    matrix = long_tail(400, 40)
    scaled, weights = normalised(matrix, 0.3, 0.5)
    values, basis = np.linalg.eigh(scaled.T @ scaled)
    model = Spectral(rank=5, passes=12, filter="low-pass")
    shared = train(model, clients_of(matrix)).shared
    leading = shared["factors"] / np.where(weights > 0, weights, 1.0)[:, None]
    overlap = np.linalg.svd(basis[:, -5:].T @ leading, compute_uv=False)
    assert values[-1] > values[-5] > 0
    assert overlap[0] == pytest.approx(1.0, abs=1e-3)
    np.testing.assert_allclose(leading.T @ leading, np.eye(5), atol=1e-5)


def test_rounds_are_counts_then_passes_and_lengths_stay_at_home():
    matrix, seen = long_tail(60, 20), []
    model = Spectral(rank=4, passes=3)
    train(model, clients_of(matrix), watch=lambda round, state, total: seen.append((state, total)))
    assert len(seen) == model.rounds == 4
    np.testing.assert_array_equal(seen[0][1].integers("counts")[:, 0], matrix.sum(axis=0))
    assert [total.spec.names for _, total in seen[1:]] == [("sketch",)] * 3
    assert [set(state.shared) for state, _ in seen[1:]] == [{"sketch"}] * 3


@pytest.mark.parametrize("filter", ["ridge", "low-pass"])
def test_items_that_nobody_has(filter):
    matrix = long_tail(80, 30)
    model = Spectral(rank=6, filter=filter)
    shared = train(model, clients_of(matrix)).shared
    newcomers = np.zeros((2, 30), dtype=np.int64)
    newcomers[0, [0, 29]] = newcomers[1, 0] = 1
    scores = model.score(Given.to_score(shared, {}), clients_of(newcomers), None)
    assert np.isfinite(scores).all()
    assert not scores[:, 28:].any()
    np.testing.assert_array_equal(scores[0], scores[1])


def test_ridge_gives_an_item_nothing_for_itself():
    matrix = long_tail(200, 30)
    model = Spectral(rank=12)
    shared = train(model, clients_of(matrix)).shared
    similar = model.similarity(Given.to_score(shared, {}), np.arange(30))
    np.testing.assert_allclose(np.diag(similar), 0.0, atol=1e-6)
    np.testing.assert_allclose(
        model.score(Given.to_score(shared, {}), clients_of(matrix), None), matrix @ similar, atol=1e-4
    )


def test_same_bits_for_any_threads_nodes_and_chunks(monkeypatch):
    monkeypatch.setattr("fedrec.models.linear.sketch._TILE", 32)
    clients, model = clients_of(long_tail(90, 140)), Spectral(rank=25)
    order = np.random.default_rng(0).permutation(90)
    states = []
    for threads, parts, chunk in [(1, None, None), (2, None, 11), (2, np.array_split(order, 7), 4)]:
        with limit_threads(threads):
            states.append(train(model, clients, parts, chunk).shared)
    for state in states[1:]:
        assert {name: array.tobytes() for name, array in state.items()} == {
            name: array.tobytes() for name, array in states[0].items()
        }


def test_settings_are_checked():
    assert build_model("spectral", {"rank": 8, "filter": "low-pass"}).rounds == 3
    with pytest.raises(PlanError, match="filter"):
        build_model("spectral", {"filter": "high-pass"})
    with pytest.raises(PlanError, match="rank"):
        build_model("spectral", {"rank": 0})


def test_memory_grows_with_rank_and_not_with_items_squared():
    small, large = (Spectral(rank=1024).cost(n_items).memory for n_items in (40_981, 81_962))
    assert small < 2 * 2**30
    assert large < 2.1 * small


def test_movielens_100k(real):
    hits, ndcg = measured(Spectral(rank=64), last_out(real("ml-100k")), "hr@10,ndcg@10", "sampled:99")
    assert hits > 0.62
    assert ndcg > 0.35


@pytest.mark.real
def test_gowalla_at_rank_1024(real):
    split = fr.given(fr.load_data(str(real("gowalla"))))
    recall, ndcg = measured(Spectral(rank=1024), split, "recall@20,ndcg@20", "full")
    assert recall >= 0.188
    assert ndcg >= 0.157
