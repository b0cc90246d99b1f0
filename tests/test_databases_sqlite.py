"""SQLite as a source: the same interactions as the same rows in a file, and errors that say what to do."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings

from fedrec.data.databases import sqlite as reader
from fedrec.data.databases.reading import read_database
from fedrec.data.databases.urls import database_of
from fedrec.data.digests import digest_of
from fedrec.data.reading.readers import read_interactions
from fedrec.data.sources import load_data, load_source
from fedrec.errors import InputError
from memory_in_test import peak_of

ROWS = [(7, "b", 3.5, 30), (5, "a", 1.0, 20), (7, "a", 5.0, 10), (5, "ü", 4.0, 40)]
SORTED = [(5, "a", 1.0, 20.0), (5, "ü", 4.0, 40.0), (7, "a", 5.0, 10.0), (7, "b", 3.5, 30.0)]
Make = Callable[..., str]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Makes a database file of statements and rows, and gives the URL of its table."""

    def make(create: str, rows: Iterable[tuple[object, ...]] = (), table: str = "clicks", name: str = "shop.db") -> str:
        database = sqlite3.connect(tmp_path / name)
        database.executescript(create)
        rows = list(rows)
        if rows:
            database.executemany(f'INSERT INTO "{table}" VALUES ({",".join("?" * len(rows[0]))})', rows)
        database.commit()
        database.close()
        return f"sqlite:///{tmp_path / name}?table={table}"

    return make


CLICKS = "CREATE TABLE clicks (customer INTEGER, sku TEXT, stars REAL, at INTEGER)"
AT = {"timestamp": "at"}


def test_a_table_a_view_and_a_query_give_the_interactions(made: Make, tmp_path: Path) -> None:
    url = made(
        CLICKS + "; CREATE VIEW seen AS SELECT customer AS user, sku AS item, stars, at AS time FROM clicks", ROWS
    )
    loaded = load_source(url, columns=AT)
    assert loaded.interactions.to_frame().rows() == SORTED
    assert loaded.name == "clicks"
    assert loaded.report.columns == {"user_id": "customer", "item_id": "sku", "rating": "stars", "timestamp": "at"}
    assert (loaded.report.format, loaded.report.rows) == ("sqlite", 4)
    place = f"sqlite:///{tmp_path}/shop.db"
    assert load_data(f"{place}?table=seen").to_frame().rows() == SORTED
    query = "SELECT customer AS user, sku AS item, stars, at AS time FROM clicks WHERE stars > 1 -- not bad;"
    assert load_data(place, query=query).to_frame().rows() == SORTED[1:]
    assert load_data(f"{place}?query={query.replace('%', '%25')}").to_frame().rows() == SORTED[1:]


def test_names_that_need_quotes(made: Make) -> None:
    create = 'CREATE TABLE "my.clicks" ("user ""id""" TEXT, "select" TEXT, "a b" INTEGER)'
    url = made(create, [("x", "y", 1)], table="my.clicks").replace("my.clicks", '"my.clicks"')
    columns = {"user_id": 'user "id"', "item_id": "select", "rating": "a b"}
    assert load_data(url, columns=columns).to_frame().rows() == [("x", "y", 1.0)]


@pytest.mark.parametrize(
    ("kind", "values", "seconds"),
    [
        ("INTEGER", [0, 1_700_000_000], [0.0, 1.7e9]),
        ("INTEGER", [1_700_000_000_123, 1_700_000_000_124], [1_700_000_000.123, 1_700_000_000.124]),
        ("REAL", [0.5, 1.7e9 + 0.25], [0.5, 1.7e9 + 0.25]),
        ("TEXT", ["1970-01-02 00:00:00", "1970-01-03T00:00:00.5"], [86400.0, 172800.5]),
        ("TEXT", ["1970-01-01 02:00:00+02:00", "1970-01-01T01:00:00Z"], [0.0, 3600.0]),
        ("DATE", ["1970-01-02", "1969-12-31"], [86400.0, -86400.0]),
        ("TEXT", ["100", "200.5"], [100.0, 200.5]),
        ("DATETIME", [1_700_000_000, 1.7e9 + 0.5], [1.7e9, 1.7e9 + 0.5]),
    ],
)  # fmt: skip
def test_times_of_every_notation(made: Make, kind: str, values: list[object], seconds: list[float]) -> None:
    url = made(f"CREATE TABLE clicks (user, item, time {kind})", [(n, n, value) for n, value in enumerate(values)])
    assert load_data(url).to_frame()["timestamp"].to_list() == seconds


@pytest.mark.parametrize(
    ("create", "values", "ids"),
    [
        ("user INTEGER", [2**63 - 1, -(2**63), 0], [-(2**63), 0, 2**63 - 1]),
        ("user TEXT", ["007", "7", "ü"], ["007", "7", "ü"]),
        ("user TEXT", [7, 8], ["7", "8"]),
        ("user REAL", [7, 8], [7, 8]),
        ("user VARCHAR(36)", ["0b5c", "0B5C"], ["0B5C", "0b5c"]),
    ],
)  # fmt: skip
def test_ids_keep_the_type_that_they_have_in_the_file(
    made: Make, create: str, values: list[object], ids: list[object]
) -> None:
    url = made(f"CREATE TABLE clicks ({create}, item)", [(value, 1) for value in values])
    assert list(load_data(url).users) == ids


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, "a"], "user_id mixes text and whole numbers; ids must have one type"),
        ([1, 1.5], "user_id mixes numbers with a fraction and whole numbers"),
        ([1.5, 2.5], "user_id is of type Float64; ids must be whole numbers or text"),
        ([b"\0\1", b"\0\2"], r"user_id holds binary data. Convert it in a query, such as lower\(hex"),
    ],
)  # fmt: skip
def test_ids_that_are_none(made: Make, values: list[object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_data(made("CREATE TABLE clicks (user, item)", [(value, 1) for value in values]))


def test_ids_of_another_type_in_a_later_batch_are_an_error(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_BATCH_ROWS", 2)
    url = made("CREATE TABLE clicks (user, item)", [(None, 1), (None, 1), (1, 1), (2, 1), ("3", 1)])
    with pytest.raises(InputError, match="mixes text and whole numbers"):
        load_data(url, on_error="skip")


def test_nulls_are_errors_that_name_the_row_or_are_counted(made: Make) -> None:
    rows = [(1, "a", 5.0, 10), (None, "a", 4.0, 20), (2, None, 3.0, 30), (3, "b", None, 40), (4, "c", 2.0, None)]
    url = made(CLICKS, rows)
    with pytest.raises(
        InputError, match=r"shop.db, table clicks, the row of user None and item 'a': user_id is missing"
    ):
        load_data(url, columns=AT)
    loaded = load_source(url, columns=AT, on_error="skip")
    assert loaded.left_out_counts == {
        "user_id is missing": 1, "item_id is missing": 1, "rating is missing": 1, "timestamp is missing": 1
    }  # fmt: skip
    left = loaded.left_out.select("line", "field", "user_id", "item_id", "rating").rows()
    assert (None, "rating", "3", "b", None) in left
    assert loaded.interactions.to_frame().rows() == [(1, "a", 5.0, 10.0)]
    from fedrec.data.cleaning import Cleaning

    dropped = load_source(
        made(CLICKS, rows[:1] + rows[3:], name="b.db"), columns=AT, cleaning=Cleaning(drop_missing=True)
    )
    assert dropped.interactions.to_frame().rows() == [(1, "a", 5.0, 10.0)]
    assert sum(dropped.left_out_counts.values()) == 2


def test_words_and_infinities_among_ratings(made: Make) -> None:
    url = made(
        "CREATE TABLE clicks (user, item, rating)",
        [(1, 1, 2), (2, 1, "2.5"), (3, 1, 0.1), (4, 1, "five"), (5, 1, float("inf"))],
    )
    with pytest.raises(InputError, match="the row of user '4' and item '1': rating 'five' is not a number"):
        load_data(url)
    loaded = load_source(url, on_error="skip")
    assert loaded.interactions.to_frame()["rating"].to_list() == [2.0, 2.5, np.float32(0.1)]
    assert loaded.left_out_counts == {"rating is not a number": 1, "rating is not finite": 1}


row = st.tuples(
    st.integers(0, 5),
    st.sampled_from("abcdé"),
    st.integers(-100, 100) | st.floats(-100, 100).map(abs),
    st.integers(0, 10**9),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(row, min_size=1, max_size=30, unique_by=lambda row: (row[0], row[3])), st.randoms(), st.integers(1, 7))
def test_the_same_rows_in_any_order_equal_the_parquet_file(tmp_path: Path, rows, random, batch: int) -> None:
    table = pl.DataFrame(
        rows, schema={"user": pl.Int64, "item": pl.String, "rating": pl.Float64, "time": pl.Int64}, orient="row"
    )
    table.write_parquet(tmp_path / "t.parquet")
    random.shuffle(rows)
    path = tmp_path / "t.db"
    path.unlink(missing_ok=True)
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t (user INTEGER, item TEXT, rating NUMERIC, time INTEGER)")
    database.executemany("INSERT INTO t VALUES (?, ?, ?, ?)", rows)
    database.commit()
    database.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reader, "_BATCH_ROWS", batch)
        here = load_data(f"sqlite:///{path}?table=t")
    assert digest_of(here) == digest_of(read_interactions(tmp_path / "t.parquet"))


def test_rows_of_equal_time_have_one_order_whatever_the_order_of_the_table(made: Make) -> None:
    rows = [(user, item, item % 3, 5) for user in range(30) for item in range(20)]
    digests = set()
    orders = []
    for number, order in enumerate((rows, rows[::-1], sorted(rows, key=lambda row: row[1]))):
        data = load_data(made("CREATE TABLE clicks (user, item, rating, time)", order, name=f"{number}.db"))
        digests.add(digest_of(data))
        orders.append(data.items.reshape(30, 20))
    assert len(digests) == 1
    # No item is last more often than chance: the mean of the last items' ids is the mean of all.
    assert len({tuple(one) for one in orders[0].tolist()}) == 30
    assert abs(orders[0][:, -1].mean() - 9.5) < 4 * 5.77 / 30**0.5
    timeless = made("CREATE TABLE clicks (user, item)", [row[:2] for row in rows], name="timeless.db")
    assert "no column is a time" in load_source(timeless).report.notes[0]
    # What other users did changes nothing.
    some = load_data(
        made("CREATE TABLE clicks (user, item, rating, time)", [r for r in rows if r[0] > 3], name="some.db")
    )
    assert (some.items.reshape(26, 20) == orders[0][4:]).all()


def test_features_of_users_and_an_agreed_catalog(made: Make) -> None:
    from fedrec.data.catalog import Catalog
    from fedrec.data.identifiers import Identifiers

    url = made("CREATE TABLE clicks (user, item, age INTEGER)", [(1, 10, 33), (2, 11, 44), (2, 12, 44)])
    data = load_data(url, user_columns=["age"], catalog=Catalog(Identifiers.of([10, 11, 12, 13])))
    assert data.user_features is not None
    assert data.user_features["age"].to_list() == [33, 44]
    assert data.n_items == 4
    with pytest.raises(InputError, match="item_id '12' is not in the catalog"):
        load_data(url, catalog=Catalog(Identifiers.of([10, 11])))
    with pytest.raises(InputError, match="no column 'agee' for user_columns among user, item, age"):
        load_data(url, user_columns=["agee"])


def test_what_is_not_there_is_named_with_what_is(made: Make, tmp_path: Path) -> None:
    url = made(CLICKS + "; CREATE TABLE items (id)", ROWS)
    place = url.partition("?")[0]
    for asked, says in {
        "": r"name what to read with table= or query=. Choose from: clicks, items",
        "?table=click": r"table click: the table does not exist. Did you mean 'clicks'\?",
        "?table=items": r"table items: no column for user_id among id",
        "?query=SELECT nope FROM clicks": "query: no such column: nope. Correct the table or query",
        "?query=SELEC 1": 'query: near "1": syntax error',
        "?query=SELECT 1; DROP TABLE clicks": 'query: near ";": syntax error',
        "?query=DELETE FROM clicks RETURNING *": 'query: near "DELETE": syntax error',
        "?query=SELECT sku AS item, 1 AS user, 2 AS user FROM clicks": "columns 'user', 'user:1' could each be user_id",
    }.items():
        with pytest.raises(InputError, match=says):
            load_data(place + asked)
    with pytest.raises(InputError, match=r"no such file. Did you mean 'shop.db'"):
        load_data(url.replace("shop.db", "shp.db"))
    with pytest.raises(InputError, match="is a folder"):
        load_data(f"sqlite:///{tmp_path}?table=t")
    with pytest.raises(InputError, match=r"For the absolute path /.* write four slashes"):
        load_data(url.replace("sqlite:////", "sqlite:///"))
    with pytest.raises(InputError, match=r"'format' is not an option of reading a database"):
        load_data(url, format="csv")
    assert load_data(url, columns=AT).to_frame().rows() == SORTED


def test_reading_never_writes(made: Make, tmp_path: Path) -> None:
    url = made(CLICKS, ROWS)
    before = (tmp_path / "shop.db").read_bytes()
    os.chmod(tmp_path / "shop.db", 0o444)
    load_data(url, columns=AT)
    assert (tmp_path / "shop.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["shop.db"]


def test_files_that_are_no_database_or_damaged(made: Make, tmp_path: Path) -> None:
    (tmp_path / "no.db").write_bytes(b"user,item\n1,2\n" * 1000)
    with pytest.raises(InputError, match="is not a SQLite database"):
        load_data(f"sqlite:///{tmp_path}/no.db?table=t")
    (tmp_path / "empty.db").touch()
    with pytest.raises(InputError, match="the file is empty, so it is not a database"):
        load_data(f"sqlite:///{tmp_path}/empty.db?table=t")
    rows = [(n, f"item {n}", 1.0, n) for n in range(20_000)]
    url = made(CLICKS, rows)
    whole = (tmp_path / "shop.db").read_bytes()
    pages = len(whole) // 4096
    for page in range(1, pages, 7):  # a page of zeros, or a file that breaks off there
        for damaged in (whole[: page * 4096] + bytes(4096) + whole[(page + 1) * 4096 :], whole[: page * 4096 + 100]):
            (tmp_path / "shop.db").write_bytes(damaged)
            with pytest.raises(InputError, match=r"the file is damaged .*nothing was loaded"):
                load_data(url, columns=AT, on_error="skip")


def test_a_locked_file(made: Make, tmp_path: Path) -> None:
    url = made(CLICKS, ROWS)
    writer = sqlite3.connect(tmp_path / "shop.db")
    writer.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"another program has locked the file.*connect_timeout=SECONDS"):
        load_data(url + "&connect_timeout=0.3", columns=AT)
    assert 0.2 < time.monotonic() - start < 5
    writer.rollback()
    writer.close()
    assert load_data(url, columns=AT).to_frame().rows() == SORTED


def test_a_writer_that_broke_off_leaves_an_error_not_half_of_its_rows(made: Make, tmp_path: Path) -> None:
    url = made(CLICKS, ROWS)
    script = f"""
import os, sqlite3
database = sqlite3.connect({str(tmp_path / "shop.db")!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 5")
database.execute("BEGIN")
database.executemany("INSERT INTO clicks VALUES (?, 'x', 1, 1)", [(n,) for n in range(20_000)])
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "shop.db-journal").exists()
    with pytest.raises(InputError, match="If a program stopped while writing, open the file once with that program"):
        load_data(url, columns=AT)
    sqlite3.connect(tmp_path / "shop.db").execute("SELECT count(*) FROM clicks").connection.close()
    assert load_data(url, columns=AT).to_frame().rows() == SORTED


def test_rows_that_change_meanwhile_are_read_as_they_were(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_BATCH_ROWS", 1000)
    url = made("PRAGMA journal_mode = WAL; CREATE TABLE clicks (user, item)", [(n, 1) for n in range(10_000)])
    rows = reader.read_rows(database_of(url), lambda found: {"user_id": "user", "item_id": "item"})
    count = next(rows).table.height
    writer = sqlite3.connect(tmp_path / "shop.db")
    writer.execute("UPDATE clicks SET user = 0")
    writer.execute("DELETE FROM clicks WHERE rowid % 2")
    writer.commit()
    users = pl.concat([batch.table for batch in rows])["user_id"]
    writer.close()
    assert count + len(users) == 10_000
    assert users.to_list() == list(range(1000, 10_000))


def test_a_query_that_takes_too_long_is_stopped(made: Make) -> None:
    url = made("CREATE TABLE clicks (user, item)", [(1, 1)]).partition("?")[0]
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) AS user, 1 AS item FROM n"
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"reading took longer than 0\.2 seconds. Allow more time with statement_timeout"
    ):
        load_data(f"{url}?statement_timeout=0.2", query=query)
    assert time.monotonic() - start < 5


def test_half_a_gigabyte_streams_through_little_memory(made: Make) -> None:
    def query(rows: int) -> str:
        numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
        return f"{numbers} SELECT i AS user_id, printf('%0500d', i) AS item_id FROM n"

    place = made("CREATE TABLE clicks (user, item)").partition("?")[0]
    rows, size, peak = peak_of(place, query(1_000_000), warm_up=query(1000))
    assert (rows, size) == (1_000_000, 500_000_000)
    assert peak < 100e6


def test_text_that_is_not_utf8(made: Make) -> None:
    url = made("CREATE TABLE clicks (user, item); INSERT INTO clicks VALUES (CAST(x'ff41' AS TEXT), 1)")
    with pytest.raises(InputError, match="holds text that is not UTF-8"):
        load_data(url)


def test_an_empty_table(made: Make) -> None:
    with pytest.raises(InputError, match="table clicks: the source holds no interactions"):
        load_data(made(CLICKS), columns=AT)


def test_readers_in_several_threads(made: Make) -> None:
    url = made(CLICKS, ROWS)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(digest_of(load_data(url, columns=AT)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1


def test_commands_describe_train_and_recommend_from_a_database(made: Make, fedrec, tmp_path: Path, monkeypatch) -> None:
    rows = [(user, f"i{(user * 7 + step * step) % 40}", 4.0, step) for user in range(60) for step in range(12)]
    url = made(CLICKS, rows)
    said = fedrec("data", "describe", url, "--columns", "timestamp=at")
    assert (said.code, "60" in said.out) == (0, True)
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    relative = "sqlite:///shop.db?table=clicks"
    said = fedrec("train", "--data", relative, "--columns", "timestamp=at", "--model", "ease", "--out", run)
    assert said.code == 0, said.err
    monkeypatch.chdir(tmp_path.parent)  # the run finds the file where training was started
    said = fedrec("recommend", run, "--user", "3", "--json")
    assert said.code == 0, said.err
    database = sqlite3.connect(tmp_path / "shop.db")
    database.execute("DELETE FROM clicks WHERE customer = 3")
    database.commit()
    database.close()
    assert fedrec("recommend", run, "--user", "3").code == 0, "the run has its own copy"
    assert fedrec("recommend", run, "--user", "3", "--data", url, "--columns", "timestamp=at").code == 2
    (run / "private" / "interactions.parquet").unlink()  # as runs of earlier versions
    said = fedrec("evaluate", run)
    assert said.code == 2
    assert "is other data now" in said.err
    assert read_database(url, columns=AT).report.rows == 59 * 12


def test_ctrl_c_stops_a_long_query(made: Make) -> None:
    url = made("CREATE TABLE clicks (user, item)", [(1, 1)]).partition("?")[0]
    query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT sum(i) AS user, 1 AS item FROM n"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            load_data(url, query=query)
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
