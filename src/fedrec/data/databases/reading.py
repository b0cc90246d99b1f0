"""Interactions from a table or query of a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.databases.rows import Rows
from fedrec.data.databases.urls import database_of
from fedrec.data.reading.assembly import assemble
from fedrec.data.reading.columns import resolve
from fedrec.data.reading.reports import Loaded, ReadReport, no_rows_left_out
from fedrec.data.reading.rows import RowRules
from fedrec.data.reading.tables import Piece
from fedrec.errors import InputError

__all__ = ["read_database"]

_NOTHING_BROKEN = pl.DataFrame(schema={"line": pl.Int64, "value": pl.String, "reason": pl.String})


def read_database(
    source: str,
    *,
    table: str | None = None,
    query: str | None = None,
    columns: Mapping[str, str] | None = None,
    catalog: Catalog | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_items: Literal["raise", "skip"] = "raise",
    user_columns: Sequence[str] = (),
    keep_missing: bool = False,
) -> Loaded:
    """Interactions from PostgreSQL or SQLite, and the report of how they were read.

    Rows of a database have no order. fedrec sorts the rows of a user by time. Rows with equal times, or without times,
    get an order that looks random but is the same for the same rows. In the table of left-out rows, `line` is null.

    Args:
        source: `postgresql://user@host:port/database` or `sqlite:///folder/file.db`, with `?table=…` or `?query=…`;
            see `database_urls.database_of`.
        table, query: the table or the query, if the URL does not name it.
        columns, catalog, on_error, unknown_items, user_columns, keep_missing: as in `readers.read_with_report`.

    Raises:
        InputError: if the database cannot be read, or a row cannot be used; the message says what to do.

    Example:
        >>> import pathlib, sqlite3, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "shop.db"
        >>> database = sqlite3.connect(path)
        >>> _ = database.execute("CREATE TABLE clicks (customer TEXT, sku INTEGER, at TEXT)")
        >>> _ = database.execute("INSERT INTO clicks VALUES ('ann', 7, '1970-01-02 00:00:00')")
        >>> database.commit(); database.close()
        >>> loaded = read_database(f"sqlite:///{path}?table=clicks", columns={"timestamp": "at"})
        >>> loaded.interactions.to_frame().rows()
        [('ann', 7, 86400.0)]
    """
    for name, value in (("on_error", on_error), ("unknown_items", unknown_items)):
        if value not in ("raise", "skip"):
            raise InputError(f"{name} must be 'raise' or 'skip', not {value!r}")
    database = database_of(source, table, query)
    picked: dict[str, str] = {}

    def choose(found: Sequence[str]) -> dict[str, str]:
        picked.update(resolve(found, columns, database.where))
        for name in user_columns:
            if name not in found:
                names = ", ".join(found)
                raise InputError(f"{database.where}: there is no column {name!r} for user_columns among {names}")
            if name in picked.values():
                raise InputError(f"{database.where}: column {name!r} is already read; remove it from user_columns")
        return picked | {name: name for name in user_columns}

    def pieces(rows: Iterator[Rows]) -> Iterator[tuple[Piece, RowRules]]:
        for table, seconds in rows:
            times: Literal["numbers", "seconds"] = "seconds" if seconds else "numbers"
            rules = RowRules(database.where, "row", on_error, keep_missing, times)
            yield Piece(table.insert_column(0, pl.lit(None, dtype=pl.Int64).alias("line")), _NOTHING_BROKEN), rules

    if database.kind == "postgresql":
        from fedrec.data.databases.postgresql import read_rows
    else:
        from fedrec.data.databases.sqlite import read_rows
    with closing(read_rows(database, choose)) as rows:
        loaded = assemble(
            pieces(rows),
            ReadReport(database.where, database.kind, picked, 0, no_rows_left_out()),
            text=False,
            catalog=catalog,
            unknown_items=unknown_items,
            user_columns=user_columns,
            ordered=False,
        )
    if "timestamp" in picked:
        return loaded
    note = "no column is a time, so the rows of a user are in an order of chance that their values decide"
    return replace(loaded, report=replace(loaded.report, notes=(*loaded.report.notes, note)))
