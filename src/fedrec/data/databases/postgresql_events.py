"""A log of events in PostgreSQL (driver: ADBC)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from fedrec.data.databases.passwords import guarded
from fedrec.data.databases.postgresql import driver_for
from fedrec.data.databases.urls import Database
from fedrec.data.events import SHOWN, Event, EventLog
from fedrec.errors import FedrecError, InputError

__all__ = ["PostgreSQLEvents"]

_T = TypeVar("_T")
_LOCK = 7_305_412_390_241
"""Two servers that begin at once do not make the tables side by side."""
_EVENTS = """CREATE TABLE IF NOT EXISTS events (
    seq BIGSERIAL PRIMARY KEY, event_id TEXT NOT NULL UNIQUE, user_id {user} NOT NULL, item_id {item} NOT NULL,
    kind TEXT NOT NULL, timestamp FLOAT8 NOT NULL, rating FLOAT8, model TEXT, request_id TEXT, rank INTEGER,
    propensity FLOAT8)"""
_VIEW = f"""CREATE OR REPLACE VIEW interactions AS SELECT user_id, item_id, timestamp FROM events
    WHERE kind NOT IN ({", ".join(repr(kind) for kind in SHOWN)})"""
_TABLES = (
    _EVENTS,
    "CREATE INDEX IF NOT EXISTS events_of_user ON events (user_id)",
    "CREATE TABLE IF NOT EXISTS forgotten (user_id {user} PRIMARY KEY, timestamp FLOAT8 NOT NULL)",
    _VIEW,
)
_FIELDS = "event_id, user_id, item_id, kind, timestamp, rating, model, request_id, rank, propensity"
_ADD = (
    f"INSERT INTO events ({_FIELDS}) SELECT {_FIELDS} FROM json_to_recordset($1::json) AS given (place integer, "
    "event_id text, user_id {user}, item_id {item}, kind text, timestamp float8, rating float8, model text, "
    "request_id text, rank integer, propensity float8) "
    "WHERE NOT EXISTS (SELECT 1 FROM forgotten WHERE forgotten.user_id = given.user_id "
    "AND given.timestamp <= forgotten.timestamp) ORDER BY place ON CONFLICT (event_id) DO NOTHING RETURNING event_id"
)
_REMOVE = "WITH gone AS (DELETE FROM events WHERE user_id = $1 RETURNING 1) SELECT count(*) FROM gone"
_FORGET = (
    "INSERT INTO forgotten VALUES ($1, $2) ON CONFLICT (user_id) DO UPDATE SET timestamp = "
    "greatest(forgotten.timestamp, excluded.timestamp)"
)


class PostgreSQLEvents(EventLog):
    """A log in tables `events` and `forgotten` of a PostgreSQL database; each `add` is one transaction.

    Args:
        database: where the tables are, or are made.
        text_users, text_items: whether ids are text.

    Raises:
        InputError: if there is no connection, or the tables hold ids of the other type.
    """

    def __init__(self, database: Database, text_users: bool, text_items: bool) -> None:
        self._database = database
        self._kinds = {"user": "TEXT" if text_users else "BIGINT", "item": "TEXT" if text_items else "BIGINT"}
        self._connection: Any = None
        try:
            self._do(self._make)
        except FedrecError as error:
            raise InputError(str(error)) from None

    def add(self, events: Sequence[Event]) -> list[Event]:
        """See `EventLog.add`."""
        rows = [
            {"place": place, "event_id": event.event_id, "user_id": event.user, "item_id": event.item}
            | {"kind": event.kind, "timestamp": event.at, "rating": event.value, "model": event.model}
            | {"request_id": event.request_id, "rank": event.rank, "propensity": event.propensity}
            for place, event in enumerate(events)
        ]
        given = json.dumps(rows)

        def work(cursor: Any) -> set[str]:
            cursor.execute(_ADD.format(**self._kinds), (given,))
            return {event_id for (event_id,) in cursor.fetchall()}

        added = self._do(work)
        new: list[Event] = []
        for event in events:
            if event.event_id in added:
                new.append(event)
                added.discard(event.event_id)
        return new

    def forget(self, user: int | str, at: float) -> int:
        """See `EventLog.forget`."""

        def work(cursor: Any) -> int:
            cursor.execute(_REMOVE, (user,))
            removed = int(cursor.fetchone()[0])
            cursor.execute(_FORGET, (user, at))
            return removed

        return self._do(work)

    def close(self) -> None:
        """See `EventLog.close`."""
        if self._connection is not None:
            with suppress(Exception):
                self._connection.close()
            self._connection = None

    def _make(self, cursor: Any) -> None:
        cursor.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        cursor.fetchall()
        for statement in _TABLES:
            cursor.execute(statement.format(**self._kinds))
        kinds = dict(self._types(cursor))
        for name, kind in self._kinds.items():
            found = kinds.get(f"{name}_id")
            if found != kind.lower():
                raise InputError(
                    f"{self._database.shown}: {name}_id of table events is {found}, and the {name} ids of the model "
                    f"need {kind.lower()}; name another database"
                )

    def _types(self, cursor: Any) -> list[tuple[str, str]]:
        cursor.execute(
            "SELECT attname::text, format_type(atttypid, NULL)::text FROM pg_attribute "
            "WHERE attrelid = 'events'::regclass AND attnum > 0"
        )
        found: list[tuple[str, str]] = cursor.fetchall()
        return found

    def _do(self, work: Callable[[Any], _T]) -> _T:
        """Do work in a transaction; once more on a new connection if the connection is lost before.

        Raises:
            FedrecError: if the server refuses, or cannot be reached.
        """
        fresh = self._connection is None
        try:
            if fresh:
                self._connection = self._connected()
            with self._connection.cursor() as cursor:
                done = work(cursor)
            self._connection.commit()
            return done
        except FedrecError:
            self.close()
            raise
        except Exception as error:  # the driver's, of any of its kinds
            self.close()
            if not fresh and getattr(error, "sqlstate", None) in (None, "57P01", "08006", "08003"):
                return self._do(work)  # an event that was kept already is known by its id
            text = " ".join(str(error).split())
            raise FedrecError(f"{self._database.shown}: events cannot be written ({text})") from None

    def _connected(self) -> Any:
        driver = driver_for(self._database)
        return driver.connect(guarded(self._database.address, self._database.shown), autocommit=False)
