"""Buffered aggregation (FedBuff, Nguyen et al. 2022): a step as soon as K sums are in, whatever version they are of.

A sum that was computed from version v of the model and is used for the step to version t + 1 has staleness τ = t − v.
Its *changes* are multiplied by a weight s(τ) ≤ 1, its *counts* are not:

    total = Σ over the K sums of (η · s(τ) · changes, counts)

so a model that divides the one by the other takes a step along the mean over all clients of the buffer, in which some
changes are shorter. That is the paper's (η / K) Σ s(τ) Δ with clients in place of sums. Were the counts weighted too,
the weights of a buffer of equally stale sums would cancel.

The paper lets stale sums count for *less*, as they point from where the model was. But what makes a sum stale is a slow
node, which comes seldom already: fast nodes make the model theirs, the more so the less alike users are. `balanced`
weights let a sum count for the steps that were made while it was computed, ((1 + τ) / (1 + τ of the slowest))^exponent:
at exponent 1 every client has the same say over time, however fast its node is.

A mean does not get shorter when fewer are in it: where K of N nodes are in a buffer, N / K steps are made while rounds
of all make one. With η the share of all clients that is in the buffer, every client moves the model as far as it does
in rounds of all, whatever the sizes of nodes, and hyperparameters keep their meaning. That is the default for models
that divide all changes by the number of clients (`count`); η is 1 where a row is divided by those who touched it
(`per_row`), which replaces rows by means, and where the divisor is `fixed`.

Weights are whole multiples of 2⁻¹⁶, and a weighted change is rounded to the grid of its own array (`shortened`), sum by
sum. So the total is of the same spec as its sums: it fits the same rings, as no weight is above 1; integers are added,
in any order; a fresh sum (s = 1) is not touched, so a buffer of fresh sums from all nodes has the bits of a plain
round. Rounding costs half a step of the grid per sum, what a client's own rounding costs. A node can shorten its own
part before it masks it: all that it takes is its staleness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError

__all__ = ["WEIGHT_BITS", "Asynchronous", "buffered_sum", "shortened"]

WEIGHT_BITS = 16
"""Weights are multiples of 2^-WEIGHT_BITS."""

_EXPONENT, _SLOPE, _FRESH = 0.5, 1.0, 4


class Asynchronous(BaseModel):
    """Training without rounds: a step whenever so many nodes' sums are in.

    Args:
        buffer: number of sums K that make a step. A larger buffer waits for more nodes. Nodes whose sums are not in it
            continue from the version that they began with.
        staleness: how much changes count that were computed τ versions ago. `balanced`: less for fast nodes, so that
            the users of slow nodes have as much say; `constant`: all the same; `polynomial`: (1 + τ)^−exponent, as in
            the paper; `hinge`: 1 up to `fresh` versions, and 1 / (1 + slope · (τ − fresh)) beyond (Xie et al. 2019).
        exponent: of `balanced` and `polynomial`; 0.5 by default. Larger values set fresh and stale sums further apart.
        fresh: number of versions by which a sum may be late and count in full, with `hinge`; 4 by default.
        slope: how fast the weight of later sums falls, with `hinge`; 1 by default. Larger values let it fall faster.
        step: η, share of a full step that a buffer of fresh sums makes. By default the share of all clients that is in
            the buffer, or 1 for models that divide by the clients of a row or by a fixed number.
        max_staleness: maximum number of versions by which a sum may be late. A later sum is not used: its node starts
            again from the newest version, and its clients keep the private rows they had. By default every sum is used.

    Raises:
        PlanError: for settings of another rule.

    Example:
        >>> paper = Asynchronous(buffer=5, staleness="polynomial")
        >>> [paper.weight(staleness, longest=8) / 2**WEIGHT_BITS for staleness in (0, 3, 8)]
        [1.0, 0.5, 0.3333282470703125]
        >>> [Asynchronous(buffer=5).weight(staleness, longest=15) / 2**WEIGHT_BITS for staleness in (0, 3, 15)]
        [0.25, 0.5, 1.0]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    buffer: int = Field(ge=1)
    staleness: Literal["balanced", "constant", "polynomial", "hinge"] = "balanced"
    exponent: float | None = Field(default=None, gt=0.0, le=8.0)
    fresh: int | None = Field(default=None, ge=0)
    slope: float | None = Field(default=None, gt=0.0, le=1024.0)
    step: float | None = Field(default=None, gt=0.0, le=1.0)
    max_staleness: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Asynchronous:
        powers = ("balanced", "polynomial")
        for key, rules in (("exponent", powers), ("fresh", ("hinge",)), ("slope", ("hinge",))):
            if getattr(self, key) is not None and self.staleness not in rules:
                raise PlanError(
                    f"asynchronous: {key} applies only to staleness: {' or '.join(rules)}, but staleness is "
                    f"{self.staleness}"
                )
        return self

    def weight(self, staleness: int, longest: int, step: float = 1.0) -> int:
        """η · s(τ) in steps of 2^-WEIGHT_BITS: a whole number from 1 to 2^WEIGHT_BITS.

        Args:
            staleness: τ.
            longest: of the last sums of all nodes, this one among them.
            step: η.
        """
        share, exponent = 1.0, _EXPONENT if self.exponent is None else self.exponent
        if self.staleness == "balanced":
            share = ((1.0 + staleness) / (1.0 + longest)) ** exponent
        elif self.staleness == "polynomial":
            share = (1.0 + staleness) ** -exponent
        elif self.staleness == "hinge":
            beyond = staleness - (_FRESH if self.fresh is None else self.fresh)
            share = 1.0 / (1.0 + (_SLOPE if self.slope is None else self.slope) * max(0, beyond))
        return max(1, round(step * share * 2**WEIGHT_BITS))

    def step_of(self, spec: SumSpec, share: float) -> float:
        """η for sums of `spec` from such a share of all clients."""
        if self.step is not None:
            return self.step
        divided = all(spec[name].denominator == "count" for name in spec.changes)
        return share if divided else 1.0

    def too_stale(self, staleness: int) -> bool:
        """Whether a sum is too stale to be used."""
        return self.max_staleness is not None and staleness > self.max_staleness


def buffered_sum(spec: SumSpec, parts: Sequence[tuple[Sum, int]], round: int) -> Sum:
    """The sum of a buffer: of each part the counts as they are, the changes shortened.

    Args:
        spec: of all parts.
        parts: sums of different nodes and their weights in steps of 2^-WEIGHT_BITS. The round of each is the version
            that it was computed from.
        round: of the total.

    Raises:
        DamagedError: if a part is of another spec, or there are more than `n_max` clients.
    """
    total = Sum.zeros(spec, round)
    for part, weight in parts:
        arrays = {
            name: shortened(array, weight) if name in spec.changes else array for name, array in part.arrays.items()
        }
        total.merge(Sum(part.spec, round, arrays, part.clients, part.left_out, part.saturated))
        total.commitments += part.commitments
    return total


def shortened(array: np.ndarray, weight: int) -> np.ndarray:
    """weight · array / 2^WEIGHT_BITS, rounded to whole numbers (halves upwards); exact in any ring.

    Args:
        array: [...] int32 or int64.
        weight: from 0 to 2^WEIGHT_BITS, for which it is the array itself.

    Example:
        >>> shortened(np.array([2**62, -3, 1], dtype=np.int64), 2**15).tolist() == [2**61, -1, 1]
        True
    """
    if weight == 1 << WEIGHT_BITS:
        return array
    wide = array.astype(np.int64)
    high, low = wide >> WEIGHT_BITS, wide & ((1 << WEIGHT_BITS) - 1)
    return (high * weight + ((low * weight + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS)).astype(array.dtype)
