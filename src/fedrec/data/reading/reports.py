"""Reports of what a step read or left out, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from fedrec.data.interactions import Interactions
from fedrec.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["LEFT_OUT", "Loaded", "ReadReport", "no_rows_left_out", "reason_counts", "write_left_out"]

LEFT_OUT: dict[str, type[pl.DataType]] = {
    "step": pl.String,
    "reason": pl.String,
    "line": pl.Int64,
    "field": pl.String,
    "value": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "rating": pl.String,
    "timestamp": pl.String,
}
"""Columns of a table of left-out rows. `line` counts from 1 (in a table: the row); it is null after reading."""


def no_rows_left_out() -> pl.DataFrame:
    """An empty table of left-out rows."""
    return pl.DataFrame(schema=LEFT_OUT)


def reason_counts(left_out: pl.DataFrame) -> dict[str, int]:
    """How many rows were left out for each reason, most frequent first.

    >>> reason_counts(pl.DataFrame({"reason": ["repeated", "is missing", "repeated"]}))
    {'repeated': 2, 'is missing': 1}
    """
    counted = left_out.group_by("reason", maintain_order=True).len().sort("len", descending=True, maintain_order=True)
    return dict(counted.select("reason", "len").rows())


def write_left_out(left_out: pl.DataFrame, path: str | Path) -> None:
    """Write left-out rows to a `.parquet` or `.csv` file.

    Raises:
        InputError: if the path has another ending, or cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".parquet", ".csv"):
        raise InputError(
            f"{target}: the file of left-out rows must end in .parquet or .csv, not {target.suffix or 'no ending'!r}"
        )
    try:
        if target.suffix == ".parquet":
            left_out.write_parquet(target)
        else:
            left_out.write_csv(target)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{target}: cannot be written ({reason}). Choose another path") from None


@dataclass(frozen=True, eq=False)
class ReadReport:
    """The result of reading one source.

    Args:
        source: the file, folder or table.
        format: its format.
        columns: maps standard names to names in the source.
        rows: number of rows, including left-out rows.
        left_out: the left-out rows, see `LEFT_OUT`.
        notes: decisions made while reading, such as the unit of times.
        unread: columns of the source that were not read.
    """

    source: str
    format: str
    columns: dict[str, str]
    rows: int
    left_out: pl.DataFrame
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Rows left out for each reason."""
        return reason_counts(self.left_out)

    def summary(self) -> str:
        """One line with the number of rows that were read, and of rows that were left out, with reasons."""
        text = f"{self.source}: {self.rows - self.left_out.height:,} of {self.rows:,} rows read"
        if self.left_out.height:
            reasons = "; ".join(f"{reason}: {count:,}" for reason, count in self.counts.items())
            text += f", {self.left_out.height:,} left out ({reasons})"
        return text

    @property
    def remarks(self) -> tuple[str, ...]:
        """The meaning of each column, columns that were not read, and the notes."""
        columns = ", ".join(f"{ours} = {theirs}" for ours, theirs in self.columns.items())
        return (
            *([f"columns: {columns}"] if columns else []),
            *([f"columns that were not read: {', '.join(self.unread)}"] if self.unread else []),
            *self.notes,
        )

    def table(self) -> Table:
        """The report as a table for printing with Rich."""
        from rich.table import Table

        table = Table("", "rows", title=f"read {self.source} ({self.format})", title_justify="left")
        table.columns[1].justify = "right"
        table.add_row("found", f"{self.rows:,}")
        for reason, count in self.counts.items():
            table.add_row(f"left out: {reason}", f"{count:,}")
        table.add_row("kept", f"{self.rows - self.left_out.height:,}")
        return table

    def write_left_out(self, path: str | Path) -> None:
        """Write the left-out rows to a `.parquet` or `.csv` file."""
        write_left_out(self.left_out, path)


@dataclass(frozen=True, eq=False)
class Loaded:
    """Interactions and the report on reading them."""

    interactions: Interactions
    report: ReadReport
