"""Networks under differential privacy: clients apart, what is summed and what stays, and what canaries measure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedrec as fr
from fedrec.audit.canaries import canaries
from fedrec.audit.observe import Observed, observe
from fedrec.data.clients import Clients
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.engines.local import LocalEngine
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import PrivateTerms
from fedrec.models.networks import training
from fedrec.models.networks.batch import Batch, batch_of
from fedrec.models.networks.devices import steady
from fedrec.models.networks.network import Network
from fedrec.models.networks.neumf import NeuMF
from fedrec.models.networks.private_network import PrivateNetwork, private_form
from fedrec.models.networks.sasrec import SASRec
from fedrec.models.networks.training import client_gradients, parameters, terms_of
from fedrec.models.networks.two_tower import TwoTower
from fedrec.privacy.accounting import cohort_epsilon
from fedrec.privacy.chance import SeededChance
from fedrec.runs.training import Placement, train_here, train_run

DATA = "synthetic:users=240,items=40,interactions_per_user=9,seed=2"
SOURCE = KeyedSource.from_seed(7)
SMALL: dict[str, dict[str, Any]] = {
    "neumf": {"embedding_size": 2, "hidden": [3], "rounds": 4, "window": 6, "start_from": "random"},
    "sasrec": {"embedding_size": 4, "rounds": 6, "window": 6, "negatives": 8},
    "two-tower": {"embedding_size": 4, "rounds": 6, "window": 6, "hidden": 4},
}


class Picking(nn.Module):
    """A module that picks places of the window by what they hold, which no two clients can do side by side."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items, 3)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(3, n_items)

    def scores(self, batch: Batch) -> Tensor:
        return self.out(batch.rows(self.items.weight).sum(1))

    def loss(self, batch: Batch) -> Tensor:
        wanted = torch.log_softmax(self.scores(batch), 1)
        return torch.stack([-wanted[row][batch.items[row][batch.known[row]]].sum() for row in range(len(batch))])


class Own(Network):
    """A network that does not know of privacy."""

    name: ClassVar[str] = "own"
    rounds: int = 500

    def module(self, n_items: int) -> nn.Module:
        return Picking(n_items)


def everyone(users: int = 120) -> Clients:
    data = fr.synthetic(users=users, items=40, interactions_per_user=9, seed=2)
    return Clients.of(data, client_keys(SOURCE, data.users))


def planned(name: str, **changes: Any) -> Plan:
    model = {"name": name, **SMALL[name]}
    terms = {"epsilon": 8.0, "delta": 1e-4}
    return Plan.make({"data": {"source": "memory"}, "model": model, "privacy": terms} | changes)


def histories() -> Interactions:
    return fr.load_data(DATA)


NETWORKS: dict[str, Network] = {
    "neumf": NeuMF(embedding_size=3, hidden=(4,), window=6),
    "neumf-private": NeuMF(embedding_size=3, hidden=(4,), window=6, user="private"),
    "sasrec": SASRec(embedding_size=4, window=6, negatives=8),
    "two-tower": TwoTower(embedding_size=4, hidden=4, window=6, negatives=12),
    "own": Own(window=6),
}


def gradients(model: Network, clients: Clients) -> tuple[dict[str, np.ndarray], nn.Module, Batch]:
    with steady(3):
        module = model.module(clients.n_items)
        module.train(model.name != "own")
        private = {name: np.full((len(clients), n), 0.1, np.float32) for name, n in model.private_lengths().items()}
        batch = batch_of(clients, model.window, SOURCE.seeds(clients.keys), training=True, crops=0.5, private=private)
        return client_gradients(module, batch)[0], module, batch


@pytest.mark.parametrize("name", NETWORKS)
def test_a_clients_gradient_is_its_own_and_has_the_same_bits_in_any_company(name: str, monkeypatch: Any) -> None:
    counted: list[int] = []
    alone = training._alone
    monkeypatch.setattr(training, "_alone", lambda module, batch: (counted.append(len(batch)), alone(module, batch))[1])
    clients = everyone()
    whole, module, batch = gradients(NETWORKS[name], clients)
    assert len(counted) == (len(clients) if name == "own" else 0), "clients are handled one by one where they must be"
    losses, _ = terms_of(module, batch)
    for parameter, value in zip(whole, torch.autograd.grad(losses.sum(), parameters(module).values()), strict=True):
        assert np.allclose(whole[parameter].sum(axis=0), -value.reshape(-1).numpy(), rtol=1e-4, atol=1e-4), parameter
    for some in (np.array([119]), np.random.default_rng(0).permutation(120)[:70]):
        part, *_ = gradients(NETWORKS[name], clients.take(some))
        assert all(np.array_equal(whole[parameter][some], part[parameter]) for parameter in whole)


@pytest.mark.parametrize("name", ["neumf", "sasrec"])
def test_a_round_sums_parameters_alone_and_no_item_rows_where_sketches_have_told_them(name: str) -> None:
    observed = observed_run(name)
    starts = 1 if name == "neumf" else 3
    summed = [seen.exact.spec.names for seen in observed.rounds[:starts]]
    assert summed == [("counts",), ("sketch",), ("sketch",)][:starts]
    moving = observed.rounds[starts].exact.spec.names
    stay = set(observed.shared) - set(moving)
    assert stay == (set() if name == "neumf" else {"items", "bias"})
    begun = observed.rounds[starts].call.shared
    assert all(np.array_equal(begun[array], observed.shared[array]) for array in stay)
    assert all(not np.array_equal(begun[array], observed.shared[array]) for array in moving)


def observed_run(name: str) -> Observed:
    return observe(planned(name), histories(), "0" * 64, SeededChance(3))


def test_canaries_in_a_network_measure_what_the_last_round_is_charged(monkeypatch: Any) -> None:
    observed = observed_run("neumf")
    found = canaries(observed, SeededChance(5))
    assert found.verdict == "pass"
    release = observed.last_release()
    promised = cohort_epsilon([release.charge], 1e-4)
    assert 0.6 * promised < found.value < promised + 0.75
    halved = replace(release.charge, noise_multiplier=release.charge.noise_multiplier / 2)
    monkeypatch.setattr(Observed, "last_release", lambda self: release._replace(charge=halved))
    assert canaries(observed, SeededChance(5)).value > promised + 0.75, "half of the noise is caught"


def test_everybody_takes_part_in_a_private_round_unless_the_plan_says_otherwise() -> None:
    assert planned("sasrec").cohort == 1.0
    data = histories()
    half = planned("sasrec", cohort=0.5).resolve(data, "0" * 64)
    engine, seen = LocalEngine.build(data, half, chance=SeededChance(1)), list[int]()
    train_here(engine, data, Run(half, None), lambda progress: seen.append(progress.cohort), chance=SeededChance(1))
    assert seen == [120] * SMALL["sasrec"]["rounds"], "charges are of one share, so counts and sketches are of it too"


def test_a_network_that_adds_clients_up_is_refused_under_privacy_and_the_plan_says_client() -> None:
    with pytest.raises(PlanError, match=r"model 'neumf' under privacy: granularity: node adds clients up .* leave out"):
        planned("neumf", model={"name": "neumf", "granularity": "node"})
    with pytest.raises(PlanError, match="neumf under privacy: rounds is 1, but the start takes 1; set rounds to 2 or"):
        planned("neumf", model={"name": "neumf", "rounds": 1, "start_from": "random"})
    assert planned("neumf").resolve(histories(), "0" * 64).model["granularity"] == "client"


def test_a_network_of_ones_own_has_a_private_form_with_few_rounds() -> None:
    private = Own(window=6).privately(PrivateTerms(None, 50))
    assert isinstance(private, Own)
    assert isinstance(private, PrivateNetwork)
    assert (private.name, private.rounds, private.window, private.granularity) == ("own", 30, 6, "client")
    assert private_form(Own) is type(private)
    assert sum(private.budget_shares) == pytest.approx(1.0)
    model = fr.estimator(Own)(rounds=2, window=6, plan={"privacy": {"epsilon": 8.0, "delta": 1e-4}}).fit(histories())
    assert model.recommend([1], n=3).height == 3


def test_nodes_that_mask_and_add_noise_train_a_network(tmp_path: Path) -> None:
    terms = {"epsilon": 8.0, "delta": 1e-4, "noise": "distributed"}
    plan = planned("two-tower", privacy=terms, data={"source": DATA})
    report = train_run(plan, tmp_path / "run", Placement(nodes=3, secure=True))
    assert report["privacy"]["epsilons"]["server"] == pytest.approx(8.0, rel=1e-3)
    assert fr.load_model(tmp_path / "run").recommend([1], n=3).height == 3
