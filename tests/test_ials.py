"""iALS from sums, against dense float64 alternating least squares on the pooled data."""

import os
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.errors import FedrecError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.evaluation.ranks import user_metrics
from fedrec.kernels.least_squares import gram_of_rows, outer_rows, solve_items, solve_users
from fedrec.kernels.threads import limit_threads
from fedrec.models.base import Given, State
from fedrec.models.factors.ials import IALS
from fedrec.models.registry import build_model

SOURCE = KeyedSource.from_seed(0)


def clients_of(matrix):
    """Clients [c] from a 0/1 matrix [c, items]."""
    matrix = np.asarray(matrix)
    users, items = np.nonzero(matrix)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users, minlength=len(matrix)))]).astype(np.int64)
    keys = np.arange(len(matrix), dtype=np.uint64)
    none = np.zeros(len(matrix) + 1, dtype=np.int64)
    return Clients(indptr, items.astype(np.int32), None, None, keys, matrix.shape[1], none, np.empty(0, np.int32))


def random_matrix(users, items, seed, share=0.2):
    rng = np.random.default_rng(seed)
    popularity = np.minimum(share * 6 / np.arange(1, items + 1) ** 0.7, 0.9)
    matrix = (rng.random((users, items)) < popularity).astype(np.int64)
    matrix[:, -1] = 0
    return matrix


def start(model, n_items, seed=0):
    return model.start(Catalog(Identifiers.of(list(range(n_items)))), {}, KeyedSource.from_seed(seed))


def total_of(model, state, clients, round, parts=None, n_max=1 << 13):
    """The merged sum of a round over the given parts of the clients, one node each."""
    spec = model.spec(state.shared, round).fit(n_max)
    total = Sum.zeros(spec, round)
    for positions in parts or [np.arange(len(clients))]:
        node = Sum.zeros(spec, round)
        node.add(
            model.contribute(
                Given(round, state.shared, {}, SOURCE), clients.take(np.asarray(positions, dtype=np.int64)), None
            )[0]
        )
        total.merge(node)
    return total


def train(model, clients, state=None, parts=None):
    state = start(model, clients.n_items) if state is None else state
    round = 0
    while model.spec(state.shared, round) is not None:
        state = model.step(state, total_of(model, state, clients, round, parts), round)
        round += 1
    return state


def half_sweep(model, fixed, matrix):
    """The other side's factors, one numpy.linalg.solve a row: (matrix rows) × d, float64."""
    d, a = fixed.shape[1], model.unobserved_weight
    out = np.zeros((len(matrix), d))
    for row, marks in enumerate(matrix):
        n = marks.sum()
        if n:
            left = fixed.T * (marks + a) @ fixed + model.reg * (n + a * len(fixed)) ** model.nu * np.eye(d)
            out[row] = np.linalg.solve(left, fixed.T @ marks)
    return out


def loss(model, users, items, matrix):
    a, scores = model.unobserved_weight, users @ items.T
    pull_users = (matrix.sum(1) + a * len(items)) ** model.nu @ (users**2).sum(1)
    pull_items = (matrix.sum(0) + a * len(users)) ** model.nu @ (items**2).sum(1)
    return (matrix * (scores - 1) ** 2).sum() + a * (scores**2).sum() + model.reg * (pull_users + pull_items)


def user_factors(model, state, clients):
    right = model.contribute(Given(0, state.shared, {}, SOURCE), clients, None)[0].arrays["equations"].right
    return right[:, -model.embedding_size :]


def gram_by_numpy(items):
    return items.astype(np.float64).T @ items.astype(np.float64)


def distance(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 19), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.01, 1.0]))
def test_a_client_solves_its_own_least_squares(seed, d, nu, weight):
    model = IALS(embedding_size=d, nu=nu, unobserved_weight=weight, init_sd=3.0)
    matrix = random_matrix(12, 23, seed)
    matrix[0], matrix[1] = 0, 1
    state = start(model, 23, seed)
    truth = half_sweep(model, state.shared["items"].astype(np.float64), matrix)
    found = user_factors(model, state, clients_of(matrix))
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-12)
    scores = model.score(Given.to_score(state.shared, {}), clients_of(matrix), None)
    np.testing.assert_allclose(scores, truth @ state.shared["items"].T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nu", [0.0, 1.0])
def test_one_sweep_is_one_sweep_of_the_pooled_data(nu):
    matrix = random_matrix(300, 80, seed=1)
    model = IALS(embedding_size=9, rounds=1, nu=nu, scale_bits=30)
    state = start(model, 80)
    users = half_sweep(model, state.shared["items"].astype(np.float64), matrix)
    truth = half_sweep(model, users, matrix.T)
    assert distance(train(model, clients_of(matrix), state).shared["items"], truth) < 1e-7


@pytest.mark.parametrize("d", [8, 32])
def test_five_sweeps_stay_within_a_hundred_thousandth_of_pooled_float64(d):
    matrix = random_matrix(600, 150, seed=2)
    model = IALS(embedding_size=d, rounds=5)
    state = start(model, 150)
    truth = state.shared["items"].astype(np.float64)
    for _ in range(5):
        truth = half_sweep(model, half_sweep(model, truth, matrix), matrix.T)
    assert distance(train(model, clients_of(matrix), state).shared["items"], truth) < 1e-5


@pytest.mark.parametrize("nu", [0.0, 0.5, 1.0])
def test_the_loss_never_rises(nu):
    matrix = random_matrix(150, 60, seed=3)
    model = IALS(embedding_size=6, rounds=12, nu=nu, reg=0.02, init_sd=1.0)
    clients, state, before = clients_of(matrix), start(model, 60), np.inf
    for round in range(model.rounds):
        users = user_factors(model, state, clients)
        assert loss(model, users, state.shared["items"].astype(np.float64), matrix) <= before * (1 + 1e-6)
        state = model.step(state, total_of(model, state, clients, round), round)
        now = loss(model, users, state.shared["items"].astype(np.float64), matrix)
        assert now <= before * (1 + 1e-6)
        before = now


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 4), min_size=90, max_size=90), st.sampled_from([1, 2]), st.randoms())
def test_the_same_bits_for_any_threads_chunks_and_nodes(node_of, threads, random):
    matrix = random_matrix(90, 40, seed=4)
    model = IALS(embedding_size=7, rounds=3)
    whole = train(model, clients_of(matrix))
    order = list(range(90))
    random.shuffle(order)
    parts = [[place for place in order if node_of[place] == node] for node in range(5)]
    with limit_threads(threads):
        parted = train(model, clients_of(matrix), parts=parts)
    for name, array in whole.shared.items():
        assert array.tobytes() == parted.shared[name].tobytes()


def test_a_user_that_never_trained_is_folded_in_like_one_that_did():
    matrix = random_matrix(80, 30, seed=5)
    model = IALS(embedding_size=5, rounds=3)
    state = train(model, clients_of(matrix))
    stranger = clients_of(matrix[[17]])
    assert model.fold_in(Given.to_score(state.shared, {}), stranger) is None
    everyone = model.score(Given.to_score(state.shared, {}), clients_of(matrix), None)
    assert model.score(Given.to_score(state.shared, {}), stranger, None).tobytes() == everyone[[17]].tobytes()


def test_an_empty_history_scores_zero_and_changes_no_item():
    matrix = random_matrix(60, 30, seed=6)
    model = IALS(embedding_size=4, rounds=1)
    state = start(model, 30)
    padded = np.vstack([matrix, np.zeros((1, 30), dtype=np.int64)])
    assert not model.score(Given.to_score(state.shared, {}), clients_of(padded[60:]), None).any()
    without, with_it = (total_of(model, state, clients_of(m), 0) for m in (matrix, padded))
    for name in ("equations", "counts"):
        assert np.array_equal(without.arrays[name], with_it.arrays[name])
    assert np.array_equal(without.value("everyone")[:-1], with_it.value("everyone")[:-1])
    assert with_it.value("everyone")[-1] == 61


def test_an_item_that_nobody_has_is_the_zero_vector():
    matrix = random_matrix(60, 30, seed=7)
    state = train(IALS(embedding_size=4, rounds=2), clients_of(matrix))
    nobody = matrix.sum(0) == 0
    assert nobody[-1]
    assert not state.shared["items"][nobody].any()
    assert state.shared["items"][~nobody].any(axis=1).all()
    assert not IALS(embedding_size=4).score(Given.to_score(state.shared, {}), clients_of(matrix), None)[:, nobody].any()


def test_an_item_outside_a_later_cohort_keeps_its_factor():
    matrix = random_matrix(60, 30, seed=8)
    model = IALS(embedding_size=4, rounds=2)
    first = model.step(start(model, 30), total_of(model, start(model, 30), clients_of(matrix), 0), 0)
    matrix[:, 3] = 0
    second = model.step(first, total_of(model, first, clients_of(matrix), 1), 1)
    assert first.shared["items"][3].any()
    assert np.array_equal(first.shared["items"][3], second.shared["items"][3])
    assert not np.array_equal(first.shared["items"][4], second.shared["items"][4])
    nobody = total_of(model, second, clients_of(matrix[:0]), 1)
    assert model.step(second, nobody, 1) is second


def test_at_nu_one_it_does_not_matter_how_many_alike_there_are():
    matrix = random_matrix(60, 30, seed=9)
    model = IALS(embedding_size=6, rounds=4, nu=1.0, scale_bits=30)
    once, thrice = (train(model, clients_of(m)).shared["items"] for m in (matrix, np.tile(matrix, (3, 1))))
    assert distance(thrice, once) < 1e-6


def test_a_weight_of_zero_is_as_if_the_client_were_not_there():
    matrix = random_matrix(20, 15, seed=10)
    model = IALS(embedding_size=3)
    state = start(model, 15)
    contributions = model.contribute(Given(0, state.shared, {}, SOURCE), clients_of(matrix), None)[0]
    total = Sum.zeros(model.spec(state.shared, 0).fit(64), 0)
    total.add(contributions.scale((np.arange(20) != 5).astype(np.float64)))
    without = total_of(model, state, clients_of(np.delete(matrix, 5, axis=0)), 0, n_max=64)
    for name, array in without.arrays.items():
        assert np.array_equal(array, total.arrays[name])


def test_two_tastes_are_told_apart():
    """Users of two groups each have most of their group's items: the missing ones must come first."""
    group = np.arange(40) % 2
    matrix = (group[:, None] == (np.arange(20) % 2)[None, :]).astype(np.int64)
    missing = (np.arange(40) * 7 + group) % 20
    missing += (missing % 2) != group
    missing %= 20
    assert np.all(matrix[np.arange(40), missing] == 1)
    matrix[np.arange(40), missing] = 0
    model = IALS(embedding_size=4, rounds=8)
    scores = model.score(Given.to_score(train(model, clients_of(matrix)).shared, {}), clients_of(matrix), None)
    scores[matrix == 1] = -np.inf
    assert np.array_equal(scores.argmax(axis=1), missing)


def test_similar_items_are_those_of_the_same_users():
    matrix = np.repeat(np.eye(2, dtype=np.int64), [10, 10], axis=0) @ np.repeat(np.eye(2, dtype=np.int64), [3, 3], 1)
    model = IALS(embedding_size=4, rounds=5)
    likeness = model.similarity(Given.to_score(train(model, clients_of(matrix)).shared, {}), np.array([0, 5]))
    assert np.all(likeness[0, :3] > 0.99)
    assert np.all(likeness[0, 3:] < 0.1)
    assert likeness.dtype == np.float32


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]), st.floats(-4, 2), st.floats(-4, 1), st.floats(-4, 1))
def test_no_client_can_reach_the_bound(seed, nu, sd, reg, weight):
    model = IALS(embedding_size=2, nu=nu, reg=10.0**reg, unobserved_weight=10.0**weight, init_sd=10.0**sd)
    matrix = random_matrix(30, 12, seed, share=0.5)
    matrix[0] = 1
    items = np.abs(start(model, 12, seed).shared["items"])
    state = State({"items": items, "gram": gram_by_numpy(items)})
    assert (user_factors(model, state, clients_of(matrix)) ** 2).sum(axis=1).max() <= model.largest_factor(12)
    assert total_of(model, state, clients_of(matrix), 0, n_max=64).saturated == 0


def test_the_bound_is_nearly_met():
    """One column of equal entries y, everything owned: u = y n / (n y² + r) has u² = n / (4 r) at y² = r / n."""
    model = IALS(embedding_size=1, unobserved_weight=1e-9, reg=0.01)
    items = np.full((50, 1), 0.1, dtype=np.float32)
    (factor,) = user_factors(model, State({"items": items, "gram": gram_by_numpy(items)}), clients_of(np.ones((1, 50))))
    assert factor[0] ** 2 == pytest.approx(model.largest_factor(50), rel=1e-6)


def test_values_beyond_the_bound_are_cut_and_counted():
    matrix = random_matrix(50, 20, seed=11)
    model = IALS(embedding_size=3, bound=1e-4, init_sd=2.0)
    state = start(model, 20)
    users = user_factors(model, state, clients_of(matrix))
    right = np.array([[*np.outer(u, u)[np.triu_indices(3)], *u] for u in users])
    over = (np.abs(right) > 1e-4).sum(axis=1) @ matrix.sum(axis=1)
    everyone = (np.abs(right[:, :6].astype(np.float32)) > 1e-4).sum() + 50
    assert total_of(model, state, clients_of(matrix), 0).saturated == over + everyone


def test_equations_without_a_solution_name_the_item_and_the_remedy():
    matrix = random_matrix(50, 20, seed=12)
    model = IALS(embedding_size=3)
    state = start(model, 20)
    total = total_of(model, state, clients_of(matrix), 0)
    total.arrays["equations"][4, 0] = -(2**40)
    with pytest.raises(FedrecError, match=r"round 0: the equations of 1 items, first the one at position 4.*bound"):
        model.step(state, total, 0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([32, 64]), st.booleans())
def test_kernels_equal_their_plain_twins(seed, d, ring, weighted):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(9, d)).astype(np.float32)
    gram = np.empty((d, d))
    gram_of_rows(table, gram)
    wide = table.astype(np.float64)
    np.testing.assert_allclose(gram, wide.T @ wide, rtol=1e-12, atol=1e-12)
    assert np.array_equal(gram, gram.T)

    indptr = np.array([0, 1, 1, 7, 9])
    items = rng.integers(0, 9, 9).astype(np.int32)
    users = np.empty((4, d))
    weights = rng.lognormal(0.0, 2.0, 9 if weighted else 0).astype(np.float32)
    solve_users(indptr, items, weights, table, gram, 2.0, 0.3, 0.5, users)
    for c in range(4):
        mine = wide[items[indptr[c] : indptr[c + 1]]]
        heavy = weights[indptr[c] : indptr[c + 1]].astype(float) if weighted else np.ones(len(mine))
        left = gram + (mine.T * heavy) @ mine + 0.3 * (len(mine) + 2.0) ** 0.5 * np.eye(d)
        np.testing.assert_allclose(users[c], np.linalg.solve(left, heavy @ mine), rtol=1e-9, atol=1e-12)

    upper = np.triu_indices(d)
    right = np.empty((4, len(upper[0]) + d))
    outer_rows(users, right)
    assert np.array_equal(right, [[*np.outer(u, u)[upper], *u] for u in users])

    equations = np.zeros((3, right.shape[1]), dtype=f"int{ring}")
    equations[1:] = np.rint(right[[0, 2]] * 1000)
    counts = np.array([0.0, 1.0, 2.0])
    solved = np.full((3, d), 7.0, dtype=np.float32)
    solve_items[ring](equations, counts, 1 / 1000, gram, 4.0, 0.2, 1.0, solved)
    assert np.all(solved[0] == 7.0)
    for i in (1, 2):
        left = np.zeros((d, d))
        left[upper] = equations[i, :-d] / 1000
        left = left + np.triu(left, 1).T + gram + 0.2 * (counts[i] + 4.0) * np.eye(d)
        np.testing.assert_allclose(solved[i], np.linalg.solve(left, equations[i, -d:] / 1000), rtol=1e-5, atol=1e-6)
    broken = np.full((4, d), 5.0)
    solve_users(indptr, items, weights, table, -1e6 * np.eye(d), 0.0, 1.0, 0.0, broken)
    assert np.all(np.isnan(broken[[0, 2, 3]]))
    assert not broken[1].any()


def test_the_registry_knows_it_and_memory_counts_the_sum():
    model = build_model("ials", {"embedding_size": 16})
    assert isinstance(model, IALS)
    spec = model.spec(start(model, 1000).shared, 0).fit(1 << 20)
    held = sum(array.nbytes for array in Sum.zeros(spec).arrays.values())
    assert held < model.cost(1000).memory < 4 * held
    assert (spec["equations"].ring, spec["equations"].word) == (48, 64)
    assert IALS(bound=1.0, scale_bits=14).spec(start(model, 9).shared, 0).fit(1 << 13)["equations"].ring == 29


def measured(name):
    """HR@10 and NDCG@10 on the test part of leave-last-out, 99 sampled items, and the split."""
    folder = os.environ.get("FEDREC_DATA")
    if not folder or not (Path(folder) / name).is_dir():
        pytest.skip(f"needs the data set {name} in the folder that FEDREC_DATA names")
    split = fr.leave_last_out(fr.load_data(name))
    keys = client_keys(SOURCE, split.data.users)
    clients = Clients.of(split.train.without_values(), keys)
    model = IALS()
    state = train(model, clients, parts=np.array_split(np.arange(len(clients)), 3))
    history = split.history("test")
    scores = model.score(Given.to_score(state.shared, {}), Clients.of(history.without_values(), keys), None)
    lists = [(part.indptr, part.items) for part in (history, split.test, split.data)]
    result = user_metrics(scores, *lists, parse_metrics("hr@10,ndcg@10"), parse_protocol("sampled:99"))
    return result.values[result.valid].mean(axis=0)


@pytest.mark.real
def test_movielens_100k_is_as_good_as_pooled_training():
    hr, ndcg = measured("ml-100k")
    assert hr >= 0.655
    assert ndcg >= 0.385


@pytest.mark.real
def test_movielens_1m_is_as_good_as_pooled_training():
    hr, ndcg = measured("ml-1m-sequences")
    assert hr >= 0.70
    assert ndcg >= 0.42
