"""Local training of matrix factorisation against plain NumPy with the same draws."""

import itertools
import math

import numpy as np
import pytest

from chosen_in_test import in_turn
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.kernels.draws import draw_halves
from fedrec.kernels.threads import limit_threads
from fedrec.models.factors.local_training import LocalTraining, draw

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


def twin(items, weights, excluded, seed, table, user, local, epochs, negatives, learn_users=True, learn_items=True):
    """One client, step by step: (user factor, {item: change} by slot, negatives drawn, steps).

    Every term of the loss gives (error, item) pairs, the error times the weight of the positive that the term belongs
    to; a batch steps along the mean of its terms' gradients.
    """
    words, user = stream(seed), user.copy()
    taken = {*items, *excluded}
    rows = {item: table[item].copy() for item in items}
    width = len(user) + 1
    user_state, row_states = State(width - 1), {}
    drawn, steps, batch = [], 0, []
    rate, reg = F(local.learning_rate), F(local.reg)

    def score(item):
        return F(np.dot(user, rows[item][:-1]) + rows[item][-1])

    def errors(positive, term):
        if local.loss in ("bce", "squared"):
            return [((sigmoid(score(term)) if local.loss == "bce" else score(term)) - F(term in items), term)]
        if local.loss == "bpr":
            error = sigmoid(F(score(term) - score(positive)))
            return [(-error, positive), (error, term)]
        scores = np.array([score(item) for item in (positive, *term)], dtype=F)
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        shares[0] -= F(1)
        return list(zip(shares, (positive, *term), strict=True))

    def close():
        nonlocal user, steps, batch
        if not batch:
            return
        old, gradients = user, {}
        slope = np.zeros(width - 1, dtype=F)
        for pairs in batch:
            slope += reg * old
            for error, item in pairs:
                slope += error * rows[item][:-1]
                gradient = gradients.setdefault(item, np.zeros(width, dtype=F))
                gradient += error * np.append(old, F(1)) + reg * rows[item]
        scale = F(1) / F(len(batch))
        steps, batch = steps + 1, []
        if learn_users:
            user = old - user_state.move(local, slope * scale)
        if learn_items:
            for item, gradient in gradients.items():
                state = row_states.setdefault(item, State(width))
                moved = rows[item] - state.move(local, gradient * scale)
                rows[item] = table[item] + (moved - table[item]) / F(1 + rate * local.proximal)

    for _ in range(epochs):
        order = list(range(len(items)))
        for place in range(len(items) - 1, 0, -1):
            other = below(words, place + 1)
            order[place], order[other] = order[other], order[place]
        plan = []
        for place in order:
            found = []
            for _ in range(negatives if len(taken) < len(table) else 0):
                negative = below(words, len(table))
                while negative in taken:
                    negative = below(words, len(table))
                rows.setdefault(negative, table[negative].copy())
                found.append(negative)
            drawn += found
            plan.append((items[place], found))
        for positive, found in plan:
            terms = {"bpr": found, "softmax": [found] if found else []}.get(local.loss, [positive, *found])
            for term in terms:
                weight = F(weights[items.index(positive)])
                batch.append([(weight * error, item) for error, item in errors(positive, term)])
                if len(batch) == local.batch_size:
                    close()
        close()
    return user, {item: values - table[item] for item, values in rows.items()}, drawn, steps


class State:
    """A local optimiser's memory of one vector."""

    def __init__(self, width):
        self.first, self.second, self.steps = np.zeros(width, F), np.zeros(width, F), 0

    def move(self, local, g):
        """What to subtract."""
        self.steps += 1
        rate, beta = F(local.learning_rate), F(local.momentum)
        if local.optimiser == "sgd":
            return rate * g
        if local.optimiser == "momentum":
            self.first = beta * self.first + g
            return rate * self.first
        if local.optimiser == "adagrad":
            self.second = self.second + g * g
            return rate * g / (np.sqrt(self.second) + F(1e-8))
        self.first = beta * self.first + (1 - beta) * g
        self.second = F(0.999) * self.second + F(0.001) * g * g
        spread = np.sqrt(self.second / F(1 - 0.999**self.steps))
        return rate * (self.first / F(1 - float(beta) ** self.steps)) / (spread + F(1e-8))


def crowd(seed=0, clients=23, n_items=15, excluded=True, weighted=False):
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
        values=rng.uniform(0.2, 3.0, sum(lengths)).astype(F) if weighted else None,
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


def plain(loss="bce", rate=0.1, reg=0.05, **settings):
    return LocalTraining(loss, rate, reg, **settings)


BCE = plain()


def train(clients, d=9, epochs=2, negatives=3, local=BCE, **what):
    """Run the kernels: (users, per client {item: change}, steps)."""
    table, users = arrays(clients, d)
    drawn = draw(clients, SEEDS.seeds(clients.keys), epochs, negatives)
    before = table.copy()
    values, steps = local.run(drawn, table, users, **what)
    assert np.array_equal(table, before)
    pieces = [slice(a, b) for a, b in itertools.pairwise(drawn.indptr)]
    changes = [dict(zip(drawn.rows[p].tolist(), values[p], strict=True)) for p in pieces]
    return users, changes, steps


def expected(clients, d=9, epochs=2, negatives=3, local=BCE, **what):
    """The same in plain NumPy: per client (items, excluded, user, {item: change}, negatives, steps)."""
    table, users = arrays(clients, d)
    seeds = SEEDS.seeds(clients.keys)
    out = []
    for c in range(len(clients)):
        mine = slice(clients.indptr[c], clients.indptr[c + 1])
        items = clients.items[mine].tolist()
        weights = np.ones(len(items)) if clients.values is None else clients.values[mine]
        excluded = clients.excluded_items[clients.excluded_indptr[c] : clients.excluded_indptr[c + 1]].tolist()
        training = (seeds[c], table, users[c], local, epochs, negatives)
        out.append((items, excluded, *twin(items, weights, excluded, *training, **what)))
    return out


WAYS = [
    plain(),
    plain("squared"),
    plain("bpr"),
    plain("softmax", reg=0.0),  # the pull of a negative drawn twice for one positive compounds
    plain(proximal=3.0),
    plain("bpr", proximal=3.0),
    plain("softmax", proximal=3.0),
    plain(batch_size=5),
    plain("bpr", batch_size=4, proximal=2.0),
    plain("softmax", batch_size=3),
    plain("squared", batch_size=1000),
    plain("bce", rate=0.02, optimiser="momentum", batch_size=4),
    plain("bpr", rate=0.02, optimiser="adam"),
    plain("softmax", rate=0.02, optimiser="adam", batch_size=6, momentum=0.5),
    plain("squared", rate=0.02, optimiser="adagrad", batch_size=2),
]


@pytest.mark.parametrize(
    ("local", "what"),
    in_turn(WAYS, [(True, True, False), (True, False, False), (False, True, False), (True, True, True)]),
)
def test_every_client_is_trained_as_in_plain_numpy(local, what):
    learn_users, learn_items, weighted = what
    clients = crowd(weighted=weighted)
    what = {"learn_users": learn_users, "learn_items": learn_items}
    for d in (1, 8, 19) if local == WAYS[0] else (17,):
        users, changes, steps = train(clients, d, local=local, **what)
        for c, (_, _, user, change, _, twin_steps) in enumerate(expected(clients, d, local=local, **what)):
            assert np.allclose(users[c], user, rtol=2e-4, atol=1e-5)
            assert list(changes[c]) == list(change)  # the same draws in the same slots
            for item, values in change.items():
                assert np.allclose(changes[c][item], values, rtol=2e-4, atol=1e-5)
            if local.batch_size > 1:
                assert steps[c] == twin_steps


@pytest.mark.parametrize("loss", ["bce", "squared", "bpr", "softmax"])
def test_a_step_of_plain_sgd_is_a_batch_of_one(loss):
    clients = crowd(4, clients=12)
    reg = 0.0 if loss == "softmax" else 0.05
    users, changes, _ = train(clients, local=plain(loss, reg=reg))
    # momentum 0 is plain SGD, and takes the other kernel
    others, other_changes, steps = train(clients, local=plain(loss, reg=reg, optimiser="momentum", momentum=0.0))
    per_place = {"bce": 1 + 3, "squared": 1 + 3, "bpr": 3, "softmax": 1}[loss]
    assert np.allclose(users, others, rtol=1e-4, atol=1e-6)
    for c, change in enumerate(changes):
        assert all(np.allclose(values, other_changes[c][item], atol=1e-5) for item, values in change.items())
        if 0 < clients.lengths[c] < 13:
            assert steps[c] == 2 * clients.lengths[c] * per_place


def loss_of(name, user, table, places, reg):
    """The loss of one client in float64; `places` are (positive, negatives)."""

    def score(item):
        return user @ table[item, :-1] + table[item, -1]

    total = 0.0
    for positive, negatives in places:
        if name == "bce":
            total += np.log1p(np.exp(-score(positive))) + sum(np.log1p(np.exp(score(n))) for n in negatives)
        elif name == "squared":
            total += (score(positive) - 1) ** 2 / 2 + sum(score(n) ** 2 / 2 for n in negatives)
        elif name == "bpr":
            total += sum(np.log1p(np.exp(score(n) - score(positive))) for n in negatives)
        else:
            total -= score(positive) - np.log(sum(np.exp(score(i)) for i in (positive, *negatives)))
    for positive, negatives in places:
        terms = {"bpr": [(positive, n) for n in negatives], "softmax": [(positive, *negatives)]}
        for items in terms.get(name, [(item,) for item in (positive, *negatives)]):
            total += reg / 2 * (user @ user + sum(table[i] @ table[i] for i in items))
    return total


@pytest.mark.parametrize("loss", ["bce", "squared", "bpr", "softmax"])
def test_a_whole_batch_moves_along_the_gradient_by_finite_differences(loss):
    clients = crowd(7, clients=8, n_items=40, excluded=False)
    clients = clients.take(np.flatnonzero((clients.lengths > 2) & (clients.lengths < 12))[:3])
    table, start = arrays(clients, 5)
    local = plain(loss, rate=1.0, reg=0.03, batch_size=100_000)
    drawn = draw(clients, SEEDS.seeds(clients.keys), 1, 3)
    users = start.copy()
    values, _ = local.run(drawn, table, users)
    for c in range(len(clients)):
        own = drawn.rows[drawn.indptr[c] : drawn.indptr[c + 1]]
        ours = drawn.for_kernels
        slots = ours.samples[ours.sample_indptr[c] : ours.sample_indptr[c + 1]].reshape(-1, 4)
        places = [(own[row[0]], own[row[1:]]) for row in slots]
        terms = len(places) * {"bce": 4, "squared": 4, "bpr": 3, "softmax": 1}[loss]
        wide, user = table.astype(np.float64), start[c].astype(np.float64)

        def at(user=user, wide=wide, places=places):
            return loss_of(loss, user, wide, places, 0.03)

        for k in range(5):
            up, down = user.copy(), user.copy()
            up[k], down[k] = up[k] + 1e-5, down[k] - 1e-5
            slope = (at(user=up) - at(user=down)) / 2e-5 / terms
            assert np.isclose(start[c, k] - users[c, k], slope, rtol=1e-3, atol=1e-5)
        for entry, item in enumerate(own):
            for k in range(6):
                up, down = wide.copy(), wide.copy()
                up[item, k] += 1e-5
                down[item, k] -= 1e-5
                slope = (at(wide=up) - at(wide=down)) / 2e-5 / terms
                assert np.isclose(-values[drawn.indptr[c] + entry, k], slope, rtol=1e-3, atol=1e-5)


def test_an_infinite_pull_leaves_the_shared_rows_where_they_are():
    clients = crowd()
    for local in (plain(proximal=1e12), plain("bpr", proximal=1e12, batch_size=4, optimiser="adam")):
        users, changes, _ = train(clients, local=local)
        assert all(np.abs(values).max() < 1e-6 for change in changes for values in change.values())
        assert np.abs(users - arrays(clients, 9)[1])[2:].max() > 1e-3


@pytest.mark.parametrize("excluded", [True, False])
def test_negatives_are_never_in_the_history_nor_excluded(excluded):
    clients = crowd(5, clients=60, n_items=25, excluded=excluded)
    _, changes, _ = train(clients, 4)
    for change, (items, others, _, _, drawn, _) in zip(changes, expected(clients, 4), strict=True):
        assert not set(drawn) & {*items, *others}
        assert set(change) == {*items, *drawn}
        assert not set(change) & set(others)


@pytest.mark.parametrize("loss", ["bce", "squared", "bpr", "softmax"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_client_with_every_item_trains_on_positives_only(loss, batch_size):
    clients = crowd()
    assert clients.lengths[1] == clients.n_items
    users, changes, _ = train(clients, local=plain(loss, batch_size=batch_size))
    assert set(changes[1]) == set(range(clients.n_items))
    untouched = np.array_equal(users[1], arrays(clients, 9)[1][1])
    assert untouched == (loss in ("bpr", "softmax"))  # a comparison needs a negative
    assert changes[0] == {}


def test_a_client_with_one_item_left_draws_only_that_one():
    clients = crowd()
    _, changes, _ = train(clients)
    items = clients.items[clients.indptr[2] : clients.indptr[3]]
    excluded = clients.excluded_items[clients.excluded_indptr[2] : clients.excluded_indptr[3]]
    assert (len(items), len(excluded)) == (clients.n_items - 3, 2)
    assert set(changes[2]) == set(range(clients.n_items)) - set(excluded.tolist())


@pytest.mark.parametrize("local", [*WAYS[:4], WAYS[9], WAYS[13]], ids=lambda w: f"{w.loss}-{w.batch_size}")
def test_threads_and_batches_of_clients_do_not_change_a_bit(local):
    clients = crowd(3, clients=40)
    users, changes, _ = train(clients, local=local)

    def same(found, positions):
        assert np.array_equal(found[0], users[positions])
        for change, position in zip(found[1], positions, strict=True):
            assert list(change) == list(changes[position])
            assert all(np.array_equal(change[item], changes[position][item]) for item in change)

    for threads in (1, 2):
        with limit_threads(threads):
            for positions in (np.arange(40), np.arange(40)[::-1], np.array([5]), np.array([30, 2, 1, 17])):
                same(train(clients.take(positions), local=local), positions)


def test_further_rows_get_slots_of_their_own_and_change_no_draw():
    clients = crowd(6)
    seeds = SEEDS.seeds(clients.keys)
    without = draw(clients, seeds, 1, 2)
    rng = np.random.default_rng(0)
    wanted = [rng.permutation(clients.n_items)[: c % 5].astype(np.int32) for c in range(len(clients))]
    indptr = np.cumsum([0, *map(len, wanted)])
    drawn = draw(clients, seeds, 1, 2, (indptr, np.concatenate(wanted)))
    assert np.array_equal(drawn.for_kernels.samples, without.for_kernels.samples)
    for c, items in enumerate(wanted):
        rows = drawn.rows[drawn.indptr[c] : drawn.indptr[c + 1]]
        before = without.rows[without.indptr[c] : without.indptr[c + 1]]
        assert np.array_equal(rows[: len(before)], before)
        assert len(set(rows)) == len(rows) == len({*before, *items})
        assert np.array_equal(rows[drawn.more_slots[indptr[c] : indptr[c + 1]]], items)


def test_negatives_are_drawn_evenly_from_what_is_left():
    n_items = 12
    clients = crowd(9, clients=3000, n_items=n_items, excluded=False)
    clients = clients.take(np.flatnonzero(clients.lengths > 0))
    _, changes, _ = train(clients, 1, epochs=1, negatives=1)
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

    few, _, _ = train(clients, epochs=2, local=plain(reg=0.0), learn_items=False)
    many, _, _ = train(clients, epochs=40, local=plain(reg=0.0), learn_items=False)
    assert loss(many) < loss(few) < loss(start)


@pytest.mark.parametrize("length", [1, 2, 7, 10])
def test_half_of_a_history_is_drawn_evenly(length):
    indptr = np.arange(4001) * length
    keep = np.zeros(indptr[-1], dtype=np.bool_)
    draw_halves(indptr, SEEDS.seeds(np.arange(4000, dtype=np.uint64)), keep)
    chosen = keep.reshape(4000, length)
    assert (chosen.sum(axis=1) == length // 2).all()
    share = length // 2 / length
    assert np.abs(chosen.mean(axis=0) - share).max() < 5 * np.sqrt(max(share * (1 - share), 1e-9) / 4000)
