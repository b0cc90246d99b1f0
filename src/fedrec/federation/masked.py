"""Sums as the vectors of a secure aggregation, and back.

Numbers travel in the rings of their spec. Where it is public how many clients have each item, counts of pairs of items
travel in narrower ones: as many bits for each entry as the smaller count of its two items needs. All entries of as many
bits are one vector.
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.packing import word_of
from fedrec.aggregation.pairs import diagonal_of, entries_by_bits, width_counts
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import DamagedError
from fedrec.secagg.layout import Layout, Slot

__all__ = ["COUNTERS", "COUNTS", "layout_of", "unmasked", "vectors_of"]

COUNTERS = "#counters"
"""Clients, left out, saturated: summed with the arrays, under a name that no array has."""
COUNTS = Slot(COUNTERS, 3, 64)


def layout_of(spec: SumSpec, rows: np.ndarray | None, counts: np.ndarray | None = None) -> Layout:
    """What is summed of a spec: arrays in its rings, and the counters.

    Args:
        spec: of the sum.
        rows: of arrays of rows, only these; `None` for all.
        counts: how many clients have each item [items], where counts of pairs travel in narrower rings.
    """
    slots: list[Slot] = []
    for array in spec.arrays:
        if counts is not None and array.of_pairs:
            slots += (Slot(_named(array, bits), many, bits) for bits, many in width_counts(counts).items())
        else:
            slots.append(Slot(array.name, _size(array, rows), array.ring))
    return Layout((*slots, COUNTS))


def vectors_of(part: Sum, rows: np.ndarray | None, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A sum as integers by name, for a layout of `layout_of`."""
    vectors: dict[str, np.ndarray] = {}
    for array in part.spec.arrays:
        numbers = part.arrays[array.name]
        if counts is not None and array.of_pairs:
            for bits, places in entries_by_bits(counts):
                vectors[_named(array, bits)] = numbers[places].astype(word_of(bits))
        else:
            kept = numbers if rows is None or array.kind != "rows" else numbers[rows]
            kept = np.ascontiguousarray(kept)
            word = word_of(array.ring)
            vectors[array.name] = kept if word.itemsize == kept.itemsize else kept.astype(word)
    return {**vectors, COUNTERS: np.array([part.clients, part.left_out, part.saturated], dtype=np.int64)}


def unmasked(
    spec: SumSpec,
    round: int,
    rows: np.ndarray | None,
    vectors: dict[str, np.ndarray],
    counts: np.ndarray | None = None,
) -> Sum:
    """The sum that the outcome of a secure aggregation holds.

    Raises:
        DamagedError: if no true parts add up to its counts: a party masked something else.
    """
    total = Sum.zeros(spec, round)
    for array in spec.arrays:
        home = total.arrays[array.name]
        if counts is not None and array.of_pairs:
            _open_pairs(array, vectors, counts, home)
        elif rows is None or array.kind != "rows":
            home[...] = _signed(vectors[array.name], array.ring).reshape(array.shape)
        else:
            home[rows] = _signed(vectors[array.name], array.ring).reshape(len(rows), -1)
    counted = vectors[COUNTERS].view(np.int64)
    total.clients, total.left_out, total.saturated = (int(number) for number in counted)
    cells = sum(array.size for array in spec.arrays)
    if min(counted) < 0 or total.clients + total.left_out > spec.n_max or total.saturated > spec.n_max * cells:
        raise DamagedError(
            f"the masked parts add up to {total.clients} clients, {total.left_out} left out and {total.saturated} "
            f"values cut, where n_max = {spec.n_max}"
        )
    return total


def _open_pairs(array: ArraySpec, vectors: dict[str, np.ndarray], counts: np.ndarray, home: np.ndarray) -> None:
    """Put the counts of pairs where they belong.

    Raises:
        DamagedError: if the diagonal is not the counts that were summed before.
    """
    for bits, places in entries_by_bits(counts):
        home[places] = vectors[_named(array, bits)]
    differ = np.flatnonzero(home[diagonal_of(len(counts))] != counts)
    if len(differ):
        raise DamagedError(
            f"the masked parts add up to other counts of {len(differ)} items than the parts that were summed before"
        )


def _size(array: ArraySpec, rows: np.ndarray | None) -> int:
    return array.size if rows is None or array.kind != "rows" else array.size // array.shape[0] * len(rows)


def _named(array: ArraySpec, bits: int) -> str:
    """Name of the vector of the entries of so many bits, which no array has."""
    return f"{array.name}#{bits}"


def _signed(numbers: np.ndarray, ring: int) -> np.ndarray:
    """Numbers of a ring from half of it below 0 on."""
    shift = 8 * numbers.itemsize - ring
    signed: np.ndarray = (numbers << numbers.dtype.type(shift)).view(f"i{numbers.itemsize}") >> shift
    return signed
