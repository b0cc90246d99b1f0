"""Rows of a database, before they become interactions."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

__all__ = ["Rows"]


class Rows(NamedTuple):
    """Some rows of a table or query.

    Args:
        table: columns with standard names and their types.
        seconds: whether times are seconds since 1970, because of their type; otherwise their unit or format is not
            known yet.
    """

    table: pl.DataFrame
    seconds: bool
