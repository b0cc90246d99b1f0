"""The log of events: durable, each event once, in SQLite and PostgreSQL; and its events as data to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

import fedrec as fr
import postgres_in_test
from conftest import Said
from fedrec.data.databases.logs import event_database, open_events, read_events, read_shown
from fedrec.data.databases.urls import database_of
from fedrec.data.events import Event, EventLog
from fedrec.data.sources import load_source
from fedrec.errors import InputError
from fedrec.owner.config import NodeConfig


def event(
    number: int, user: int | str = 1, item: int | str = 5, kind: str = "click", value: float | None = None
) -> Event:
    return Event(f"e{number}", user, item, kind, 100.0 + number, value, "digest", "request", 3, 0.25)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres_in_test.Postgres]:
    if postgres_in_test.programs() is None:
        pytest.skip("no PostgreSQL on this machine")
    with postgres_in_test.postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a log is to be."""
    if request.param == "sqlite":
        return str(tmp_path / "events.db")
    server = request.getfixturevalue("server")
    name = f"events_{abs(hash(tmp_path.name)) % 10**9}"
    server.run(f"CREATE DATABASE {name}")
    return server.socket_url(name)


def rows(place: str) -> list[tuple[object, ...]]:
    return list(read_events(place).interactions.rows())


def test_a_log_keeps_each_event_once_in_order(place: str) -> None:
    log = open_events(place, False, False)
    assert log.add([event(1), event(2, value=4.0), event(1, item=9)]) == [event(1), event(2, value=4.0)]
    assert log.add([event(2), event(3, kind="impression")]) == [event(3, kind="impression")]
    log.close()
    again = open_events(place, False, False)
    assert again.add([event(1), event(4, user=2)]) == [event(4, user=2)]
    again.close()
    assert rows(place) == [(1, 5, 101.0, None), (1, 5, 102.0, 4.0), (2, 5, 104.0, None)]


def test_a_log_says_what_was_shown_first_and_whether_it_was_taken(place: str) -> None:
    log = open_events(place, False, False)
    first = Event("a", 1, 5, "impression", 100.0, None, "digest", "one", 1, 0.25)
    log.add([
        first,
        replace(first, event_id="b", item=6, rank=2, propensity=0.5),
        replace(first, event_id="c", user=2, request_id="two", propensity=0.75),
        replace(first, event_id="d", request_id="three", propensity=None),
        replace(first, event_id="e", kind="click", rank=None, propensity=None),
        replace(first, event_id="f", user=2, kind="click"),
        replace(first, event_id="g", user=2, request_id="two", kind="dismiss"),
    ])  # fmt: skip
    log.close()
    table = read_shown(place)
    assert table.rows() == [(1, 5, 0.25, 1.0), (2, 5, 0.75, 0.0)]
    assert table.schema == {"user_id": pl.Int64, "item_id": pl.Int64, "propensity": pl.Float64, "reward": pl.Float64}


def test_a_user_who_is_forgotten_leaves_no_event_and_earlier_ones_do_not_come_back(place: str) -> None:
    log = open_events(place, True, False)
    log.add([event(1, "ann"), event(2, "bob"), event(3, "ann")])
    assert log.forget("ann", 103.5) == 2
    assert log.add([event(1, "ann"), event(3, "ann"), event(4, "ann")]) == [event(4, "ann")]
    log.close()
    log = open_events(place, True, False)
    assert log.add([event(3, "ann")]) == []
    log.close()
    table = read_events(place)
    assert table.interactions["user_id"].to_list() == ["bob", "ann"]
    assert table.forgotten.rows() == [("ann", 103.5)]


def test_ids_of_another_type_are_refused(place: str) -> None:
    open_events(place, True, False).close()
    with pytest.raises(InputError, match=r"user.*name another"):
        open_events(place, False, False)


def test_a_log_can_be_read_while_it_is_written(place: str) -> None:
    log: EventLog = open_events(place, False, False)
    for number in range(3):
        log.add([event(number)])
        assert len(rows(place)) == number + 1
    log.close()


def test_the_interactions_of_a_log_are_a_source_of_their_own(tmp_path: Path) -> None:
    log = open_events(str(tmp_path / "events.db"), False, False)
    log.add([event(1), event(2, kind="dismiss"), event(3, item=6)])
    log.close()
    data = fr.load_data(f"sqlite:///{tmp_path / 'events.db'}?table=interactions")
    assert data.to_frame().rows() == [(1, 5, 101.0), (1, 6, 103.0)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [("sqlite:///x.db?table=clicks", "leave table and query out"), ("mysql://x/y", "cannot read from mysql"),
     ("postgresql://ann:secret@db/shop", "holds a password")],
)  # fmt: skip
def test_what_is_no_log_is_refused(source: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        event_database(source)


def test_a_missing_log_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file, so there are no events"):
        read_events(str(tmp_path / "no.db"))
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at as if it were one\n" * 20)
    with pytest.raises(InputError, match="cannot be opened as a log of events"):
        open_events(str(tmp_path / "text.db"), False, False)
    assert database_of("sqlite:///a%3Fb.db").address == event_database("a?b.db").address


def written(
    folder: Path, table: dict[str, list[object]], *events: Event, forgotten: tuple[int | str, ...] = ()
) -> tuple[str, str]:
    """A file of data and a log."""
    pl.DataFrame(table).write_csv(folder / "clicks.csv")
    users, items = ("user_id" in table and isinstance(table[name][0], str) for name in ("user_id", "item_id"))
    log = open_events(str(folder / "events.db"), users, items)
    log.add(events)
    for user in forgotten:
        log.forget(user, 1e6)
    log.close()
    return str(folder / "clicks.csv"), str(folder / "events.db")


def test_events_join_data_after_it_and_forgotten_users_leave_it(tmp_path: Path) -> None:
    table: dict[str, list[object]] = {"user_id": [1, 1, 2], "item_id": [5, 6, 5], "timestamp": [10, 20, 30]}
    clicks, log = written(tmp_path, table, event(1, item=7), event(2, user=3, item=5), forgotten=(2,))
    loaded = load_source(clicks, events=log)
    assert loaded.interactions.to_frame().rows() == [(1, 5, 10.0), (1, 6, 20.0), (1, 7, 101.0), (3, 5, 102.0)]
    assert loaded.report.notes[-1] == "1 rows of 1 users who asked to be forgotten left out"


def test_events_among_ratings_have_the_ratings_that_they_bring(tmp_path: Path) -> None:
    table: dict[str, list[object]] = {"user_id": [1], "item_id": [5], "rating": [3.0]}
    clicks, log = written(tmp_path, table, event(1, item=7, value=5.0), event(2, item=8))
    frame = load_source(clicks, events=log).interactions.to_frame()
    assert frame["item_id"].to_list() == [5, 7, 8]
    assert frame["rating"].to_list()[:2] == [3.0, 5.0]
    assert frame["rating"].is_nan().to_list() == [False, False, True]


def test_ids_of_events_must_be_of_the_type_of_the_data(tmp_path: Path) -> None:
    clicks, log = written(tmp_path, {"user_id": ["ann"], "item_id": ["x"]}, event(1, "ann", "x"))
    pl.DataFrame({"user_id": ["ann"], "item_id": [5]}).write_csv(clicks)
    with pytest.raises(InputError, match="item ids of the data are whole numbers, those of events text"):
        load_source(clicks, events=log)


def test_a_training_that_goes_on_takes_events_as_new_interactions(fedrec: Callable[..., Said], tmp_path: Path) -> None:
    table: dict[str, list[object]] = {"user_id": [], "item_id": [], "timestamp": []}
    for user in range(40):
        for place in range(6):
            for name, value in (("user_id", user), ("item_id", (user + place * place) % 20), ("timestamp", place)):
                table[name].append(value)
    clicks, log = written(tmp_path, table, event(1, user=7, item=19), event(2, user=50, item=3))
    how = ("--split", "none")
    first, second, anew = (tmp_path / name for name in ("first", "second", "anew"))
    assert fedrec("train", "--data", clicks, "--model", "ease", *how, "--out", first).code == 0
    said = fedrec("train", "--data", clicks, "--events", log, "--model", "ease", *how, "--from", first, "--out", second)
    assert said.code == 0, said.err
    joined = load_source(clicks, events=log).interactions
    fr.EASE().fit(joined).save(anew)
    assert fr.load_model(second).recommend([7, 50], n=3).equals(fr.load_model(anew).recommend([7, 50], n=3))


def test_a_node_reads_a_file_and_its_events(tmp_path: Path) -> None:
    table: dict[str, list[object]] = {"user_id": [1], "item_id": [5]}
    written(tmp_path, table, event(1, item=7))
    settings = {"name": "shop", "home": "home", "data": {"source": "clicks.csv", "events": "events.db"}}
    own = NodeConfig.make(settings, tmp_path).data
    assert own.events == str(tmp_path / "events.db")
    assert load_source(own.source, **own.reading()).interactions.to_frame()["item_id"].to_list() == [5, 7]
