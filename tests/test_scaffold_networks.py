"""SCAFFOLD over the parameters of a module: the paper's update, and the optimum that local epochs drift away from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.models.base import Given, State
from fedrec.models.networks.batch import Batch
from fedrec.models.networks.network import Network
from fedrec.models.networks.neumf import NeuMF
from fedrec.models.traits import Traits
from fedrec.runs.training import Placement, train_run
from test_networks import ITEMS, SOURCE, USERS, catalog, everyone

RATE, EPOCHS = 0.5, 6
SETTINGS: dict[str, Any] = {
    "method": "fedavg",
    "granularity": "client",
    "optimiser": "sgd",
    "local_epochs": EPOCHS,
    "learning_rate": RATE,
    "window": ITEMS,
    "rounds": 400,
}


class Wishes(nn.Module):
    """Each client wants 1 at its items, and 0 elsewhere ten times less."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(n_items))

    def scores(self, batch: Batch) -> Tensor:
        return self.values.expand(len(batch), -1)

    def loss(self, batch: Batch) -> Tensor:
        cares = 0.1 + 0.9 * batch.has
        return (cares * (self.values - batch.has) ** 2).sum(1) / 2


class Common(Network):
    """A network of `Wishes`."""

    name: ClassVar[str] = "common"
    traits: ClassVar[Traits] = Traits(bits="node", iterative=True)

    def module(self, n_items: int) -> nn.Module:
        return Wishes(n_items)


def has() -> np.ndarray:
    """Which clients have which items [clients, items]."""
    clients = everyone()
    table = np.zeros((USERS, ITEMS))
    table[np.repeat(np.arange(USERS), clients.lengths), clients.items] = 1.0
    return table


def gradient(values: np.ndarray, wants: np.ndarray) -> np.ndarray:
    moved: np.ndarray = (0.1 + 0.9 * wants) * (values - wants)
    return moved


def trained(model: Network, rounds: int, cohorts: list[np.ndarray]) -> tuple[State, dict[str, np.ndarray]]:
    """The model and what clients keep, after rounds of cohorts that take turns."""
    clients, state = everyone(), model.start(catalog(), {}, SOURCE.child("start"))
    rows = model.join(Given(-1, state.shared, {}, SOURCE.child("join")), clients)
    kept = {name: array.copy() for name, array in (rows or {}).items()}
    for round in range(rounds):
        places = cohorts[round % len(cohorts)]
        spec = model.spec(state.shared, round)
        assert spec is not None
        total = Sum.zeros(spec.fit(100), round)
        for node in (places[::2], places[1::2]):
            own = {name: array[node] for name, array in kept.items()} or None
            sent, renewed = model.contribute(
                Given(round, state.shared, {}, SOURCE.child("contribute", round)), clients.take(node), own
            )
            total.add(sent)
            for name, array in (renewed or {}).items():
                kept[name][node] = array
        state = model.step(state, total, round)
    return state, kept


def test_rounds_are_the_papers_update() -> None:
    cohorts = [np.arange(0, 12), np.arange(8, 20), np.arange(4, USERS)]
    state, kept = trained(Common(scaffold=True, **SETTINGS), 4, cohorts)
    wants, shared = has(), np.zeros(ITEMS)
    average, controls, met = np.zeros(ITEMS), np.zeros((USERS, ITEMS)), np.zeros(USERS, dtype=bool)
    for round in range(4):
        cohort = cohorts[round % 3]
        moved = np.zeros(ITEMS)
        for client in cohort:
            own = shared.copy()
            for _ in range(EPOCHS):
                own -= RATE * (gradient(own, wants[client]) + average - controls[client])
            controls[client] += (shared - own) / (EPOCHS * RATE) - average
            moved += own - shared
        met[cohort] = True
        shared, average = shared + moved / len(cohort), controls[met].mean(0)
    assert np.abs(state.shared["values"] - shared).max() < 1e-4
    assert np.abs(kept["controls"] - controls).max() < 1e-4
    assert np.abs(state.shared["values.control"] - average).max() < 1e-4
    assert state.server["control_clients"] == met.sum() == kept["took_part"].sum()


def test_it_reaches_the_optimum_that_local_epochs_drift_away_from() -> None:
    wants = has()
    optimum = ((0.1 + 0.9 * wants) * wants).sum(0) / (0.1 + 0.9 * wants).sum(0)
    everybody = [np.arange(USERS)]
    off = {}
    for scaffold in (True, False):
        state, _ = trained(Common(scaffold=scaffold, **SETTINGS), 10, everybody)
        off[scaffold] = np.abs(state.shared["values"] - optimum).max()
    assert off[True] < 1e-2
    assert off[False] > 0.1


def test_nodes_change_no_bit_and_strangers_are_scored() -> None:
    settings = {**SETTINGS, "rounds": 6, "window": 8}
    split = fr.leave_last_out(fr.synthetic(users=40, items=20, interactions_per_user=8, seed=3))
    one, three = (
        fr.NeuMF(embedding_size=4, hidden=[4], scaffold=True, plan={"cohort": 0.5}, **settings).fit(split, nodes=nodes)
        for nodes in (1, 3)
    )
    assert "items.control" in one.shared
    for name, array in one.shared.items():
        assert three.shared[name].tobytes() == array.tobytes()
    history = one.opened.data.to_frame().head(5).select("user_id", "item_id").with_columns(user_id=1000)
    assert one.recommend([1000], n=3, history=history).height == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "fedsgd"}, "set method to fedavg"),
        ({"granularity": "node"}, "set granularity to client"),
        ({"optimiser": "adam", "proximal": 0.1}, r"set optimiser to sgd and proximal to 0\.0"),
    ],
)
def test_what_it_cannot_correct_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=rf"^model neumf: scaffold corrects the plain SGD of single clients; {words}"):
        NeuMF(scaffold=True, **{**SETTINGS, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {"epsilon": 8.0, "delta": 1e-4}}, "leave scaffold out"),
        ({"asynchronous": {"buffer": 2}}, "also sums newcomers"),
    ],
)
def test_it_has_no_private_form_and_no_asynchronous_one(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    model = {"name": "neumf", "scaffold": True, "start_from": "random", **SETTINGS}
    settings = {"data": {"source": "synthetic:users=60,items=30,interactions_per_user=8"}, "model": model} | changes
    with pytest.raises(PlanError, match=words):
        train_run(Plan.make(settings), tmp_path / "run", Placement(3))
