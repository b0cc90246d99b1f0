"""Databases as sources: reads URLs, and refuses URLs with a password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlencode

from fedrec.errors import InputError, suggestion

__all__ = ["Database", "asks_a_server", "check_source", "database_of", "is_url", "located", "quoted"]

_EXAMPLES = {
    "postgresql": "postgresql://user@host:5432/database?table=clicks",
    "sqlite": "sqlite:///folder/file.db?table=clicks",
}
_KINDS = {"postgresql": "postgresql", "postgres": "postgresql", "sqlite": "sqlite"}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://|(?:postgres|postgresql|sqlite)(?:\+\w+)?:", re.IGNORECASE)
_OWN = ("table", "query", "connect_timeout", "statement_timeout")
_LIBPQ = (
    *("host", "hostaddr", "port", "service", "passfile", "application_name", "target_session_attrs", "options"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "channel_binding", "gssencmode", "krbsrvname"),
)
_SECRETS = ("password", "sslpassword", "passwd", "pwd", "pass", "secret")
_HOST = re.compile(r"(?:[A-Za-z0-9._\-]+|\[[0-9A-Fa-f:.]+(?:%25\w+)?\])?(?::\d{1,5})?")
_NAME = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')
_PASSWORD = (
    "the URL of a database holds a password, and URLs are written to plans, reports and logs. Remove the password, "
    "and change it if others may have seen it; fedrec reads it from the environment variable PGPASSWORD or ~/.pgpass"
)


@dataclass(frozen=True)
class Database:
    """A database, and the table or query that is read from it.

    Args:
        kind: the database system.
        address: address for the driver: a URI for libpq without a password, or the path of the file.
        shown: name of the database in reports and errors.
        table: schema, if the source names one, and name of the table, exactly as in the database; `None` for a query.
        query: a SELECT; `None` for a table.
        connect_timeout: seconds to wait for a connection (PostgreSQL) or for a lock (SQLite).
        statement_timeout: seconds that reading may take; 0 for no limit.
    """

    kind: Literal["postgresql", "sqlite"]
    address: str
    shown: str
    table: tuple[str, ...] | None = None
    query: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0
    statement_timeout: float = 600.0

    @property
    def relation(self) -> str:
        """The text after FROM, with the alias `asked`."""
        what = f"(\n{self.query}\n)" if self.table is None else ".".join(map(quoted, self.table))
        return f"{what} AS asked"

    @property
    def where(self) -> str:
        """Database and table or query, for errors."""
        if self.table is not None:
            return f"{self.shown}, table {'.'.join(self.table)}"
        return f"{self.shown}, query" if self.query is not None else self.shown

    @property
    def name(self) -> str:
        """A short name: the table's, or for a query the database's."""
        return self.table[-1] if self.table is not None else self.shown.rpartition("/")[2] or self.kind


def is_url(source: str) -> bool:
    """Whether a source is a URL rather than a name or a path.

    >>> is_url("sqlite:///shop.db?table=clicks"), is_url("clicks.csv"), is_url("synthetic:users=10")
    (True, False, False)
    """
    return _URL.match(source) is not None


def asks_a_server(source: str) -> bool:
    """Whether reading a source connects to another process, on this or another machine, with a person's account.

    >>> asks_a_server("postgresql://db/shop"), asks_a_server("sqlite:///shop.db"), asks_a_server("clicks.csv")
    (True, False, False)
    """
    return is_url(source) and _KINDS.get(source.partition(":")[0].lower()) != "sqlite"


def check_source(source: str, table: str | None, query: str | None) -> None:
    """Check the source of a plan without opening it.

    Raises:
        InputError: if a URL cannot be used or has a password, or if a table or query is given for a source that is no
            database.
    """
    if is_url(source):
        database_of(source, table, query)
    elif table is not None or query is not None:
        raise InputError(
            f"{source!r} is not a database, so {'table' if table is not None else 'query'} does not apply; a database "
            f"is {_EXAMPLES['postgresql'].partition('?')[0]} or {_EXAMPLES['sqlite'].partition('?')[0]}"
        )


def database_of(source: str, table: str | None = None, query: str | None = None) -> Database:
    """The database of a URL. Errors show only parts of the URL that cannot be a password.

    Args:
        source: `postgresql://user@host:port/database?table=…` or `sqlite:///folder/file.db?query=…`; `&`, `%` and `#`
            in values are written `%26`, `%25` and `%23`. An absolute path of SQLite has four slashes.
        table: `clicks` or `shop.clicks`, exactly as in the database; in double quotes where a name holds a dot.
        query: a SELECT, instead of a table.

    Raises:
        InputError: if the URL has a password, an unknown system or an unknown option, or cannot be read.

    >>> database_of("postgresql://ann@db.example:5433/shop?table=web.clicks").relation
    '"web"."clicks" AS asked'
    >>> database_of("postgresql://ann:swordfish@db.example/shop")
    Traceback (most recent call last):
    fedrec.errors.InputError: the URL of a database holds a password, and URLs are written to plans, ...
    """
    scheme, _, rest = source.partition(":")
    kind = _KINDS.get(scheme.lower())
    if kind is None:
        plain = scheme.lower().partition("+")[0]
        raise InputError(
            f"fedrec cannot read from {scheme}: URLs"
            + (f"; write {_EXAMPLES[_KINDS[plain]]}" if plain in _KINDS else suggestion(plain, _EXAMPLES))
        )
    place, _, settings = rest.removeprefix("//").partition("?")
    if not rest.startswith("//") or "\0" in unquote(rest):
        raise _unreadable(kind)
    if ":" in place and "@" in settings and "@" not in place:  # the ? may be a part of a password
        raise _unreadable(kind)
    options = _options(kind, settings)
    for name, value in (("table", table), ("query", query)):
        if value is not None and name in options:
            raise InputError(f"the {name} is given twice, in the URL and as an argument; give it once")
        if value is not None:
            options[name] = value
    if "table" in options and "query" in options:
        raise InputError("give a table or a query of the database, not both")
    address, shown = _postgresql(place, options) if kind == "postgresql" else _sqlite(place)
    asked_query = options["query"].strip().rstrip(";").rstrip() if "query" in options else None
    if asked_query == "":
        raise InputError("the query is empty; write a SELECT")
    return Database(
        "postgresql" if kind == "postgresql" else "sqlite",
        address,
        shown,
        _table(options["table"]) if "table" in options else None,
        asked_query,
        **{name: _seconds(name, options[name]) for name in _OWN[2:] if name in options},
    )


def located(source: str, folder: Path) -> str:
    """A SQLite URL with the path of a file in `folder`, if its own path is relative and names no file in the working
    folder; other URLs unchanged."""
    place, mark, settings = source.partition("?")
    scheme, _, rest = place.partition(":///")
    path = unquote(rest)
    if scheme.lower() != "sqlite" or not path or path.startswith("/") or Path(path).exists():
        return source
    path_in_folder = (folder / path).absolute()
    return f"sqlite:///{quote(str(path_in_folder))}{mark}{settings}" if path_in_folder.exists() else source


def quoted(name: str) -> str:
    """A name in SQL.

    >>> print(quoted('user "id"'))
    "user ""id\"""
    """
    return '"' + name.replace('"', '""') + '"'


def _options(kind: str, settings: str) -> dict[str, str]:
    allowed = (*_OWN, *(_LIBPQ if kind == "postgresql" else ()))
    options: dict[str, str] = {}
    for part in filter(None, settings.split("&")):
        key, equals, value = part.partition("=")
        if key.lower() in _SECRETS:
            raise InputError(_PASSWORD)
        if not key.isidentifier():
            raise _unreadable(kind)
        if key not in allowed:
            raise InputError(f"{key!r} is not an option of a {kind} source{suggestion(key, allowed)}")
        if not equals or key in options:
            raise InputError(f"option {key!r} of the database {'has no value' if not equals else 'is given twice'}")
        options[key] = unquote(value)
    return options


def _postgresql(place: str, options: Mapping[str, str]) -> tuple[str, str]:
    authority, _, name = place.partition("/")
    user, _, hosts = authority.rpartition("@")
    if ":" in user:
        raise InputError(_PASSWORD)
    sound = all(_HOST.fullmatch(host) for host in hosts.split(","))
    if not sound or re.search(r"[\s/?#@\[\]]", user) or re.search(r"[\s/?#@]", name):
        raise _unreadable("postgresql")
    parameters = {
        "client_encoding": "UTF8",
        "application_name": "fedrec",
        "connect_timeout": str(max(2, round(_seconds("connect_timeout", options.get("connect_timeout", "10"))))),
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
        **{key: value for key, value in options.items() if key in _LIBPQ},
    }
    shown = f"postgresql://{authority}/{name}"
    return f"{shown}?{urlencode(parameters, quote_via=quote)}", shown


def _sqlite(place: str) -> tuple[str, str]:
    path = unquote(place.removeprefix("/"))
    if not place.startswith("/") or not path.strip("/"):
        raise _unreadable("sqlite")
    return path, f"sqlite:///{path}"


def _table(text: str) -> tuple[str, ...]:
    names = [(one or other).replace('""', '"') for one, other in _NAME.findall(text)]
    again = re.fullmatch(rf"(?:{_NAME.pattern})(?:\.(?:{_NAME.pattern}))?", text)
    if again is None:
        raise InputError(
            f"table {text!r}: write it as clicks or as schema.clicks; put a name with a dot in double quotes"
        )
    return tuple(names)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise InputError(f"{name} of the database must be a number of seconds up to a million, 0 for no limit")
    return seconds


def _unreadable(kind: str) -> InputError:
    return InputError(
        f"the URL of the {kind} database cannot be read (the URL is not shown here, because it may hold a password). "
        f"Write it as {_EXAMPLES[kind]}, with other characters in percent-encoding"
    )
