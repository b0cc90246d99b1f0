"""Sums in which some nodes, or some groups of nodes, may be hostile: a robust mean of the parts, times all clients.

A rule works on each part's mean per client, so a part has no more say for claiming more clients. What it costs: over
parts with unlike users it is not the mean that federated averaging takes, and rules that look at one coordinate at a
time (`median`, `trimmed-mean`) leave rows at zero that most parts do not touch: the tail of a catalog.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError

__all__ = ["Robust", "robust_sum"]

_FILTER = 2.0
_WEISZFELD_STEPS = 3
_SMOOTHING = 1e-6
_FEWEST = 3


class Robust(BaseModel):
    """How the parts of nodes are combined if some of them may be hostile.

    Args:
        rule: `median` or `trimmed-mean` of every coordinate (Yin et al. 2018), `krum`, the part nearest to its
            neighbours (Blanchard et al. 2017), `geometric-median` (Pillutla et al. 2022), or `norm-filter`, the mean of
            parts that are at most twice as long as the median one.
        over: `nodes`, in the clear, or `groups` of nodes under secure aggregation, which hides single nodes.
        groups: number of groups; each has at least three nodes.
        tolerated: share of parts that may be hostile, below one half. A larger share protects more and uses less of the
            honest parts.

    Raises:
        PlanError: for a mix that has no meaning.

    Example:
        >>> Robust(rule="krum").tolerated
        0.2
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["median", "trimmed-mean", "krum", "geometric-median", "norm-filter"]
    over: Literal["nodes", "groups"] = "nodes"
    groups: int | None = Field(default=None, ge=_FEWEST)
    tolerated: float = Field(default=0.2, ge=0.0, lt=0.5)

    @model_validator(mode="after")
    def _check(self) -> Robust:
        if (self.over == "groups") != (self.groups is not None):
            raise PlanError("robust: groups is the number of groups; set it with over: groups, and only then")
        return self


def robust_sum(spec: SumSpec, parts: Sequence[Sum], round: int, how: Robust) -> Sum:
    """The robust mean of the parts' means, times the clients of all parts.

    Args:
        spec, round: of the parts.
        parts: what nodes or groups of them let out; those without clients have no say.
        how: the rule.

    Raises:
        PlanError: if there are fewer than three parts with clients, or fewer than the rule needs.
    """
    present = [part for part in parts if part.clients]
    hostile = math.ceil(how.tolerated * len(present))
    needed = max(_FEWEST, 2 * hostile + (3 if how.rule == "krum" else 1))
    if len(present) < needed:
        raise PlanError(
            f"robust: {how.rule} against {hostile} hostile parts needs {needed} {how.over} with clients; only "
            f"{len(present)} have clients; add {how.over}, or lower tolerated"
        )
    means = {
        array.name: np.stack([part.arrays[array.name].reshape(-1) / (array.unit * part.clients) for part in present])
        for array in spec.arrays
    }
    found = _located(means, how.rule, hostile)
    clients = sum(part.clients for part in present)
    total = Sum.zeros(spec, round)
    for array in spec.arrays:
        whole = np.rint(found[array.name] * (clients * array.unit))
        total.arrays[array.name][...] = whole.astype(total.arrays[array.name].dtype).reshape(array.shape)
    total.clients = clients
    total.left_out = sum(part.left_out for part in parts)
    total.saturated = sum(part.saturated for part in parts)
    total.commitments = tuple(commitment for part in parts for commitment in part.commitments)
    return total


def _located(means: dict[str, np.ndarray], rule: str, hostile: int) -> dict[str, np.ndarray]:
    if rule == "median":
        return {name: np.median(rows, axis=0) for name, rows in means.items()}
    if rule == "trimmed-mean":
        kept = slice(hostile, len(next(iter(means.values()))) - hostile)
        return {name: np.sort(rows, axis=0)[kept].mean(axis=0) for name, rows in means.items()}
    weights = {"krum": _krum, "geometric-median": _geometric, "norm-filter": _filtered}[rule](means, hostile)
    return {name: weights @ rows for name, rows in means.items()}


def _krum(means: dict[str, np.ndarray], hostile: int) -> np.ndarray:
    """1 for the part whose n − f − 2 nearest others are nearest, 0 elsewhere; the first of equals."""
    count = len(next(iter(means.values())))
    distances = np.zeros((count, count))
    for rows in means.values():
        for one in range(count):
            distances[one] += np.square(rows - rows[one]).sum(axis=1)
    near = np.sort(distances, axis=1)[:, 1 : count - hostile - 1]
    weights = np.zeros(count)
    weights[int(np.argmin(near.sum(axis=1)))] = 1.0
    return weights


def _geometric(means: dict[str, np.ndarray], hostile: int) -> np.ndarray:
    """Weights of smoothed Weiszfeld steps from the mean."""
    count = len(next(iter(means.values())))
    weights = np.full(count, 1.0 / count)
    for _ in range(_WEISZFELD_STEPS):
        squares = np.zeros(count)
        for rows in means.values():
            squares += np.square(rows - weights @ rows).sum(axis=1)
        weights = 1.0 / np.maximum(np.sqrt(squares), _SMOOTHING)
        weights /= weights.sum()
    return weights


def _filtered(means: dict[str, np.ndarray], hostile: int) -> np.ndarray:
    """Equal weights of parts that are not much longer than the median one."""
    lengths = np.sqrt(sum(np.square(rows).sum(axis=1) for rows in means.values()))
    kept = lengths <= _FILTER * np.median(lengths)
    return kept / kept.sum()
