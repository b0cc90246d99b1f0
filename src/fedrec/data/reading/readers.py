"""Reads interactions from files: delimited text, JSON lines, Parquet and lists of items, plain or compressed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import polars as pl

from fedrec.data.arguments import check_arguments
from fedrec.data.catalog import Catalog
from fedrec.data.interactions import Interactions
from fedrec.data.reading.assembly import assemble, check_broken, joined
from fedrec.data.reading.files import STANDARD_INPUT, Lines, check_path, line_chunks, standard_input
from fedrec.data.reading.formats import MATRICES, detect_format, dialect_of
from fedrec.data.reading.headers import shape_of
from fedrec.data.reading.json_lines import json_pieces
from fedrec.data.reading.kinds import Kinds
from fedrec.data.reading.matrices import read_matrix
from fedrec.data.reading.parquet import parquet_files, parquet_pieces
from fedrec.data.reading.picking import Picking
from fedrec.data.reading.records import NO_LINES, Dialect, Records, fields_of, records
from fedrec.data.reading.reports import Loaded, ReadReport, no_rows_left_out
from fedrec.data.reading.rows import RowRules, check_rows, integers_if_whole
from fedrec.data.reading.tables import Piece, divide
from fedrec.data.reading.times import check_time_format
from fedrec.errors import InputError
from fedrec.progress import stage

__all__ = ["read_interactions", "read_pairs", "read_with_report", "without_report"]

_PART_FILES = ("train", "valid", "test")
_SAMPLE = 1000
Pieces = Iterable[tuple[Piece, RowRules]]
Where = Mapping[str, str | Sequence[str]]


def read_interactions(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    catalog: Catalog | None = None,
    header: bool | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_items: Literal["raise", "skip"] = "raise",
    user_columns: Sequence[str] = (),
    time_format: str | None = None,
    decimal: Literal[".", ","] | None = None,
    where: Where | None = None,
    kinds: Kinds | Mapping[str, Any] | None = None,
) -> Interactions:
    """Read interactions from a file, or from a folder: of Parquet, or with `train.txt`, `test.txt` and `valid.txt`.

    Rows that are left out are counted in a `UserWarning`; `read_with_report` returns them.

    Args:
        path: the file (plain, gzip or zstd) or folder; `-` is standard input.
        format: one of `formats.FORMATS`, such as `csv` or `lists`; `None` detects it from the name or the first lines.
        columns: maps standard names (`user_id`, `item_id`, `rating` or `weight`, `timestamp`, `part`) to names in the
            file; dots separate the names of inner fields. In a file without a header, maps them to column numbers as
            text, counted from 1.
        encoding: encoding of text, such as `latin-1`.
        catalog: the agreed items; `None` makes a catalog of the items in the file.
        header: whether the first line has names; `None` detects this from its content.
        on_error: `raise` stops at the first row that cannot be used; `skip` leaves out such rows.
        unknown_items: what to do with an item that is not in `catalog`: stop, or leave out its rows.
        user_columns: columns that become features of users; each user has one value.
        time_format: format of times in text that are not ISO 8601, see `times.local_seconds`.
        decimal: decimal mark of numbers in text; the other mark may then separate thousands.
        where: maps names in the file to the value or values of the rows to read, such as `{"kind": "click"}`.
        kinds: weight of each kind of row, `{"column": "event", "weights": {"view": 1, "purchase": 10}}`: the value of a
            row is the weight of its kind, times its own rating or weight if the file has one. A kind without a weight
            is an error; rows of weight 0 are left out and counted.

    Raises:
        InputError: if the file cannot be read, or a row cannot be used; the message says where, and what to do.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "clicks.csv"
        >>> _ = path.write_text("userId,movieId,rating\\n2,x,4\\n1,y,5\\n")
        >>> read_interactions(path).to_frame().rows()
        [(1, 'y', 5.0), (2, 'x', 4.0)]
    """
    loaded = read_with_report(
        path,
        format=format,
        columns=columns,
        encoding=encoding,
        catalog=catalog,
        header=header,
        on_error=on_error,
        unknown_items=unknown_items,
        user_columns=user_columns,
        time_format=time_format,
        decimal=decimal,
        where=where,
        kinds=kinds,
    )
    return without_report(loaded, "read_with_report")


def without_report(loaded: Loaded, instead: str) -> Interactions:
    """Only the interactions; a warning counts the left-out rows."""
    if loaded.report.left_out.height:
        warnings.warn(
            f"{loaded.report.summary()}. {instead} returns the rows that were left out", UserWarning, stacklevel=3
        )
    return loaded.interactions


@stage("read")
def read_with_report(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    catalog: Catalog | None = None,
    header: bool | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_items: Literal["raise", "skip"] = "raise",
    user_columns: Sequence[str] = (),
    keep_missing: bool = False,
    time_format: str | None = None,
    decimal: Literal[".", ","] | None = None,
    where: Where | None = None,
    kinds: Kinds | Mapping[str, Any] | None = None,
) -> Loaded:
    """`read_interactions` with a report: number of rows, left-out rows with the reason, and decisions.

    With `keep_missing` an empty rating or time becomes NaN, for the cleaning step `drop_missing`.
    """
    check_arguments(read_with_report, locals())
    for name, value in (("on_error", on_error), ("unknown_items", unknown_items)):
        if value not in ("raise", "skip"):
            raise InputError(f"{name} must be 'raise' or 'skip', not {value!r}")
    if decimal not in (None, ".", ","):
        raise InputError(f"decimal must be '.' or ',', not {decimal!r}")
    if time_format is not None:
        check_time_format(time_format)
    if os.fspath(path) == STANDARD_INPUT:
        with standard_input() as place:
            loaded = read_with_report(
                place,
                format=format,
                columns=columns,
                encoding=encoding,
                catalog=catalog,
                header=header,
                on_error=on_error,
                unknown_items=unknown_items,
                user_columns=user_columns,
                keep_missing=keep_missing,
                time_format=time_format,
                decimal=decimal,
                where=where,
                kinds=kinds,
            )
        return replace(loaded, report=replace(loaded.report, source="standard input"))
    place = check_path(path)
    kept = {name: (values,) if isinstance(values, str) else tuple(values) for name, values in (where or {}).items()}
    weighing = None if kinds is None else Kinds.of(kinds)
    picking = Picking(str(place), columns, tuple(user_columns), kept, weighing)
    rules = RowRules(
        str(place), "line", on_error, keep_missing, time_format=time_format, decimal=decimal, kinds=weighing
    )
    kind, pieces = _pieces(place, format, encoding, header, picking, rules)
    loaded = assemble(
        pieces,
        ReadReport(str(place), kind, picking.picked, 0, no_rows_left_out()),
        text=kind not in ("jsonl", "parquet"),
        catalog=catalog,
        unknown_items=unknown_items,
        user_columns=user_columns,
        sequence=kind.startswith("lists"),
    )
    return with_unread(loaded, picking, agreed=catalog is not None)


def with_unread(loaded: Loaded, picking: Picking, agreed: bool) -> Loaded:
    """The loaded data, with notes on its columns and the names of columns that were not read.

    If the items are `agreed` with others, only the report has these names, because errors of the data may reach the
    others.
    """
    data, report = loaded.interactions, loaded.report
    report = replace(report, notes=(*picking.notes, *report.notes), unread=picking.unread)
    if agreed:
        return Loaded(data, report)
    order = replace(data.order, unread=picking.unread, like_times=picking.like_times)
    return Loaded(replace(data, order=order), report)


def _pieces(
    place: Path, format: str | None, encoding: str, header: bool | None, picking: Picking, rules: RowRules
) -> tuple[str, Pieces]:
    """The format of a file or folder, and its rows, a piece at a time, which decide the picking as they are read."""
    if place.is_dir():
        return _folder(place, encoding, format, picking, rules)
    kind = detect_format(place, format, encoding)
    if kind == "parquet":
        return kind, _closing(parquet_pieces([place], place, picking, replace(rules, unit="row")), picking)
    chunks = line_chunks(place, encoding, whole=kind == "csv")
    if kind == "jsonl":
        found = json_pieces(chunks, picking)
    elif kind == "lists":
        _check_no_columns(place, picking)
        picking.picked.update(user_id="first", item_id="all others")
        found = (_lists(chunk) for chunk in chunks)
    elif kind in MATRICES:
        matrix = read_matrix(chunks, kind, str(place))
        found = _delimited(matrix.chunks, kind, matrix.names, header, picking)
    else:
        found = _delimited(chunks, kind, None, header, picking)
    return kind, _closing(((piece, rules) for piece in found), picking)


def _closing(pieces: Pieces, picking: Picking) -> Iterator[tuple[Piece, RowRules]]:
    yield from pieces
    picking.close()


def _check_no_columns(place: Path, picking: Picking) -> None:
    given: dict[str, object] = {
        "columns": picking.columns,
        "user_columns": picking.user_columns,
        "where": picking.where,
    }
    given |= {"kinds": picking.kinds}
    for name, value in given.items():
        if value:
            raise InputError(f"{place}: {name} do not apply to lists of items; remove {name}")


def _delimited(
    chunks: Iterator[Lines], kind: str, names: list[str] | None, header: bool | None, picking: Picking
) -> Iterator[Piece]:
    """Rows of delimited text; `names` where the format gives its columns."""
    first = next(chunks, None)
    if first is None:
        raise InputError(f"{picking.source}: is empty")
    filled = first.texts.filter(first.texts.str.contains(r"\S")).head(_SAMPLE)
    if len(filled) == 0:
        filled = first.texts.head(1)
    dialect = dialect_of(kind, filled.str.strip_suffix("\r").to_list())
    has_header = False
    for number, found in enumerate(records(chain([first], chunks), dialect, picking.source)):
        if number == 0:
            names, has_header = _columns(found, dialect, names, header, picking)
            if has_header:
                found = Records(found.numbers[1:], found.texts[1:], found.broken)
        assert names is not None
        piece = divide(found, dialect, names, picking.wanted)
        yield Piece(picking.kept(piece.raw), piece.broken)
    if not picking.picked:
        raise InputError(f"{picking.source}: is empty")


def _columns(
    first_records: Records, dialect: Dialect, names: list[str] | None, header: bool | None, picking: Picking
) -> tuple[list[str], bool]:
    """Names of the columns and whether the first record holds them; picks those that are read."""
    if len(first_records.texts) == 0:
        if first_records.broken.height == 0:
            raise InputError(f"{picking.source}: is empty")
        line, value, reason = first_records.broken.row(0)
        raise InputError(f"{picking.source}, line {line}: {value[:80]!r} {reason}. Correct the line")
    rows = [fields_of(text, dialect) for text in first_records.texts.head(_SAMPLE).to_list()]
    if names is not None:
        picking.pick(names, _sample(rows, names))
        return names, False
    shape = shape_of(rows, header, picking.named, picking.source)
    sample = _sample(rows[1:] if shape.has_header else rows, shape.names)
    placed = None
    if not shape.has_header and not picking.columns:
        placed = picking.by_place(sample)
    picking.pick(shape.names, sample, placed)
    return shape.names, shape.has_header


def _sample(rows: list[list[str]], names: list[str]) -> pl.DataFrame:
    """Columns of the rows that have as many fields as there are names; of a repeated name the first."""
    whole = [row for row in rows if len(row) == len(names)]
    return pl.DataFrame(
        {name: pl.Series(name, [row[names.index(name)].strip() for row in whole], dtype=pl.String) for name in names}
    )


def _lists(chunk: Lines) -> Piece:
    words = chunk.texts.str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    table = pl.DataFrame({"line": chunk.numbers, "user_id": words.list.first(), "item_id": words.list.slice(1)})
    return Piece(table.filter(pl.col("item_id").list.len() > 0).explode("item_id"), NO_LINES)


def _folder(place: Path, encoding: str, format: str | None, picking: Picking, rules: RowRules) -> tuple[str, Pieces]:
    if format not in (None, "lists", "parquet"):
        raise InputError(
            f"{place}: is a folder; fedrec reads a folder as Parquet or as lists of items, not as {format!r}. Name a "
            "file"
        )
    part_files = {part: _part_file(place, part) for part in _PART_FILES}
    if format != "parquet" and part_files["train"] is not None and part_files["test"] is not None:
        _check_no_columns(place, picking)
        return "lists in a folder", _parts(part_files, encoding, rules)
    files = [] if format == "lists" else parquet_files(place)
    if not files:
        names = sorted(entry.name for entry in place.iterdir())[:20]
        raise InputError(
            f"{place}: the folder holds neither Parquet files nor train.txt and test.txt. "
            + (f"Name one of its files: {', '.join(names)}" if names else "The folder is empty")
        )
    return "parquet", _closing(parquet_pieces(files, place, picking, replace(rules, unit="row")), picking)


def _part_file(place: Path, part: str) -> Path | None:
    return next(
        (place / f"{part}.txt{end}" for end in ("", ".gz", ".zst") if (place / f"{part}.txt{end}").is_file()), None
    )


def _parts(part_files: Mapping[str, Path | None], encoding: str, rules: RowRules) -> Iterator[tuple[Piece, RowRules]]:
    for part, path in part_files.items():
        if path is None:
            continue
        here = replace(rules, source=str(path), step=f"reading {path.name}")
        for chunk in line_chunks(path, encoding):
            piece = _lists(chunk)
            yield Piece(piece.raw.with_columns(pl.lit(part).alias("part")), piece.broken), here


def read_pairs(path: str | os.PathLike[str], columns: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Users and items of a file in the order of its rows: columns `user_id` and `item_id`. Repeats stay.

    Args:
        path: the file, in any format that `read_interactions` reads.
        columns: maps standard names to names in the file.

    Raises:
        InputError: if the file cannot be read, or an id is missing; the message says where.
    """
    place = check_path(path)
    picking, rules = Picking(str(place), columns), RowRules(str(place), "line", "skip")
    kind, pieces = _pieces(place, None, "utf-8", None, picking, rules)
    tables, wrong = [], []
    for piece, found in pieces:
        table, left_out = check_rows(piece.raw.select("line", "user_id", "item_id"), found)
        tables.append(table.drop("line"))
        wrong += [check_broken(piece.broken, found), left_out]
    unusable = pl.concat(wrong).sort("line")
    if unusable.height:
        first = unusable.row(0, named=True)
        raise InputError(f"{place}, line {first['line']}: {first['reason']}. Every row needs a user and an item")
    table = joined(tables)
    if kind in ("jsonl", "parquet"):
        return table
    return table.with_columns(integers_if_whole(table[name]) for name in table.columns)
