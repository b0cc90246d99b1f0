"""The vectors of secure aggregation: named, in rings of 1 to 64 bits, and cut into blocks in one fixed way.

A ring of b bits is that of whole numbers modulo 2^b. In memory a number has the narrowest type that holds the ring; on
its way it has b bits. Masks are added in the type, as 2^b divides what the type counts to.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedrec.aggregation.packing import packed_size, word_of
from fedrec.aggregation.specs import SumSpec
from fedrec.errors import InputError

__all__ = ["BLOCK_BYTES", "Block", "Layout", "Slot"]

BLOCK_BYTES = 1 << 20
MAX_SLOTS = 256
MAX_NAME = 64
MAX_BYTES = 1 << 40


@dataclass(frozen=True)
class Slot:
    """One vector: its name, number of coordinates, and ring in bits."""

    name: str
    length: int
    ring: int

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The narrowest unsigned little-endian type that holds the ring."""
        return word_of(self.ring)

    @property
    def nbytes(self) -> int:
        """Bytes of the vector in memory."""
        return self.length * self.dtype.itemsize

    def reduce(self, numbers: np.ndarray) -> None:
        """Take the remainders of numbers of the type modulo the ring, in place."""
        if self.ring < 8 * self.dtype.itemsize:
            numbers &= self.dtype.type((1 << self.ring) - 1)


@dataclass(frozen=True)
class Block:
    """A piece of one vector: coordinates `start` to `stop` of `slot`; the `index` counts over all vectors."""

    index: int
    slot: Slot
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Bytes of the piece on its way."""
        return packed_size(self.stop - self.start, self.slot.ring)


@dataclass(frozen=True)
class Layout:
    """The vectors of secure aggregation, in order.

    Raises:
        InputError: for no or too many vectors, duplicate or too long names, an empty vector, or a ring that does not
            have 1 to 64 bits.

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
            if not 1 <= slot.ring <= 64:
                raise InputError(f"vector {slot.name!r}: the ring must have 1 to 64 bits, not {slot.ring}")
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
        """Bytes of all vectors in memory."""
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
        step = BLOCK_BYTES // slot.dtype.itemsize
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
            f"vector {slot.name!r} must have {slot.length} contiguous integers of {8 * slot.dtype.itemsize} bits, "
            f"not {array.size} of {array.dtype}"
        )
    return array.reshape(-1).view(slot.dtype)


def add_plainly(layout: Layout, parties: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The plain sum of the vectors of all parties in their rings, by name, flat and unsigned, as a reference."""
    total = layout.zeros()
    for arrays in parties:
        for name, values in layout.flat(arrays).items():
            total[name] += values
    for slot in layout.slots:
        slot.reduce(total[slot.name])
    return total
