"""Server optimisers: what the coordinator does with the average change of a round.

With Δ the average change of the clients in a round, η the server's learning rate, β₁, β₂ the decays and τ the floor
(Reddi et al. 2021, "Adaptive Federated Optimization", algorithm 2; for momentum Hsu et al. 2019, "Measuring the Effects
of Non-Identical Data Distribution", FedAvgM), everything by coordinate:

    sgd       x ← x + η Δ
    momentum  m ← β₁ m + Δ                   x ← x + η m
    adagrad   m ← β₁ m + (1 − β₁) Δ,         v ← v + Δ²                            x ← x + η m / (√v + τ)
    yogi      m ← β₁ m + (1 − β₁) Δ,         v ← v − (1 − β₂) Δ² sign(v − Δ²)      x ← x + η m / (√v + τ)
    adam      m ← β₁ m + (1 − β₁) Δ,         v ← β₂ v + (1 − β₂) Δ²                x ← x + η m / (√v + τ)

from m = 0 and v = τ², without a correction of bias. A row that no client touched has Δ = 0, and moves with its moments.

Adam `corrected` is that of central training (Kingma & Ba 2015, "Adam", algorithm 1): from m = 0 and v = 0, and in step
t m / (1 − β₁ᵗ) and v / (1 − β₂ᵗ) stand for m and v.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrec.models.base import Arrays
from fedrec.models.shapes import Shape

__all__ = ["ServerOptimiser", "ServerRule"]

ServerRule = Literal["sgd", "momentum", "adam", "yogi", "adagrad"]


@dataclass(frozen=True)
class ServerOptimiser:
    """A rule and its settings; its moments are arrays of the coordinator's state.

    Args:
        rule: see above.
        learning_rate: η.
        first_decay: β₁.
        second_decay: β₂.
        floor: τ, of the size of a change that counts.
        corrected: whether moments of `adam` are corrected for having begun at 0.

    Example:
        >>> rule = ServerOptimiser("adam", learning_rate=0.1, first_decay=0.0, second_decay=0.0, floor=1e-3)
        >>> table = np.zeros((2, 1), dtype=np.float32)
        >>> moved, _ = rule.step(table, np.array([[0.5], [-2.0]]), rule.start(table))
        >>> moved.round(3).ravel().tolist()
        [0.10000000149011612, -0.10000000149011612]
    """

    rule: ServerRule = "sgd"
    learning_rate: float = 1.0
    first_decay: float = 0.9
    second_decay: float = 0.99
    floor: float = 1e-3
    corrected: bool = False

    def start(self, table: np.ndarray) -> dict[str, np.ndarray]:
        """Moments before the first round."""
        if self.rule == "sgd":
            return {}
        first = {"first_moment": np.zeros(table.shape, dtype=np.float32)}
        if self.rule == "momentum":
            return first
        second = 0.0 if self.corrected else self.floor**2
        return first | {"second_moment": np.full(table.shape, second, dtype=np.float32)}

    def forms(self, axes: tuple[int, ...]) -> dict[str, Shape]:
        """What the moments of a table look like."""
        names = {"sgd": (), "momentum": ("first_moment",)}.get(self.rule, ("first_moment", "second_moment"))
        return {name: Shape(axes) for name in names}

    def step(
        self, table: np.ndarray, change: np.ndarray, moments: Arrays, number: int = 1, share: float = 1.0
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The table and the moments after an average change, all [rows, columns]; arithmetic in float64.

        Args:
            table: what moves.
            change: Δ.
            moments: after the step before.
            number: of the step, from 1; what `corrected` goes by.
            share: of the learning rate.
        """
        rate = self.learning_rate * share
        if self.rule == "sgd":
            return (table + rate * change).astype(np.float32), {}
        first = self.first_decay * moments["first_moment"].astype(np.float64)
        first += change if self.rule == "momentum" else (1.0 - self.first_decay) * change
        kept = {"first_moment": first.astype(np.float32)}
        if self.rule == "momentum":
            return (table + rate * first).astype(np.float32), kept
        second, square = moments["second_moment"].astype(np.float64), change**2
        if self.rule == "adagrad":
            second = second + square
        elif self.rule == "yogi":
            second = second - (1.0 - self.second_decay) * square * np.sign(second - square)
        else:
            second = self.second_decay * second + (1.0 - self.second_decay) * square
        kept |= {"second_moment": second.astype(np.float32)}
        if self.corrected:
            first = first / (1.0 - self.first_decay**number)
            second = second / (1.0 - self.second_decay**number)
        moved = table + rate * first / (np.sqrt(second) + self.floor)
        return moved.astype(np.float32), kept
