"""Merges repeated (user, item) pairs: one row is left, with the value that the plan asks for."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.errors import InputError
from fedrec.kernels.splitting import first_repeat, latest_of_repeats

__all__ = ["Repeats", "latest_rows", "with_merged_values"]

Repeats = Literal["latest", "sum", "count", "max", "keep"]
"""The value of the row that is left: its own, or the sum, number or largest value of all rows of the pair; `keep`
leaves repeats to the split, which keeps the latest."""


def latest_rows(data: Interactions) -> np.ndarray:
    """Which rows [interactions] bool are the last of their (user, item) pair."""
    keep = np.empty(len(data), dtype=np.bool_)
    latest_of_repeats(data.indptr, data.items, data.n_items, keep)
    return keep


def with_merged_values(data: Interactions, repeats: Repeats) -> Interactions:
    """The same rows; the last row of each (user, item) pair has the value that `repeats` asks for, the others keep
    their own.

    Without values every row counts as 1.

    Raises:
        InputError: if a sum is too large for a value; the message names the user and the item.

    Example:
        >>> from fedrec.data.reading.frames import interactions_from
        >>> data = interactions_from({"user": [1, 1, 1], "item": ["x", "y", "x"], "weight": [2, 5, 3]})
        >>> with_merged_values(data, "sum").values.tolist()
        [2.0, 5.0, 5.0]
    """
    if repeats in ("latest", "keep") or (data.values is None and repeats == "max") or len(data) == 0:
        return data
    ones = np.ones(len(data), dtype=np.float32)
    values = ones if data.values is None or repeats == "count" else data.values
    if first_repeat(data.indptr, data.items, data.n_items) < 0:
        return data if values is data.values else replace(data, values=values)
    pairs = data.rows_of_users() * data.n_items + data.items
    order = np.argsort(pairs, kind="stable")  # rows of a pair stay in order, so the last of them is the latest
    starts = np.flatnonzero(np.diff(pairs[order], prepend=-1))
    last = order[np.append(starts[1:], len(order)) - 1]
    each = values[order].astype(np.float64)
    of_pairs = (np.maximum if repeats == "max" else np.add).reduceat(each, starts)
    merged = values.copy()
    with np.errstate(over="ignore"):
        merged[last] = of_pairs
    wrong = np.flatnonzero(np.isinf(merged[last]))
    if len(wrong):
        row = int(last[wrong[0]])
        raise InputError(
            f"repeats: the values of {data.named(row)} add up to {of_pairs[wrong[0]]:g}, which is too "
            "large. Give smaller values, or set repeats to count, latest or max"
        )
    return replace(data, values=merged)
