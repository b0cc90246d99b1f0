"""Delimited text as everybody else reads it: quotes, line ends, headers, and which format a file has."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import fedrec as fr
from conftest import Said
from fedrec.data.reading import readers
from fedrec.data.reading.catalogs import read_user_features
from fedrec.data.reading.files import line_chunks
from fedrec.data.reading.readers import read_interactions, read_with_report
from fedrec.errors import InputError


def rows_of(path: Path, **options: object) -> list[tuple[object, ...]]:
    return read_interactions(path, **options).to_frame().rows()  # type: ignore[arg-type]


def written(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# Quotes

line = st.text(alphabet='ab",;\t\\\x1f \n', max_size=12)


def reference(text: str, separator: str) -> list[list[str]] | None:
    """What the standard library reads, or None where it finds a fault that it is strict about."""
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error:
        return None


@given(st.lists(line, min_size=1, max_size=6), st.sampled_from(",;"))
@example(['12" single,1', '5"'], ",")
@example(['"weird" al,1'], ",")
@example(['"a', 'b""c",2'], ",")
@example(['a\x1fb,"\x1e"'], ",")
@settings(max_examples=400, deadline=None)
def test_every_record_is_what_the_csv_module_reads_or_is_refused(lines: list[str], separator: str) -> None:
    text = "".join(f"u{number}{separator}{item}\n" for number, item in enumerate(lines))
    wanted = reference(text, separator)
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "log.csv", f"user{separator}item\n" + text)
        try:
            found = read_interactions(path).to_frame()
        except InputError:
            return
    assert wanted is not None
    expected = [(row[0].strip(" "), row[1].strip(" ")) for row in wanted if any(field.strip() for field in row)]
    assert sorted((str(user), str(item)) for user, item in found.rows()) == sorted(expected)


@given(
    st.lists(st.text(alphabet='ab",;\\\x1f', min_size=1, max_size=8), min_size=1, max_size=6),
    st.sampled_from(["tsv", "inter"]),
)
@settings(max_examples=100, deadline=None)
def test_in_tab_separated_files_a_quote_is_text(items: list[str], ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        text = "user_id\titem_id\n" + "".join(f"u{number}\t{item}\n" for number, item in enumerate(items))
        found = rows_of(written(Path(folder), f"log.{ending}", text))
    assert [item for _, item in found] == items


@given(st.lists(st.lists(st.text(alphabet='a", \n\r\\', max_size=5), min_size=2, max_size=2), min_size=1, max_size=8))
@settings(max_examples=150, deadline=None)
def test_what_the_csv_module_writes_comes_back(rows: list[list[str]]) -> None:
    kept = [[f"u{user}", f"i{item}."] for user, item in rows]
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["user", "item"], *kept])
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), "log.csv", buffer.getvalue())
        found = rows_of(path)
    assert sorted(found) == sorted((user.strip(" "), item) for user, item in kept)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_a_quoted_field_may_hold_line_breaks_whatever_the_chunks(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'user,review,item\r\n1,"good\n\n9,zz,1,fake",a\r\n2,"x,""y""\r\n7,yy",b\r\n3,plain,c\r\n'
    path = written(tmp_path, "log.csv", text)
    monkeypatch.setattr(
        readers, "line_chunks", lambda place, encoding, **how: line_chunks(place, encoding, chunk, **how)
    )
    assert rows_of(path) == [(1, "a"), (2, "b"), (3, "c")]
    assert rows_of(path, columns={"item_id": "review"})[0] == (1, "good\n\n9,zz,1,fake")
    assert rows_of(path, columns={"item_id": "review"})[1] == (2, 'x,"y"\r\n7,yy')


def test_lines_of_a_quoted_field_are_left_out_together_and_counted(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "log.csv",
        'user,item,review\n1,a,fine\n2,b,"x\n7,yy,real\n8,zz,"so" what\n3,c,fine\n4,d,"open\n9,q,r\n',
    )
    with pytest.raises(InputError, match=r"log.csv, line 3: .* has text after the closing quote"):
        read_interactions(path)
    report = read_with_report(path, on_error="skip")
    assert report.interactions.to_frame().rows() == [(1, "a"), (3, "c")]
    assert report.report.left_out["line"].to_list() == [3, 4, 5, 7, 8]
    assert (report.report.rows, report.report.left_out.height) == (7, 5)


def test_ids_that_differ_in_quotes_only_stay_apart(tmp_path: Path) -> None:
    names = ['"weird al" yankovic', "weird al yankovic", 'sinead "o" connor', "sinead o connor"]
    tabs = written(tmp_path, "names.tsv", "user\titem\n" + "".join(f"1\t{name}\n" for name in names))
    assert [item for _, item in rows_of(tabs)] == names
    commas = written(tmp_path, "inch.csv", 'user,item\n1,12" remix\n1,5" disk 7" single\n')
    assert [item for _, item in rows_of(commas)] == ['12" remix', '5" disk 7" single']
    quoted = written(tmp_path, "quoted.tsv", '"user"\t"item"\n"a"\t"b\tc"\n')
    with pytest.raises(InputError, match=r"In tab-separated files, quotes are part of the text.*format='csv'"):
        read_interactions(quoted)
    assert rows_of(quoted, format="csv") == [("a", "b\tc")]


def test_catalogs_and_features_take_quotes_and_leave_out_lines_as_data_does(tmp_path: Path) -> None:
    tabs = written(tmp_path, "artists.tsv", 'item_id\ttitle\n1\tone da 5\'9"\n2\t"two" and\n')
    assert [fr.read_catalog(tabs).title(place) for place in (0, 1)] == ["one da 5'9\"", '"two" and']
    commas = written(tmp_path, "items.csv", 'item_id,title\n1,"One,\ntwo"\n2\n,no id\n3,"a" b\n1,again\n4,four\n')
    with pytest.raises(InputError, match=r"items.csv, line 4: '2' has 1 fields .*on_error='skip'"):
        fr.read_catalog(commas)
    with pytest.warns(UserWarning, match="lines left out") as told:
        catalog = fr.read_catalog(commas, on_error="skip")
    assert [catalog.title(place) for place in (0, 1)] == ["One,\ntwo", "four"]
    assert [str(warning.message).split(": ")[1] for warning in told] == [
        "2 lines left out (cannot be divided into fields)",
        "2 lines left out (item_id is missing or listed a second time)",
    ]
    local = written(tmp_path, "local.csv", "kennung,name_of\nxa,Eins\nxb,Zwei\n")
    with pytest.raises(InputError, match="a header or a row"):
        fr.read_catalog(local)
    assert list(fr.read_catalog(local, columns={"item_id": "kennung"}).items) == ["xa", "xb"]
    users = written(tmp_path, "users.csv", 'user_id,city\n1,"Old ""York"""\n2,a,b\n')
    with pytest.warns(UserWarning, match="1 lines left out"):
        assert read_user_features(users, on_error="skip").rows() == [(1, 'Old "York"')]


# Line ends

ENDS = {
    "csv": "user,item,rating\n1,a,5\n2,b,4\n1,b,3\n",
    "jsonl": '{"user": 1, "item": "a"}\n{"user": 2, "item": "b"}\n',
    "txt": "1 10 11\n2 10\n",
}


@pytest.mark.parametrize("ending", ENDS)
@pytest.mark.parametrize("mark", ["\r", "\r\n"])
def test_lines_may_end_with_cr(tmp_path: Path, ending: str, mark: str) -> None:
    plain = written(tmp_path, f"lf.{ending}", ENDS[ending])
    other = written(tmp_path, f"other.{ending}", ENDS[ending].replace("\n", mark))
    assert rows_of(other) == rows_of(plain)
    zipped = written(tmp_path, f"zipped.{ending}.gz", gzip.compress(ENDS[ending].replace("\n", mark).encode()))
    assert rows_of(zipped) == rows_of(plain)


def test_faults_are_named_by_line_where_lines_end_with_cr_and_one_inside_a_line_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cr.csv, line 3: rating 'x' is not a number"):
        read_interactions(written(tmp_path, "cr.csv", "user,item,rating\r1,a,5\r2,b,x\r"))
    with pytest.raises(InputError, match=r"mixed.csv, line 3: .* has a CR in the middle"):
        read_interactions(written(tmp_path, "mixed.csv", "user,item\n1,a\n2,b\rc\n"))
    with pytest.raises(InputError, match=r"latin.csv, line 2: byte 0xE9"):
        read_interactions(written(tmp_path, "latin.csv", "user,item\r1,é\r".encode("latin-1")))
    catalog = fr.read_catalog(written(tmp_path, "items.csv", "item_id,title\r1,One\r"))
    assert catalog.title(0) == "One"
    cells = written(tmp_path, "cells.csv", 'user,item\r1,"a\nb"\r2,c\r')
    assert rows_of(cells) == [(1, "a\nb"), (2, "c")]


# What can be read only once


def test_pipes_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.csv"
    os.mkfifo(fifo)
    reading, writing = os.pipe()
    os.write(writing, b"user,item\n1,2\n")
    os.close(writing)
    try:
        for path in (fifo, f"/dev/fd/{reading}", "/dev/null"):
            for read in (read_interactions, fr.read_catalog, fr.load_data, read_user_features):
                with pytest.raises(InputError, match="is a pipe, a device or a system file"):
                    read(path)
        with pytest.raises(InputError, match="is a pipe"):
            read_interactions(fifo, format="parquet")
        assert os.read(reading, 100) == b"user,item\n1,2\n"
    finally:
        os.close(reading)


def test_standard_input_is_read_whole(monkeypatch: pytest.MonkeyPatch, fedrec: object) -> None:
    text = "user,item,rating\n" + "".join(f"{user},{item},5\n" for user in range(900) for item in range(20))

    def piped(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    piped(text.encode())
    report = read_with_report("-")
    assert (len(report.interactions), report.report.source) == (18_000, "standard input")
    piped(gzip.compress(text.encode()))
    said: Said = fedrec("data", "describe", "-", "--json")  # type: ignore[operator]
    assert '"interactions": 18000' in said.out
    piped(b"user,item\n1,2\n3\n")
    with pytest.raises(InputError, match=r"^standard input, line 3: '3' has 1 fields"):
        read_interactions("-")
    said = fedrec("train", "--data", "-", "--model", "ease")  # type: ignore[operator]
    assert (said.code, "save the data to a file first" in said.err) == (2, True)


# Which format


NOT_LISTS = {
    "FilmTrust": "1 1 2\n1 2 4\n2 3 3.5\n2 4 3\n",
    "five columns": "1 13 2 4 980000000\n1 14 2 3 980000001\n2 13 2 1 980000003\n",
    "one line": "1 2 3\n",
    "dense": "".join(" ".join(str((row * column) % 7 / 2) for column in range(9)) + "\n" for row in range(8)),
    "dense and ragged": "0.5 1.5 2\n3 4.25\n",
    "prose": "These are ratings of films\nMade for research only\nPlease cite the paper about it\n",
    "prose with numbers": "Chapter 1 has 20 pages\nIt begins\n",
    "log": "2020-01-01 12:00 user7 item5\n2020-01-02 13:00 user7 item5 item6\n",
    "comment": "# user item item\n1 2 3\n2 3\n",
    "percent": "% made by hand\n1 2 3\n2 3\n",
    "pretty JSON": '{\n  "user": 1,\n  "item": 2\n}\n',
    "JSON array": '[\n  {"user": 1, "item": 2}\n]\n',
    "array on one line": '[{"user_id": 1, "item_id": 2}, {"user_id": 1, "item_id": 3}]\n',
    "graph": "% sym unweighted\n1 2\n1 3 4\n",
    "dense MatrixMarket": "%%MatrixMarket matrix array real general\n2 2\n1\n2\n3\n4\n",
    "symmetric MatrixMarket": "%%MatrixMarket matrix coordinate real symmetric\n2 2 1\n1 2 5\n",
}


@pytest.mark.parametrize("name", NOT_LISTS)
@pytest.mark.parametrize("ending", ["txt", "data", "json", "edges"])
def test_text_divided_by_blanks_is_no_list_without_evidence(tmp_path: Path, name: str, ending: str) -> None:
    text = NOT_LISTS[name]
    with pytest.raises(InputError) as told:
        read_interactions(written(tmp_path, f"file.{ending}", text))
    first = text.splitlines()[0]
    assert repr(first[:80]) in str(told.value) or "network with one kind" in str(told.value)
    assert "format" in str(told.value) or "JSON" in str(told.value) or "Matrix" in str(told.value)
    if "JSON" in name or "array" in name:
        assert "JSON" in str(told.value) or "Matrix" in str(told.value)


def test_lists_of_ids_are_lists(tmp_path: Path) -> None:
    assert rows_of(written(tmp_path, "a.txt", "7 1 2 3\n5 2\n")) == [(5, 2), (7, 1), (7, 2), (7, 3)]
    assert rows_of(written(tmp_path, "b.txt", "u7 B00X1 B00X2\nu5 B00X1\n"))[0] == ("u5", "B00X1")
    prose = written(tmp_path, "c.txt", "ann iliad emma\nbob emma\n")
    with pytest.raises(InputError, match="format='lists'"):
        read_interactions(prose)
    assert len(read_interactions(prose, format="lists")) == 3


def test_columns_divided_by_blanks_are_read_if_it_is_said(tmp_path: Path) -> None:
    path = written(tmp_path, "trust.txt", "1  1 2\n1 2\t4\n2 3 3.5\n")
    assert rows_of(path, format="blanks") == [(1, 1, 2.0), (1, 2, 4.0), (2, 3, 3.5)]
    named = written(tmp_path, "named.txt", "user item stars\nann emma 5\n")
    assert rows_of(named, format="blanks") == [("ann", "emma", 5.0)]


def test_matrix_market_and_konect_are_read_by_their_heads(tmp_path: Path) -> None:
    matrix = "%%MatrixMarket matrix coordinate {} general\n% made\n3 3 3\n1 1 5\n1 2 3\n3 2 1.5\n"
    path = written(tmp_path, "r.mtx", matrix.format("real"))
    assert rows_of(path) == [(1, 1, 5.0), (1, 2, 3.0), (3, 2, 1.5)]
    pattern = written(tmp_path, "p.mtx", "%%MatrixMarket matrix coordinate pattern general\n3 3 2\n1 1\n3 2\n")
    assert rows_of(pattern) == [(1, 1), (3, 2)]
    torn = written(tmp_path, "torn.mtx", matrix.format("real").removesuffix("3 2 1.5\n"))
    with pytest.raises(InputError, match="holds 2 entries, but its header announces 3"):
        read_interactions(torn)
    network = written(
        tmp_path, "out.net", "% bip weighted\n% 3 2 3\n1 1 5 900000000\n1\t2 3 900000001\n2 1 4 800000000\n"
    )
    assert rows_of(network) == [(1, 1, 5.0, 900000000.0), (1, 2, 3.0, 900000001.0), (2, 1, 4.0, 800000000.0)]
    plain = written(tmp_path, "out.plain", "% bip unweighted\n1 1\n1 2\n")
    assert rows_of(plain) == [(1, 1), (1, 2)]


def test_a_workbook_is_named_whatever_format_is_said(tmp_path: Path) -> None:
    for name, start in (
        ("log.xlsx", b"PK\x03\x04"),
        ("log.xls", b"\xd0\xcf\x11\xe0\xa1\xb1"),
        ("book.csv", b"\xd0\xcf\x11\xe0"),
    ):
        path = written(tmp_path, name, start + b"\0" * 50)
        for format in (None, "csv"):
            with pytest.raises(InputError, match=r"is a spreadsheet.*read_excel"):
                read_interactions(path, format=format)
    assert rows_of(written(tmp_path, "pk.csv", "PKuser,item,user\n1,2,3\n")) == [(3, 2)]


def test_semicolons_with_a_byte_order_mark_and_ids_of_any_letters(tmp_path: Path) -> None:
    path = written(tmp_path, "excel.csv", '\ufeffuser;item;rating\r\nann;"a;b";4\r\nbob;🎬, part 2;5\r\n')
    assert rows_of(path) == [("ann", "a;b", 4.0), ("bob", "🎬, part 2", 5.0)]
    bare = written(tmp_path, "bare.csv", "1;2;4,5\n1;3;3,5\n")
    assert rows_of(bare, decimal=",") == [(1, 2, 4.5), (1, 3, 3.5)]


# Headers and columns


def test_columns_by_place_agree_with_what_is_in_them_and_are_said(tmp_path: Path, fedrec: object) -> None:
    times = written(tmp_path, "times.csv", "1,55,881250949\n1,56,881250950\n2,55,881250951\n")
    report = read_with_report(times)
    assert report.interactions.to_frame().columns == ["user_id", "item_id", "timestamp"]
    assert report.report.notes[0] == "no header: columns 1, 2, 3 were read as user_id, item_id, timestamp"
    said: Said = fedrec("data", "describe", times)  # type: ignore[operator]
    assert "no header: columns 1, 2, 3 were read as user_id, item_id, timestamp" in said.out
    iso = written(tmp_path, "iso.csv", "1,55,2014-04-07T10:51:09.277Z\n1,56,2014-04-07\n")
    assert read_interactions(iso).times is not None
    for text, column in (
        ("1,2014-04-07T10:51:09.277Z,214536502,0\n1,2014-04-07T10:54:09.868Z,214536500,0\n", "column 2"),
        ("2014-04-07 10:51,1,5\n2014-04-08 10:51,2,5\n", "column 1"),
        ("1,55,881250949,5\n1,56,881250950,4\n", "column 3"),
        ("ann,31/12/2014 10:51,5\nann,30/12/2014 10:51,5\n", "column 2"),
    ):
        with pytest.raises(InputError, match=f"the file has no header, and {column}, by its position .* holds times"):
            read_interactions(written(tmp_path, "log.csv", text))
    dense = written(tmp_path, "dense.csv", "0.5,1.5,2\n3.25,4.5,1\n")
    with pytest.raises(InputError, match=r"column 1, by its position user_id, holds fractions such as '0.5'"):
        read_interactions(dense)
    assert len(read_interactions(written(tmp_path, "whole.csv", "1.0,2.0\n3.0,4.0\n"))) == 2
    named = read_interactions(tmp_path / "log.csv", columns={"user_id": "1", "item_id": "3"})
    assert len(named) == 2


def test_a_first_line_that_may_be_a_header_is_asked_about(tmp_path: Path, fedrec: object) -> None:
    path = written(tmp_path, "log.csv", "reader,volume\nalice,book\nbob,tome\n")
    with pytest.raises(InputError, match=r"first line, 'reader, volume', has no known column name.*header=True"):
        read_interactions(path)
    assert len(read_interactions(path, header=False)) == 3
    assert rows_of(path, header=True, columns={"user_id": "reader", "item_id": "volume"}) == [
        ("alice", "book"),
        ("bob", "tome"),
    ]
    assert rows_of(path, columns={"user_id": "reader", "item_id": "volume"})[0] == ("alice", "book")
    again = written(tmp_path, "again.csv", "alice,emma\nbob,emma\n")
    assert len(read_interactions(again)) == 2
    assert len(read_interactions(written(tmp_path, "inf.csv", "inf,item\n1,2\n"), columns={"user_id": "inf"})) == 1
    for option, users in (("--header", "2"), ("--no-header", "3")):
        columns = ("--columns", "user_id=reader,item_id=volume") if users == "2" else ()
        said: Said = fedrec("data", "describe", path, option, *columns, "--json")  # type: ignore[operator]
        assert f'"users": {users},' in said.out


def test_columns_that_are_not_read_are_named(tmp_path: Path, fedrec: object) -> None:
    path = written(tmp_path, "bx.csv", '"User-ID";"ISBN";"Book-Rating";"Mood"\n"1";"034545104X";"0";"fine"\n')
    report = read_with_report(path).report
    assert report.columns == {"user_id": "User-ID", "item_id": "ISBN", "rating": "Book-Rating"}
    assert report.unread == ("Mood",)
    said: Said = fedrec("data", "describe", path)  # type: ignore[operator]
    assert "Mood" in said.out
    with pytest.raises(InputError, match="columns 'user', 'user' could each be user_id"):
        read_interactions(written(tmp_path, "twice.csv", "user,user,item\n1,1,2\n"))


def test_nothing_is_told_by_warnings_that_nobody_asked_for(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_interactions(written(tmp_path, "log.csv", "user,item\n1,2\n"))) == 1
