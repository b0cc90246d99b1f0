"""PostgreSQL as a source, against a real server: types, nulls, time zones, rights, snapshots and broken connections."""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from fedrec.data.databases import postgresql as reader
from fedrec.data.databases.urls import database_of
from fedrec.data.digests import digest_of
from fedrec.data.reading.readers import read_interactions
from fedrec.data.sources import load_data, load_source
from fedrec.errors import InputError
from memory_in_test import peak_of
from postgres_in_test import Postgres, postgres, programs

pytestmark = pytest.mark.skipif(programs() is None, reason="no PostgreSQL here; the extra 'dev' brings one")

SORTED = [(5, "a", 1.0, 20.0), (5, "ü", 4.0, 40.0), (7, "a", 5.0, 10.0), (7, "b", 3.5, 30.0)]
FILL = "INSERT INTO many SELECT i % 5000, i, 'x' || i FROM generate_series(1, 300000) i"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """One server for all tests here; gone afterwards."""
    with postgres() as running:
        running.run(
            "CREATE TABLE clicks (customer int4, sku text, stars real, at timestamptz)",
            "INSERT INTO clicks VALUES (7, 'b', 3.5, to_timestamp(30)), (5, 'a', 1, to_timestamp(20)), "
            "(7, 'a', 5, to_timestamp(10)), (5, 'ü', 4, to_timestamp(40))",
            "CREATE SCHEMA \"Web Shop\"",
            'CREATE TABLE "Web Shop"."my.clicks" ("user ""id""" int, "select" text, "Uhrzeit" date)',
            "INSERT INTO \"Web Shop\".\"my.clicks\" VALUES (1, 'x', '1970-01-02')",
            "CREATE TABLE many (user_id int, item_id int, word text)",
            FILL,
        )  # fmt: skip
        yield running
    assert running.process.returncode is not None
    assert not running.folder.exists()


def selected(server: Postgres, *rows: str, names: str = "user_id, item_id, rating, timestamp", **options: object):
    """Interactions of rows written as SQL."""
    query = f"SELECT * FROM (VALUES {', '.join(f'({row})' for row in rows)}) AS rows ({names})"
    return load_source(server.socket_url(), query=query, **options)


def test_a_table_a_view_and_a_query_give_the_interactions(server: Postgres) -> None:
    loaded = load_source(server.socket_url(table="clicks"), columns={"timestamp": "at"})
    assert loaded.interactions.to_frame().rows() == SORTED
    assert loaded.name == "clicks"
    assert (loaded.report.format, loaded.report.rows) == ("postgresql", 4)
    assert loaded.report.columns == {"user_id": "customer", "item_id": "sku", "rating": "stars", "timestamp": "at"}
    server.run("CREATE OR REPLACE VIEW seen AS SELECT customer AS user, sku AS item, stars, at AS time FROM clicks")
    assert load_data(server.socket_url(table="public.seen")).to_frame().rows() == SORTED
    query = "WITH q AS (SELECT * FROM seen) SELECT * FROM q WHERE stars > 1 -- the good ones"
    assert load_data(server.socket_url(), query=query).to_frame().rows() == SORTED[1:]


def test_names_that_need_quotes(server: Postgres) -> None:
    columns = {"user_id": 'user "id"', "item_id": "select", "timestamp": "Uhrzeit"}
    data = load_data(server.socket_url(), table='"Web Shop"."my.clicks"', columns=columns)
    assert data.to_frame().rows() == [(1, "x", 86400.0)]


@pytest.mark.parametrize(
    ("sql", "ids"),
    [
        ("1::int2 | (-32768)::int2", [-32768, 1]),
        ("1::int4 | 2147483647", [1, 2147483647]),
        ("9223372036854775807::int8 | (-9223372036854775808)::int8", [-(2**63), 2**63 - 1]),
        ("4294967295::oid | 1::oid", [1, 2**32 - 1]),
        ("9007199254740993::numeric | 7.00", [7, 2**53 + 1]),
        ("7::float8 | 8::float8", [7, 8]),
        ("'007' | '7'", ["007", "7"]),
        ("'a '::char(4) | 'b'::char(4)", ["a", "b"]),
        ("'ab'::varchar(9) | 'ü'", ["ab", "ü"]),
        ("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid | 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
         ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
        ("'10.0.0.1'::inet | '10.0.0.2'::inet", ["10.0.0.1/32", "10.0.0.2/32"]),
        ("'ok'::mood | 'bad'::mood", ["bad", "ok"]),
        ("1::small | 2::small", [1, 2]),
    ],
)  # fmt: skip
def test_ids_of_every_type(server: Postgres, sql: str, ids: list[object]) -> None:
    server.run(
        "DO $$ BEGIN CREATE TYPE mood AS ENUM ('ok', 'bad'); EXCEPTION WHEN duplicate_object THEN END $$",
        "DO $$ BEGIN CREATE DOMAIN small AS int4 CHECK (value < 9); EXCEPTION WHEN duplicate_object THEN END $$",
    )
    first, second = sql.split(" | ")
    data = selected(server, f"{first}, 1", f"{second}, 2", names="user_id, item_id").interactions
    assert list(data.users) == ids


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("1.5", "user_id 1.5 is of type numeric but not a whole number of 64 bits"),
        ("9223372036854775808", "not a whole number of 64 bits"),
        ("true", "user_id is of type bool; ids must be whole numbers or text. Convert it in a query"),
        ("'x'::bytea", r"user_id is of type bytea; .* such as encode\(…, 'hex'\)"),
        ("now()", "user_id is of type timestamptz"),
        ("ARRAY[1]", "user_id is of type _int4"),
        ("'{}'::jsonb", "user_id is of type jsonb"),
        ("1.5::float8", "user_id is of type Float64"),
    ],
)  # fmt: skip
def test_ids_that_are_none(server: Postgres, sql: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        selected(server, f"{sql}, 1", names="user_id, item_id")


@pytest.mark.parametrize(
    ("sql", "ratings"),
    [
        ("3::int2 | 4::int2", [3.0, 4.0]),
        ("0.1::float4 | 0.2::float4", [0.1, 0.2]),
        ("0.1::float8 | 1e30::float8", [0.1, 1e30]),
        ("0.1::numeric(10, 3) | 123456789.123456789", [0.1, 123456789.123456789]),
        ("true | false", [1.0, 0.0]),
        ("'3.5' | '1e2'", [3.5, 100.0]),
    ],
)  # fmt: skip
def test_ratings_of_every_type(server: Postgres, sql: str, ratings: list[float]) -> None:
    first, second = sql.split(" | ")
    data = selected(server, f"1, 1, {first}", f"2, 1, {second}", names="user_id, item_id, rating").interactions
    assert data.to_frame()["rating"].to_list() == [float(np.float32(rating)) for rating in ratings]


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("sql", "times"),
    [
        ("'2024-03-31 02:30:00'::timestamp", seconds("2024-03-31 02:30:00")),
        ("'2024-03-31 02:30:00.123456'::timestamp", seconds("2024-03-31 02:30:00.123456")),
        ("'2024-03-31 02:30:00+05:45'::timestamptz", seconds("2024-03-30 20:45:00")),
        ("'2024-07-01 12:00:00 Europe/Zurich'::timestamptz", seconds("2024-07-01 10:00:00")),
        ("'2024-01-01 12:00:00 Europe/Zurich'::timestamptz", seconds("2024-01-01 11:00:00")),
        ("'2024-03-31 12:00:00'::timestamp AT TIME ZONE 'Asia/Kathmandu'", seconds("2024-03-31 06:15:00")),
        ("'2024-03-31 12:00:00'::timestamp::timestamptz", seconds("2024-03-31 12:00:00")),
        ("'2024-03-31'::date", seconds("2024-03-31 00:00:00")),
        ("'0001-01-01'::date", -62135596800.0),
        ("'1969-12-31 23:59:59.5'::timestamp", -0.5),
        ("1700000000", 1.7e9),
        ("1700000000123::int8", 1700000000.123),
        ("1700000000.25::numeric", 1700000000.25),
        ("1700000000.25::float8", 1700000000.25),
        ("'2024-03-31 02:30:00'", seconds("2024-03-31 02:30:00")),
        ("'2024-03-31T02:30:00-01:00'", seconds("2024-03-31 03:30:00")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_times_do_not_depend_on_the_zone_of_server_or_client(
    server: Postgres, zone: str, sql: str, times: float
) -> None:
    """The server's zone is Asia/Kathmandu; the client's, PGTZ, varies. Without a zone a time counts as UTC."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGTZ", zone)
        data = selected(server, f"1, 1, {sql}", names="user_id, item_id, timestamp").interactions
    assert data.to_frame()["timestamp"].to_list() == [times]


@pytest.mark.parametrize(
    ("field", "sql", "reason"),
    [
        ("user_id", "NULL::int, 1, 1, 1", "user_id is missing"),
        ("item_id", "1, NULL::text, 1, 1", "item_id is missing"),
        ("rating", "1, 1, NULL, 1", "rating is missing"),
        ("timestamp", "1, 1, 1, NULL::timestamptz", "timestamp is missing"),
        ("user_id", "'', 1, 1, 1", "user_id is missing"),
        ("rating", "1, 1, 'NaN'::float8, 1", "rating is not a number"),
        ("rating", "1, 1, 'NaN'::numeric, 1", "rating is not a number"),
        ("rating", "1, 1, 'infinity'::float4, 1", "rating is not finite"),
        ("rating", "1, 1, '-infinity'::numeric, 1", "rating is not finite"),
        ("rating", "1, 1, ('1' || repeat('0', 400))::numeric, 1", "rating is not finite"),
        ("rating", "1, 1, 1e300::float8, 1", "rating is too large"),
        ("rating", "1, 1, 'five', 1", "rating is not a number"),
        ("timestamp", "1, 1, 1, 'infinity'::timestamptz", "timestamp is not finite"),
        ("timestamp", "1, 1, 1, '-infinity'::date", "timestamp is not finite"),
        ("timestamp", "1, 1, 1, 'soon'", "timestamp is not a time"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_used_are_named_and_counted(server: Postgres, field: str, sql: str, reason: str) -> None:
    names = "user_id, item_id, rating, timestamp"
    with pytest.raises(
        InputError, match=rf"postgresql://owner@/postgres, query, the row of user .*: {field}"
    ) as caught:
        selected(server, sql, names=names)
    assert reason.removeprefix(field) in str(caught.value)
    good = f"SELECT user_id, item_id, rating, timestamp FROM (VALUES ({sql})) AS r ({names})"
    types = f"({good} LIMIT 0)"
    both = f"{types} UNION ALL ({good}) UNION ALL SELECT {', '.join(usable(server, good))}"
    loaded = load_source(server.socket_url(), query=both, on_error="skip")
    (counted,) = loaded.left_out_counts.items()
    assert counted[0].startswith(reason)
    assert counted[1] == 1
    assert len(loaded.interactions) == 1


def usable(server: Postgres, query: str) -> list[str]:
    """One usable value for each column, of its type."""
    values = {"text": "'1'", "timestamptz": "to_timestamp(1)", "date": "'1970-01-02'::date"}
    with server.connect() as connection, connection.cursor() as cursor:
        kinds = [field.metadata[b"POSTGRESQL:type"].decode() for field in cursor.adbc_execute_schema(query)]
    return [values.get(kind, f"1::{kind}") for kind in kinds]


def test_a_missing_rating_or_time_is_dropped_by_the_cleaning_step(server: Postgres) -> None:
    from fedrec.data.cleaning import Cleaning

    rows = ("1, 1, 5, to_timestamp(1)", "1, 2, NULL, to_timestamp(2)", "2, 1, 4, NULL")
    loaded = selected(server, *rows, cleaning=Cleaning(drop_missing=True))
    assert loaded.interactions.to_frame().rows() == [(1, 1, 5.0, 1.0)]
    assert sum(loaded.left_out_counts.values()) == 2


instants = st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))
ids = st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5)
words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
floats = st.floats(0, 2.0**100, allow_subnormal=False, width=32)
CLOCKS = {"timestamp": "time::timestamptz AT TIME ZONE 'UTC'", "timestamptz": "time::timestamptz", "text": "time"}
row = st.tuples(ids, words, floats, instants)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(row, min_size=1, max_size=30, unique_by=lambda row: (row[0], row[3])),
    st.sampled_from(["real", "float8", "numeric", "text"]),
    st.sampled_from(list(CLOCKS)),
    st.randoms(),
)
def test_the_same_rows_in_any_order_equal_the_parquet_file(
    server: Postgres, tmp_path: Path, rows: list, rating: str, clock: str, random
) -> None:
    schema = {"user": pl.Int64, "item": pl.String, "rating": pl.Float64, "time": pl.Datetime("us")}
    table = pl.DataFrame(rows, schema=schema, orient="row")
    table.write_parquet(tmp_path / "t.parquet")
    random.shuffle(rows)
    shuffled = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S%.6f+00")
    )
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS given, arrived")
        cursor.adbc_ingest("arrived", shuffled.to_arrow())
        cursor.execute(
            f'CREATE TABLE given AS SELECT "user", item, rating::{rating} AS rating, {CLOCKS[clock]} AS time '
            "FROM arrived"
        )
    here, there = load_data(server.socket_url(table="given")), read_interactions(tmp_path / "t.parquet")
    if clock == "text":  # a fraction of a second in text is read with one more rounding
        assert np.allclose(here.times, there.times, rtol=0, atol=1e-5)
        assert digest_of(here.without_times()) == digest_of(there.without_times())
    else:
        assert digest_of(here) == digest_of(there)


def test_the_digest_does_not_depend_on_the_order_of_the_table(server: Postgres) -> None:
    digests = set()
    for order in ("i", "-i", "md5(i::text)"):
        server.run(
            "DROP TABLE IF EXISTS ordered",
            "CREATE TABLE ordered AS SELECT i % 40 AS user_id, i / 40 AS item_id, i % 3 AS rating, "
            "i / 400 + date '2024-01-01' AS timestamp "
            f"FROM generate_series(0, 3999) i ORDER BY {order}",
        )
        digests.add(load_source(server.socket_url(table="ordered")).digest)
    assert len(digests) == 1


def test_other_encodings_of_the_database(server: Postgres) -> None:
    for encoding in ("LATIN1", "SQL_ASCII"):
        server.run(f"CREATE DATABASE {encoding} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
        server.run("CREATE TABLE t AS SELECT 1 AS user_id, 'naïve' AS item_id", database=encoding.lower())
        assert list(load_data(server.socket_url(encoding.lower(), table="t")).catalog.items) == ["naïve"]
    server.run("INSERT INTO t VALUES (2, E'\\xff')", database="sql_ascii")
    with pytest.raises(InputError, match=r"invalid byte sequence .* nothing was loaded. Correct the cause"):
        load_data(server.socket_url("sql_ascii", table="t"), on_error="skip")


def test_what_is_not_there_is_named_with_what_is(server: Postgres) -> None:
    for options, says in {
        (
            ("table", "click"),
        ): r"table click: the table does not exist, or the user may not see it. Did you mean 'clicks'\?",
        (("table", "Web Shop.nope"),): "the table does not exist",
        (("query", "SELECT * FROM nope"),): 'query: relation "nope" does not exist. Correct the table or query',
        (("query", "SELECT nope FROM clicks"),): 'query: column "nope" does not exist. Correct the table or query',
        (("query", "SELEC 1"),): 'syntax error at or near "1"',
        (("query", "SELECT 1; DROP TABLE clicks"),): "syntax error",
        (("query", "DELETE FROM clicks RETURNING *"),): "syntax error",
        (
            ("query", "SELECT 1 AS user, 1 AS item) AS asked; DROP TABLE clicks; SELECT * FROM (SELECT 1"),
        ): "multiple commands",
        (
            ("query", "SELECT nextval('counter') AS user, 1 AS item"),
        ): "read-only transaction.* and nothing was loaded. Correct the cause",
        (
            ("query", "SELECT 1/(customer - 5) AS user, 1 AS item FROM clicks"),
        ): "division by zero.* nothing was loaded. Correct",
        (("query", "SELECT 1 AS user, 1 AS item, 1 AS user FROM clicks"),): "could each be user_id",
        (("query", "SELECT 1 AS u, 1 AS item, 1 AS u FROM clicks"), ("columns", "u")): "two columns are called 'u'",
        (("table", "items"),): "table items: no column for user_id among id",
        (
            ("table", "clicks"),
            ("columns", "custmer"),
        ): "no column 'custmer' to read user_id from. Did you mean 'customer'",
        (): "name what to read with table= or query=. Choose from: .*clicks",
    }.items():
        server.run("CREATE TABLE IF NOT EXISTS items (id int)", "CREATE SEQUENCE IF NOT EXISTS counter")
        given = dict(options)
        if "columns" in given:
            given["columns"] = {"user_id": given["columns"]}  # type: ignore[assignment]
        with pytest.raises(InputError, match=says):
            load_data(server.socket_url(), **given)
    assert load_data(server.socket_url(table="clicks"), columns={"timestamp": "at"}).to_frame().rows() == SORTED


def test_rights(server: Postgres) -> None:
    server.run(
        "CREATE ROLE reader LOGIN", "CREATE TABLE shut AS SELECT 1 AS user_id, 1 AS item_id, 'x' AS secret",
    )  # fmt: skip
    url = server.socket_url(user="reader", table="shut")
    with pytest.raises(
        InputError, match=r"permission denied for table shut\. The owner of the table must GRANT SELECT"
    ):
        load_data(url)
    server.run("GRANT SELECT (user_id, item_id) ON shut TO reader")
    assert load_data(url).to_frame().rows() == [(1, 1)]  # only what is needed is asked for
    with pytest.raises(InputError, match="permission denied"):
        load_data(url, user_columns=["secret"])


def test_passwords_come_from_the_environment_or_a_file_and_are_shown_nowhere(
    server: Postgres, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = server.url(table="clicks")
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no password supplied.* Give the password in ~/.pgpass, or in .* PGPASSWORD"):
        load_data(url)
    monkeypatch.setenv("PGPASSWORD", server.password)
    with pytest.raises(InputError, match=r"no password supplied.* PGPASSWORD with PGHOST and PGPORT"):
        load_data(url)
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(server.port))
    monkeypatch.setenv("PGPASSWORD", "swordfish7")
    with pytest.raises(InputError, match=r"password authentication failed.* Correct the user") as caught:
        load_data(url)
    assert "swordfish7" not in str(caught.value)
    monkeypatch.setenv("PGPASSWORD", server.password)
    loaded = load_source(url, columns={"timestamp": "at"})
    assert loaded.interactions.to_frame().rows() == SORTED
    assert server.password not in f"{loaded!r} {loaded.report!r}"
    monkeypatch.delenv("PGPASSWORD")
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"127.0.0.1:{server.port}:postgres:owner:{server.password}\n")
    passfile.chmod(stat.S_IRUSR)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    assert load_data(url, columns={"timestamp": "at"}).to_frame().rows() == SORTED


def test_connections_that_cannot_be_made(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    local = f"postgresql://owner@127.0.0.1:{free.getsockname()[1]}/d?table=t"
    for url, says in {
        local: r"no connection .*refused.* Check that the server is running",
        "postgresql://owner@nowhere.invalid/d?table=t": "no connection .*nowhere.invalid",
        server.socket_url("nope", table="t"): 'database "nope" does not exist.* Correct the name of the database',
        server.socket_url(user="nope", table="t"): 'role "nope" does not exist.* Correct the name of the user',
        server.url(sslmode="require", table="t"): r"SSL.* Correct sslmode in the URL",
        "postgresql:///d?host=/nowhere&table=t": "no connection .*Check that the server is running",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=says):
            load_data(url)
    free.listen()  # answers nothing
    start = time.monotonic()
    with pytest.raises(InputError, match=r"timeout expired.* allow more time with connect_timeout=SECONDS"):
        load_data(f"{local}&connect_timeout=2")
    assert time.monotonic() - start < 10
    free.close()


def test_the_driver_is_an_extra(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "adbc_driver_postgresql.dbapi", None)
    with pytest.raises(InputError, match=r"pip install 'fedrec\[databases\]'"):
        load_data(server.socket_url(table="clicks"))


def many(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[reader.Rows]:
    """A table of 300,000 rows in batches of about a thousand."""
    monkeypatch.setattr(reader, "_BATCH_BYTES", 20_000)
    wanted = {"user_id": "user_id", "item_id": "item_id"}
    return reader.read_rows(database_of(server.socket_url(table="many")), lambda found: wanted)


def test_rows_that_change_meanwhile_are_read_as_they_were(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(server, monkeypatch)
    heights = [next(rows).table.height]
    server.run("UPDATE many SET user_id = 0 WHERE item_id % 2 = 0", "DELETE FROM many WHERE item_id > 200000")
    batches = [batch.table for batch in rows]
    assert sum(heights) + sum(batch.height for batch in batches) == 300_000
    assert batches[-1]["item_id"].max() == 300_000
    assert len(batches) > 100
    server.run("TRUNCATE many", FILL)


def test_a_connection_that_breaks_in_the_middle_is_an_error(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(server, monkeypatch)
    next(rows)
    server.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND pid <> pg_backend_pid()"
    )
    with pytest.raises(InputError, match=r"the connection was lost \(.*\), and nothing was loaded"):
        list(rows)


class Relay:
    """Passes bytes between a client and the server; cuts or freezes after so many from the server."""

    def __init__(self, port: int, after: int, freeze: bool = False) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.target, self.left, self.freeze = port, after, freeze
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def serve(self) -> None:
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += [client, server]
            threading.Thread(target=self.carry, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.carry, args=(server, client, True), daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if counted:
                    data, self.left = data[: self.left], self.left - len(data)
                target.sendall(data)
                if counted and self.left <= 0:
                    if self.freeze:
                        return
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self.listener, *self.sockets):
            end.close()


@pytest.mark.parametrize("after", [0, 50, 500, 20_000, 100_000, 1_000_000, 6_000_000])
def test_no_cut_of_the_network_loads_a_part(server: Postgres, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    monkeypatch.setenv("PGPASSWORD", server.password)
    relay = Relay(server.port, after)
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(relay.port))
    try:
        with pytest.raises(InputError, match=r"no connection|the connection was lost|nothing was loaded"):
            load_data(f"postgresql://owner@127.0.0.1:{relay.port}/postgres?table=many", on_error="skip")
    finally:
        relay.close()


def test_a_network_that_freezes_does_not_hang(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", server.password)
    monkeypatch.setattr(reader, "_GRACE", 0.5)
    relay = Relay(server.port, 1_000_000, freeze=True)
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(relay.port))
    start = time.monotonic()
    try:
        with pytest.raises(InputError, match=r"so the server or the network hangs. Try again"):
            load_data(
                f"postgresql://owner@127.0.0.1:{relay.port}/postgres?table=many&statement_timeout=0.5&connect_timeout=2"
            )
        assert time.monotonic() - start < 15
    finally:
        relay.close()


def test_a_statement_that_takes_too_long_is_stopped(server: Postgres) -> None:
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"reading took longer than 0\.3 seconds .* Allow more time with statement_timeout="
    ):
        load_data(server.socket_url(statement_timeout=0.3), query="SELECT 1 AS user, pg_sleep(60)::text AS item")
    assert time.monotonic() - start < 10


def test_half_a_gigabyte_streams_through_little_memory(server: Postgres) -> None:
    def query(rows: int) -> str:
        return f"SELECT i AS user_id, repeat('x', 500) || i AS item_id FROM generate_series(1, {rows}) i"

    rows, size, peak = peak_of(server.socket_url(), query(1_000_000), warm_up=query(1000))
    assert rows == 1_000_000
    assert size > 500e6
    assert peak < 100e6


def test_nothing_is_left_behind_at_the_server(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = many(server, monkeypatch)
    next(rows)
    rows.close()  # the reader stopped early
    with pytest.raises(InputError, match="user_id is missing"):
        load_data(server.socket_url(), query="SELECT NULL::int AS user, item_id AS item FROM many")
    deadline = time.monotonic() + 10
    while True:
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fedrec'")
            if cursor.fetchone() == (0,):
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_is_trained_from_a_database_and_knows_when_it_changed(server: Postgres, fedrec, tmp_path: Path) -> None:
    server.run(
        "CREATE TABLE watched AS SELECT 'u' || u AS user_id, (u * 7 + i * i) % 40 AS item_id, "
        "date '2024-01-01' + i AS timestamp FROM generate_series(1, 60) u, generate_series(1, 12) i"
    )
    url, run = server.socket_url(table="watched"), tmp_path / "run"
    said = fedrec("data", "describe", url, "--json")
    assert (said.code, '"users": 60' in said.out) == (0, True), said.err
    said = fedrec("train", "--data", url, "--model", "ease", "--out", run)
    assert said.code == 0, said.err
    assert fedrec("recommend", run, "--user", "u3").code == 0, "the run has its own copy"
    kept = run / "private" / "interactions.parquet"
    kept.rename(tmp_path / "kept")
    assert fedrec("recommend", run, "--user", "u3").code == 2
    assert fedrec("recommend", run, "--user", "u3", "--data", url).code == 0
    (tmp_path / "plan.yaml").write_text(
        f"data: {{source: '{server.socket_url()}', query: 'SELECT * FROM watched'}}\nmodel: {{name: ease}}\n"
    )
    plan = ("--plan", tmp_path / "plan.yaml", "--data", server.socket_url())
    again = fedrec("train", *plan, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    same = [(tmp_path / name / "model" / "shared.safetensors") for name in ("run", "again")]
    assert not same[0].exists() or same[0].read_bytes() == same[1].read_bytes()
    server.run("DELETE FROM watched WHERE user_id = 'u3'")
    assert fedrec("recommend", run, "--user", "u3", "--data", url).code == 2
    said = fedrec("train", "--resume", "--out", run, "--data", url)
    assert (said.code, "is other data now" in said.err) == (2, True)


def test_dates_beyond_the_calendar_of_files(server: Postgres) -> None:
    with pytest.raises(InputError, match="some lie beyond the year 9999"):
        selected(
            server, "1, 1, '12024-01-01'::timestamp", "1, 2, now()::timestamp", names="user_id, item_id, timestamp"
        )
