"""Interactions from files: delimited text, JSON lines, Parquet and lists of items, plain or compressed."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

import polars as pl

from fedrec.data.assembly import assemble
from fedrec.data.catalog import Catalog
from fedrec.data.columns import is_known, resolve
from fedrec.data.files import Lines, check_path, compression_of, line_chunks, open_bytes
from fedrec.data.formats import detect_format, dialect_of
from fedrec.data.interactions import Interactions
from fedrec.data.reports import Loaded, ReadReport, no_rows_left_out
from fedrec.data.rows import RowRules
from fedrec.data.tables import Piece, divide, shape_of
from fedrec.errors import InputError

__all__ = ["read_interactions", "read_with_report"]

_BY_PLACE = ("user_id", "item_id", "rating", "timestamp")
_PART_FILES = ("train", "valid", "test")
_NO_LINES = pl.DataFrame(schema={"line": pl.Int64, "value": pl.String, "reason": pl.String})
Picked = dict[str, str]


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
) -> Interactions:
    """Read interactions from a file, or from a folder with `train.txt`, `test.txt` and perhaps `valid.txt`.

    Rows that are left out are counted in a `UserWarning`; `read_with_report` returns them.

    Args:
        path: the file (plain, gzip or zstd) or folder.
        format: one of `csv`, `tsv`, `::`, `jsonl`, `parquet`, `inter`, `lists`; told by name and first lines if `None`.
        columns: standard names (`user_id`, `item_id`, `rating` or `weight`, `timestamp`, `part`) to names in the file;
            to column numbers as text, counted from 1, in a file without a header.
        encoding: of text, such as `latin-1`.
        catalog: the agreed items; made of the items found if `None`.
        header: whether the first line holds names; told by its content if `None`.
        on_error: stop at the first row that cannot be used, or leave such rows out.
        unknown_items: stop at an item that `catalog` does not list, or leave its rows out.
        user_columns: columns that are constant for each user and become features of the users.

    Raises:
        InputError: the file cannot be read, or a row cannot be used; says where and what to do.

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
    )
    return without_report(loaded, "read_with_report")


def without_report(loaded: Loaded, instead: str) -> Interactions:
    """The interactions alone; a warning counts the rows that were left out."""
    if loaded.report.left_out.height:
        warnings.warn(f"{loaded.report.summary()}. {instead} returns them", UserWarning, stacklevel=3)
    return loaded.interactions


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
) -> Loaded:
    """`read_interactions` with its report: rows found, rows left out and why, and what was decided on the way.

    With `keep_missing` an empty rating or time becomes NaN, for the cleaning step `drop_missing`.
    """
    for name, value in (("on_error", on_error), ("unknown_items", unknown_items)):
        if value not in ("raise", "skip"):
            raise InputError(f"{name} must be 'raise' or 'skip', not {value!r}")
    place = check_path(path)
    rules = RowRules(str(place), "line", on_error, keep_missing)
    picked: Picked = {}
    if place.is_dir():
        pieces, kind = _folder(place, encoding, rules, format), "lists in a folder"
        ignored = [name for name, given in (("columns", columns), ("user_columns", user_columns)) if given]
        if ignored:
            raise InputError(f"{place}: {ignored[0]} do not apply to lists of items")
    else:
        kind = detect_format(place, format, encoding)
        read = _Source(place, kind, columns, encoding, header, tuple(user_columns), picked)
        if kind in ("jsonl", "parquet"):
            rules = RowRules(str(place), "row" if kind == "parquet" else "line", on_error, keep_missing)
        pieces = ((piece, rules) for piece in read.pieces())
    return assemble(
        pieces,
        ReadReport(str(place), kind, picked, 0, no_rows_left_out()),
        text=kind not in ("jsonl", "parquet"),
        catalog=catalog,
        unknown_items=unknown_items,
        user_columns=user_columns,
    )


class _Source:
    """One file, what was asked of it, and the columns picked once its first lines are known."""

    def __init__(
        self,
        path: Path,
        kind: str,
        columns: Mapping[str, str] | None,
        encoding: str,
        header: bool | None,
        user_columns: tuple[str, ...],
        picked: Picked,
    ) -> None:
        self.path, self.kind, self.columns, self.encoding = path, kind, columns, encoding
        self.header, self.user_columns, self.picked = header, user_columns, picked

    def pieces(self) -> Iterable[Piece]:
        """Rows of the file, a piece at a time."""
        if self.kind == "parquet":
            return self._parquet()
        chunks = line_chunks(self.path, self.encoding)
        if self.kind == "jsonl":
            return self._json(chunks)
        if self.kind == "lists":
            if self.columns or self.user_columns:
                raise InputError(f"{self.path}: columns do not apply to lists of items")
            self.picked.update(user_id="first", item_id="all others")
            return (_lists(chunk) for chunk in chunks)
        return self._delimited(chunks)

    def _pick(self, names: list[str], has_header: bool = True) -> None:
        columns = self.columns
        if not has_header and not columns:
            if len(names) not in (2, 3, 4):
                raise InputError(
                    f"{self.path}: has {len(names)} columns and no header. Say which they are by number, "
                    f"such as columns={{'user_id': '1', 'item_id': '2'}}, or say header=True"
                )
            columns = dict(zip(_BY_PLACE, names, strict=False))
        self.picked.update(resolve(names, columns, str(self.path)))
        for name in self.user_columns:
            if name not in names:
                raise InputError(f"{self.path}: there is no column {name!r} for user_columns among {', '.join(names)}")
            if name in self.picked.values():
                raise InputError(f"{self.path}: column {name!r} is read already; leave it out of user_columns")

    def _all_picked(self) -> Picked:
        return self.picked | {name: name for name in self.user_columns}

    def _delimited(self, chunks: Iterator[Lines]) -> Iterator[Piece]:
        first = next(chunks, None)
        if first is None:
            raise InputError(f"{self.path}: is empty")
        top = first.texts.head(2).to_list()
        dialect = dialect_of(self.kind, top[0])
        named = {name for name in (*(self.columns or {}).values(), *self.user_columns) if not name.isdigit()}
        names, has_header = shape_of(top, dialect, self.header, named, is_known)
        self._pick(names, has_header)
        for number, chunk in enumerate(chain([first], chunks)):
            skip = 1 if has_header and number == 0 else 0
            yield divide(chunk.numbers[skip:], chunk.texts[skip:], dialect, names, self._all_picked())

    def _json(self, chunks: Iterator[Lines]) -> Iterator[Piece]:
        for number, (lines, texts) in enumerate(chunks):
            sound = texts.str.starts_with("{")
            table = _parse_json(texts.filter(sound)) if sound.all() else None
            if table is None:
                sound = texts.str.json_path_match("$").is_not_null() & texts.str.strip_chars().str.starts_with("{")
                table = _parse_json(texts.filter(sound))
            broken = pl.DataFrame({"line": lines, "value": texts}).filter(~sound)
            broken = broken.with_columns(pl.lit("is not one JSON object").alias("reason"))
            if table is None or (broken.height == 0 and table.height != len(texts)):
                raise InputError(f"{self.path}: is not JSON lines (one object on each line). Check format=")
            if number == 0 and table.height:
                self._pick(table.columns)
            wanted = self._all_picked()
            here = [
                (pl.col(theirs) if theirs in table.columns else pl.lit(None, dtype=pl.String)).alias(ours)
                for ours, theirs in wanted.items()
            ]
            yield Piece(table.select(lines.filter(sound).alias("line"), *here) if wanted else _NO_LINES, broken)

    def _parquet(self) -> Iterator[Piece]:
        try:
            plain = compression_of(self.path) == "none"
            content = self.path if plain else io.BytesIO(open_bytes(self.path).read())
            self._pick(list(pl.read_parquet_schema(content)))
            wanted = self._all_picked()
            table = pl.read_parquet(content, columns=list(dict.fromkeys(wanted.values())))
        except InputError:
            raise
        except (OSError, EOFError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{self.path}: cannot be read as Parquet ({error}). Copy or make it again") from None
        line = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line")
        yield Piece(table.select(line, *(pl.col(theirs).alias(ours) for ours, theirs in wanted.items())), _NO_LINES)


def _parse_json(texts: pl.Series) -> pl.DataFrame | None:
    if len(texts) == 0:
        return pl.DataFrame()
    try:
        return pl.read_ndjson(io.BytesIO("\n".join(texts.to_list()).encode()), infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return None


def _lists(chunk: Lines) -> Piece:
    words = chunk.texts.str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    table = pl.DataFrame({"line": chunk.numbers, "user_id": words.list.first(), "item_id": words.list.slice(1)})
    return Piece(table.filter(pl.col("item_id").list.len() > 0).explode("item_id"), _NO_LINES)


def _folder(place: Path, encoding: str, rules: RowRules, format: str | None) -> Iterator[tuple[Piece, RowRules]]:
    if format not in (None, "lists"):
        raise InputError(f"{place}: is a folder; a folder is read as lists of items, not as {format!r}. Give a file")
    found = {part: _part_file(place, part) for part in _PART_FILES}
    if found["train"] is None or found["test"] is None:
        names = sorted(entry.name for entry in place.iterdir())[:20]
        raise InputError(
            f"{place}: is a folder without train.txt and test.txt, so it is not a split in lists. "
            f"Give one of its files: {', '.join(names) or 'there are none'}"
        )
    return _parts(found, encoding, rules)


def _part_file(place: Path, part: str) -> Path | None:
    return next(
        (place / f"{part}.txt{end}" for end in ("", ".gz", ".zst") if (place / f"{part}.txt{end}").is_file()), None
    )


def _parts(found: Mapping[str, Path | None], encoding: str, rules: RowRules) -> Iterator[tuple[Piece, RowRules]]:
    for part, path in found.items():
        if path is None:
            continue
        here = RowRules(str(path), "line", rules.on_error, rules.keep_missing, step=f"reading {path.name}")
        for chunk in line_chunks(path, encoding):
            piece = _lists(chunk)
            yield Piece(piece.raw.with_columns(pl.lit(part).alias("part")), piece.broken), here
