"""Local SGD of matrix factorisation against plain NumPy with the same draws."""

import math

import numpy as np
import pytest

from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.kernels.factors import local_sgd
from fedrec.kernels.threads import limit_threads

F = np.float32
SEEDS = KeyedSource.from_seed(2)


def stream(seed):
    """SplitMix64 in Python's own integers."""
    mask, state = (1 << 64) - 1, int(seed)
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def below(words, limit):
    return (next(words) >> 32) * limit >> 32


def sigmoid(x):
    return F(1) / (F(1) + F(math.exp(-x)))


def twin(items, excluded, seed, table, user, rate, reg, epochs, negatives, pairwise, learn_items):
    """One client, step by step: (user factor, {item: change} in order of first touch, negatives drawn)."""
    words, user, local, drawn = stream(seed), user.copy(), {}, []
    taken = {*items, *excluded}

    def row(item):
        return local.setdefault(item, table[item].copy())

    def score(item):
        return F(np.dot(user, row(item)[:-1]) + row(item)[-1])

    def move(item, error):
        nonlocal user
        v = row(item)
        old = user
        user = old - rate * (error * v[:-1] + reg * old)
        if learn_items:
            local[item] = np.append(v[:-1] - rate * (error * old + reg * v[:-1]), v[-1] - rate * (error + reg * v[-1]))

    for _ in range(epochs):
        order = list(range(len(items)))
        for place in range(len(items) - 1, 0, -1):
            other = below(words, place + 1)
            order[place], order[other] = order[other], order[place]
        for place in order:
            item = items[place]
            row(item)
            if not pairwise:
                move(item, sigmoid(score(item)) - F(1))
            for _ in range(negatives if len(taken) < len(table) else 0):
                negative = below(words, len(table))
                while negative in taken:
                    negative = below(words, len(table))
                drawn.append(negative)
                if not pairwise:
                    move(negative, sigmoid(score(negative)))
                    continue
                error = sigmoid(F(score(negative) - score(item)))
                p, n, old = row(item), row(negative), user
                user = old - rate * (error * (n[:-1] - p[:-1]) + reg * old)
                if learn_items:
                    local[item] = p - rate * (reg * p - error * np.append(old, F(1)))
                    local[negative] = n - rate * (reg * n + error * np.append(old, F(1)))
    return user, {item: values - table[item] for item, values in local.items()}, drawn


def crowd(seed=0, clients=23, n_items=15, excluded=True):
    """Clients with none, some, all, and (with what is excluded) all but one of the items."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, n_items - 3, clients)
    lengths[:3] = 0, n_items, n_items - 3
    rows = [rng.permutation(n_items) for _ in range(clients)]
    others = [row[length : length + (2 if excluded else 0)] for row, length in zip(rows, lengths, strict=True)]
    rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    return Clients(
        indptr=np.cumsum([0, *lengths]).astype(np.int64),
        items=np.concatenate(rows).astype(np.int32),
        values=None,
        times=None,
        keys=rng.integers(0, 2**63, clients).astype(np.uint64),
        n_items=n_items,
        excluded_indptr=np.cumsum([0, *map(len, others)]).astype(np.int64),
        excluded_items=np.concatenate(others).astype(np.int32),
    )


def arrays(clients, d, seed=1):
    """The shared table, and a factor for each client that depends on its key only."""
    table = np.random.default_rng(seed).normal(scale=0.5, size=(clients.n_items, d + 1)).astype(F)
    users = [np.random.default_rng(int(key) % 2**32).normal(scale=0.5, size=d) for key in clients.keys]
    return table, np.array(users, dtype=F).reshape(len(clients), d)


def train(clients, d=9, epochs=2, negatives=3, pairwise=False, learn_items=True, bounds=None, rate=0.1, reg=0.05):
    """Run the kernel: (users, per client {item: change})."""
    table, users = arrays(clients, d)
    most = np.minimum(clients.lengths * (1 + epochs * negatives), clients.n_items)
    indptr = np.concatenate([[0], np.cumsum(most)]).astype(np.int64)
    rows = np.full(indptr[-1], -7, dtype=np.int32)
    values = np.full((indptr[-1], d + 1), np.nan, dtype=F)
    counts = np.zeros(len(clients), dtype=np.int64)
    bounds = np.array([0, len(clients)] if bounds is None else bounds, dtype=np.int64)
    before = table.copy()
    local_sgd(
        clients.indptr, clients.items, clients.excluded_indptr, clients.excluded_items, SEEDS.seeds(clients.keys),
        table, users, F(rate), F(reg), epochs, negatives, pairwise, learn_items, bounds, indptr, rows, values, counts,
    )  # fmt: skip
    assert np.array_equal(table, before)
    changes = [
        dict(zip(rows[a : a + n].tolist(), values[a : a + n], strict=True))
        for a, n in zip(indptr[:-1], counts, strict=True)
    ]
    return users, changes


def expected(clients, d=9, epochs=2, negatives=3, pairwise=False, learn_items=True, rate=0.1, reg=0.05):
    table, users = arrays(clients, d)
    seeds = SEEDS.seeds(clients.keys)
    out = []
    for c in range(len(clients)):
        items = clients.items[clients.indptr[c] : clients.indptr[c + 1]].tolist()
        excluded = clients.excluded_items[clients.excluded_indptr[c] : clients.excluded_indptr[c + 1]].tolist()
        out.append((items, excluded, *twin(items, excluded, seeds[c], table, users[c], F(rate), F(reg), epochs,
                                           negatives, pairwise, learn_items)))  # fmt: skip
    return out


@pytest.mark.parametrize("learn_items", [True, False])
@pytest.mark.parametrize("pairwise", [True, False])
@pytest.mark.parametrize("d", [1, 8, 19])
def test_every_client_is_trained_as_in_plain_numpy(d, pairwise, learn_items):
    clients = crowd()
    users, changes = train(clients, d, pairwise=pairwise, learn_items=learn_items)
    for c, (_, _, user, change, _) in enumerate(expected(clients, d, pairwise=pairwise, learn_items=learn_items)):
        assert np.allclose(users[c], user, rtol=1e-4, atol=1e-6)
        if not learn_items:
            assert changes[c] == {}
            continue
        assert list(changes[c]) == list(change)  # the same draws, in order of first touch
        for item, values in change.items():
            assert np.allclose(changes[c][item], values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("excluded", [True, False])
def test_negatives_are_never_in_the_history_nor_excluded(excluded):
    clients = crowd(5, clients=60, n_items=25, excluded=excluded)
    _, changes = train(clients, 4)
    for change, (items, others, _, _, drawn) in zip(changes, expected(clients, 4), strict=True):
        assert not set(drawn) & {*items, *others}
        assert set(change) == {*items, *drawn}
        assert not set(change) & set(others)


def test_a_client_with_every_item_trains_on_positives_only():
    clients = crowd()
    assert clients.lengths[1] == clients.n_items
    for pairwise in (False, True):
        users, changes = train(clients, pairwise=pairwise)
        assert set(changes[1]) == set(range(clients.n_items))
        untouched = np.array_equal(users[1], arrays(clients, 9)[1][1])
        assert untouched == pairwise  # a pair needs a negative
    assert changes[0] == {}


def test_a_client_with_one_item_left_draws_only_that_one():
    clients = crowd()
    _, changes = train(clients)
    items = clients.items[clients.indptr[2] : clients.indptr[3]]
    excluded = clients.excluded_items[clients.excluded_indptr[2] : clients.excluded_indptr[3]]
    assert (len(items), len(excluded)) == (clients.n_items - 3, 2)
    assert set(changes[2]) == set(range(clients.n_items)) - set(excluded.tolist())


@pytest.mark.parametrize("pairwise", [True, False])
def test_threads_workers_and_batches_do_not_change_a_bit(pairwise):
    clients = crowd(3, clients=40)
    users, changes = train(clients, pairwise=pairwise)

    def same(found, positions):
        assert np.array_equal(found[0], users[positions])
        for change, position in zip(found[1], positions, strict=True):
            assert list(change) == list(changes[position])
            assert all(np.array_equal(change[item], changes[position][item]) for item in change)

    everyone = np.arange(40)
    for threads in (1, 2):
        with limit_threads(threads):
            for bounds in ([0, 40], [0, 1, 40], [0, 0, 13, 13, 27, 40], list(range(41))):
                same(train(clients, pairwise=pairwise, bounds=bounds), everyone)
            for positions in (everyone[::-1], everyone[5:6], np.array([30, 2, 1, 17])):
                bounds = [0, len(positions) // 2, len(positions)]
                same(train(clients.take(positions), pairwise=pairwise, bounds=bounds), positions)


def test_negatives_are_drawn_evenly_from_what_is_left():
    n_items = 12
    clients = crowd(9, clients=3000, n_items=n_items, excluded=False)
    clients = clients.take(np.flatnonzero(clients.lengths > 0))
    _, changes = train(clients, 1, epochs=1, negatives=1)
    # With one positive and one negative the touched rows are the positive and one of the other eleven.
    ones = np.flatnonzero(clients.lengths == 1)
    offsets = [(item - first) % n_items for first, item in (tuple(changes[c]) for c in ones)]
    counts = np.bincount(offsets, minlength=n_items)[1:]
    assert counts.sum() == len(ones) > 200
    assert np.sum((counts - counts.mean()) ** 2 / counts.mean()) < 29.6  # 0.1 % of chi-square with ten degrees


def test_more_steps_lower_the_loss_of_a_separable_client():
    clients = crowd(1, clients=30, excluded=False)
    table, start = arrays(clients, 9)

    def loss(users):
        total = 0.0
        for c in range(2, len(clients)):
            items = clients.items[clients.indptr[c] : clients.indptr[c + 1]]
            y = np.isin(np.arange(clients.n_items), items)
            total += np.mean(np.log1p(np.exp(np.where(y, -1, 1) * (table[:, :-1] @ users[c] + table[:, -1]))))
        return total

    few, _ = train(clients, epochs=2, learn_items=False, reg=0.0)
    many, _ = train(clients, epochs=40, learn_items=False, reg=0.0)
    assert loss(many) < loss(few) < loss(start)
