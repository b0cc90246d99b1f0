"""What the arrays of a model look like: declared by the model, so that arrays from a file or a network can be checked
before a kernel, which trusts shapes and indexes, touches them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedrec.data.interactions import offsets
from fedrec.errors import DamagedError
from fedrec.kernels.splitting import first_repeat
from fedrec.models.private_state import OwnRows

__all__ = ["Form", "Named", "Own", "Shape", "Shapes", "check_arrays", "check_rows", "whole_number"]

_BLOCK = 1 << 18
"""Numbers that are looked at together."""


@dataclass(frozen=True)
class Shape:
    """Type, axes and range of an array.

    Args:
        axes: lengths; a name stands for a length that is equal wherever the name appears in a form, and at most that of
            the catalog.
        dtype: of the numbers.
        least, below: whole numbers are from `least` to one less than `below`.
        finite: whether floats must be finite.
        longest: most that a named axis may be long, where that does not depend on the catalog; 0 for its length.

    Example:
        >>> str(Shape((40, "rank"))), Shape((40,), "int32", -1, 40).fits(np.full(40, 7, np.int32), {}, 40)
        ('float32 [40, rank]', True)
    """

    axes: tuple[int | str, ...]
    dtype: str = "float32"
    least: int = 0
    below: int = 0
    finite: bool = True
    longest: int = 0

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(map(str, self.axes))}]"

    def fits(self, array: np.ndarray, lengths: dict[str, int], most: int) -> bool:
        """Whether type and axes fit; `lengths` of named axes are filled in, each `most` at most."""
        if array.dtype != np.dtype(self.dtype) or array.ndim != len(self.axes):
            return False
        for axis, size in zip(self.axes, array.shape, strict=True):
            if size != (axis if isinstance(axis, int) else lengths.setdefault(axis, size)):
                return False
            if isinstance(axis, str) and size > (self.longest or most):
                return False
        return True

    def wrong_values(self, array: np.ndarray) -> str | None:
        """What is wrong with the values of an array that fits, if anything."""
        if array.dtype.kind == "f":
            if self.finite and not _finite(array):
                return "holds numbers that are not finite"
        elif array.dtype.kind == "i" and array.size and self.below > self.least:
            low, high = int(array.min()), int(array.max())
            if low < self.least or high >= self.below:
                return f"holds {low if low < self.least else high}; it may hold {self.least} to {self.below - 1}"
        return None


@dataclass(frozen=True)
class Own:
    """Private `OwnRows`: distinct items of the catalog within a client, and rows of `width` float32.

    Args:
        width: numbers in a row.
    """

    width: int


Named = Mapping[str, Shape]


@dataclass(frozen=True)
class Form:
    """The arrays of a state that come together.

    Args:
        shared: those that everybody may see.
        server: those of the coordinator alone.
    """

    shared: Named
    server: Named = field(default_factory=dict)


@dataclass(frozen=True)
class Shapes:
    """What all arrays of a model look like.

    Args:
        states: the forms that its state has, in the order of training; the model scores with the last one.
        rows: private arrays that `join` gives, without the axis of clients; empty where it gives none.
    """

    states: tuple[Form, ...]
    rows: Mapping[str, Shape | Own] = field(default_factory=dict)


def check_arrays(arrays: Mapping[str, np.ndarray], forms: Sequence[Named], n_items: int, what: str, whose: str) -> int:
    """Check that arrays are those of one of several forms: names, types, axes and values.

    Args:
        arrays: by name.
        forms: what may come together.
        n_items: length of the catalog.
        what: the kind of array, for messages, such as `shared array`.
        whose: the model's name, for messages.

    Returns:
        The place of the form among `forms`.

    Raises:
        DamagedError: naming the array and what it should be, in the form whose names are nearest.
    """
    wrong, unlike = "", -1
    for place, form in enumerate(forms):
        problem = _misfit(arrays, form, n_items, what, whose)
        if problem is None:
            return place
        differing = len(form.keys() ^ arrays.keys())
        if not wrong or differing < unlike or differing == 0:
            wrong, unlike = problem, differing
    raise DamagedError(wrong or f"{whose} has no {what}s")


def _misfit(arrays: Mapping[str, np.ndarray], form: Named, n_items: int, what: str, whose: str) -> str | None:
    for name in sorted(arrays.keys() - form.keys()):
        return f"{what} {name!r} is none of {whose}'s; at this point there are {', '.join(sorted(form)) or 'none'}"
    for name in form.keys() - arrays.keys():
        return f"{what} {name!r} is missing; {whose} has it as {form[name]}"
    lengths: dict[str, int] = {}
    for name, shape in form.items():
        array = arrays[name]
        if not shape.fits(array, lengths, n_items):
            known = {axis: size for axis, size in lengths.items() if axis in shape.axes}
            told = f" with {', '.join(f'{axis} = {size}' for axis, size in known.items())}" if known else ""
            return f"{what} {name!r} of {whose} is {array.dtype} {list(array.shape)}; it should be {shape}{told}"
        problem = shape.wrong_values(array)
        if problem is not None:
            return f"{what} {name!r} of {whose} {problem}"
    return None


def check_rows(rows: Mapping[str, Any], shapes: Mapping[str, Shape | Own], clients: int, n_items: int) -> None:
    """Check that private rows are those that a model's `join` gives, of so many clients.

    Args:
        rows: arrays [clients, …] or `OwnRows`, by name.
        shapes: what they should be, without the axis of clients.
        clients: how many.
        n_items: length of the catalog.

    Raises:
        DamagedError: naming the array and what it should be.
    """
    whole = {}
    for name, shape in shapes.items():
        if isinstance(shape, Shape):
            whole[name] = Shape((clients, *shape.axes), shape.dtype, shape.least, shape.below, shape.finite)
    own = {name: array for name, array in rows.items() if isinstance(array, OwnRows)}
    for name, shape in shapes.items():
        if isinstance(shape, Own):
            if name not in own:
                raise DamagedError(f"private rows {name!r} of the clients' own items are missing")
            _check_own(name, own.pop(name), shape, clients, n_items)
    for name in own:
        raise DamagedError(f"private rows {name!r} are none of the model's; it has {', '.join(shapes)}")
    arrays = {name: array for name, array in rows.items() if not isinstance(array, OwnRows)}
    check_arrays(arrays, [whole], n_items, "private rows", "the model")


def _check_own(name: str, rows: OwnRows, shape: Own, clients: int, n_items: int) -> None:
    if len(rows) != clients or rows.width != shape.width:
        raise DamagedError(
            f"private rows {name!r} are of {len(rows)} clients and {rows.width} numbers wide; they should be of "
            f"{clients} clients and {shape.width} wide"
        )
    packed = rows.packed()
    if len(packed.items) and not 0 <= int(packed.items.min()) <= int(packed.items.max()) < n_items:
        raise DamagedError(f"private rows {name!r} name items that are not among the {n_items} of the catalog")
    if first_repeat(offsets(packed.lengths), packed.items, n_items) >= 0:
        raise DamagedError(f"private rows {name!r} have an item of a client twice")


def _finite(array: np.ndarray) -> bool:
    """Whether all numbers are finite, a block at a time: a large array needs no second one beside it."""
    flat = array.reshape(-1)
    return all(np.isfinite(flat[start : start + _BLOCK]).all() for start in range(0, len(flat), _BLOCK))


def whole_number(array: np.ndarray | None, least: int, below: int) -> int | None:
    """The one whole number that an array [1] int64 holds, if it is from `least` to `below` − 1.

    >>> whole_number(np.array([7]), 0, 10), whole_number(np.array([7.5]), 0, 10), whole_number(None, 0, 10)
    (7, None, None)
    """
    if array is None or array.dtype != np.int64 or array.shape != (1,) or not least <= int(array[0]) < below:
        return None
    return int(array[0])
