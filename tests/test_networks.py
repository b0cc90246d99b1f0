"""Networks: the round is central mini-batch training, draws belong to clients, and what a module does wrong is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedrec as fr
from fedrec.aggregation.pooled import Pooled
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource
from fedrec.errors import FedrecError, InputError, PlanError
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays, Given, Private, Recommender, State
from fedrec.models.networks import visits
from fedrec.models.networks.batch import Batch, batch_of
from fedrec.models.networks.devices import steady
from fedrec.models.networks.network import Network
from fedrec.models.networks.neumf import NeuMF
from fedrec.models.networks.rating_network import RatingNetwork
from fedrec.models.networks.sasrec import SASRec
from fedrec.models.networks.training import parameters
from fedrec.models.networks.two_tower import TwoTower

ITEMS, USERS, ROUNDS = 30, 24, 20
SOURCE = KeyedSource.from_seed(3)
SMALL: dict[str, Any] = {"rounds": ROUNDS, "window": 6, "optimiser": "adam", "learning_rate": 0.01}
MODELS: dict[str, Network] = {
    "sasrec": SASRec(embedding_size=8, start_from="random", negatives=16, schedule="constant", **SMALL),
    "sasrec-gbce-rotary": SASRec(
        embedding_size=8, start_from="random", negatives=16, loss="gbce", positions="rotary", **SMALL
    ),
    "sasrec-softmax": SASRec(embedding_size=8, start_from="random", loss="softmax", warmup=4, **SMALL),
    "neumf": NeuMF(embedding_size=4, hidden=(6,), start_from="random", positives=5, schedule="constant", **SMALL),
    "neumf-private": NeuMF(embedding_size=4, hidden=(6,), user="private", start_from="random", **SMALL),
    "two-tower": TwoTower(embedding_size=8, hidden=8, start_from="random", **SMALL),
    "two-tower-drawn": TwoTower(embedding_size=8, hidden=8, start_from="random", negatives=12, **SMALL),
}


def everyone(users: int = USERS) -> Clients:
    """Clients with 3 to 10 of the items each, the first with one item."""
    rng = np.random.default_rng(1)
    lengths = np.r_[1, rng.integers(3, 11, users - 1)]
    items = np.concatenate([rng.choice(ITEMS, length, replace=False) for length in lengths]).astype(np.int32)
    indptr = np.r_[0, np.cumsum(lengths)].astype(np.int64)
    keys = np.arange(users, dtype=np.uint64) * 7919
    return Clients(indptr, items, None, None, keys, ITEMS, np.zeros(users + 1, np.int64), np.empty(0, np.int32))


def catalog() -> Catalog:
    return Catalog(Identifiers.of(range(ITEMS)))


def given(model: Network, shared: Arrays, round: int) -> Given:
    return Given(round, shared, {}, SOURCE.child("contribute", round))


def trained(model: Network, nodes: list[np.ndarray], rounds: int = ROUNDS) -> tuple[State, Private | None]:
    """The model after some rounds over nodes that hold the clients at some positions."""
    clients, state = everyone(), model.start(catalog(), {}, SOURCE.child("start"))
    private = model.join(Given(-1, state.shared, {}, SOURCE.child("join")), clients)
    rows = None if private is None else {name: array.copy() for name, array in private.items()}
    for round in range(rounds):
        spec = model.spec(state.shared, round)
        assert spec is not None
        total = Sum.zeros(spec.fit(100), round)
        for places in nodes:
            own = None if rows is None else {name: array[places] for name, array in rows.items()}
            contributions, renewed = model.contribute(given(model, state.shared, round), clients.take(places), own)
            total.add(contributions)
            if rows is not None and renewed is not None:
                for name, array in renewed.items():
                    rows[name][places] = array
        assert total.clients == USERS
        assert total.saturated == 0
        state = model.step(state, total, round)
    return state, rows


def centrally(model: Network, rounds: int = ROUNDS) -> dict[str, np.ndarray]:
    """The same module in a plain loop over the pooled clients, as torch's own pages train it."""
    clients = everyone()
    with steady(SOURCE.child("start").seed):
        module = model.module(ITEMS)
    rule = torch.optim.Adam(parameters(module).values(), lr=model.learning_rate, betas=(0.9, model.second_decay))
    for round in range(rounds):
        _central_step(model, module, rule, clients, round)
    return {name: value.detach().numpy() for name, value in parameters(module).items()}


def _central_step(model: Network, module: nn.Module, rule: torch.optim.Adam, clients: Clients, round: int) -> None:
    """A step of torch's own optimiser on a batch of clients."""
    rng = SOURCE.child("contribute", round)
    batch = batch_of(
        clients,
        model.window,
        rng.child("epoch", 0).seeds(clients.keys),
        common=visits._COMMON.child(round, 0).seed,
        training=True,
        crops=model.crops,
    )
    for group in rule.param_groups:
        group["lr"] = model.learning_rate * model.rate_share(round)
    told = module.loss(batch)  # type: ignore[operator]
    losses, weights = told if isinstance(told, tuple) else (told, torch.ones(len(batch)))
    rule.zero_grad()
    (losses.sum() / weights.sum()).backward()
    rule.step()


PLACES = [np.arange(0, USERS, 3), np.arange(1, USERS, 3), np.arange(2, USERS, 3)]


OFTEN = {"sasrec", "neumf", "two-tower"}
"""What is held to a plain loop in every check; variants are in the exhaustive one."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in OFTEN else pytest.mark.exhaustive)
        for name in MODELS
        if not MODELS[name].private_lengths()
    ],
)
def test_rounds_over_nodes_are_central_mini_batch_training(name: str) -> None:
    model = MODELS[name]
    plain = centrally(model)
    start = model.start(catalog(), {}, SOURCE.child("start")).shared
    for nodes in ([np.arange(USERS)], PLACES):
        state, _ = trained(model, nodes)
        assert state.shared.keys() == plain.keys()
        for parameter, value in plain.items():
            assert np.abs(state.shared[parameter] - value).max() < 1e-4, parameter
    moved = [np.abs(plain[parameter] - start[parameter]).max() for parameter in plain]
    assert max(moved) > 0.05


@pytest.mark.real
@pytest.mark.parametrize("nodes", [1, 3])
def test_neumf_over_nodes_is_as_good_as_in_a_plain_loop(nodes: int) -> None:
    split = fr.leave_last_out(fr.load_data("ml-100k"))
    clients = Clients.of(split.train, np.arange(split.data.n_users, dtype=np.uint64) * 7919)
    known = Clients.of(split.history("test"), clients.keys)
    model = NeuMF(rounds=150, start_from="random", schedule="constant")
    state = model.start(split.data.catalog, {}, SOURCE.child("start"))
    with steady(SOURCE.child("start").seed):
        module = model.module(clients.n_items)
    rule = torch.optim.Adam(parameters(module).values(), lr=model.learning_rate)
    for round in range(model.rounds):
        places = np.random.default_rng(round).choice(len(clients), 64, replace=False)
        spec = model.spec(state.shared, round)
        assert spec is not None
        total = Sum.zeros(spec.fit(len(clients)), round)
        for node in range(nodes):
            own = clients.take(places[places % nodes == node])
            total.add(model.contribute(given(model, state.shared, round), own, None)[0])
        state = model.step(state, total, round)
        _central_step(model, module, rule, clients.take(places), round)
    plain = {name: value.detach().numpy() for name, value in parameters(module).items()}
    of_nodes, of_loop = (_gains(model, shared, known, split.test) for shared in (state.shared, plain))
    assert of_loop.mean() > 0.03
    assert abs(of_nodes.mean() - of_loop.mean()) < of_loop.std() / len(of_loop) ** 0.5


def _gains(model: Network, shared: Arrays, known: Clients, test: fr.Interactions) -> np.ndarray:
    """NDCG@10 of each user's one test item, among the whole catalog without the history."""
    scores = model.score(Given.to_score(shared, {}), known, None)
    scores[np.repeat(np.arange(len(known)), known.lengths), known.items] = -np.inf
    users = np.flatnonzero(test.lengths)
    ranks = (scores[users] > scores[users, test.items][:, None]).sum(1) + 1
    return np.where(ranks <= 10, 1.0 / np.log2(ranks + 1.0), 0.0)


def test_one_partition_gives_the_same_bits_again() -> None:
    first, second = (trained(MODELS["sasrec"], PLACES, 4)[0].shared for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", ["sasrec", "neumf-private"])
def test_clients_apart_add_up_to_clients_together(name: str) -> None:
    together = MODELS[name]
    apart = together.model_copy(update={"granularity": "client"})
    one, rows = trained(together, PLACES, 3)
    other, own = trained(apart, PLACES, 3)
    for parameter in one.shared:
        assert np.abs(one.shared[parameter] - other.shared[parameter]).max() < 1e-4
    if rows is not None and own is not None:
        assert np.abs(rows["users"] - own["users"]).max() < 1e-4


def test_private_vectors_follow_their_clients_and_are_not_among_shared_arrays() -> None:
    model = MODELS["neumf-private"]
    state, rows = trained(model, PLACES, 3)
    first = model.join(Given(-1, state.shared, {}, SOURCE.child("join")), everyone())
    assert rows is not None
    assert first is not None
    assert (np.abs(rows["users"] - first["users"]).max(axis=1) > 1e-3).all()
    assert all(array.shape[0] != USERS for array in state.shared.values())
    folded = model.fold_in(Given.to_score(state.shared, {}), everyone())
    assert folded is not None
    alone = model.fold_in(Given.to_score(state.shared, {}), everyone().take(np.array([5])))
    assert alone is not None
    assert np.allclose(folded["users"][5], alone["users"][0], atol=1e-5)


def test_a_local_step_of_all_clients_is_a_step_of_the_coordinator() -> None:
    settings: dict[str, Any] = {"embedding_size": 8, "start_from": "random", "loss": "softmax", "optimiser": "sgd"}
    terms: dict[str, Any] = {"window": 6, "learning_rate": 0.5, "rounds": 5, "schedule": "constant"}
    at_server = SASRec(**settings, **terms)
    at_nodes = SASRec(method="fedavg", local_batch=USERS, **settings, **terms)
    everywhere = [np.arange(USERS)]
    one, other = trained(at_server, everywhere, 3)[0].shared, trained(at_nodes, everywhere, 3)[0].shared
    assert all(np.abs(one[name] - other[name]).max() < 2e-5 for name in one)


def test_a_proximal_term_keeps_nodes_near_the_shared_parameters() -> None:
    changes = []
    for proximal in (0.0, 30.0):
        model = MODELS["neumf"].model_copy(
            update={"method": "fedavg", "optimiser": "sgd", "local_epochs": 6, "local_batch": 4, "proximal": proximal}
        )
        start = model.start(catalog(), {}, SOURCE.child("start")).shared
        state, _ = trained(model, PLACES, 1)
        changes.append(sum(float(np.square(state.shared[name] - start[name]).sum()) for name in start))
    assert changes[1] < 0.7 * changes[0]


def test_each_client_may_train_alone() -> None:
    model = MODELS["neumf"].model_copy(update={"method": "fedavg", "granularity": "client", "local_epochs": 2})
    start = model.start(catalog(), {}, SOURCE.child("start")).shared
    one, three = (trained(model, nodes, 2)[0].shared for nodes in ([np.arange(USERS)], PLACES))
    for name in start:
        assert np.abs(one[name] - three[name]).max() < 1e-5
    assert max(np.abs(one[name] - start[name]).max() for name in start) > 1e-3


# --- batches ----------------------------------------------------------------------------------------------------------


def batch(places: np.ndarray, **settings: Any) -> Batch:
    clients = everyone().take(places)
    return batch_of(clients, 6, SOURCE.seeds(clients.keys), training=True, common=9, **settings)


def test_a_batch_has_the_newest_items_last_and_fills_up_before_them() -> None:
    clients, made = everyone(), batch(np.arange(USERS))
    for client in range(USERS):
        own = clients.items[clients.indptr[client] : clients.indptr[client + 1]][-6:]
        row = made.items[client].tolist()
        assert row == [ITEMS] * (6 - len(own)) + own.tolist()
        assert sorted(torch.nonzero(made.has[client])[:, 0].tolist()) == sorted(own.tolist())
    table = torch.arange(ITEMS, dtype=torch.float32)[:, None] + 1.0
    assert made.rows(table)[:, :, 0].sum().item() == (made.items[made.known] + 1).sum().item()


def test_draws_are_a_clients_own() -> None:
    whole, part = batch(np.arange(USERS)), batch(np.array([20, 4]))
    for draws in (
        lambda made: made.uniform("u", 5),
        lambda made: made.negatives(7),
        lambda made: made.dropout(torch.ones((len(made), 3, 3)), 0.5, "d"),
    ):
        assert torch.equal(draws(whole)[[20, 4]], draws(part))
    assert torch.equal(whole.candidates(50), part.candidates(50))
    assert not torch.equal(whole.uniform("u", 5), whole.uniform("v", 5))


def test_draws_are_even_and_negatives_are_not_in_the_window() -> None:
    many = replace(batch(np.arange(USERS)), seeds=torch.arange(USERS))
    numbers = many.uniform("u", 5000)
    assert 0.0 <= float(numbers.min()) < 0.001
    assert 0.999 < float(numbers.max()) < 1.0
    assert abs(float(numbers.mean()) - 0.5) < 0.005
    assert abs(float(numbers.std()) - 12**-0.5) < 0.005
    assert abs(float(np.corrcoef(numbers[:, :-1].flatten(), numbers[:, 1:].flatten())[0, 1])) < 0.02
    kept = many.dropout(torch.ones((USERS, 4000)), 0.3, "d")
    assert abs(float((kept > 0).float().mean()) - 0.7) < 0.01
    assert abs(float(kept.mean()) - 1.0) < 0.02
    assert not bool((many.has.gather(1, many.negatives(200)) > 0).any())
    counts = torch.bincount(many.candidates(30_000), minlength=ITEMS)
    assert int(counts.min()) > 800
    assert int(counts.max()) < 1200


def test_long_histories_are_cropped_at_random_where_the_model_asks() -> None:
    clients = everyone()
    newest = batch(np.arange(USERS))
    cropped = batch(np.arange(USERS), crops=1.0)
    differ = (newest.items != cropped.items).any(1).numpy()
    assert differ.any()
    assert not differ[clients.lengths <= 6].any()
    for client in range(USERS):
        own = clients.items[clients.indptr[client] : clients.indptr[client + 1]].tolist()
        row = [item for item in cropped.items[client].tolist() if item < ITEMS]
        assert len(row) == min(6, len(own))
        assert any(own[start : start + len(row)] == row for start in range(len(own)))


def test_the_dense_row_of_a_client_has_the_values_of_its_window() -> None:
    clients = everyone()
    rated = replace(clients, values=np.arange(1, len(clients.items) + 1, dtype=np.float32))
    plain, valued = (batch_of(one, 6, SOURCE.seeds(one.keys)) for one in (clients, rated))
    assert torch.equal(plain.dense, plain.has)
    assert torch.equal(valued.dense > 0, plain.has > 0)
    for client in range(USERS):
        rows = np.arange(clients.indptr[client], clients.indptr[client + 1])[-6:]
        assert valued.dense[client, clients.items[rows]].tolist() == (rows + 1.0).tolist()


# --- what goes wrong --------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A module that does one thing wrong."""

    def __init__(self, n_items: int, wrong: str) -> None:
        super().__init__()
        self.wrong, self.bias = wrong, nn.Parameter(torch.zeros(n_items))

    def scores(self, batch: Batch) -> Tensor:
        return (batch.has + self.bias)[:, : -1 if self.wrong == "scores" else None]

    def loss(self, batch: Batch) -> Tensor:
        losses = (self.bias * batch.has).sum(1)
        if self.wrong == "nan":
            return losses + torch.where(batch.items[:, -1] % 5 == 0, float("nan"), 0.0)
        return losses.sum() if self.wrong == "loss" else losses


class OddNetwork(Network):
    """A network for tests."""

    name: ClassVar[str] = "odd"
    wrong: str = ""

    def module(self, n_items: int) -> nn.Module:
        return Odd(n_items, self.wrong)


def test_a_loss_of_another_shape_is_told() -> None:
    model = OddNetwork(wrong="loss")
    state = model.start(catalog(), {}, SOURCE)
    with pytest.raises(FedrecError, match=r"Odd\.loss must give one loss for each of the 24 clients, not .* \[\]"):
        model.contribute(given(model, state.shared, 0), everyone(), None)


def test_a_module_that_cannot_be_made_is_told() -> None:
    with pytest.raises(
        PlanError, match=r"model 'neumf': its module cannot be made for 5 items with these settings: .*Error"
    ):
        NeuMF(embedding_size=2**70).shapes(5)


def test_scores_of_another_shape_are_told() -> None:
    model = OddNetwork(wrong="scores")
    state = model.start(catalog(), {}, SOURCE)
    with pytest.raises(FedrecError, match=r"Odd\.scores must give \[clients, items\] = \[64, 30\], not \[64, 29\]"):
        model.score(Given.to_score(state.shared, {}), everyone(), None)


def test_clients_whose_loss_is_not_finite_are_left_out_alone() -> None:
    model, clients = OddNetwork(wrong="nan"), everyone()
    state = model.start(catalog(), {}, SOURCE)
    spec = model.spec(state.shared, 0)
    assert spec is not None
    total = Sum.zeros(spec.fit(100))
    contributions, _ = model.contribute(given(model, state.shared, 0), clients, None)
    total.add(contributions)
    last = clients.items[clients.indptr[1:] - 1]
    assert total.left_out == int((last % 5 == 0).sum()) > 0
    assert total.value("terms")[0] == total.clients
    has = np.zeros(ITEMS)
    for client in np.flatnonzero(last % 5):
        has[clients.items[clients.indptr[client] : clients.indptr[client + 1]]] += 1
    assert np.array_equal(total.value("bias"), -has)


def test_nobody_can_be_taken_out_of_a_pooled_sum() -> None:
    spec = SumSpec((ArraySpec("g", "dense", (2,), 1.0, 8, pooled=True),)).fit(10).arrays[0]
    pooled = Pooled(np.array([0.5, 0.25]), np.array([True, True]))
    with pytest.raises(ValueError, match="1 clients cannot be taken out of a pooled sum"):
        pooled.add_to(np.zeros(2, np.int32), spec, np.array([True, False]))
    for refused in (pooled.sq_norms, lambda: pooled.scale(np.ones(2)), lambda: pooled.clip_rows(1.0)):
        with pytest.raises(ValueError, match="the contributions are pooled"):
            refused()


@pytest.mark.parametrize("step", [{"step": "clip", "norm": 1.0}, {"step": "weight", "by": "interactions"}])
def test_a_plan_that_clips_or_weighs_clients_needs_them_apart(step: dict[str, Any]) -> None:
    base: dict[str, Any] = {"data": {"source": "memory"}, "release": [step]}
    model = {"name": "neumf", "rounds": 5}
    with pytest.raises(PlanError, match=rf"release: {step['step']} needs each client's contribution"):
        Plan.make(base | {"model": model})
    Plan.make(base | {"model": model | {"granularity": "client"}})


def test_a_network_names_its_cohort_and_a_plan_may_name_another() -> None:
    base = {"data": {"source": "memory"}, "model": {"name": "sasrec"}}
    assert Plan.make(base).cohort == 128
    assert Plan.make(base | {"cohort": 0.5}).cohort == 0.5
    assert fr.SASRec().plan.cohort == 128
    assert fr.SASRec(cohort=1.0).plan.cohort == 1.0
    assert fr.EASE().plan.cohort == 1.0


def test_counts_and_sketches_are_of_everybody_and_steps_are_of_the_cohort() -> None:
    seen: list[int] = []
    data = fr.synthetic(users=150, items=40, interactions_per_user=9, seed=1)
    settings = {"rounds": 8, "passes": 2, "window": 8, "embedding_size": 4, "heads": 1, "blocks": 1}
    fr.SASRec(cohort=0.3, **settings).fit(data, nodes=2, watch=lambda progress: seen.append(progress.cohort))
    assert seen[:3] == [150] * 3
    assert all(20 < drawn < 75 for drawn in seen[3:])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"embedding_size": 9, "heads": 2}, "embedding_size 9 cannot be divided among 2 heads"),
        ({"embedding_size": 6, "heads": 2, "positions": "rotary"}, "of even width, as rotary positions ask"),
        ({"rounds": 4}, "the first 4 rounds make the spectral start, so rounds must be more than 4"),
    ],
)
def test_settings_that_do_not_fit_are_told(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        SASRec(**settings)


class Mean(nn.Module):
    """Predicts a client's mean value, times a factor that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([5.0]))

    def scores(self, batch: Batch) -> Tensor:
        mean = batch.dense.sum(1) / batch.has.sum(1)
        return (self.factor * mean)[:, None].expand(-1, batch.n_items)

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        return ((self.scores(batch) - batch.dense) ** 2 * batch.has).sum(1), batch.has.sum(1)


class MeanNetwork(RatingNetwork):
    """A network of ratings for tests."""

    name: ClassVar[str] = "mean"

    def module(self, n_items: int) -> nn.Module:
        return Mean()


def test_a_network_of_ratings_learns_them_and_keeps_predictions_on_the_scale() -> None:
    clients = everyone()
    rated = replace(clients, values=np.repeat(np.arange(USERS) % 4 + 1.0, clients.lengths).astype(np.float32))
    model = MeanNetwork(highest=4, learning_rate=0.02, optimiser="sgd")
    state = model.start(catalog(), {}, SOURCE)
    assert np.unique(model.score(Given.to_score(state.shared, {}), rated, None)).tolist() == [4.0]
    for round in range(60):
        spec = model.spec(state.shared, round)
        assert spec is not None
        total = Sum.zeros(spec.fit(100), round)
        total.add(model.contribute(given(model, state.shared, round), rated, None)[0])
        state = model.step(state, total, round)
    predicted = model.score(Given.to_score(state.shared, {}), rated, None)
    assert np.allclose(predicted, (np.arange(USERS) % 4 + 1.0)[:, None], atol=0.05)


def test_a_scale_without_length_is_told() -> None:
    with pytest.raises(PlanError, match=r"model mean: highest \(1\) must be above lowest \(1\)"):
        MeanNetwork(highest=1)


def test_without_torch_a_network_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        InputError, match=r"model 'two-tower' is a network and needs PyTorch; pip install 'fedrec\[torch\]'"
    ):
        TwoTower(embedding_size=17).shapes(11)


def test_torch_is_as_it_was_after_a_call() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    trained(MODELS["two-tower"], PLACES, 1)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    assert torch.equal(torch.rand(3), expected)


def test_a_start_from_the_spectrum_puts_items_that_go_together_together() -> None:
    model = SASRec(embedding_size=4, heads=1, blocks=1, window=6, passes=2, rounds=6)
    groups = np.repeat(np.arange(2), USERS // 2)
    rng = np.random.default_rng(0)
    items = np.concatenate([15 * group + rng.choice(15, 8, replace=False) for group in groups]).astype(np.int32)
    clients = replace(everyone(), indptr=np.arange(0, 8 * USERS + 1, 8), items=items)
    state: State = model.start(catalog(), {}, SOURCE.child("start"))
    for round in range(3):
        spec = model.spec(state.shared, round)
        assert spec is not None
        total = Sum.zeros(spec.fit(100), round)
        total.add(model.contribute(given(model, state.shared, round), clients, None)[0])
        state = model.step(state, total, round)
    assert isinstance(model, Recommender)
    near = model.similarity(Given.to_score(state.shared, {}), np.arange(ITEMS))
    own = np.equal.outer(np.arange(ITEMS) // 15, np.arange(ITEMS) // 15) & ~np.eye(ITEMS, dtype=bool)
    assert near[own].mean() > near[~own & ~np.eye(ITEMS, dtype=bool)].mean() + 0.2
    assert state.shared["items"].std() == pytest.approx(0.05, rel=0.2)
    counts = np.bincount(items, minlength=ITEMS)
    assert np.corrcoef(state.shared["bias"], np.log(np.maximum(counts, 0.5)))[0, 1] > 0.999


def test_the_product_of_neumf_begins_as_an_inner_product_of_eigenvectors() -> None:
    model = NeuMF(embedding_size=3, hidden=(6,), passes=2, rounds=6, window=6, positives=2)
    shared = trained(model, [np.arange(USERS)], 3)[0].shared
    assert np.array_equal(shared["items"][:, :3], shared["items"][:, 3:])
    assert np.array_equal(shared["items"], shared["histories"])
    columns = shared["items"][:, :3].astype(np.float64)
    columns /= np.linalg.norm(columns, axis=0)
    np.testing.assert_allclose(columns.T @ columns, np.eye(3), atol=1e-3)
    assert shared["output.weight"][0, :3].tolist() == [1.0, 1.0, 1.0]


def test_neumf_predicts_some_items_of_a_long_history() -> None:
    for positives, terms in ((2, 2.0), (50, 6.0)):
        model = NeuMF(embedding_size=3, hidden=(6,), start_from="random", window=6, positives=positives)
        state = model.start(catalog(), {}, SOURCE.child("start"))
        total = model.contribute(given(model, state.shared, 0), everyone().take(np.array([0, 4])), None)[0]
        spec = model.spec(state.shared, 0)
        assert spec is not None
        assert everyone().lengths[[0, 4]].tolist() == [1, 10]
        flat = np.zeros(1, np.int64)
        total.arrays["terms"].add_to(flat, spec["terms"], np.ones(2, dtype=bool))
        assert flat[0] / spec["terms"].unit == 1.0 + terms
