"""Rows of a database on their way to interactions."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

__all__ = ["Rows"]


class Rows(NamedTuple):
    """Some rows of a table or query.

    Args:
        table: columns under our names, typed.
        seconds: times are seconds since 1970, told by their type; else their unit or notation is yet to be told.
    """

    table: pl.DataFrame
    seconds: bool
