"""Bandits on replayed histories: agents alone, one central policy, and agents that add sums when one of them asks.

    FEDREC_DATA=… python benchmarks/bandit.py

Half of each user's items make factors of users (which stay with them) and of items. In each turn a user is shown one of
25 items, of which 2 are of the user's other half; showing one of these earns 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import svds

import fedrec as fr
from fedrec.aggregation.sums import Sum
from fedrec.models.bandit import BanditAgent, LinearBandit

SIZE, ARMS, HELD = 16, 25, 2
Turns = list[tuple[int, np.ndarray, np.ndarray]]


def turns_of(data: fr.Interactions, seed: int, agents: int, count: int) -> Turns:
    """Turns: the agent, features of the arms [arms, d], and which arms earn."""
    rng = np.random.default_rng(seed)
    owners = data.rows_of_users()
    first = rng.random(len(data.items)) < 0.5
    shape = data.n_users, data.n_items
    seen = csr_array((np.ones(first.sum()), (owners[first], data.items[first])), shape=shape)
    other = csr_array((np.ones((~first).sum()), (owners[~first], data.items[~first])), shape=shape)
    users, items = (np.maximum(seen.sum(axis=axis), 1.0) for axis in (1, 0))
    left, values, right = svds(diags_array(users**-0.5) @ seen @ diags_array(items**-0.5), k=SIZE, random_state=0)
    order = np.argsort(-values)
    factors = left[:, order] * users[:, None] ** 0.5, right[order].T * items[:, None] ** 0.5
    popularity = np.log1p(items) / np.log1p(items).max()
    able = np.flatnonzero(np.diff(other.indptr) >= HELD)
    scale = 1.0 / np.quantile(np.abs(factors[0]), 0.9) / np.quantile(np.abs(factors[1]), 0.9)
    turns: Turns = []
    for _ in range(count):
        user = int(rng.choice(able))
        held = other.indices[other.indptr[user] : other.indptr[user + 1]]
        known = seen.indices[seen.indptr[user] : seen.indptr[user + 1]]
        good = rng.choice(held, HELD, replace=False)
        free = np.setdiff1d(np.arange(data.n_items), np.concatenate([held, known]))
        arms = np.concatenate([good, rng.choice(free, ARMS - HELD, replace=False)])
        rng.shuffle(arms)
        product = np.clip(factors[0][user] * factors[1][arms] * scale, -1.0, 1.0)
        features = np.column_stack([product, popularity[arms], np.ones(ARMS)])
        turns.append((user % agents, features, np.isin(arms, good)))
    return turns


def played(turns: Turns, agents: list[BanditAgent], sync: Callable[[BanditAgent], bool]) -> tuple[np.ndarray, int]:
    """Rewards [turns], and how many sums there were."""
    rng = np.random.default_rng(0)
    rewards, sums = np.zeros(len(turns)), 0
    for turn, (who, arms, good) in enumerate(turns):
        agent = agents[who % len(agents)]
        arm = agent.choose(arms, rng)
        rewards[turn] = good[arm]
        agent.learn(arms[arm], rewards[turn])
        if sync(agent):
            total = Sum.zeros(agent.bandit.spec)
            for each in agents:
                total.merge(each.held_back)
            for each in agents:
                each.adopt(total)
            sums += 1
            assert len({each.weights.tobytes() for each in agents}) == 1
    return rewards, sums


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--turns", type=int, default=12_000)
    given = parser.parse_args()
    data = fr.load_data(given.data)
    print("policy seed central alone together sums kB/agent together/central together/alone rewards-by-quarter")
    for policy in ("ucb", "thompson"):
        for seed in range(given.seeds):
            turns = turns_of(data, seed, given.agents, given.turns)
            bandit = LinearBandit(SIZE + 2, policy, reg=20.0, growth=3.0)
            central, _ = played(turns, [BanditAgent(bandit)], lambda _: False)
            alone, _ = played(turns, [BanditAgent(bandit) for _ in range(given.agents)], lambda _: False)
            rewards, sums = played(turns, [BanditAgent(bandit) for _ in range(given.agents)], lambda agent: agent.asks)
            kilobytes = sums * bandit.spec.nbytes / 1000
            quarters = " ".join(f"{part.mean():.3f}" for part in np.array_split(rewards, 4))
            print(
                f"{policy} {seed} {central.mean():.3f} {alone.mean():.3f} {rewards.mean():.3f} {sums} {kilobytes:.1f} "
                f"{rewards.mean() / central.mean():.3f} {rewards.mean() / alone.mean():.3f} {quarters}",
                flush=True,
            )


if __name__ == "__main__":
    main()
