"""Reads Parquet: one file, or all files of a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import polars as pl

from fedrec.data.reading.files import compression_of, open_bytes
from fedrec.data.reading.nested import unnested, unnested_schema
from fedrec.data.reading.picking import Picking
from fedrec.data.reading.records import NO_LINES
from fedrec.data.reading.rows import RowRules
from fedrec.data.reading.tables import Piece
from fedrec.errors import InputError

__all__ = ["parquet_files", "parquet_pieces"]

_SAMPLE = 1000
_MOST_ENTRIES = 100_000
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class _File(NamedTuple):
    """A file: its path or its bytes, its columns and their types, and what the names of its folders say."""

    content: Path | io.BytesIO
    columns: dict[str, pl.Expr]
    sample: pl.DataFrame


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files of a folder and of its subfolders, in order of name; without names that begin with `_` or `.`.

    Raises:
        InputError: if the folder has so many files that it is probably a mistake, such as the root of a disk.
    """
    files, seen = [], 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] not in "._"]
        seen += len(folders) + len(names)
        if seen > _MOST_ENTRIES:
            raise InputError(
                f"{folder}: holds more than {_MOST_ENTRIES:,} files and folders. Name the folder that holds the "
                "Parquet files"
            )
        paths = (Path(place, name) for name in names if name[0] not in "._")
        files += [path for path in paths if path.suffix.lower() in (".parquet", ".pq") and path.is_file()]
    return sorted(files)


def parquet_pieces(
    files: list[Path], root: Path, picking: Picking, rules: RowRules
) -> Iterator[tuple[Piece, RowRules]]:
    """Rows of Parquet files, file by file, with rules that name the file; `day=1/x.parquet` has a column `day`.

    Raises:
        InputError: if a file cannot be read, or has other columns than the first file.
    """
    kinds: dict[str, str] = {}
    for number, path in enumerate(files):
        try:
            file = _opened(path, root)
            mine = picking if number == 0 else replace(picking, source=str(path), picked={}, notes=[])
            if len(files) > 1:
                mine.source = str(path)
            mine.pick(list(file.columns), file.sample)
            found = {ours: _kind(file.sample.schema[theirs]) for ours, theirs in mine.wanted.items()}
            kinds = kinds or found
            _check_same(path, files[0], picking.wanted, mine.wanted, kinds, found)
            columns = [file.columns[theirs].alias(ours) for ours, theirs in picking.wanted.items()]
            # A field of a field is read with the whole column that it is in.
            names = {column.meta.root_names()[0] for column in columns if column.meta.root_names()}
            table = (
                pl.read_parquet(file.content, columns=sorted(names), hive_partitioning=False)
                if names
                else pl.DataFrame()
            )
        except (OSError, EOFError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{path}: cannot be read as Parquet ({error}). Copy or create the file again") from None
        line = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line")
        rows = picking.kept(table.select(line, *columns))
        yield Piece(rows, NO_LINES), replace(rules, source=str(path))
    picking.source = str(root)


def _opened(path: Path, root: Path) -> _File:
    content = path if compression_of(path) == "none" else io.BytesIO(open_bytes(path).read())
    columns = unnested_schema(dict(pl.read_parquet_schema(content)))
    sample = unnested(pl.scan_parquet(content, hive_partitioning=False).head(_SAMPLE).collect())
    for part in path.relative_to(root).parts[:-1] if path != root else ():
        name, equals, value = part.partition("=")
        if equals and name not in columns:
            shown = pl.lit(None if value == _NO_VALUE else unquote(value), dtype=pl.String)
            columns[name] = shown
            sample = sample.with_columns(shown.alias(name))
    return _File(content, columns, sample)


def _check_same(
    path: Path,
    first: Path,
    wanted: dict[str, str],
    columns_here: dict[str, str],
    kinds: dict[str, str],
    kinds_here: dict[str, str],
) -> None:
    if columns_here != wanted:
        differ = sorted(name for name in {**wanted, **columns_here} if wanted.get(name) != columns_here.get(name))[0]
        shown_here, shown_first = (
            f"column {columns[differ]!r}" if differ in columns else "no column" for columns in (columns_here, wanted)
        )
        raise InputError(
            f"{path}: has {shown_here} for {differ}, but {first.name} has {shown_first}. Give both files the same "
            "columns"
        )
    for ours, kind in kinds_here.items():
        if kind != kinds[ours] and "nothing" not in (kind, kinds[ours]):
            raise InputError(
                f"{path}: column {columns_here[ours]!r} holds {kind}, but {first.name} holds {kinds[ours]}. Give both "
                "files the same type"
            )


def _kind(kind: pl.DataType) -> str:
    if kind.is_integer():
        return "whole numbers"
    if kind.is_numeric():
        return "numbers"
    if kind in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    return "times" if kind.is_temporal() else "nothing" if kind == pl.Null else str(kind)
