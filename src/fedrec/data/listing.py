"""Arguments that may be one value or a list: values, ids and whole numbers. Text is one value, never a list of
letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

import numpy as np
import polars as pl

from fedrec.errors import InputError

__all__ = ["listed", "listed_ids", "whole_number"]


def listed(values: object, what: str) -> list[Any] | pl.Series:
    """The values as a list; a single value becomes a list with one element. A polars series stays unchanged.

    Args:
        values: text, a number, or any iterable of values; not a table or a mapping, which hold columns.
        what: name of the argument in errors.

    Raises:
        InputError: if `values` is missing, or is a table, a mapping or bytes.

    Example:
        >>> listed("ab", "users"), listed(["a", "b"], "users"), listed(12, "users")
        (['ab'], ['a', 'b'], [12])
    """
    if isinstance(values, pl.Series):
        return values
    if isinstance(values, np.ndarray) and values.ndim == 0:
        values = values.item()
    if isinstance(values, str | Number | np.generic):
        return [values]
    if isinstance(values, Mapping) or hasattr(values, "columns"):
        raise InputError(f"{what}: give a list of values, not a {type(values).__name__}; take one of its columns")
    if isinstance(values, bytes | bytearray):
        raise InputError(f"{what}: give text, not {type(values).__name__}; decode it first")
    if values is None or not isinstance(values, Iterable):
        raise InputError(f"{what}: give one value or a list of values, not {type(values).__name__}")
    return list(values)


def listed_ids(values: object, what: str = "ids") -> list[Any] | pl.Series:
    """Ids as a list, see `listed`; fractions and truth values are errors, because rounding would give the id of
    somebody else.

    Raises:
        InputError: if a value is a float or a bool.
    """
    ids = listed(values, what)
    if isinstance(ids, pl.Series):
        return ids
    for kind in {type(value) for value in ids}:
        if issubclass(kind, bool | np.bool_ | float | np.floating):
            wrong = [value for value in ids if type(value) is kind and value == value]  # NaN is a missing id
            if wrong:
                raise InputError(f"{what} must be whole numbers or text; {wrong[0]!r} is neither")
    return ids


def whole_number(value: object, what: str) -> int:
    """A count of at least 1.

    Raises:
        InputError: if it is not a whole number, or is below 1.

    Example:
        >>> whole_number(np.int32(3), "n")
        3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{what} must be a whole number, not {value!r}")
    if value < 1:
        raise InputError(f"{what} must be at least 1, not {value}")
    return int(value)
