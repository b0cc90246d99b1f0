"""Records: arrays and numbers that belong together, passed to a kernel as one argument.

A record is a `NamedTuple`; `takes` writes the signature of a kernel that takes records beside arrays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
from numba.core import sigutils, types

__all__ = ["HISTORIES", "ROWS", "Histories", "Rows", "record", "takes"]


class Histories(NamedTuple):
    """The histories of clients, and what each draws with.

    Args:
        indptr: [c + 1] int64; client `c` owns `items[indptr[c]:indptr[c + 1]]`, distinct within a client.
        items: [rows] int32.
        excluded_indptr: [c + 1] int64.
        excluded_items: [excluded] int32, items that negatives must avoid besides.
        seeds: [c] uint64.
    """

    indptr: np.ndarray
    items: np.ndarray
    excluded_indptr: np.ndarray
    excluded_items: np.ndarray
    seeds: np.ndarray


class Rows(NamedTuple):
    """Room for rows of items that each client writes.

    Args:
        indptr: [c + 1] int64; client `c` has the room from `indptr[c]` on.
        items: [room] int32.
        values: [room, d] float32.
        counts: [c] int64, how many rows each client wrote.
    """

    indptr: np.ndarray
    items: np.ndarray
    values: np.ndarray
    counts: np.ndarray


def record(kind: Any, fields: str) -> types.Type:
    """The type of a record for kernels.

    Args:
        kind: the `NamedTuple`.
        fields: types of its fields in Numba's words, with commas.

    >>> HISTORIES.types[1]
    Array(int32, 1, 'C', False, aligned=True)
    """
    return types.NamedTuple(_types(fields), kind)  # type: ignore[no-untyped-call]


def takes(*arguments: types.Type | str) -> Any:
    """The signature of a kernel that takes these arguments and gives nothing back.

    Args:
        arguments: types of records, and types of other arguments in Numba's words, several of them with commas.
    """
    kinds: list[types.Type] = []
    for argument in arguments:
        kinds += _types(argument) if isinstance(argument, str) else [argument]
    return numba.void(*kinds)


def _types(words: str) -> tuple[types.Type, ...]:
    kinds: tuple[types.Type, ...] = sigutils.normalize_signature(f"void({words})")[0]  # type: ignore[no-untyped-call]
    return kinds


HISTORIES = record(Histories, "int64[::1], int32[::1], int64[::1], int32[::1], uint64[::1]")
ROWS = record(Rows, "int64[::1], int32[::1], float32[:, ::1], int64[::1]")
