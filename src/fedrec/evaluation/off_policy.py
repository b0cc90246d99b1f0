"""What a policy would have earned, from events that another one logged: sums over events, and estimates from sums."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedrec.errors import InputError

__all__ = ["BOUNDS", "LARGEST_WEIGHT", "Estimate", "effective_events", "estimates", "event_terms"]

LARGEST_WEIGHT = 20.0
"""Weights above it are cut, unless another bound is given."""
BOUNDS = {"events": 0, "cut": 0, "w": 1, "wr": 1, "d": 1, "ww": 2, "wwr": 2, "wwrr": 2, "dd": 2}
"""Of each summed term, the power of (largest weight + 1) that it cannot exceed."""


@dataclass(frozen=True)
class Estimate:
    """The mean reward of a policy, estimated.

    Args:
        value: the estimate.
        standard_error: of it; `None` for fewer than two events.
    """

    value: float
    standard_error: float | None


def event_terms(
    rewards: np.ndarray,
    logged: np.ndarray,
    target: np.ndarray,
    *,
    predicted: np.ndarray | None = None,
    expected: np.ndarray | None = None,
    largest: float = LARGEST_WEIGHT,
) -> dict[str, np.ndarray]:
    """The terms of each event [events] float64 whose sums `estimates` reads.

    Args:
        rewards: from 0 to 1 [events].
        logged: how likely what was shown was under the policy that showed it [events], above 0.
        target: how likely it is under the policy that is judged [events].
        predicted: reward that a model predicts for what was shown [events]; 0 for `None`.
        expected: reward that the same model predicts for what the judged policy would show, on average [events].
        largest: bound on the weight target / logged.

    Raises:
        InputError: if a probability or a reward is out of its range, or lengths differ.
    """
    rewards, logged, target = (np.asarray(values, dtype=np.float64) for values in (rewards, logged, target))
    zeros = np.zeros(len(rewards))
    predicted = zeros if predicted is None else np.asarray(predicted, dtype=np.float64)
    expected = zeros if expected is None else np.asarray(expected, dtype=np.float64)
    columns = {"reward": rewards, "propensity": logged, "target": target, "predicted": predicted, "expected": expected}
    if not largest > 0.0 or not math.isfinite(largest):
        raise InputError(f"the largest weight must be positive and finite, not {largest}")
    for name, values in columns.items():
        if values.shape != rewards.shape:
            raise InputError(f"{name} has {len(values)} values for {len(rewards)} events")
        wrong = ~((values >= 0.0) & (values <= 1.0)) | ((values == 0.0) if name == "propensity" else False)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            low = "above 0" if name == "propensity" else "from 0"
            raise InputError(f"event {row + 1}: {name} must lie {low} to 1, not {values[row]:g}")
    ratio = target / logged
    w = np.minimum(ratio, largest)
    d = expected + w * (rewards - predicted)
    return {
        "events": np.ones(len(rewards)),
        "cut": (ratio > largest).astype(np.float64),
        "w": w,
        "wr": w * rewards,
        "d": d,
        "ww": w**2,
        "wwr": w**2 * rewards,
        "wwrr": (w * rewards) ** 2,
        "dd": d**2,
    }


def estimates(sums: Mapping[str, float]) -> dict[str, Estimate]:
    """Estimates from the sums of `event_terms` over events.

    `ips` is Σ w r / n; `snips` is Σ w r / Σ w, with the standard error of a ratio; `dr`, doubly robust, is the mean of
    what is expected and w times what was not predicted.

    Raises:
        InputError: for no event, or none that the policy could have shown.

    Example:
        >>> terms = event_terms(np.array([1.0, 0.0]), np.array([0.5, 0.5]), np.array([0.25, 0.75]))
        >>> {name: round(found.value, 3) for name, found in estimates({k: v.sum() for k, v in terms.items()}).items()}
        {'ips': 0.25, 'snips': 0.25, 'dr': 0.25}
    """
    sums = {name: float(value) for name, value in sums.items()}
    n, weight = sums["events"], sums["w"]
    if n < 1:
        raise InputError("there is no event to judge the policy by")
    if weight <= 0.0:
        raise InputError("the policy would have shown nothing that was logged, so the events say nothing about it")
    ratio = sums["wr"] / weight
    squares = max(0.0, sums["wwrr"] - 2.0 * ratio * sums["wwr"] + ratio**2 * sums["ww"])
    return {
        "ips": Estimate(sums["wr"] / n, _error(n, sums["wr"], sums["wwrr"])),
        "snips": Estimate(ratio, None if n < 2 else math.sqrt(n / (n - 1.0) * squares) / weight),
        "dr": Estimate(sums["d"] / n, _error(n, sums["d"], sums["dd"])),
    }


def effective_events(sums: Mapping[str, float]) -> float:
    """How many events of equal weight would say as much: (Σ w)² / Σ w²; 0 if all weights are 0."""
    return 0.0 if sums["ww"] == 0.0 else float(sums["w"]) ** 2 / float(sums["ww"])


def _error(n: float, total: float, squares: float) -> float | None:
    return None if n < 2 else math.sqrt(max(0.0, squares - total**2 / n) / (n - 1.0) / n)
