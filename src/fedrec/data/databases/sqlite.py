"""Interactions from SQLite: one read-only snapshot, streamed (driver: the standard library's)."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl

from fedrec.data.databases.rows import Rows
from fedrec.data.databases.urls import Database, quoted
from fedrec.data.reading.files import check_path
from fedrec.errors import InputError, suggestion

if TYPE_CHECKING:
    import sqlite3

__all__ = ["read_rows"]

_BATCH_ROWS = 20_000
_STEPS_BETWEEN_LOOKS = 100_000
_NAMES = {int: "whole numbers", float: "numbers with a fraction", str: "text"}


def read_rows(database: Database, choose: Callable[[Sequence[str]], Mapping[str, str]]) -> Generator[Rows, None, None]:
    """The chosen columns of a table or query, 20,000 rows at a time.

    Everything is read in one transaction of a read-only connection, so that rows that change meanwhile are read as
    they were; a program that writes may have to wait for the end. A query opens no other file and loads no code.

    Args:
        database: what to read.
        choose: maps the names found to `{our name: name found}`.

    Raises:
        InputError: if reading fails; the message says what to do.
    """
    try:
        import sqlite3
    except ImportError:
        raise InputError(
            f"{database.shown}: this Python was built without SQLite; use another Python, or export the table as "
            "Parquet"
        ) from None
    path = _checked(database)
    watch = _Watch(database.statement_timeout)
    connection: sqlite3.Connection | None = None
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=ro",
            uri=True,
            timeout=database.connect_timeout,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.set_progress_handler(watch, _STEPS_BETWEEN_LOOKS)
        connection.execute("PRAGMA query_only = ON")
        connection.execute("BEGIN")
        connection.set_authorizer(_within_the_file)
        yield from _rows(connection, database, choose)
    except sqlite3.Error as error:
        # A KeyboardInterrupt while SQLite looks at the clock ends there; all that is left of it is that it stopped.
        if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT" and not watch.late:
            raise KeyboardInterrupt from None
        raise _explained(error, database, connection, watch) from None
    finally:
        if connection is not None:
            connection.close()


class _Watch:
    """Looks at the clock while SQLite works; true tells it to stop."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds if seconds else float("inf")
        self.late = False

    def __call__(self) -> bool:
        self.late = time.monotonic() > self.end
        return self.late


def _within_the_file(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    """Whether SQLite may do what a query, or a view of the file, asks for: no other file, no code."""
    import sqlite3

    other_file = action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH)
    code = action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "fts3_tokenizer")
    return sqlite3.SQLITE_DENY if other_file or code else sqlite3.SQLITE_OK


def _checked(database: Database) -> Path:
    path = Path(database.address)
    if not path.exists() and not path.is_absolute() and (Path("/") / path).exists():
        raise InputError(
            f"{path}: there is no such file. For the absolute path /{path} write four slashes, sqlite:////{path}"
        )
    check_path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the file of the database")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty, so it is not a database")
    return path


def _rows(
    connection: sqlite3.Connection, database: Database, choose: Callable[[Sequence[str]], Mapping[str, str]]
) -> Generator[Rows, None, None]:
    if database.table is None and database.query is None:
        raise InputError(f"{database.shown}: name what to read with table= or query={_tables(connection)}")
    names = [name for name, *_ in connection.execute(f"SELECT * FROM {database.relation} LIMIT 0").description]
    wanted = choose(names)
    selected = ", ".join(f"asked.{quoted(theirs)}" for theirs in wanted.values())
    cursor = connection.execute(f"SELECT {selected} FROM {database.relation}")
    id_kinds: dict[str, type] = {}
    while columns := _fetched(cursor):
        named = zip(wanted, columns, strict=True)
        yield Rows(pl.DataFrame([_series(ours, values, database.where, id_kinds) for ours, values in named]), False)


def _fetched(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    """The next rows as columns, none at the end.

    So many new tuples would make Python search all its objects for cycles, which costs as much as the reading.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return list(zip(*cursor.fetchmany(_BATCH_ROWS), strict=True))
    finally:
        if collecting:
            gc.enable()


def _series(ours: str, values: tuple[Any, ...], where: str, id_kinds: dict[str, type]) -> pl.Series:
    """A column as one type. SQLite types every value for itself, so that a column may mix them."""
    kinds = set(map(type, values)) - {type(None)}
    if bytes in kinds:
        raise InputError(f"{where}: {ours} holds binary data. Convert it in a query, such as lower(hex({ours}))")
    if ours in ("user_id", "item_id") and kinds:
        kinds.add(id_kinds.setdefault(ours, min(kinds, key=str)))
        if len(kinds) > 1:
            names = " and ".join(sorted(_NAMES[kind] for kind in kinds))
            raise InputError(
                f"{where}: {ours} mixes {names}; ids must have one type. Convert them in a query: "
                "SELECT CAST(… AS TEXT) …"
            )
    if not kinds:
        return pl.Series(ours, values, dtype=pl.Null)
    if kinds == {int}:
        return pl.Series(ours, values, dtype=pl.Int64)
    if kinds <= {int, float}:
        return pl.Series(ours, values, dtype=pl.Float64, strict=False)
    if kinds != {str}:
        values = tuple(value if value is None else str(value) for value in values)
    return pl.Series(ours, values, dtype=pl.String)


def _tables(connection: sqlite3.Connection, wanted: str = "") -> str:
    """The tables and views, as a suggestion."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite~_%' ESCAPE '~'"
    )
    return suggestion(wanted, [name for (name,) in names])


def _explained(
    error: sqlite3.Error, database: Database, connection: sqlite3.Connection | None, watch: _Watch
) -> InputError:
    """What to tell about an error of SQLite."""
    code, text, where = getattr(error, "sqlite_errorname", ""), str(error), database.where
    if watch.late:
        return InputError(
            f"{where}: reading took longer than {database.statement_timeout:g} seconds. Allow more time with "
            "statement_timeout=SECONDS in the URL, 0 for no limit"
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return InputError(
            f"{where}: another program has locked the file. Close that program, or wait until it is "
            "done; to wait longer set connect_timeout=SECONDS in the URL"
        )
    if code == "SQLITE_NOTADB":
        return InputError(f"{where}: the file is not a SQLite database, or it is encrypted. Name another file")
    if code.startswith("SQLITE_CORRUPT"):
        return InputError(
            f"{where}: the file is damaged ({text}), and nothing was loaded. Restore it from a copy, or "
            "recover its rows with 'sqlite3 FILE .recover'"
        )
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return InputError(
            f"{where}: cannot be opened for reading ({text}). If a program stopped while writing, open "
            "the file once with that program; otherwise check the permissions of file and folder"
        )
    if text.startswith("no such table") and database.table is not None and connection is not None:
        return InputError(f"{where}: the table does not exist{_tables(connection, database.name)}")
    if text.startswith("Could not decode"):
        return InputError(
            f"{where}: the table holds text that is not UTF-8 ({text}). Correct the text, or leave out its rows with a "
            "query"
        )
    if code in ("SQLITE_ERROR", ""):
        return InputError(f"{where}: {text}. Correct the table or query; a query is one SELECT")
    return InputError(f"{where}: cannot be read ({text}; {os.path.basename(database.address)}, {code})")
