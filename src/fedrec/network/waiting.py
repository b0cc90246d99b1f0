"""How patient a coordinator is with its nodes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedrec.errors import PlanError

__all__ = ["PATIENT", "Waiting"]


@dataclass(frozen=True)
class Waiting:
    """How long a coordinator waits, for whom, and how often it tries.

    Args:
        deadline: seconds for a node to answer in one phase of a round.
        least: share of the nodes without which a round is abandoned.
        enough: share of the nodes that is waited for: 1 waits for all until the deadline, less asks more nodes than it
            needs and goes on without the slowest.
        tries: how often a round is tried before the run stops.
        pause: seconds between two tries.
        patience: seconds that enough nodes have to be back, where too few are left for the next try.
        sign: seconds for a node that failed to say that it is back.
    """

    deadline: float = 300.0
    least: float = 0.5
    enough: float = 1.0
    tries: int = 3
    pause: float = 5.0
    patience: float = 120.0
    sign: float = 3.0

    def __post_init__(self) -> None:
        numbers = all(type(value) in (int, float) and math.isfinite(value) for value in vars(self).values())
        seconds = numbers and min(self.deadline, self.sign) > 0 and min(self.pause, self.patience) >= 0
        if not (seconds and 0 < self.least <= self.enough <= 1 and type(self.tries) is int and self.tries >= 1):
            raise PlanError(
                "waiting: deadline and sign above 0, pause and patience of 0 or more, 0 < least ≤ enough ≤ 1 and whole "
                f"tries of 1 or more are needed, not {self}"
            )


PATIENT = Waiting()
"""As a coordinator is that was told nothing else."""
