"""What a round sums: names, shapes, bounds, grids and rings."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from fedrec.aggregation.packing import packed_size
from fedrec.errors import PlanError

__all__ = ["ArraySpec", "SumSpec", "triangle_size"]


_GRANULARITIES = ("client", "node")
"""What a layout says of arrays that are not pooled, and of those that are."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a sum.

    Args:
        name: what the model calls it.
        kind: `rows` (touched rows of a table), `rank_one` (x ⊗ s or the upper triangle of x xᵀ), `pairs` (items × items
            or the upper triangle of it) or `dense`.
        shape: of the sum; a triangle is flat.
        bound: largest magnitude of one client's value at one coordinate; beyond it the value saturates.
        scale_bits: values are rounded to multiples of 2^-scale_bits.
        ring: bits of the ring of whole numbers in which the array is added, 2 to 64; 0 for the narrowest that fits
            (decided by `SumSpec.fit`).
        denominator: what the model divides by: `fixed` (a public constant), `count` or `per_row` (both summed arrays).
        role: what the sum is for. A `change` is what the model moves by: it may be shortened, and it may come from an
            earlier version of the model. A `count` says how many clients, or how much weight, a change or a statistic
            is of: it stays exact. A `statistic` is computed anew for one version and means nothing for another.
        pooled: whether the values of all clients of a chunk are added up before they are rounded, so that no client can
            be clipped or weighted alone.
        of_pairs: whether the array is the upper triangle of Σ x xᵀ by rows over all clients, where x is 1 at the items
            that a client has: how many clients have both items. Its diagonal says how many have each item, and no entry
            of a row or a column exceeds that.
    """

    name: str
    kind: Literal["rows", "rank_one", "pairs", "dense"]
    shape: tuple[int, ...]
    bound: float
    scale_bits: int = 0
    ring: int = 0
    denominator: Literal["fixed", "count", "per_row"] = "fixed"
    role: Literal["change", "count", "statistic"] = "statistic"
    pooled: bool = False
    of_pairs: bool = False

    @property
    def word(self) -> Literal[32, 64]:
        """Bits of the integers that hold the array in memory."""
        return 32 if self.ring <= 32 else 64

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)

    @property
    def unit(self) -> float:
        """Integer steps per 1.0."""
        return float(2**self.scale_bits)

    @property
    def nbytes(self) -> int:
        """Bytes of the dense array in its ring, without gaps."""
        return packed_size(self.size, self.ring)


@dataclass(frozen=True)
class SumSpec:
    """The arrays that one round sums, for at most `n_max` clients.

    Example:
        >>> spec = SumSpec((ArraySpec("counts", "dense", (5,), bound=1.0),)).fit(n_max=1000)
        >>> spec.arrays[0].ring, spec.arrays[0].word
        (11, 32)
    """

    arrays: tuple[ArraySpec, ...]
    n_max: int = 0

    def fit(self, n_max: int, room: Mapping[str, float] = MappingProxyType({})) -> SumSpec:
        """Choose rings for at most `n_max` clients, with `room` to spare by name: values that noise may add.

        A ring has as many bits as the largest total and its sign. Where noise may exceed its room, however rarely, a
        ring has 32 or 64 bits.

        Raises:
            PlanError: if n_max · bound · 2^scale_bits does not stay below half of the ring.
        """
        if n_max < 1:
            raise PlanError(f"n_max must be at least 1, not {n_max}")
        return SumSpec(tuple(_fit(array, n_max, room.get(array.name, 0.0)) for array in self.arrays), n_max)

    def __getitem__(self, name: str) -> ArraySpec:
        for array in self.arrays:
            if array.name == name:
                return array
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, in order."""
        return tuple(array.name for array in self.arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, dense, at ring width: what one party of a secure aggregation sends."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def layout(self) -> dict[str, Any]:
        """How values are rounded, added and stored, for JSON; what they are for is the model's own affair.

        Rings are named by the 32 or 64 bits that hold them: how many of these travel follows from `n_max` and bounds.
        """
        return {"arrays": [_layout(array) for array in self.arrays], "n_max": self.n_max}

    @classmethod
    def of_layout(cls, layout: Any) -> SumSpec:
        """The spec that a layout describes, with no role for its arrays, and rings of 32 or 64 bits.

        Raises:
            KeyError, TypeError, ValueError: if it describes none.
        """
        return cls(tuple(_array(fields) for fields in layout["arrays"]), _whole(layout["n_max"]))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the layout; sums are added and decoded only under equal digests."""
        return hashlib.sha256(json.dumps(self.layout, sort_keys=True).encode()).hexdigest()

    @property
    def changes(self) -> tuple[str, ...]:
        """Names of the arrays that the model moves by."""
        return tuple(array.name for array in self.arrays if array.role == "change")

    @property
    def pooled(self) -> tuple[str, ...]:
        """Names of the arrays in which no client can be told from the others."""
        return tuple(array.name for array in self.arrays if array.pooled)

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of the arrays that mean something for one version of the model only."""
        return tuple(array.name for array in self.arrays if array.role == "statistic")


def _layout(array: ArraySpec) -> dict[str, Any]:
    fields = asdict(array)
    del fields["role"], fields["of_pairs"]
    fields["ring"] = array.word
    granularity = _GRANULARITIES[fields.pop("pooled")]
    return {**fields, "granularity": granularity}


def _array(fields: Mapping[str, Any]) -> ArraySpec:
    named = dict(fields)
    shape, pooled = (
        tuple(_whole(length) for length in named.pop("shape")),
        _GRANULARITIES.index(named.pop("granularity")),
    )
    array = ArraySpec(**named, shape=shape, pooled=bool(pooled))
    if array.ring not in (32, 64) or not shape or min(shape) < 1 or not 0 <= array.scale_bits < 64:
        raise ValueError(f"array {array.name!r} has an unknown ring or an impossible shape")
    return array


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _fit(array: ArraySpec, n_max: int, room: float) -> ArraySpec:
    if not (array.bound > 0 and math.isfinite(array.bound)):
        raise PlanError(f"array {array.name!r}: the bound must be positive and finite, not {array.bound}")
    if not array.shape or min(array.shape) < 1:
        raise PlanError(f"array {array.name!r}: shape {array.shape} is empty; check that the catalog has items")
    largest = n_max * math.ceil(Fraction(array.bound) * Fraction(2) ** array.scale_bits)
    largest += math.ceil(Fraction(room) * Fraction(2) ** array.scale_bits)
    fits = largest.bit_length() + 1
    ring = array.ring or (min(fits, 64) if room == 0 else 32 if fits <= 32 else 64)
    if fits <= ring:
        return replace(array, ring=ring)
    raise PlanError(
        f"array {array.name!r} overflows its ring of {ring} bits: {n_max} clients × bound {array.bound:g} "
        f"× 2^{array.scale_bits}. Lower n_max, the bound or scale_bits"
    )


def triangle_size(n: int) -> int:
    """Entries of the upper triangle of an n × n matrix, diagonal included.

    >>> triangle_size(3)
    6
    """
    return int(np.int64(n) * (n + 1) // 2)
