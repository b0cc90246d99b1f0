"""Matrix factorisation, FCF and FedRecon: rounds against formulas, plain NumPy and closed forms."""

import numpy as np
import pytest

from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource
from fedrec.data.sources import load_source
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Given
from fedrec.models.factors.local_training import LocalTraining, draw
from fedrec.models.factors.mf import MF
from fedrec.models.literature.fcf import FCF
from fedrec.models.literature.fedrecon import FedRecon, halves
from fedrec.models.server_optimisers import ServerOptimiser

RNG = KeyedSource.from_seed(4)
ITEMS = 30


def some_clients(lengths=(5, 1, 9, 0, 30), n_items=ITEMS, seed=0):
    rng = np.random.default_rng(seed)
    return Clients(
        indptr=np.cumsum([0, *lengths]).astype(np.int64),
        items=np.concatenate([rng.permutation(n_items)[:length] for length in lengths]).astype(np.int32),
        values=None,
        times=None,
        keys=rng.integers(0, 2**63, len(lengths)).astype(np.uint64),
        n_items=n_items,
        excluded_indptr=np.zeros(len(lengths) + 1, dtype=np.int64),
        excluded_items=np.empty(0, dtype=np.int32),
    )


def catalog(n_items=ITEMS):
    return Catalog(Identifiers.of(list(range(n_items))))


def one_round(model, state, private, clients, round=0):
    """The state after a round in which all clients take part, their new private rows, and the sum."""
    total = Sum.zeros(model.spec(state.shared, round).fit(1024), round)
    contributions, private = model.contribute(Given(round, state.shared, {}, RNG.child(round)), clients, private)
    assert total.add(contributions).all()
    return model.step(state, total, round), private, total


def begin(model, clients):
    state = model.start(catalog(clients.n_items), {}, RNG.child("start"))
    return state, model.join(Given(-1, state.shared, {}, RNG.child("join")), clients)


def local_change(model, shared, private, clients, round=0):
    """What local training alone does: users, and each client's change as a dense table [clients, items, d + 1]."""
    users = private["users"].copy()
    drawn = draw(clients, RNG.child(round).seeds(clients.keys), model.epochs, model.negatives)
    training = LocalTraining(model.loss, model.learning_rate, model.reg, model.batch_size)
    values, _ = training.run(drawn, shared["items"], users)
    dense = np.zeros((len(clients), *shared["items"].shape))
    owner = np.repeat(np.arange(len(clients)), np.diff(drawn.indptr))
    dense[owner, drawn.rows] = values
    touched = np.zeros((len(clients), clients.n_items), dtype=bool)
    touched[owner, drawn.rows] = True
    return users, dense, touched


# --- federated averaging ---


@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax", "squared"])
@pytest.mark.parametrize("denominator", ["count", "per_row"])
def test_averaging_one_client_is_its_own_training(loss, denominator):
    clients = some_clients((7,))
    model = MF(embedding_size=6, loss=loss, denominator=denominator, server_learning_rate=1.0, batch_size=3)
    state, private = begin(model, clients)
    users, dense, _ = local_change(model, state.shared, private, clients)
    after, renewed, _ = one_round(model, state, private, clients)
    assert np.abs(after.shared["items"] - state.shared["items"] - dense[0]).max() < 2**-20
    assert np.array_equal(renewed["users"], users)


def test_denominators_divide_by_clients_by_holders_of_a_row_or_by_a_constant():
    clients = some_clients()
    settings = {"embedding_size": 4, "server_learning_rate": 0.5}
    plain = MF(denominator="count", **settings)
    state, private = begin(plain, clients)
    _, dense, touched = local_change(plain, state.shared, private, clients)
    divisors = {"count": len(clients), "per_row": np.maximum(touched.sum(axis=0), 1)[:, None], "fixed": 8}
    for name, divisor in divisors.items():
        model = MF(denominator=name, expected_clients=8 if name == "fixed" else None, **settings)
        after, _, total = one_round(model, state, private, clients)
        expected = state.shared["items"] + 0.5 * dense.sum(axis=0) / divisor
        assert np.abs(after.shared["items"] - expected).max() < 1e-5
        assert ("weight" in total.spec.names) == (name != "fixed")


# --- server optimisers ---


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "yogi", "adagrad"])
def test_server_optimisers_are_their_formulas(rule):
    rng = np.random.default_rng(1)
    table = rng.normal(size=(5, 3)).astype(np.float32)
    optimiser = ServerOptimiser(rule, learning_rate=0.3, first_decay=0.8, second_decay=0.95, floor=0.01)
    moments = optimiser.start(table)
    x, m, v = table.astype(float), np.zeros((5, 3)), np.full((5, 3), 1e-4)
    for _ in range(6):
        delta = rng.normal(size=(5, 3)) * (rng.random((5, 3)) < 0.7)
        for place in np.ndindex(5, 3):  # by coordinate, as the paper writes it
            g = delta[place]
            m[place] = 0.8 * m[place] + (g if rule == "momentum" else 0.2 * g)
            if rule == "adagrad":
                v[place] += g * g
            elif rule == "yogi":
                v[place] -= 0.05 * g * g * np.sign(v[place] - g * g)
            elif rule == "adam":
                v[place] = 0.95 * v[place] + 0.05 * g * g
            step = {"sgd": g, "momentum": m[place]}.get(rule, m[place] / (np.sqrt(v[place]) + 0.01))
            x[place] += 0.3 * step
        table, moments = optimiser.step(table, delta, moments)
        assert np.allclose(table, x, rtol=1e-4, atol=1e-5)
    assert set(moments) == {"sgd": set(), "momentum": {"first_moment"}}.get(rule, {"first_moment", "second_moment"})


def test_moments_are_the_coordinators_alone():
    model = MF(embedding_size=4, server_optimiser="yogi", server_learning_rate=0.1)
    clients = some_clients()
    state, private = begin(model, clients)
    after, _, _ = one_round(model, state, private, clients)
    assert set(after.shared) == {"items"}
    assert np.abs(after.server["first_moment"]).max() > 0


# --- SCAFFOLD ---


def test_drift_is_added_in_every_step_to_every_row():
    """The kernel brings a row up to date when it is touched; here every step moves all rows."""
    clients = some_clients((6, 11))
    rng = np.random.default_rng(2)
    table = rng.normal(0, 0.3, (ITEMS, 5)).astype(np.float32)
    start = rng.normal(0, 0.3, (2, 4)).astype(np.float32)
    drawn = draw(clients, RNG.seeds(clients.keys), 2, 2)
    drift = rng.normal(0, 0.1, (len(drawn.rows), 5)).astype(np.float32)
    for batch in (1, 4):
        users = start.copy()
        values, steps = LocalTraining("bce", 0.1, 0.02, batch).run(drawn, table, users, drift=drift)
        for c in range(2):
            own = slice(drawn.indptr[c], drawn.indptr[c + 1])
            rows, user = table[drawn.rows[own]].astype(float), start[c].astype(float)
            ours = drawn.for_kernels
            samples = ours.samples[ours.sample_indptr[c] : ours.sample_indptr[c + 1]].reshape(2, -1)
            taken = 0
            for epoch in samples:
                for low in range(0, len(epoch), batch):
                    slope, gradient = np.zeros(4), np.zeros_like(rows)
                    terms = range(low, min(low + batch, len(epoch)))
                    for place in terms:
                        slot = epoch[place]
                        error = 1 / (1 + np.exp(-(user @ rows[slot, :-1] + rows[slot, -1]))) - (place % 3 == 0)
                        slope += error * rows[slot, :-1] + 0.02 * user
                        gradient[slot] += error * np.append(user, 1) + 0.02 * rows[slot]
                    user = user - 0.1 * slope / len(terms)
                    rows -= 0.1 * (gradient / len(terms) + drift[own])
                    taken += 1
            assert steps[c] == taken
            assert np.allclose(users[c], user, atol=1e-4)
            assert np.allclose(values[own], rows - table[drawn.rows[own]], atol=1e-4)


def test_scaffold_with_one_client_is_its_own_training_and_keeps_its_mean_gradient():
    clients = some_clients((7,))
    settings = {"embedding_size": 4, "server_learning_rate": 1.0, "negatives": 2}
    model = MF(scaffold=True, control_rows=40, **settings)
    state, private = begin(model, clients)
    for round in range(3):  # with one client c = cᵢ, so nothing is corrected
        users, dense, touched = local_change(model, state.shared, private, clients, round)
        old = state.shared["items"]
        state, private, _ = one_round(model, state, private, clients, round)
        assert np.abs(state.shared["items"] - old - dense[0]).max() < 1e-5
        assert np.allclose(private["users"], users, atol=1e-6)
        held = private["control_items"][0][private["control_items"][0] >= 0]
        assert set(held) == set(np.flatnonzero(touched[0]))
        own = np.zeros_like(old)
        own[held] = private["controls"][0][: len(held)]
        assert np.abs(own + dense[0] / (7 * 3 * model.learning_rate)).max() < 1e-5
        assert np.abs(state.shared["control"] - own).max() < 1e-6


def test_scaffold_sums_are_the_papers_update_over_all_rows():
    """Dense NumPy of algorithm 1 with the drift K · rate · c on every row of every client."""
    clients = some_clients((5, 8, 3))
    model = MF(embedding_size=3, scaffold=True, control_rows=4, server_learning_rate=0.7, epochs=2)
    state, private = begin(model, clients)
    for round in range(3):
        common = state.shared["control"].astype(float)
        own = np.zeros((3, *common.shape))
        for c in range(3):
            held = private["control_items"][c] >= 0
            own[c, private["control_items"][c][held]] = private["controls"][c][held]
        after, renewed, _ = one_round(model, state, private, clients, round)
        more = private["control_items"] >= 0
        stored = np.cumsum([0, *more.sum(axis=1)]), private["control_items"][more]
        drawn = draw(clients, RNG.child(round).seeds(clients.keys), 2, model.negatives, stored)
        owner = np.repeat(np.arange(3), np.diff(drawn.indptr))
        drift = (common - own)[owner, drawn.rows].astype(np.float32)
        users = private["users"].copy()
        values, steps = LocalTraining("bce", model.learning_rate, model.reg).run(
            drawn, state.shared["items"], users, drift=drift
        )
        change = -model.learning_rate * steps[:, None, None] * np.broadcast_to(common, own.shape)
        change[owner, drawn.rows] = values
        expected = state.shared["items"] + 0.7 * change.mean(axis=0)
        assert np.abs(after.shared["items"] - expected).max() < 1e-5
        fresh = own - common - change / (steps[:, None, None] * model.learning_rate)
        kept = np.zeros_like(fresh)
        for c in range(3):
            newest = clients.items[clients.indptr[c] : clients.indptr[c + 1]][-4:]
            held = renewed["control_items"][c]
            assert set(newest) <= set(held)
            kept[c, held[held >= 0]] = fresh[c, held[held >= 0]]
        assert np.abs(after.shared["control"] - kept.mean(axis=0)).max() < 1e-5
        state, private = after, renewed


def test_scaffold_reaches_the_optimum_that_local_epochs_drift_away_from():
    """Two clients with fixed factors, the one item, squared loss and a pull: least squares has the answer."""
    n_items, pull, rate, epochs = 1, 0.3, 0.05, 40
    clients = some_clients((n_items, n_items), n_items)
    users = np.array([[2.0, 0.0], [-0.5, 1.0]], dtype=np.float32)
    matrix, target = np.zeros((3, 3)), np.zeros(3)
    for user in users:
        x = np.append(user, 1.0)
        matrix, target = matrix + np.outer(x, x) + pull * np.eye(3), target + x
    optimum = np.linalg.solve(matrix, target)
    training = LocalTraining("squared", rate, pull)
    drawn = draw(clients, RNG.seeds(clients.keys), epochs, 1)
    found = {}
    for corrected in (False, True):
        table = np.zeros((n_items, 3), dtype=np.float32)
        own = np.zeros((2, 3), dtype=np.float32)
        for _ in range(200):
            drift = (own.mean(axis=0) - own) * np.float32(corrected)
            values, steps = training.run(drawn, table, users.copy(), learn_users=False, drift=drift)
            own = own - own.mean(axis=0) - values / np.float32(rate * steps[0])
            table = table + values.mean(axis=0)
        found[corrected] = np.abs(table - optimum).max()
    assert found[True] < 1e-3
    assert found[False] > 0.02


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"denominator": "fixed"}, "expected_clients"),
        ({"expected_clients": 5}, "expected_clients"),
        ({"scaffold": True, "local_optimiser": "adam"}, "set local_optimiser to sgd"),
        ({"scaffold": True, "proximal": 0.1}, "proximal to 0"),
        ({"scaffold": True, "denominator": "per_row"}, "set denominator to count"),
    ],
)
def test_settings_that_mean_nothing_together_are_plan_errors(settings, said):
    with pytest.raises(PlanError, match=said):
        Plan.make({"data": {"source": "memory"}, "model": {"name": "mf", **settings}})


def test_fedrecon_keeps_nothing_so_it_has_no_control_variates():
    with pytest.raises(PlanError, match="keeps nothing"):
        FedRecon(scaffold=True)


# --- FedRecon ---


def test_support_and_query_are_halves_that_exclude_each_other():
    clients = some_clients()
    support, query = halves(clients, RNG)
    assert support.lengths.tolist() == [2, 0, 4, 0, 15]
    for c in range(len(clients)):
        mine = slice(clients.indptr[c], clients.indptr[c + 1])
        first = support.items[support.indptr[c] : support.indptr[c + 1]]
        second = query.items[query.indptr[c] : query.indptr[c + 1]]
        assert sorted([*first, *second]) == sorted(clients.items[mine])
        assert set(support.excluded_items[support.excluded_indptr[c] : support.excluded_indptr[c + 1]]) == set(second)


def test_fedrecon_trains_query_rows_with_a_factor_rebuilt_from_the_support():
    clients = some_clients((8, 5))
    model = FedRecon(embedding_size=4, server_learning_rate=1.0, denominator="per_row", rebuild_epochs=3)
    state, private = begin(model, clients)
    assert private is None
    support, query = halves(clients, RNG.child(0).child("support"))
    users = np.zeros((2, 4), dtype=np.float32)
    rebuild = draw(support, RNG.child(0).child("rebuild").seeds(clients.keys), 3, model.negatives)
    LocalTraining("bce", model.rebuild_rate, model.reg).run(rebuild, state.shared["items"], users, learn_items=False)
    drawn = draw(query, RNG.child(0).seeds(clients.keys), model.epochs, model.negatives)
    fixed = users.copy()
    values, _ = LocalTraining("bce", model.learning_rate, model.reg).run(
        drawn, state.shared["items"], fixed, learn_users=False
    )
    assert np.array_equal(fixed, users)
    sums, holders = np.zeros((ITEMS, 5)), np.zeros(ITEMS)
    np.add.at(sums, drawn.rows, values)
    np.add.at(holders, drawn.rows, 1)
    after, kept, _ = one_round(model, state, private, clients)
    assert kept is None
    expected = state.shared["items"] + sums / np.maximum(holders, 1)[:, None]
    assert np.abs(after.shared["items"] - expected).max() < 1e-5


# --- FCF ---


def test_fcf_solves_users_and_sums_the_dense_gradient():
    clients = some_clients()
    model = FCF(embedding_size=5, alpha=3.0, reg=0.7, learning_rate=0.02)
    state, private = begin(model, clients)
    table = state.shared["items"].astype(float)
    gradient = 2 * 0.7 * table
    for c in range(len(clients)):
        p = np.zeros(ITEMS)
        p[clients.items[clients.indptr[c] : clients.indptr[c + 1]]] = 1
        confidence = 1 + 3.0 * p
        x = np.linalg.solve((table.T * confidence) @ table + 0.7 * np.eye(5), table.T @ (confidence * p))
        gradient -= 2 * np.outer(confidence * (p - table @ x), x)
        scores = model.score(Given.to_score(state.shared, {}), clients.take(np.array([c])), None)[0]
        assert np.allclose(scores, table @ x, atol=1e-4)
    after, kept, total = one_round(model, state, private, clients)
    assert kept is None
    assert total.saturated == 0
    assert np.allclose(model.gradient(state.shared["items"], total), gradient, atol=1e-3)
    # Adam's first step with its bias corrected goes along the sign of the gradient
    moved = after.shared["items"] - state.shared["items"]
    sizes = np.abs(gradient)
    assert np.allclose(moved, -0.02 * np.sign(gradient) * sizes / (sizes + 1e-8), atol=1e-5)


def test_fcf_rounds_lower_its_loss():
    clients = some_clients((5, 9, 12, 7), seed=3)
    model = FCF(embedding_size=6, reg=1.0)
    state, private = begin(model, clients)

    def loss(shared):
        p = np.zeros((len(clients), ITEMS))
        p[np.repeat(np.arange(len(clients)), clients.lengths), clients.items] = 1
        users = model._users(shared, clients)
        factors = shared["items"].astype(float)
        return ((1 + 4.0 * p) * (p - users @ factors.T) ** 2).sum() + (users**2).sum() + (factors**2).sum()

    losses = [loss(state.shared)]
    for round in range(20):
        state, private, _ = one_round(model, state, private, clients, round)
        losses.append(loss(state.shared))
    assert losses[-1] < losses[5] < losses[0]


# --- real data ---


def hit_rates(source, **model):
    """HR@10 (sampled:99) on the test part of leave-last-out."""
    data = load_source(str(source)).interactions
    plan = Plan.make({"data": {"source": "memory"}, "model": model}).resolve(data, "")
    engine = LocalEngine.build(data, plan)
    coordinator = Coordinator(Agreement.of(plan, data.catalog), engine, Run(plan, None), True)
    trained = coordinator.train()
    return coordinator.evaluate(trained.state, trained.rounds - 1, "test", ["hr@10"], "sampled:99")["hr@10"].value


def test_mf_beats_popularity_on_a_small_log():
    log = "synthetic:users=400,items=200,seed=1"
    assert hit_rates(log, name="mf", rounds=20) > hit_rates(log, name="popularity") + 0.02


@pytest.mark.real
@pytest.mark.parametrize(
    ("model", "least"),
    [
        ({"name": "mf"}, 0.62),
        ({"name": "mf", "loss": "bpr"}, 0.62),
        ({"name": "mf", "loss": "softmax"}, 0.60),
        ({"name": "fcf"}, 0.60),
        ({"name": "fedrecon"}, 0.58),
    ],
    ids=str,
)
def test_defaults_beat_popularity_on_movielens(real, model, least):
    """Popularity has .408."""
    assert hit_rates(real("ml-100k"), **model) >= least
