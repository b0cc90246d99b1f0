"""Numbers, times, events and folders as they are in files of real life."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedrec as fr
from conftest import Said
from fedrec.data.identifiers import Identifiers
from fedrec.data.reading.readers import read_interactions, read_with_report
from fedrec.data.reading.rows import numbers_in
from fedrec.data.reading.times import iso_seconds, local_seconds
from fedrec.errors import InputError, NothingLeftError

EVENTS = "user,item,kind,price\n1,a,click,1\n1,b,buy,2\n2,a,click,3\n2,c,view,4\n"


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


# Times


def test_zones_are_told_by_any_usual_mark_and_impossible_ones_are_no_times() -> None:
    at = {
        "2019-10-01 00:00:00 UTC": 1569888000.0,
        "2019-10-01 00:00:00 GMT": 1569888000.0,
        "2020-01-01t00:00:00z": 1577836800.0,
        "2020-01-01 02:00:00 +02:00": 1577836800.0,
        "2020-01-01T05:30+0530": 1577836800.0,
        "2019-12-31T14:00-10": 1577836800.0,
        "2020-01-01 12:00 AM": 1577836800.0,
        "2020-01-01 1:00:30 p.m.": 1577836800.0 + 13 * 3600 + 30,
        " 2020-01-01 ": 1577836800.0,
    }
    assert iso_seconds(pl.Series(list(at))).to_list() == list(at.values())
    wrong = ["2020-01-01T00:00+25:99", "2020-01-01T00:00+24:00", "2020-01-01T00:00+02:60", "2020-01-01 13:00 PM"]
    wrong += ["2020-01-01 00:00 MESZ", "2020-01-01 0:00 AM", "2020-13-01"]
    assert iso_seconds(pl.Series(wrong)).to_list() == [None] * len(wrong)


LOCAL = {
    "day-first": ["{0:%d}/{0:%m}/{0:%Y} {0:%H}:{0:%M}:{0:%S}", "{0:%d}.{0:%m}.{0:%Y} {0:%H}:{0:%M}:{0:%S}",
                  "{0.day}-{0.month}-{0:%Y}, {0:%I}:{0:%M}:{0:%S} {0:%p}"],
    "month-first": ["{0:%m}/{0:%d}/{0:%Y} {0:%H}:{0:%M}:{0:%S}",
                    "{0.month}/{0.day}/{0:%Y} {0:%I}:{0:%M}:{0:%S} {0:%p}"],
    "%d %b %Y %H:%M:%S": ["{0:%d} {0:%b} {0:%Y} {0:%H}:{0:%M}:{0:%S}"],
    "%Y%m%dT%H%M%S": ["{0:%Y}{0:%m}{0:%d}T{0:%H}{0:%M}{0:%S}"],
}  # fmt: skip


@given(
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2999, 1, 1)).map(
        lambda at: at.replace(microsecond=0)
    )
)
@settings(max_examples=60, deadline=None)
def test_local_notations_agree_with_python(moment: datetime) -> None:
    for notation, shapes in LOCAL.items():
        for shape in shapes:
            found = local_seconds(pl.Series([shape.format(moment)]), notation)[0]
            assert found == moment.replace(tzinfo=UTC).timestamp(), (shape, notation)


def test_local_times_are_asked_for_and_wrong_ones_named(tmp_path: Path, fedrec: object) -> None:
    path = written(tmp_path, "log.csv", "user;item;date\n1;a;31/12/2024 18:30\n1;b;1/2/25\n")
    with pytest.raises(
        InputError, match=r"line 2: timestamp '31/12/2024 18:30' is not a time.*time_format='day-first'"
    ):
        read_interactions(path)
    data = read_interactions(path, time_format="day-first")
    assert data.times is not None
    assert data.times.tolist() == [1735669800.0, 1738368000.0]
    with pytest.raises(InputError, match="line 2: timestamp '31/12/2024 18:30' is not a time"):
        read_interactions(path, time_format="month-first")
    assert len(read_with_report(path, time_format="month-first", on_error="skip").interactions) == 1
    with pytest.raises(InputError, match=r"'day-frist' is not known. Did you mean 'day-first'"):
        read_interactions(path, time_format="day-frist")
    typed = written(tmp_path, "log.jsonl", '{"user": 1, "item": 2, "time": 5}\n')
    with pytest.raises(InputError, match="leave out time_format"):
        read_interactions(typed, time_format="day-first")
    said: Said = fedrec("data", "describe", path, "--time-format", "day-first", "--json")  # type: ignore[operator]
    assert json.loads(said.out)["from"] == "2024-12-31 18:30:00"
    assert fedrec("data", "describe", path, "--time-format", "daily").code == 2  # type: ignore[operator]


# Numbers


@given(st.floats(min_value=-1e9, max_value=1e9).map(lambda number: round(number, 2)))
@settings(max_examples=100, deadline=None)
def test_numbers_of_either_mark_come_back(number: float) -> None:
    english = f"{number:,.2f}"
    german = english.translate(str.maketrans(",.", ".,"))
    french = english.translate(str.maketrans({",": "\u202f", ".": ","}))
    assert numbers_in(pl.Series([english]), ".").to_list() == [float(f"{number:.2f}")]
    assert numbers_in(pl.Series([german, french, f"{german} €"]), ",").to_list() == [float(f"{number:.2f}")] * 3
    assert numbers_in(pl.Series([f"{number:.2f}", f"${number:.2f}"])).to_list() == [float(f"{number:.2f}")] * 2


def test_a_mark_that_was_not_said_is_a_fault_and_never_another_number(tmp_path: Path, fedrec: object) -> None:
    path = written(tmp_path, "log.csv", "user;item;rating\n1;a;4,5\n1;b;1.234,5\n2;a;€ 3\n")
    with pytest.raises(InputError, match=r"line 2: rating '4,5' is not a number. Set .* decimal=','"):
        read_interactions(path)
    assert read_interactions(path, decimal=",").to_frame()["rating"].to_list() == [4.5, 1234.5, 3.0]
    assert numbers_in(pl.Series(["4.5", "1.23", "12.345", "1,234"]), ",").to_list() == [None, None, 12345.0, 1.234]
    assert numbers_in(pl.Series(["4,5", "1,234", "12 345.5", "1 2"]), ".").to_list() == [None, 1234.0, 12345.5, None]
    with pytest.raises(InputError, match="decimal must be"):
        read_interactions(path, decimal=";")  # type: ignore[arg-type]
    said: Said = fedrec("data", "describe", path, "--decimal", ",", "--json")  # type: ignore[operator]
    assert json.loads(said.out)["ratings"]["max"] == 1234.5


# Events


def test_rows_are_chosen_by_the_value_of_a_column(tmp_path: Path, fedrec: object) -> None:
    path = written(tmp_path, "log.csv", EVENTS)
    report = read_with_report(path, where={"kind": "click"})
    assert report.interactions.to_frame().rows() == [(1, "a"), (2, "a")]
    assert report.report.notes == ("2 of 4 rows have kind = click",)
    assert len(read_interactions(path, where={"kind": ["click", "buy"]})) == 3
    assert len(read_interactions(path, where={"kind": ["click", "buy"], "user": "1"})) == 2
    with pytest.raises(NothingLeftError, match=r"no row has kind = clik. Values in the source: kind: buy, click, view"):
        read_interactions(path, where={"kind": "clik"})
    with pytest.raises(InputError, match=r"no column 'kin' for where. Did you mean 'kind'"):
        read_interactions(path, where={"kin": "click"})
    pl.read_csv(path).write_parquet(tmp_path / "log.parquet")
    pl.read_csv(path).write_ndjson(tmp_path / "log.jsonl")
    for kind in ("csv", "parquet", "jsonl"):
        words = ("--where", "kind=click", "--where", "kind=view", "--where", "price=3", "--json")
        said: Said = fedrec("data", "describe", tmp_path / f"log.{kind}", *words)  # type: ignore[operator]
        assert json.loads(said.out)["interactions"] == 1
    lists = written(tmp_path, "a.txt", "1 2 3\n2 3\n")
    with pytest.raises(InputError, match="where do not apply to lists"):
        read_interactions(lists, where={"kind": "click"})


def test_a_run_remembers_how_its_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: object) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = ((7, 0, "buy"), (5, 7, "buy"), (3, 12, "view"), (2, 15, "buy"))
    rows = [
        f"{user};{user % step + first};{13 + first}/12/2024;{kind};1,5"
        for user in range(40)
        for step, first, kind in shapes
    ]
    written(tmp_path, "log.csv", "\n".join(["user;item;day_of;kind;rating", *rows]))
    train = ("train", "--data", "log.csv", "--model", "popularity", "--columns", "timestamp=day_of", "--time-format",
             "day-first", "--decimal", ",", "--where", "kind=buy", "--header", "--out", "run", "--json")  # fmt: skip
    said: Said = fedrec(*train)  # type: ignore[operator]
    report = json.loads(said.out)
    assert report["data"]["interactions"] == 120
    assert report["data"]["notes"] == ["120 of 160 rows have kind = buy"]
    assert fedrec("evaluate", "run", "--json").code == 0  # type: ignore[operator]
    node = ("node", "init", "a", "--data", "log.csv", "--where", "kind=buy", "--decimal", ",", "--no-header")
    assert fedrec(*node).code == 0  # type: ignore[operator]
    from fedrec.owner.config import NodeConfig

    reading = NodeConfig.read(Path("node.toml")).data.reading()
    assert reading == {"header": False, "decimal": ",", "where": {"kind": ["buy"]}}


# Fields within fields


def test_inner_fields_are_columns_named_with_dots(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"user": {"id": 7, "name": "a, b"}, "item": {"sku": "x", "of": {"kind": "k"}}, "at": 5},
        {"user": {"id": 8}, "item": None, "at": 6},
        {"user": {"id": 9}, "item": {"sku": "🎬"}, "at": 7},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path = written(tmp_path, "log.jsonl", text)
    columns = {"user_id": "user.id", "item_id": "item.sku", "timestamp": "at"}
    with pytest.raises(InputError, match="line 2: item_id is missing"):
        read_interactions(path, columns=columns)
    loaded = read_with_report(path, columns=columns, on_error="skip")
    assert loaded.interactions.to_frame().rows() == [(7, "x", 5.0), (9, "🎬", 7.0)]
    assert loaded.report.unread == ("user.name", "item.of.kind")
    pl.DataFrame([lines[0], lines[2]]).write_parquet(tmp_path / "log.parquet")
    assert read_interactions(tmp_path / "log.parquet", columns=columns).to_frame().rows() == [
        (7, "x", 5.0),
        (9, "🎬", 7.0),
    ]
    kinds = read_interactions(tmp_path / "log.parquet", columns=columns, where={"item.of.kind": "k"})
    assert kinds.to_frame().rows() == [(7, "x", 5.0)]


# Folders of Parquet


def test_a_folder_of_parquet_is_read_in_order_of_name(tmp_path: Path, fedrec: object) -> None:
    folder = tmp_path / "clicks"
    for name, rows in (("b.parquet", [(1, 4), (2, 5)]), ("a.parquet", [(1, 3), (2, 3)]), ("day=1/x.parquet", [(1, 9)])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row").write_parquet(folder / name)
    written(folder, "_SUCCESS", "")
    written(folder, "_metadata.parquet", "junk")
    data = fr.load_data(folder)
    assert data.to_frame().rows() == [(1, 3), (1, 4), (1, 9), (2, 3), (2, 5)]
    assert [len(read_interactions(folder / name)) for name in ("a.parquet", "day=1")] == [2, 1]
    said: Said = fedrec(
        "node", "init", "a", "--data", folder, "--config", tmp_path / "node.toml", "--home", tmp_path / "home"
    )  # type: ignore[operator]
    assert said.code == 0
    said = fedrec("node", "check", "--config", tmp_path / "node.toml", "--json")  # type: ignore[operator]
    assert json.loads(said.out)["data"]["interactions"] == 5


def test_names_of_folders_are_columns(tmp_path: Path) -> None:
    for day in ("2024-05-01", "2024-05-02"):
        (tmp_path / f"day={day}").mkdir()
        pl.DataFrame({"user_id": [1], "item_id": [2]}).write_parquet(tmp_path / f"day={day}" / "x.parquet")
    data = read_interactions(tmp_path, columns={"timestamp": "day"})
    assert data.times is not None
    assert data.times.tolist() == [1714521600.0, 1714608000.0]
    assert len(read_interactions(tmp_path, where={"day": "2024-05-02"})) == 1


def test_files_of_another_schema_are_refused_by_name(tmp_path: Path) -> None:
    pl.DataFrame({"user_id": [1], "item_id": [1]}).write_parquet(tmp_path / "a.parquet")
    for table, message in (
        ({"user_id": ["x"], "item_id": [2]}, "column 'user_id' holds text, but a.parquet holds whole numbers"),
        ({"user_id": [1]}, "no column for item_id"),
        ({"who": [1], "what": [2]}, "no column for user_id"),
        (
            {"user_id": [1], "item_id": [2], "rating": [3]},
            "has column 'rating' for rating, but a.parquet has no column",
        ),
        ({"uid": [1], "item_id": [2]}, "has column 'uid' for user_id, but a.parquet has column 'user_id'"),
    ):
        pl.DataFrame(table).write_parquet(tmp_path / "b.parquet")
        with pytest.raises(InputError, match=f"b.parquet: {message}"):
            read_interactions(tmp_path)
    pl.DataFrame({"item_id": [2], "note": ["x"], "user_id": [1]}).write_parquet(tmp_path / "b.parquet")
    assert len(read_interactions(tmp_path)) == 2
    written(tmp_path, "c.parquet", "PAR1junk")
    with pytest.raises(InputError, match=r"c.parquet: cannot be read as Parquet"):
        read_interactions(tmp_path)


# Tables and ids that cannot be


def test_tables_that_cannot_be_are_said_to_be() -> None:
    hours = fr.interactions_from({"user": [1], "item": [1], "time": np.array(["2020-01-01T05"], dtype="datetime64[h]")})
    assert hours.times is not None
    assert hours.times.tolist() == [1577854800.0]
    big = pd.DataFrame({"user": pd.Series([2**70, 1], dtype=object), "item": [1, 2]})
    with pytest.raises(InputError, match="'user' holds numbers of more than 64 bits"):
        fr.interactions_from(big)
    lazy = pl.LazyFrame({"user": [1], "item": [1]}).with_columns(pl.col("nope"))
    with pytest.raises(InputError, match="the lazy frame cannot be computed"):
        fr.interactions_from(lazy)
    with pytest.raises(InputError, match="user_id is of type Object"):
        fr.interactions_from({"user": np.array([1j]), "item": [1]})
    ids = Identifiers.of([1, 2])
    for wrong, message in (([2**70], "beyond 64 bits"), (pd.Series([1, None], dtype="Int64"), "id number 2 is missing"),
                           ([object()], "whole numbers or text"), (["\udcc3"], "whole numbers or text")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            ids.look_up(wrong)
    assert ids.look_up(np.array([2, 1])).tolist() == [1, 0]


def test_lines_of_an_agreed_catalog_may_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: object
) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "items.csv", "item_id,title\n1,One\n2,Two,too\n3,Three\n")
    init = ("federation", "init", "shops", "--catalog", "items.csv", "--most-clients", "100", "--host", "localhost")
    said: Said = fedrec(*init)  # type: ignore[operator]
    assert (said.code, "line 3" in said.err) == (2, True)
    said = fedrec(*init, "--on-error", "skip", "--json")  # type: ignore[operator]
    assert json.loads(said.out)["items"] == 2
    assert "1 lines left out" in said.err


def test_a_folder_that_holds_everything_is_not_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr("fedrec.data.reading.parquet._MOST_ENTRIES", 3)
    with pytest.raises(InputError, match="holds more than 3 files and folders"):
        fr.load_data(tmp_path)
