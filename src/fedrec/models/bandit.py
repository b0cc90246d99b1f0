"""A contextual bandit that several agents learn together from sums: Σ x xᵀ and Σ r x over what they saw.

Abbasi-Yadkori, Pál and Szepesvári 2011 (the policy), and He et al. 2022, "A Simple and Provably Efficient Algorithm for
Asynchronous Federated Contextual Linear Bandits" (the trigger). Here all agents add what they hold back when one asks,
so that a secure aggregation can form the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.errors import InputError

__all__ = ["BanditAgent", "LinearBandit"]


@dataclass(frozen=True)
class LinearBandit:
    """What agents agree on.

    Args:
        features: length d of the features of an arm; each lies between −1 and 1.
        policy: `ucb` (largest upper confidence bound) or `thompson` (weights drawn anew for each choice).
        exploration: width α of the confidence bound, or scale of the draw.
        reg: λ of the ridge.
        growth: C; an agent asks for a sum when log det of its matrix has grown by log(1 + C) since the last one.
        most_events: of all agents together.

    Raises:
        InputError: if a setting is out of its range.
    """

    features: int
    policy: Literal["ucb", "thompson"] = "ucb"
    exploration: float = 0.1
    reg: float = 1.0
    growth: float = 1.0
    most_events: int = 2**40

    def __post_init__(self) -> None:
        if self.policy not in ("ucb", "thompson"):
            raise InputError(f"policy {self.policy!r} is not known; use ucb or thompson")
        for name in ("features", "reg", "growth", "most_events"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be above 0, not {getattr(self, name)}")
        if not self.exploration >= 0.0:
            raise InputError(f"exploration must be at least 0, not {self.exploration}")

    @cached_property
    def spec(self) -> SumSpec:
        """What is summed: the upper triangle of Σ x xᵀ, and Σ r x, on a grid of 2⁻²⁰ in a ring of 2⁶⁴."""
        sizes = {"squares": triangle_size(self.features), "rewards": self.features}
        return SumSpec(
            tuple(
                ArraySpec(name, "dense", (size,), bound=1.0, scale_bits=20, ring=64, role="count")
                for name, size in sizes.items()
            )
        ).fit(self.most_events)


class BanditAgent:
    """One agent: what all agents knew at the last sum, and what it saw since.

    Args:
        bandit: what agents agree on.

    Example:
        >>> bandit = LinearBandit(features=2)
        >>> first, second = BanditAgent(bandit), BanditAgent(bandit)
        >>> first.learn(np.array([1.0, 0.0]), 1.0)
        >>> total = first.held_back
        >>> total.merge(second.held_back)
        >>> first.adopt(total)
        >>> second.adopt(total)
        >>> second.weights.round(6).tolist()
        [0.5, 0.0]
    """

    def __init__(self, bandit: LinearBandit) -> None:
        self.bandit = bandit
        self._agreed, self._held_back = Sum.zeros(bandit.spec), Sum.zeros(bandit.spec)
        self._solve()
        self._log_det_agreed = self._log_det

    @property
    def held_back(self) -> Sum:
        """A copy of the sum over what the agent saw since the last sum of all agents."""
        copy = Sum.zeros(self.bandit.spec)
        copy.merge(self._held_back)
        return copy

    @property
    def weights(self) -> np.ndarray:
        """Estimated weights of the features [d] float64."""
        return self._weights

    @property
    def covariance(self) -> np.ndarray:
        """Covariance [d, d] from which `thompson` draws weights."""
        return np.asarray(self.bandit.exploration**2 * self._inverse)

    @property
    def asks(self) -> bool:
        """Whether the agent has seen enough that is new for a sum of all agents to be worth its bytes."""
        return bool(self._log_det - self._log_det_agreed > np.log1p(self.bandit.growth))

    def choose(self, arms: np.ndarray, rng: np.random.Generator) -> int:
        """Position of the arm to play.

        Args:
            arms: their features [arms, d], each between −1 and 1.
            rng: draws of `thompson`; `ucb` draws nothing.

        Raises:
            InputError: if features have another length or are out of their range.
        """
        arms = self._checked(arms)
        if self.bandit.policy == "thompson":
            root = np.linalg.cholesky(self.covariance) if self.bandit.exploration else np.zeros_like(self._inverse)
            return int(np.argmax(arms @ (self._weights + root @ rng.standard_normal(self.bandit.features))))
        widths = np.sqrt(np.maximum(np.einsum("ad,de,ae->a", arms, self._inverse, arms), 0.0))
        return int(np.argmax(arms @ self._weights + self.bandit.exploration * widths))

    def learn(self, arm: np.ndarray, reward: float) -> None:
        """Take in the reward, from 0 to 1, of an arm that was played.

        Raises:
            InputError: if features or reward are out of their range.
        """
        row = self._checked(np.asarray(arm)[None])
        if not 0.0 <= reward <= 1.0:
            raise InputError(f"a reward must lie from 0 to 1, not {reward}")
        squares = (row[0, :, None] * row[0])[np.triu_indices(self.bandit.features)][None]
        values = {"squares": squares, "rewards": reward * row}
        one = np.ones(1)
        self._held_back.add(Contributions({name: Dense(v.astype(np.float32), one) for name, v in values.items()}))
        self._solve()

    def adopt(self, total: Sum) -> None:
        """Take over the sum of what all agents held back, this one included.

        Raises:
            DamagedError: if it is of another bandit, or of more events than were agreed on.
        """
        self._agreed.merge(total)
        self._held_back = Sum.zeros(self.bandit.spec)
        self._solve()
        self._log_det_agreed = self._log_det

    def forget(self, events: Sum) -> None:
        """Subtract events that were summed before, exactly: all agents do so with the same sum.

        Raises:
            InputError: if more events are subtracted than were summed.
        """
        if events.clients > self._agreed.clients or events.spec.digest != self.bandit.spec.digest:
            raise InputError("these events are no part of what the agents agreed on")
        for name, array in self._agreed.arrays.items():
            array -= events.arrays[name]
        self._agreed.clients -= events.clients
        self._solve()
        self._log_det_agreed = self._log_det

    def _checked(self, arms: np.ndarray) -> np.ndarray:
        arms = np.asarray(arms, dtype=np.float64)
        if arms.ndim != 2 or arms.shape[1] != self.bandit.features:
            raise InputError(f"arms need {self.bandit.features} features each, not shape {arms.shape}")
        if not (np.abs(arms) <= 1.0).all():
            raise InputError("features of arms must lie from -1 to 1; scale them")
        return arms

    def _solve(self) -> None:
        """Weights, inverse and log determinant of the agreed sums and of what is held back."""
        size = self.bandit.features
        unit = self.bandit.spec["squares"].unit
        squares, rewards = (self._agreed.arrays[n] + self._held_back.arrays[n] for n in ("squares", "rewards"))
        matrix = np.zeros((size, size))
        matrix[np.triu_indices(size)] = squares / unit
        matrix += np.triu(matrix, 1).T
        matrix[np.diag_indices(size)] += self.bandit.reg
        root = np.linalg.inv(np.linalg.cholesky(matrix))
        self._inverse = root.T @ root
        self._weights = self._inverse @ (rewards / unit)
        self._log_det = -2.0 * float(np.log(np.diag(root)).sum())
