"""Every format gives the same interactions; every bad file gives an error that says where and what to do."""

from __future__ import annotations

import gzip
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.data.catalog import Catalog
from fedrec.data.digests import digest_of
from fedrec.data.reading.files import line_chunks
from fedrec.data.reading.formats import detect_format
from fedrec.data.reading.frames import interactions_from, table_with_report
from fedrec.data.reading.readers import read_interactions, read_with_report
from fedrec.data.reading.records import Dialect, fields_of
from fedrec.data.reading.times import iso_seconds
from fedrec.errors import InputError

ROWS = [(7, "007", 3.5, 20.0), (5, "x", 1.0, 30.0), (7, "a b", 5.0, 10.0), (5, "007", 4.0, 30.0)]
SORTED = [(5, "x", 1.0, 30.0), (5, "007", 4.0, 30.0), (7, "a b", 5.0, 10.0), (7, "007", 3.5, 20.0)]
HEADER = ("user_id", "item_id", "rating", "timestamp")


def delimited(separator: str, header: tuple[str, ...] | None = HEADER) -> bytes:
    rows = [separator.join(map(str, row)) for row in ROWS]
    return "\n".join(([separator.join(header)] if header else []) + rows).encode() + b"\n"


def json_lines() -> bytes:
    return "".join(json.dumps(dict(zip(HEADER, row, strict=True))) + "\n" for row in ROWS).encode()


def parquet() -> bytes:
    buffer = io.BytesIO()
    pl.DataFrame(ROWS, schema=list(HEADER), orient="row").write_parquet(buffer)
    return buffer.getvalue()


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


TYPED = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
CONTENTS = {
    "a.csv": delimited(","),
    "semicolons.csv": delimited(";"),
    "a.tsv": delimited("\t"),
    "u.data": delimited("\t", None),
    "ratings.dat": delimited("::", None),
    "a.inter": delimited("\t", TYPED),
    "a.jsonl": json_lines(),
    "a.parquet": parquet(),
    "aliases.txt": delimited(",", ("userId", "MOVIE_ID", "Score", "ts")),
    "crlf.csv": delimited(",").replace(b"\n", b"\r\n"),
    "bom.csv": b"\xef\xbb\xbf" + delimited(","),
    "blank-lines.csv": delimited(",").replace(b"\n", b"\n\n"),
    "spaces.csv": delimited(", "),
    "quoted.csv": delimited('","').replace(b"\n", b'"\n"').removesuffix(b'"').join([b'"', b""]),
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_and_compression_gives_the_same_interactions(tmp_path: Path, name: str, compress) -> None:
    path = tmp_path / name
    path.write_bytes(compress(CONTENTS[name]))
    if name == "a.parquet" and compress is zstd:  # Parquet compresses itself
        with pytest.raises(InputError, match=r"Decompress the file with `zstd -d a.parquet`"):
            read_interactions(path)
        return
    data = read_interactions(path)
    assert data.to_frame().rows() == SORTED
    assert data.users.series.dtype == pl.Int64
    assert data.catalog.items.series.dtype == pl.String
    assert data.indptr.tolist() == [0, 2, 4]


def test_format_is_told_from_the_name_before_a_compression_ending(tmp_path: Path) -> None:
    path = tmp_path / "log.inter.gz"
    path.write_bytes(gzip.compress(CONTENTS["a.inter"]))
    assert detect_format(path) == "inter"
    (tmp_path / "log.tsv.zst").write_bytes(zstd(CONTENTS["a.tsv"]))
    assert detect_format(tmp_path / "log.tsv.zst") == "tsv"


def test_tables_in_memory_give_the_same_interactions() -> None:
    table = pl.DataFrame(ROWS, schema=list(HEADER), orient="row")
    columns = table.to_dict(as_series=False)
    numpy = {name: np.asarray(values, dtype=object if name == "item_id" else None) for name, values in columns.items()}
    for source in (table, table.lazy(), pd.DataFrame(columns), table.to_arrow(), columns, numpy):
        assert interactions_from(source).to_frame().rows() == SORTED
    categories = pd.DataFrame(columns).astype({"item_id": "category"})
    assert interactions_from(categories).to_frame().rows() == SORTED


def test_typed_tables_keep_their_type_and_text_files_read_whole_numbers(tmp_path: Path) -> None:
    text = interactions_from({"user": ["1", "2"], "item": [1, 2]})
    assert text.users.is_text
    assert not text.catalog.items.is_text
    pl.DataFrame({"user": ["1"], "item": ["2"]}).write_parquet(tmp_path / "t.parquet")
    assert read_interactions(tmp_path / "t.parquet").users.is_text
    (tmp_path / "t.csv").write_text("user,item\n1,-3\n10,+3\n")
    read = read_interactions(tmp_path / "t.csv")
    assert not read.users.is_text
    assert list(read.catalog.items) == ["+3", "-3"]


def test_pandas_whole_floats_are_ids_and_nan_is_missing() -> None:
    table = pd.DataFrame({"user": [1.0, 2.0], "item": [3, 4]})
    assert interactions_from(table).users.series.to_list() == [1, 2]
    with pytest.raises(InputError, match=r"table, row 2: user_id is missing.*on_error='skip'"):
        interactions_from(pd.DataFrame({"user": [1.0, None], "item": [3, 4]}))
    with pytest.raises(InputError, match="user_id is of type Float64"):
        interactions_from({"user": [1.5], "item": [3]})


def test_tables_that_are_none_say_so() -> None:
    with pytest.raises(InputError, match=r"not int. For a file use read_interactions"):
        interactions_from(3)
    with pytest.raises(InputError, match="'user' mixes values of type int, str"):
        interactions_from({"user": [1, "a"], "item": [1, 2]})
    with pytest.raises(InputError, match="different lengths: user 1, item 2"):
        interactions_from({"user": [1], "item": [1, 2]})
    with pytest.raises(InputError, match="'user' is a single str"):
        interactions_from({"user": "abc", "item": [1, 2]})
    with pytest.raises(InputError, match="holds no interactions"):
        interactions_from({"user": [], "item": []})


def test_times_of_any_notation_are_seconds(tmp_path: Path) -> None:
    moment = datetime(2024, 5, 1, 12, 30, 15, 500_000, tzinfo=UTC)
    seconds = moment.timestamp()
    spellings = [seconds, int(seconds * 1e3), int(seconds * 1e6), int(seconds * 1e9), str(seconds), moment.isoformat()]
    spellings += ["2024-05-01 12:30:15.5", "2024-05-01T12:30:15.500Z", "2024-05-01T14:30:15.5+0200", moment]
    for spelling in spellings:
        data = interactions_from({"user": [1], "item": [1], "time": [spelling]})
        assert data.times is not None
        assert data.times.dtype == np.float64
        assert abs(data.times[0] - seconds) < 1e-6
    report = table_with_report({"user": [1], "item": [1], "time": [int(seconds * 1e3)]}).report
    assert report.notes == ("times are milliseconds",)
    for unit in ("ms", "us", "ns"):
        zoned = pl.Series([moment]).dt.cast_time_unit(unit).dt.convert_time_zone("Asia/Tokyo")
        timed = interactions_from(pl.DataFrame({"user": [1], "item": [1], "time": zoned}))
        assert timed.times is not None
        assert abs(timed.times[0] - seconds) < 1e-6


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))
@settings(max_examples=50, deadline=None)
def test_iso_times_agree_with_python(moment: datetime) -> None:
    found = iso_seconds(pl.Series([moment.isoformat(), moment.isoformat(" ")])).to_list()
    assert found == pytest.approx([(moment - datetime(1970, 1, 1)).total_seconds()] * 2, abs=1e-4)


def test_impossible_dates_are_no_times() -> None:
    assert (
        iso_seconds(pl.Series(["2023-02-30", "2023-01-01 24:00", "2023-01-01T10:61", "", None])).to_list() == [None] * 5
    )


def test_equal_times_keep_the_order_of_the_file() -> None:
    data = interactions_from({"user": [1] * 5, "item": list("edcba"), "time": [2, 1, 2, 1, 2]})
    assert [row[1] for row in data.to_frame().rows()] == ["d", "b", "e", "c", "a"]


table_rows = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from(["a", "b", "ü", "10", "9"]), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


@given(table_rows)
@settings(max_examples=60, deadline=None)
def test_rows_are_sorted_by_user_time_and_place_in_the_file(rows: list[tuple[int, str, int]]) -> None:
    data = interactions_from({"user": [r[0] for r in rows], "item": [r[1] for r in rows], "time": [r[2] for r in rows]})
    expected = [rows[k] for k in sorted(range(len(rows)), key=lambda k: (rows[k][0], rows[k][2], k))]
    assert [(user, item, int(time)) for user, item, time in data.to_frame().rows()] == expected
    assert list(data.catalog.items) == sorted({row[1] for row in rows}, key=str.encode)


@given(st.lists(st.lists(st.text(alphabet='ab,;" ', max_size=5), min_size=2, max_size=4), min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_quoted_fields_come_back(rows: list[list[str]]) -> None:
    def quoted(field: str) -> str:
        return '"' + field.replace('"', '""') + '"'

    for row in rows:
        assert fields_of(",".join(map(quoted, row)), Dialect(",", True)) == row


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_lines_do_not_depend_on_the_chunks(tmp_path: Path, chunk: int) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("ä b\r\n\n  \nsecond\nlast".encode())
    found = [pair for lines in line_chunks(path, chunk_bytes=chunk) for pair in zip(*lines, strict=True)]
    assert found == [(1, "ä b"), (4, "second"), (5, "last")]


def test_ids_that_turn_to_text_late_are_text_throughout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.data.reading import readers

    path = tmp_path / "late.csv"
    path.write_text("user,item\n10,1\n9,2\nx,3\n")
    monkeypatch.setattr(readers, "line_chunks", lambda place, encoding, **how: line_chunks(place, encoding, 1, **how))
    assert read_interactions(path).to_frame().rows() == [("10", 1), ("9", 2), ("x", 3)]


def test_columns_name_what_aliases_cannot(tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text("who,what,when,stars\na,1,5,2\n")
    with pytest.raises(InputError, match=r"no column for user_id among who, what, when, stars"):
        read_interactions(path)
    data = read_interactions(path, columns={"user_id": "who", "item_id": "what", "timestamp": "when"})
    assert data.to_frame().rows() == [("a", 1, 2.0, 5.0)]
    with pytest.raises(InputError, match=r"no column 'whon' to read user_id from. Did you mean 'who'"):
        read_interactions(path, columns={"user_id": "whon", "item_id": "what"})
    with pytest.raises(InputError, match=r"'user' is not a column of fedrec. Did you mean 'user_id'"):
        read_interactions(path, columns={"user": "who"})


def test_two_columns_for_one_meaning_are_an_error_unless_one_has_the_standard_name() -> None:
    with pytest.raises(InputError, match="'uid', 'customer' could each be user_id"):
        interactions_from({"uid": [1], "customer": [2], "item": [1]})
    with pytest.raises(InputError, match="could each be the value"):
        interactions_from({"user": [1], "item": [1], "rating": [1], "weight": [2]})
    data = interactions_from({"user": [1], "item": [1], "rating": [1], "weight": [2]}, columns={"weight": "weight"})
    assert data.to_frame()["rating"].to_list() == [2.0]
    exact = interactions_from({"user_id": [1], "user": [2], "item": [1]})
    assert exact.users.series.to_list() == [1]


def test_files_without_header_take_columns_by_number(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("1,5,x,9,z\n1,6,y,9,z\n")
    with pytest.raises(InputError, match="has 5 columns and no header"):
        read_interactions(path)
    data = read_interactions(path, columns={"user_id": "3", "item_id": "2", "timestamp": "4"})
    assert data.to_frame().rows() == [("x", 5, 9.0), ("y", 6, 9.0)]
    (tmp_path / "user.csv").write_text("user,5\n7,6\n")
    assert len(read_interactions(tmp_path / "user.csv", header=False)) == 2


def test_lists_hold_the_oldest_item_first_and_keep_repeats(tmp_path: Path) -> None:
    path = tmp_path / "sequences.txt"
    path.write_text("9 3 1 3\n4 \n5  2\t1\n")
    data = read_interactions(path)
    assert data.to_frame().rows() == [(5, 2), (5, 1), (9, 3), (9, 1), (9, 3)]
    assert data.times is None


def test_a_folder_of_lists_is_a_given_split(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1 10 11\n2 10\n")
    (tmp_path / "test.txt").write_text("1 12\n2\n")
    data = read_interactions(tmp_path)
    assert data.to_frame().rows() == [(1, 10, "train"), (1, 11, "train"), (1, 12, "test"), (2, 10, "train")]
    (tmp_path / "test.txt").unlink()
    with pytest.raises(
        InputError, match=r"neither Parquet files nor train.txt and test.txt.*Name one of its files: train.txt"
    ):
        read_interactions(tmp_path)


def test_columns_of_words_are_not_taken_for_lists(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("1 2 3\n" * 6)
    with pytest.raises(InputError, match="which may be columns, or a user and items"):
        read_interactions(path)
    assert read_interactions(path, format="lists").to_frame().rows() == [(1, 2), (1, 3)] * 6


def test_part_column_and_user_columns() -> None:
    table = {"user": [2, 1, 2], "item": [1, 1, 2], "split": ["train", "test", "val"], "city": ["b", "a", "b"]}
    data = interactions_from(table, user_columns=["city"])
    assert data.to_frame()["part"].to_list() == ["test", "train", "valid"]
    assert data.user_features is not None
    assert data.user_features.rows() == [("a",), ("b",)]
    with pytest.raises(InputError, match="'city' has several values for user 2"):
        interactions_from(table | {"city": ["b", "a", "c"]}, user_columns=["city"])
    with pytest.raises(InputError, match="row 1: part 'held' is not one of train, valid, test, history"):
        interactions_from(table | {"split": ["held", "test", "test"]})


BAD_ROWS = {
    "1,2,four,5": r"line 3: rating 'four' is not a number",
    "1,2,inf,5": r"line 3: rating 'inf' is not finite",
    "1,2,nan,5": r"line 3: rating 'nan' is not a number",
    "1,2,1e300,5": r"line 3: rating '1e300' is too large",
    "1,2,,5": r"line 3: rating is missing",
    "1,2,3,soon": r"line 3: timestamp 'soon' is not a time",
    "1,2,3,-inf": r"line 3: timestamp '-inf' is not finite",
    "1,2,3,": r"line 3: timestamp is missing",
    ",2,3,4": r"line 3: user_id is missing",
    "1, ,3,4": r"line 3: item_id is missing",
    "1,2,3": r"line 3: '1,2,3' has 3 fields where 4 are expected",
    "1,2,3,4,5": r"line 3: '1,2,3,4,5' has 5 fields where 4 are expected",
    '1,"2"3,4,5': r"line 3: .* has text after the closing quote of a field",
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_or_counted_and_kept(tmp_path: Path, row: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(f"user,item,rating,time\n1,1,5,1\n{row}\n2,2,4,2\n")
    with pytest.raises(InputError, match=rf"bad\.csv, {BAD_ROWS[row]}.*on_error='skip'"):
        read_interactions(path)
    loaded = read_with_report(path, on_error="skip")
    assert loaded.interactions.to_frame().rows() == [(1, 1, 5.0, 1.0), (2, 2, 4.0, 2.0)]
    assert (loaded.report.rows, loaded.report.left_out["line"].to_list()) == (3, [3])
    assert sum(loaded.report.counts.values()) == 1
    with pytest.warns(UserWarning, match=r"2 of 3 rows read, 1 left out"):
        read_interactions(path, on_error="skip")


def test_the_first_bad_row_is_named_and_each_row_is_left_out_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text("user,item,rating\n1,1,1\n1,,1\n,,x\n2,2,2\n")
    with pytest.raises(InputError, match="line 3: item_id is missing"):
        read_interactions(path)
    report = read_with_report(path, on_error="skip").report
    assert report.left_out.select("line", "reason").rows() == [(3, "item_id is missing"), (4, "user_id is missing")]
    report.write_left_out(tmp_path / "out.parquet")
    report.write_left_out(tmp_path / "out.csv")
    assert pl.read_parquet(tmp_path / "out.parquet").equals(report.left_out)
    with pytest.raises(InputError, match=r"in .parquet or .csv, not '.txt'"):
        report.write_left_out(tmp_path / "out.txt")


def test_a_negative_weight_is_an_error_and_a_negative_rating_is_not() -> None:
    assert len(interactions_from({"user": [1], "item": [1], "rating": [-1]})) == 1
    with pytest.raises(InputError, match="row 1: weight '-1' is negative"):
        interactions_from({"user": [1], "item": [1], "weight": [-1]})


def test_broken_json_lines_are_named_or_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": 1, "item": "a"}\n{"user": 2, "ite\n5\n{"user": 3}\n{"user": 4, "item": "b"}\n')
    with pytest.raises(InputError, match=r"log.jsonl, line 2: .* is not one JSON object"):
        read_interactions(path)
    loaded = read_with_report(path, on_error="skip")
    assert loaded.interactions.to_frame().rows() == [(1, "a"), (4, "b")]
    assert loaded.report.left_out["line"].to_list() == [2, 3, 4]


def test_an_agreed_catalog_decides_the_items_and_their_type(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item\n1,10\n1,9\n2,x\n2,11\n")
    numbers = Catalog.of(pl.DataFrame({"item_id": [9, 10, 11, 12]}))
    with pytest.raises(InputError, match=r"line 4: item_id 'x' is not in the catalog.*unknown_items='skip'"):
        read_interactions(path, catalog=numbers)
    loaded = read_with_report(path, catalog=numbers, unknown_items="skip")
    assert loaded.interactions.to_frame().rows() == [(1, 10), (1, 9), (2, 11)]
    assert loaded.interactions.catalog is numbers
    assert loaded.report.counts == {"item_id is not in the catalog": 1}
    path.write_text("user,item\n1,10\n1,9\n")
    text = Catalog.of(pl.DataFrame({"item_id": ["10", "9"]}))
    assert read_interactions(path, catalog=text).to_frame().rows() == [(1, "10"), (1, "9")]
    with pytest.raises(InputError, match="item ids of the catalog are text, item ids of the data are whole numbers"):
        interactions_from({"user": [1], "item": [9]}, catalog=text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,item\n1,2\n")
    with pytest.raises(InputError, match=r"rating.csv: no such file. Did you mean 'ratings.csv'"):
        read_interactions(tmp_path / "rating.csv")
    with pytest.raises(InputError, match="no such file, and no folder"):
        read_interactions(tmp_path / "no" / "rating.csv")
    with pytest.raises(InputError, match=r"format 'cvs' is not known. Did you mean 'csv'"):
        read_interactions(tmp_path / "ratings.csv", format="cvs")
    with pytest.raises(InputError, match="encoding 'utf-9' is unknown"):
        read_interactions(tmp_path / "ratings.csv", encoding="utf-9")
    for name, content, message in (
        ("empty.csv", b"", "is empty"),
        ("blank.csv", b"\n \n", "is empty"),
        ("empty.txt", b"", "is empty"),
        ("header.csv", b"user,item\n", "holds no interactions"),
        ("junk.csv", b"user,item\n\0\1,\2\n", "line 2: the line holds zero bytes"),
        ("junk.parquet", b"nothing", "the name of a Parquet file but not its content"),
        ("torn.parquet", parquet()[:60], "cannot be read as Parquet"),
        ("archive.bin", b"PK\x03\x04zip", "is a zip archive. Unpack the archive"),
        ("latin.csv", "user,item\n1,2\n1,caf\xe9\n".encode("latin-1"), r"line 3: byte 0xE9 .* encoding='latin-1'"),
        ("wide.csv", "user,item\n1,2\n".encode("utf-16"), "encoding='utf-16'"),
        ("torn.csv.gz", gzip.compress(os.urandom(50).hex().encode() * 99)[:80], "is cut off"),
        ("torn.csv.zst", zstd(b"user,item\n" + b"1,2\n" * 99)[:20], "cannot be"),
        ("words.txt", b"hello\nworld\n", "format of the file is not recognised"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_interactions(tmp_path / name)
    latin = read_interactions(tmp_path / "latin.csv", encoding="latin-1")
    assert list(latin.catalog.items) == ["2", "café"]
    assert len(read_interactions(tmp_path / "wide.csv", encoding="utf-16")) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_is_said(tmp_path: Path) -> None:
    path = tmp_path / "secret.csv"
    path.write_text("user,item\n1,2\n")
    path.chmod(0)
    with pytest.raises(InputError, match="no permission to read the file"):
        read_interactions(path)


def test_no_permission_is_said_for_any_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.csv"
    path.write_text("user,item\n1,2\n")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=r"secret.csv: no permission to read the file"):
        read_interactions(path)


def test_digest_depends_on_content_and_types_only() -> None:
    table = {"user": [1, 2, 2], "item": ["a", "b", "a"], "rating": [1.0, 2.0, 3.0], "time": [1, 2, 3]}
    digest = digest_of(interactions_from(table))
    assert digest == digest_of(interactions_from({name: values[::-1] for name, values in table.items()}))
    for name, other in (("user", [1, 3, 3]), ("item", ["a", "c", "a"]), ("rating", [1, 2, 4]), ("time", [1, 2, 4])):
        assert digest_of(interactions_from(table | {name: other})) != digest
    assert digest_of(interactions_from(table | {"user": ["1", "2", "2"]})) != digest
    del table["rating"]
    assert digest_of(interactions_from(table)) != digest
