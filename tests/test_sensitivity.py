"""What one user changes: all sums of a run with and without one user, in deviations of the noise, and the charge."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from chosen_in_test import in_turn
from fedrec.aggregation.queries import deviations
from fedrec.aggregation.sums import Sum
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.engines.local import LocalEngine
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import RoundCall
from fedrec.federation.plan import Plan
from fedrec.node.node import Node
from fedrec.privacy.chance import SeededChance
from fedrec.privacy.protection import Protection

DATA = "synthetic:users=60,items=30,interactions_per_user=8,seed=3"
TERMS: dict[str, Any] = {"epsilon": 2.0, "delta": 1e-4, "users": 64}
MODELS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "content": {},
    "ease": {},
    "itemknn": {},
    "slit": {"rank": 4},
    "spectral": {"rank": 4},
    "ials": {"embedding_size": 3, "rounds": 3},
    "ials-cg": {"embedding_size": 3, "rounds": 3, "solver": "cg"},
    "mf": {"embedding_size": 3, "rounds": 5},
    "neumf": {"embedding_size": 2, "hidden": [3], "rounds": 3, "window": 6, "start_from": "random"},
    "sasrec": {"embedding_size": 4, "rounds": 5, "window": 6, "negatives": 8},
}
NETWORKS = ("neumf", "sasrec")
MODES: dict[str, tuple[float, dict[str, Any]]] = {
    "everybody": (1.0, {}),
    "cohorts": (0.5, {}),
    "poisson": (0.5, {"sampling": "poisson"}),
    "released": (0.5, {"sampling": "poisson", "view": "release", "noise_multiplier": 20.0}),
    "capped": (0.5, {"sampling": "poisson", "participations": 1}),
    "truncated": (0.5, {"sampling": "poisson", "max_cohort": 8}),
    "truncated and capped": (0.5, {"sampling": "poisson", "max_cohort": 8, "participations": 1}),
}


def node_of(data: Interactions, plan: Plan, coins: int) -> Node:
    (node,) = LocalEngine.build(data, plan, chance=SeededChance(coins)).nodes
    return node


@functools.cache
def resolved(name: str, mode: str, clip: float | None, weighted: bool = False) -> tuple[Interactions, Plan]:
    share, terms = MODES[mode]
    data = fr.load_data(DATA)
    if weighted:
        values = np.random.default_rng(1).lognormal(0.0, 3.0, len(data)).astype(np.float32)
        data = replace(data, values=values)
    privacy = TERMS | terms | ({} if clip is None else {"clip": clip})
    settings = {
        "data": {"source": DATA},
        "model": {"name": name.partition("-")[0], **MODELS[name]},
        "cohort": share,
        "privacy": privacy,
    }
    if weighted:
        settings["weights"] = {"form": "value", "most": 50.0}
    return data, Plan.make({**settings, "split": "none"}).resolve(data, "0" * 64)


def change(
    name: str, mode: str, coins: int, user: int, clip: float | None = None, weighted: bool = False
) -> tuple[float, float]:
    """Σ over rounds and coordinates of (change / deviation)² when a user is taken away, and what is charged for it.

    Both runs see the same released sums, as in the proof for mechanisms that follow one another.
    """
    data, plan = resolved(name, mode, clip, weighted)
    assert plan.privacy is not None
    agreed = Agreement.of(plan, data.catalog)
    model = agreed.model
    with_user = node_of(data, plan, coins)
    without = node_of(data.take_users(np.delete(np.arange(data.n_users), user)), plan, coins)
    protection = Protection(plan.privacy, model, agreed.share, agreed.n_max, "run", SeededChance(coins + 1))
    state, total = model.start(data.catalog, agreed.public, KeyedSource.from_seed(0)), 0.0
    for round in range(len(model.budget_shares)):
        spec = agreed.spec(state.shared, round)
        if spec is None:
            break
        call = RoundCall(round, round - 1, state.shared, spec, agreed.share, privacy=protection.round_terms(round))
        there, gone = with_user.contribute(call), without.contribute(call)
        total += moved(protection, there, gone, state.shared, round)
        state = model.step(state, protection.release(there, state.shared), round)
    dearest = sorted(charge.effective for charge in protection.charges)[: plan.privacy.participations]
    return total, sum(noise**-2 for noise in dearest)


def moved(protection: Protection, there: Sum, gone: Sum, shared: Any, round: int) -> float:
    square, noise = 0.0, protection.charges[round].noise_multiplier
    for query in protection.model.queries(shared, round):
        for name, metric in query.metrics.items():
            difference = (there.value(name) - gone.value(name)).reshape(-1)
            for tile, sd in deviations(metric, there.spec[name], query.deviation(noise)):
                square += float(np.sum((difference[tile] / sd) ** 2))
    return square


NETWORK_MODES = ("everybody", "truncated")
CASES = in_turn([name for name in MODELS if name not in NETWORKS], MODES) + in_turn(NETWORKS, NETWORK_MODES)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_one_users_absence_changes_all_sums_of_a_run_by_no_more_than_is_charged(name: str, mode: str) -> None:
    if name == "mf" and mode == "truncated":
        with pytest.raises(fr.PlanError, match="max_cohort for mf"):
            change(name, mode, 0, 0)
        return
    found = []
    for coins in range(3):
        for user in (0, 31):
            square, charged = change(name, mode, coins, user)
            assert square <= charged * (1 + 1e-9), (coins, user)
            found.append(square / charged)
    assert max(found) > 0, "some user does change something"


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("content", "slit", "spectral", *NETWORKS)])
def test_weights_change_sums_by_no_more_than_is_charged_and_somebody_reaches_the_clip(name: str) -> None:
    found = []
    for user in range(0, 60, 6):
        square, charged = change(name, "everybody", 0, user, weighted=True)
        assert square <= charged * (1 + 1e-9), user
        found.append(square / charged)
    assert max(found) > 0.5


@pytest.mark.parametrize("name", ["popularity", "ials", "ials-cg", "mf", "neumf"])
def test_a_tight_clip_holds_every_user_to_it_and_somebody_reaches_it(name: str) -> None:
    found = [change(name, "everybody", 0, user, clip=0.05) for user in range(0, 60, 20)]
    assert 0.5 < max(square / charged for square, charged in found) <= 1 + 1e-9
