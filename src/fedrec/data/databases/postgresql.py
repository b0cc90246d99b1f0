"""Interactions from PostgreSQL: one read-only snapshot, streamed as Arrow batches (driver: ADBC)."""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import polars as pl

from fedrec.data.databases.deadlines import punctual
from fedrec.data.databases.passwords import guarded
from fedrec.data.databases.rows import Rows
from fedrec.data.databases.urls import Database, quoted
from fedrec.errors import InputError, suggestion

__all__ = ["driver_for", "read_rows"]

_BATCH_BYTES = 4_000_000
_GRACE = 10.0
_WHOLE = ("int2", "int4", "int8")
_FLOATS = ("float4", "float8")
_TEXTS = ("text", "varchar", "bpchar", "name", "citext")
_CLOCKS = ("date", "timestamp", "timestamptz")
_NO_IDS = ("bool", "bytea", "json", "jsonb", "xml", "record", "money", "interval", "time", "timetz", *_CLOCKS)
_TABLES = """
SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'v', 'm', 'f', 'p') AND n.nspname !~ '^(pg_|information_schema)' ORDER BY 1 LIMIT 1000
"""


class _Column(NamedTuple):
    """A column of the database: its type, its expression in SQL, and whether it arrives as text of whole numbers."""

    kind: str
    sql: str
    whole: bool = False


def read_rows(database: Database, choose: Callable[[Sequence[str]], Mapping[str, str]]) -> Generator[Rows, None, None]:
    """The chosen columns of a table or query, a few megabytes at a time.

    Everything is read in one transaction, read-only and REPEATABLE READ, by one COPY: rows that change meanwhile are
    read as they were, and a connection that breaks is an error, never an end.

    Args:
        database: what to read.
        choose: maps the names found to `{our name: name found}`.

    Raises:
        InputError: if reading fails; the message says what to do, and never shows a password.
    """
    session = _Session(database)
    patience = database.statement_timeout + database.connect_timeout + _GRACE
    late = (
        f"{database.where}: no answer for {patience:g} seconds, so the server or the network hangs. Try again, or "
        "allow more with statement_timeout=SECONDS in the URL"
    )
    limited = database.statement_timeout > 0
    return punctual(lambda: session.rows(choose), patience if limited else None, late, session.cancel)


class _Session:
    """One connection, used by one thread; `cancel` may come from another."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.cursor: Any = None
        self.started = 0.0

    def cancel(self) -> None:
        """Stop the query at the server, if the server still answers."""
        cursor = self.cursor
        if cursor is not None:
            with suppress(Exception):
                cursor.adbc_cancel()

    def rows(self, choose: Callable[[Sequence[str]], Mapping[str, str]]) -> Generator[Rows, None, None]:
        """See `read_rows`."""
        connection = self._connect()
        try:
            with connection.cursor() as cursor:
                self.cursor = cursor
                try:
                    yield from self._rows(connection, cursor, choose)
                except GeneratorExit:
                    self.cancel()
                    raise
        finally:
            self.cursor = None
            connection.close()

    def _connect(self) -> Any:
        driver = driver_for(self.database)
        try:
            return driver.connect(guarded(self.database.address, self.database.shown), autocommit=False)
        except driver.Error as error:
            raise InputError(_no_connection(self.database, str(error))) from None

    def _rows(
        self, connection: Any, cursor: Any, choose: Callable[[Sequence[str]], Mapping[str, str]]
    ) -> Generator[Rows, None, None]:
        database = self.database
        self.started = time.monotonic()
        try:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            cursor.execute(f"SET LOCAL statement_timeout = {round(database.statement_timeout * 1000)}")
            cursor.execute("SET LOCAL TIME ZONE 'UTC'")
            if database.table is None and database.query is None:
                raise InputError(f"{database.shown}: name what to read with table= or query={_tables(cursor)}")
            schema = cursor.adbc_execute_schema(f"SELECT * FROM {database.relation}")
        except InputError:
            raise
        except Exception as error:
            raise self._explained(error, connection, cursor) from None
        kinds = [_kind(field) for field in schema]
        wanted = choose(schema.names)
        for theirs in wanted.values():
            if schema.names.count(theirs) > 1:
                raise InputError(f"{database.where}: two columns are called {theirs!r}; give each its own name")
        columns = {
            ours: _column(ours, theirs, kinds[schema.names.index(theirs)], database.where)
            for ours, theirs in wanted.items()
        }
        selected = ", ".join(f"{column.sql} AS c{number}" for number, column in enumerate(columns.values()))
        try:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
            cursor.execute(f"SELECT {selected} FROM {database.relation}")
            batches = cursor.fetch_record_batch()
        except Exception as error:
            raise self._explained(error, connection, cursor) from None
        seconds = "timestamp" in columns and columns["timestamp"].kind in _CLOCKS
        while True:
            try:
                batch = next(batches, None)
            except Exception as error:
                raise self._explained(error, connection, cursor) from None
            if batch is None:
                return
            table = pl.DataFrame(pl.from_arrow(batch))
            table.columns = list(columns)
            for ours, column in columns.items():
                if column.whole:
                    table = table.with_columns(_whole(table[ours], database.where))
            yield Rows(table, seconds)

    def _explained(self, error: Exception, connection: Any, cursor: Any) -> InputError:
        """What to tell about an error of the server or driver."""
        where, state, text = self.database.where, getattr(error, "sqlstate", None), _reason(str(error))
        if state == "42P01" and self.database.table is not None:
            connection.rollback()
            return InputError(
                f"{where}: the table does not exist, or the user may not see it"
                f"{_tables(cursor, '.'.join(self.database.table))}"
            )
        if state == "42501":
            return InputError(f"{where}: {text}. The owner of the table must GRANT SELECT to the user of the URL")
        allowed = self.database.statement_timeout
        if 0 < allowed <= time.monotonic() - self.started:
            return InputError(
                f"{where}: reading took longer than {allowed:g} seconds ({text}). Allow more time with "
                "statement_timeout=SECONDS in the URL, 0 for no limit"
            )
        if state is not None and state.startswith("42"):
            return InputError(f"{where}: {text}. Correct the table or query; a query is one SELECT")
        try:
            connection.rollback()
            cursor.execute("SELECT 1")
        except Exception:
            return InputError(f"{where}: the connection was lost ({text}), and nothing was loaded. Try again")
        return InputError(
            f"{where}: the server stopped reading ({text}), and nothing was loaded. Correct the cause, or leave out "
            "the rows that fail with a query, which is one SELECT in a read-only transaction"
        )


def _kind(field: Any) -> str:
    """The server's name of a column's type."""
    metadata = field.metadata or {}
    name = metadata.get(b"POSTGRESQL:type") or metadata.get(b"ADBC:postgresql:typname") or str(field.type).encode()
    return str(name.decode())


def _column(ours: str, theirs: str, kind: str, where: str) -> _Column:
    """How a column is asked for, so that every value arrives and none changes."""
    name = f"asked.{quoted(theirs)}"
    text = f"{name}::text"
    array = kind.startswith("_")
    if ours in ("user_id", "item_id"):
        if kind == "numeric":
            return _Column(kind, text, whole=True)
        if kind == "oid":
            return _Column(kind, f"{name}::int8")
        if kind in _NO_IDS or array:
            advice = ", such as encode(…, 'hex')" if kind == "bytea" else ""
            raise InputError(
                f"{where}: {ours} is of type {kind}; ids must be whole numbers or text. Convert it in a query{advice}"
            )
        return _Column(kind, name if kind in (*_WHOLE, *_FLOATS) else text)
    if ours in ("rating", "weight", "timestamp"):
        if ours == "timestamp" and kind in _CLOCKS:
            return _Column(kind, f"date_part('epoch', {name})")
        if kind in (*_WHOLE, *_FLOATS) or (kind == "bool" and ours != "timestamp"):
            return _Column(kind, name)
        if kind in ("numeric", *_TEXTS):
            return _Column(kind, text)
        expected = "numbers, text or dates" if ours == "timestamp" else "numbers"
        raise InputError(f"{where}: {ours} is of type {kind}; it must hold {expected}. Convert it in a query")
    if ours == "part":
        return _Column(kind, text)
    if kind == "numeric":
        return _Column(kind, f"{name}::float8")
    return _Column(kind, name if kind in (*_WHOLE, *_FLOATS, "bool") else text)


def _whole(ids: pl.Series, where: str) -> pl.Series:
    """Ids of type numeric as `Int64`."""
    numbers = ids.str.extract(r"^(-?\d+)(?:\.0*)?$").cast(pl.Int64, strict=False)
    wrong = ids.filter(numbers.is_null() & ids.is_not_null())
    if len(wrong):
        raise InputError(
            f"{where}: {ids.name} {wrong[0]} is of type numeric but not a whole number of 64 bits. Convert it to text "
            "in a query"
        )
    return numbers


def _tables(cursor: Any, wanted: str = "") -> str:
    """The tables that can be seen, as a suggestion."""
    try:
        cursor.execute(_TABLES)
        names = cursor.fetch_arrow_table().column("name").to_pylist()
    except Exception:  # it is only advice
        return ""
    return suggestion(wanted, names)


def _reason(text: str) -> str:
    """The server's own words, in its language: one line, without the statement."""
    text_of_server = re.sub(r"^[A-Z_]+: (?:\[libpq\] )?", "", text.strip().partition("\n")[0])
    return re.sub(r"^.*?\b\w+:\s\s+", "", text_of_server).rstrip(".")


def driver_for(database: Database) -> Any:
    """The driver for PostgreSQL.

    Raises:
        InputError: if it is not installed.
    """
    try:
        driver = importlib.import_module("adbc_driver_postgresql.dbapi")
        importlib.import_module("pyarrow")
    except ImportError:
        raise InputError(
            f"{database.shown}: the driver for PostgreSQL is not installed; run pip install 'fedrec[databases]'"
        ) from None
    return driver


def _no_connection(database: Database, error: str) -> str:
    text = " ".join(re.sub(r"^[A-Z_]+: (?:\[libpq\] )?(?:Failed to connect: )?", "", error).split())
    advice = "Check that the server is running, and that this machine and user may connect to it"
    if "no password supplied" in text:
        advice = (
            "Give the password in ~/.pgpass, or in the environment variable PGPASSWORD with PGHOST and PGPORT, which "
            "name its server; never in the URL"
        )
    elif "authentication method requirement" in text:
        advice = (
            "The server asks for the password in clear text or as MD5, and the connection is not encrypted. Add "
            "sslmode=verify-full and sslrootcert=FILE to the URL, or ask the server's owner to use scram-sha-256"
        )
    elif "password authentication failed" in text:
        advice = "Correct the user of the URL, or the password in PGPASSWORD or ~/.pgpass"
    elif re.search(r'database ".*" does not exist', text):
        advice = "Correct the name of the database in the URL"
    elif re.search(r'role ".*" does not exist', text):
        advice = "Correct the name of the user in the URL"
    elif "SSL" in text or "certificate" in text:
        advice = "Correct sslmode in the URL, or name the certificate of the server's authority with sslrootcert=FILE"
    elif "timeout expired" in text:
        advice = "Correct host and port, or allow more time with connect_timeout=SECONDS in the URL"
    return f"{database.shown}: no connection ({text}). {advice}"
