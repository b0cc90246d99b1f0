"""Opens and reads logs of events in SQLite and PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedrec.data.databases.urls import Database, database_of, is_url
from fedrec.data.events import SHOWN, EventLog, EventTable
from fedrec.errors import InputError

__all__ = ["EventCounts", "count_events", "event_database", "open_events", "read_events", "read_shown"]

_INTERACTIONS = (
    "SELECT user_id, item_id, timestamp, rating FROM events "
    f"WHERE kind NOT IN ({', '.join(repr(kind) for kind in SHOWN)}) ORDER BY seq"
)
_BY_RANK = "SELECT kind, rank, COUNT(*) AS events FROM events GROUP BY kind, rank ORDER BY kind, rank"
_DISTINCT = (
    "SELECT COUNT(DISTINCT user_id) AS users, "
    "COUNT(DISTINCT CASE WHEN kind = 'impression' THEN item_id END) AS items FROM events"
)
_LAST_MODEL = "SELECT model FROM events WHERE kind = 'impression' AND model IS NOT NULL ORDER BY seq DESC LIMIT 1"
_SHOWN = (
    "SELECT user_id, item_id, propensity, CASE WHEN EXISTS (SELECT 1 FROM events AS done WHERE done.user_id = "
    "events.user_id AND done.item_id = events.item_id AND done.request_id = events.request_id AND done.kind NOT IN "
    f"({', '.join(repr(kind) for kind in SHOWN)})) THEN 1.0 ELSE 0.0 END AS reward FROM events "
    "WHERE kind = 'impression' AND rank = 1 AND propensity IS NOT NULL AND request_id IS NOT NULL ORDER BY seq"
)
_FORGOTTEN = "SELECT user_id, timestamp FROM forgotten"


def event_database(source: str, query: str | None = None) -> Database:
    """The database of a log: a path of a SQLite file, `sqlite:///…`, or `postgresql://…` without a table.

    Raises:
        InputError: if the URL cannot be used, or names a table or a query.

    >>> event_database("events.db").shown
    'sqlite:///events.db'
    """
    plain = f"sqlite:///{source.replace('%', '%25').replace('?', '%3F')}" if not is_url(source) else source
    named = database_of(plain)
    if named.table is not None or named.query is not None:
        raise InputError(f"{named.shown}: events have tables of their own; leave table and query out of the URL")
    return database_of(plain, query=query)


def open_events(source: str, text_users: bool, text_items: bool) -> EventLog:
    """Open a log for writing; its tables are made if they are not there.

    Args:
        source: a path or URL, see `event_database`.
        text_users, text_items: whether ids of users and items are text rather than whole numbers.

    Raises:
        InputError: if the database cannot be opened, or its ids are of the other type.
    """
    database = event_database(source)
    if database.kind == "postgresql":
        from fedrec.data.databases.postgresql_events import PostgreSQLEvents

        return PostgreSQLEvents(database, text_users, text_items)
    from fedrec.data.databases.sqlite_events import SQLiteEvents

    return SQLiteEvents(database, text_users, text_items)


def read_events(source: str) -> EventTable:
    """What a log holds for models; the log may be written meanwhile.

    Raises:
        InputError: if the database cannot be read, or holds no log.
    """
    interactions = _read(source, _INTERACTIONS, ("user_id", "item_id", "timestamp", "rating"))
    return EventTable(interactions, _read(source, _FORGOTTEN, ("user_id", "timestamp")))


@dataclass(frozen=True, eq=False)
class EventCounts:
    """A log in numbers, of all users together.

    Args:
        by_rank: `kind`, `rank` (null for events without) and `events`, their number.
        users: number of users with events.
        items: number of items with an impression.
        model: digest of the model that showed the last item; empty if no event has one.
    """

    by_rank: pl.DataFrame
    users: int
    items: int
    model: str


def count_events(source: str) -> EventCounts:
    """Count the events of a log, which may be written meanwhile.

    Raises:
        InputError: if the database cannot be read, or holds no log.
    """
    users, items = _read(source, _DISTINCT, ("users", "items")).row(0)
    model = _read(source, _LAST_MODEL, ("model",))
    by_rank = _read(source, _BY_RANK, ("kind", "rank", "events"))
    return EventCounts(by_rank, users, items, model.item() if len(model) else "")


def read_shown(source: str) -> pl.DataFrame:
    """What was shown in the first slot of lists that were drawn, and whether it was taken.

    Returns:
        A row for each impression of rank 1 with a request and a propensity: `user_id`, `item_id`, `propensity`, and
        `reward`, 1 if an interaction of the same user, item and request is in the log, else 0.

    Raises:
        InputError: if the database cannot be read, or holds no log.
    """
    return _read(source, _SHOWN, ("user_id", "item_id", "propensity", "reward"))


def _read(source: str, query: str, columns: tuple[str, ...]) -> pl.DataFrame:
    database = event_database(source, query)
    if database.kind == "postgresql":
        from fedrec.data.databases.postgresql import read_rows
    else:
        from fedrec.data.databases.sqlite import read_rows
        from fedrec.data.databases.sqlite_events import check_log

        check_log(Path(database.address), database.shown)
    with closing(read_rows(database, lambda found: {name: name for name in columns})) as rows:
        tables = [part.table for part in rows]
    kinds = dict.fromkeys(("timestamp", "rating", "propensity", "reward"), pl.Float64)
    if not tables:
        empty = {name: kinds.get(name, pl.Int64) for name in columns}
        return pl.DataFrame(schema=empty)
    known = [
        table.with_columns(pl.col(name).cast(kinds[name]) for name in columns if name in kinds) for table in tables
    ]
    return pl.concat(known)
