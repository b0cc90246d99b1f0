"""The vectors of secure aggregation: named, in rings of 2^32 or 2^64, and cut into blocks in one fixed way."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.errors import InputError

__all__ = ["BLOCK_BYTES", "Block", "Layout", "Slot"]

BLOCK_BYTES = 1 << 20
MAX_SLOTS = 256
MAX_NAME = 64
MAX_BYTES = 1 << 40
_DTYPES: dict[int, np.dtype[np.unsignedinteger]] = {32: np.dtype("<u4"), 64: np.dtype("<u8")}


@dataclass(frozen=True)
class Slot:
    """One vector: its name, number of coordinates, and ring in bits."""

    name: str
    length: int
    ring: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The unsigned little-endian type with the width of the ring."""
        return _DTYPES[self.ring]

    @property
    def nbytes(self) -> int:
        """Bytes of the vector."""
        return self.length * self.ring // 8


@dataclass(frozen=True)
class Block:
    """A piece of one vector: coordinates `start` to `stop` of `slot`; the `index` counts over all vectors."""

    index: int
    slot: Slot
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the piece."""
        return (self.stop - self.start) * self.slot.ring // 8


@dataclass(frozen=True)
class Layout:
    """The vectors of secure aggregation, in order.

    Raises:
        InputError: for no or too many vectors, duplicate or too long names, an empty vector, or a ring that is not 32
            or 64.

    Example:
        >>> layout = Layout((Slot("counts", 300_000, 32), Slot("gram", 10, 64)))
        >>> [(block.slot.name, block.start, block.stop) for block in layout]
        [('counts', 0, 262144), ('counts', 262144, 300000), ('gram', 0, 10)]
    """

    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.slots) <= MAX_SLOTS:
            raise InputError(f"secure aggregation needs 1 to {MAX_SLOTS} vectors, not {len(self.slots)}")
        for slot in self.slots:
            if not 1 <= len(slot.name.encode()) <= MAX_NAME:
                raise InputError(f"the name of a vector must have 1 to {MAX_NAME} bytes")
            if slot.ring not in _DTYPES:
                raise InputError(f"vector {slot.name!r}: the ring must have 32 or 64 bits, not {slot.ring}")
            if slot.length < 1:
                raise InputError(f"vector {slot.name!r} must have at least 1 coordinate, not {slot.length}")
        if len({slot.name for slot in self.slots}) < len(self.slots):
            raise InputError("two vectors of secure aggregation have the same name")
        if self.nbytes > MAX_BYTES:
            raise InputError(f"the vectors have {self.nbytes} bytes, more than the maximum of {MAX_BYTES}")

    @classmethod
    def of(cls, spec: SumSpec) -> Layout:
        """The vectors of a `SumSpec` whose rings are chosen, flat."""
        return cls(tuple(Slot(array.name, array.size, array.ring) for array in spec.arrays))

    @property
    def nbytes(self) -> int:
        """Bytes of all vectors."""
        return sum(slot.nbytes for slot in self.slots)

    @cached_property
    def _firsts(self) -> tuple[int, ...]:
        """Index of each vector's first block, and the number of all blocks."""
        return tuple(itertools.accumulate((-(-slot.nbytes // BLOCK_BYTES) for slot in self.slots), initial=0))

    def __len__(self) -> int:
        return self._firsts[-1]

    def __iter__(self) -> Iterator[Block]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> Block:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect.bisect_right(self._firsts, index) - 1
        slot = self.slots[place]
        step = BLOCK_BYTES * 8 // slot.ring
        start = (index - self._firsts[place]) * step
        return Block(index, slot, start, min(slot.length, start + step))

    def flat(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Unsigned flat views of a party's arrays, without copying.

        Raises:
            InputError: if a vector is missing, is not in the layout, or has another size or width.
        """
        if set(arrays) != {slot.name for slot in self.slots}:
            raise InputError(
                f"the arrays must have the names {[slot.name for slot in self.slots]}, not {sorted(arrays)}"
            )
        return {slot.name: _unsigned(arrays[slot.name], slot) for slot in self.slots}

    def zeros(self) -> dict[str, np.ndarray]:
        """Vectors of zeros, by name."""
        return {slot.name: np.zeros(slot.length, slot.dtype) for slot in self.slots}


def _unsigned(array: np.ndarray, slot: Slot) -> np.ndarray:
    fits = array.dtype.kind in "iu" and array.dtype.itemsize == slot.dtype.itemsize and array.size == slot.length
    if not fits or not array.flags.c_contiguous:
        raise InputError(
            f"vector {slot.name!r} must have {slot.length} contiguous integers of {slot.ring} bits, "
            f"not {array.size} of {array.dtype}"
        )
    return array.reshape(-1).view(slot.dtype)


def add_plainly(layout: Layout, parties: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The plain sum of the vectors of all parties in their rings, by name, flat and unsigned, as a reference."""
    total = layout.zeros()
    for arrays in parties:
        for name, values in layout.flat(arrays).items():
            total[name] += values
    return total
