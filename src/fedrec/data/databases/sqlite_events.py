"""A log of events in a SQLite file (driver: the standard library's)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedrec.data.databases.urls import Database
from fedrec.data.events import SHOWN, Event, EventLog
from fedrec.errors import FedrecError, InputError

__all__ = ["SQLiteEvents", "check_log"]

_TABLES = f"""
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL UNIQUE,
    user_id {{user}} NOT NULL, item_id {{item}} NOT NULL, kind TEXT NOT NULL, timestamp REAL NOT NULL, rating REAL,
    model TEXT, request_id TEXT, rank INTEGER, propensity REAL
);
CREATE INDEX IF NOT EXISTS events_of_user ON events (user_id);
CREATE TABLE IF NOT EXISTS forgotten (user_id {{user}} PRIMARY KEY NOT NULL, timestamp REAL NOT NULL);
CREATE VIEW IF NOT EXISTS interactions AS
    SELECT user_id, item_id, timestamp FROM events
    WHERE kind NOT IN ({", ".join(repr(kind) for kind in SHOWN)}) ORDER BY seq;
"""
_ADD = (
    "INSERT OR IGNORE INTO events "
    "(event_id, user_id, item_id, kind, timestamp, rating, model, request_id, rank, propensity) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FORGET = (
    "INSERT INTO forgotten VALUES (?, ?) ON CONFLICT (user_id) DO UPDATE SET timestamp = max(timestamp, "
    "excluded.timestamp)"
)
_WAIT = 10.0
_WORDS = {"TEXT": "text", "INTEGER": "whole numbers"}


class SQLiteEvents(EventLog):
    """A log in a SQLite file in WAL mode; each `add` is one transaction, flushed to the disk.

    Args:
        database: the file.
        text_users, text_items: whether ids are text.

    Raises:
        InputError: if the file cannot be opened for writing, is no SQLite file, or holds ids of the other type.
    """

    def __init__(self, database: Database, text_users: bool, text_items: bool) -> None:
        self._shown = database.shown
        kinds = {"user": "TEXT" if text_users else "INTEGER", "item": "TEXT" if text_items else "INTEGER"}
        try:
            self._connection = sqlite3.connect(
                database.address, timeout=_WAIT, isolation_level=None, check_same_thread=False
            )
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.executescript(_TABLES.format(**kinds))
            found = {name: kind for _, name, kind, *_ in self._connection.execute("PRAGMA table_info(events)")}
            forgotten = self._connection.execute("SELECT user_id, timestamp FROM forgotten")
            self._forgotten: dict[int | str, float] = dict(forgotten)
        except sqlite3.Error as error:
            raise InputError(
                f"{self._shown}: cannot be opened as a log of events ({error}). Name a file that does not exist yet, "
                "or one that fedrec made, in a folder that can be written"
            ) from None
        for name, kind in kinds.items():
            there = found.get(f"{name}_id", "")
            if there != kind:
                raise InputError(
                    f"{self._shown}: its {name} ids are {_WORDS.get(there, 'unknown')}, those of the model "
                    f"are {_WORDS[kind]}; name another file"
                )

    def add(self, events: Sequence[Event]) -> list[Event]:
        """See `EventLog.add`."""
        new = []
        with self._transaction() as connection:
            for event in events:
                if event.at <= self._forgotten.get(event.user, float("-inf")):
                    continue
                row = (event.event_id, event.user, event.item, event.kind, event.at, event.value)
                shown = (event.model, event.request_id, event.rank, event.propensity)
                if connection.execute(_ADD, row + shown).rowcount:
                    new.append(event)
        return new

    def forget(self, user: int | str, at: float) -> int:
        """See `EventLog.forget`."""
        with self._transaction() as connection:
            removed = connection.execute("DELETE FROM events WHERE user_id = ?", (user,)).rowcount
            connection.execute(_FORGET, (user, at))
        self._forgotten[user] = max(at, self._forgotten.get(user, at))
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # else the rows are in the log beside the file
        return removed

    def close(self) -> None:
        """See `EventLog.close`."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, on the disk at the end.

        Raises:
            FedrecError: if it cannot be written.
        """
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise FedrecError(
                f"{self._shown}: events cannot be written ({error}); free disk space, or close the program that holds "
                "the file"
            ) from None


def check_log(path: Path, shown: str) -> None:
    """Check that a file is there that may hold a log.

    Raises:
        InputError: if there is none.
    """
    if not path.is_file():
        raise InputError(
            f"{shown}: there is no such file, so there are no events; 'fedrec serve' makes it with --events"
        )
