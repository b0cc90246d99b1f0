"""Bandits learn from sums: all agents agree on bits, and know what one agent that saw everything would know."""

from __future__ import annotations

import numpy as np
import pytest

from fedrec.aggregation.sums import Sum
from fedrec.errors import InputError
from fedrec.federation.masked import layout_of, unmasked, vectors_of
from fedrec.models.bandit import BanditAgent, LinearBandit
from fedrec.secagg.client import Client
from fedrec.secagg.manifest import invite
from fedrec.secagg.policy import Floors
from fedrec.secagg.primitives import Identity
from fedrec.secagg.rounds import Party, run_round
from fedrec.secagg.server import Server

BANDIT = LinearBandit(features=4)


def events(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, 4)), rng.random(count)


def taught(agent: BanditAgent, arms: np.ndarray, rewards: np.ndarray) -> BanditAgent:
    for arm, reward in zip(arms, rewards, strict=True):
        agent.learn(arm, reward)
    return agent


def summed(agents: list[BanditAgent]) -> Sum:
    total = Sum.zeros(BANDIT.spec)
    for agent in agents:
        total.merge(agent.held_back)
    return total


def test_agents_know_what_one_agent_that_saw_everything_knows_bit_for_bit() -> None:
    arms, rewards = events(60)
    central = taught(BanditAgent(BANDIT), arms, rewards)
    agents = [taught(BanditAgent(BANDIT), arms[k::3], rewards[k::3]) for k in (2, 0, 1)]
    total = summed(agents)
    for agent in agents:
        agent.adopt(total)
        assert agent.weights.tobytes() == central.weights.tobytes()
        assert agent.held_back.clients == 0
    direct = np.linalg.solve(np.eye(4) + arms.T @ arms, arms.T @ rewards)
    assert np.abs(central.weights - direct).max() < 1e-5


def test_a_secure_aggregation_of_what_agents_hold_back_is_their_plain_sum() -> None:
    arms, rewards = events(30)
    agents = [taught(BanditAgent(BANDIT), arms[k::3], rewards[k::3]) for k in range(3)]
    parts = [agent.held_back for agent in agents]
    layout, coordinator, parties = (
        layout_of(BANDIT.spec, None),
        Identity(),
        [Party(Identity(), clients=10) for _ in agents],
    )
    publics = [party.identity.public for party in parties]
    manifest = invite(
        "bandit",
        0,
        coordinator.public,
        publics,
        layout,
        model=bytes(32),
        transcript=bytes(32),
        min_clients=1,
        noise=0.0,
    )
    floors = Floors(coordinator.public, frozenset(publics), clients=1, noise=0.0, layout=layout, transcript=bytes(32))
    clients = [Client(party.identity, floors, party.keep, party.attempts, party.clients) for party in parties]
    outcome = run_round(Server(manifest, coordinator), clients, [vectors_of(part, None) for part in parts])
    assert outcome.arrays is not None
    total, plain = unmasked(BANDIT.spec, 0, None, outcome.arrays), summed(agents)
    assert all(total.arrays[name].tobytes() == plain.arrays[name].tobytes() for name in BANDIT.spec.names)


def test_an_agent_asks_when_its_log_determinant_has_grown_by_log_1_plus_c_and_not_before() -> None:
    agent = BanditAgent(LinearBandit(features=4, growth=3.0))
    arm = np.array([1.0, 0.0, 0.0, 0.0])
    asked = []
    for _ in range(4):
        agent.learn(arm, 0.5)
        asked.append(agent.asks)
    assert asked == [False, False, False, True]  # determinants 2, 3, 4 and 5, of 4 allowed
    agent.adopt(agent.held_back)
    assert not agent.asks


@pytest.mark.parametrize("policy", ["ucb", "thompson"])
def test_an_agent_finds_the_arm_that_earns_most(policy: str) -> None:
    rng = np.random.default_rng(1)
    agent, arms = BanditAgent(LinearBandit(features=3, policy=policy, exploration=2.0)), np.eye(3)
    played = []
    for _ in range(300):
        played.append(agent.choose(arms, rng))
        agent.learn(arms[played[-1]], float(rng.random() < (0.2, 0.8, 0.4)[played[-1]]))
    assert set(played) == {0, 1, 2}
    assert np.mean(np.array(played[150:]) == 1) > 0.6


def test_events_are_forgotten_to_the_bit() -> None:
    arms, rewards = events(20)
    whole = BanditAgent(BANDIT)
    gone, rest = taught(BanditAgent(BANDIT), arms[:5], rewards[:5]), taught(BanditAgent(BANDIT), arms[5:], rewards[5:])
    whole.adopt(summed([gone, rest]))
    whole.forget(gone.held_back)
    assert whole.weights.tobytes() == rest.weights.tobytes()
    with pytest.raises(InputError, match="no part of what the agents agreed on"):
        BanditAgent(BANDIT).forget(gone.held_back)


def test_what_is_out_of_range_is_refused() -> None:
    agent = BanditAgent(BANDIT)
    with pytest.raises(InputError, match="must lie from -1 to 1; scale them"):
        agent.choose(np.full((2, 4), 1.5), np.random.default_rng(0))
    with pytest.raises(InputError, match="arms need 4 features each"):
        agent.learn(np.zeros(3), 1.0)
    with pytest.raises(InputError, match="a reward must lie from 0 to 1, not 2"):
        agent.learn(np.zeros(4), 2.0)
    with pytest.raises(InputError, match="growth must be above 0, not 0"):
        LinearBandit(features=4, growth=0.0)
    with pytest.raises(InputError, match="policy 'best' is not known; use ucb or thompson"):
        LinearBandit(features=4, policy="best")  # type: ignore[arg-type]
