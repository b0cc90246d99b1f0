"""Reads catalogs and features of users from files, and joins them to interactions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl

from fedrec.data.arguments import check_arguments
from fedrec.data.catalog import Catalog, table_of_lines
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.reading.columns import is_known, resolve
from fedrec.data.reading.files import Lines, check_path, line_chunks
from fedrec.data.reading.formats import MATRICES, detect_format, dialect_of
from fedrec.data.reading.headers import shape_of
from fedrec.data.reading.records import Dialect, Records, fields_of, records
from fedrec.data.reading.rows import integers_if_whole
from fedrec.data.reading.tables import divide
from fedrec.errors import InputError

__all__ = ["describe", "read_catalog", "read_user_features", "with_items", "with_user_features"]

_ML_GENRES = [
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
]
_ML_ITEM = ["item_id", "title", "release_date", "video_release_date", "imdb_url"]
_HEADERLESS = {
    "u.user": ["user_id", "age", "gender", "occupation", "zip"],
    "users.dat": ["user_id", "gender", "age", "occupation", "zip"],
    "movies.dat": ["item_id", "title", "genres"],
}


def read_catalog(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
    header: bool | None = None,
    on_error: str = "raise",
) -> Catalog:
    """Read items with their titles, genres and any other feature.

    Splits genres at `|`. Reads delimited text, JSON lines and Parquet with a column of item ids, `id::title::genres`,
    the `u.item` of MovieLens 100K (Latin-1, genre flags named by the `u.genre` beside it), and the `.item` and `.link`
    of RecBole (`res:The_Prophet_(book)` becomes the title "The Prophet (book)").

    Args:
        path: the file, plain, gzip or zstd.
        format: `csv`, `tsv`, `::`, `inter` (RecBole), `jsonl` or `parquet`; `None` detects it from the name and the
            first lines.
        columns: maps `item_id`, `title` and `genres` to names in the file, or to column numbers if it has no header.
        encoding: encoding of text; `None` is UTF-8, or Latin-1 for `u.item`.
        header: whether the first line has names; `None` detects this from its content.
        on_error: `raise` stops at the first line that cannot be used; `skip` leaves out such lines and counts them in a
            `UserWarning`.

    Raises:
        InputError: if the file cannot be read, has no item ids, or lists an item twice.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "movies.dat"
        >>> _ = path.write_text("7::Seven (1995)::Crime|Thriller\\n3::Heat (1995)::Crime\\n")
        >>> catalog = read_catalog(path)
        >>> catalog.title(1), catalog.features["genres"].to_list()
        ('Seven (1995)', [['Crime'], ['Crime', 'Thriller']])
    """
    check_arguments(read_catalog, locals())
    _check_on_error(on_error)
    place = check_path(path)
    if place.name == "u.item" and format is None and columns is None:
        table = _ml_100k_items(place, encoding or "latin-1", on_error)
        return Catalog.of(_typed(table, place, "item_id", on_error))
    table = _read(place, format, encoding or "utf-8", header, _HEADERLESS.get(place.name), columns, on_error)
    table = _renamed(table, resolve(table.columns[1:], columns, str(place), fields=_ITEM, required=_ITEM[:1]))
    if "title" not in table.columns and "entity_id" in table.columns:
        title = pl.col("entity_id").str.strip_prefix("res:").str.replace_all("_", " ", literal=True)
        table = table.with_columns(title.alias("title"))
    if "genres" in table.columns and table["genres"].dtype == pl.String:
        genres = pl.col("genres").str.split("|")
        none = pl.col("genres").is_null() | (pl.col("genres") == "(no genres listed)")
        table = table.with_columns(
            pl.when(none).then(pl.lit([], dtype=pl.List(pl.String))).otherwise(genres).alias("genres")
        )
    return Catalog.of(_typed(table, place, "item_id", on_error))


_ITEM = ("item_id", "title", "genres")


def read_user_features(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    header: bool | None = None,
    on_error: str = "raise",
) -> pl.DataFrame:
    """Read a table with one row per user: `user_id` and any features.

    Knows the columns of the `u.user` of MovieLens 100K and the `users.dat` of MovieLens 1M. `on_error` is as for
    `read_catalog`.

    Raises:
        InputError: if the file cannot be read, has no user ids, or lists a user twice.
    """
    check_arguments(read_user_features, locals())
    _check_on_error(on_error)
    place = check_path(path)
    table = _read(place, format, encoding, header, _HEADERLESS.get(place.name), columns, on_error)
    table = _renamed(table, resolve(table.columns[1:], columns, str(place), fields=("user_id",), required=("user_id",)))
    return _typed(table, place, "user_id", on_error)


def _check_on_error(on_error: str) -> None:
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error must be 'raise' or 'skip', not {on_error!r}")


def describe(items: Identifiers, described: Catalog) -> Catalog:
    """The catalog of `items` with the features of `described`; other items have no features.

    >>> items = Identifiers.of([2, 3])
    >>> described = Catalog.of(pl.DataFrame({"item_id": [1, 2], "title": ["One", "Two"]}))
    >>> describe(items, described).features["title"].to_list()
    ['Two', None]
    """
    if described.features is None:
        return Catalog(items)
    return Catalog(items, _matched(items, described.items.series, described.features))


def with_items(data: Interactions, described: Catalog) -> Interactions:
    """`data` with the items of a catalog and what it says of them, also items that nobody has; items that only the data
    has keep their place, without features.

    Raises:
        InputError: if ids are numbers in the data and text in the catalog.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [1, 1], "item_id": [5, 9]})
        >>> wider = with_items(data, Catalog.of(pl.DataFrame({"item_id": [7, 9], "title": ["New", "Nine"]})))
        >>> list(wider.catalog.items), wider.catalog.features["title"].to_list(), wider.items.tolist()
        ([5, 7, 9], [None, 'New', 'Nine'], [0, 2])
    """
    own, theirs = data.catalog.items, described.items
    if theirs.is_text and not own.is_text:
        raise InputError(
            f"item ids of the data are whole numbers and those of the catalog text, such as {theirs[0]!r}; write both "
            "alike"
        )
    ids = Identifiers.of(pl.concat([own.series, theirs.series.cast(own.series.dtype)]).unique())
    places = ids.find(own.series)[data.items].astype(np.int32)
    return replace(data, catalog=describe(ids, described), items=places)


def with_user_features(data: Interactions, features: pl.DataFrame) -> Interactions:
    """`data` with the features of a table with `user_id`; other users have no features."""
    if "user_id" not in features.columns:
        raise InputError(f"features of users need a column user_id; the columns are {', '.join(features.columns)}")
    return replace(data, user_features=_matched(data.users, features["user_id"], features.drop("user_id")))


def _matched(ids: Identifiers, keys: pl.Series, features: pl.DataFrame) -> pl.DataFrame:
    table = features.with_columns(keys.cast(ids.series.dtype, strict=False).alias("\0id")).filter(
        pl.col("\0id").is_not_null()
    )
    wanted = pl.DataFrame({"\0id": ids.series})
    return wanted.join(table, on="\0id", how="left", maintain_order="left").drop("\0id")


def _read(
    path: Path,
    format: str | None,
    encoding: str,
    header: bool | None,
    names: list[str] | None,
    columns: Mapping[str, str] | None,
    on_error: str,
) -> pl.DataFrame:
    """`line` and every column of a table, as text or as typed in the file."""
    kind = detect_format(path, format, encoding)
    if kind == "parquet":
        try:
            table = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{path}: cannot be read as Parquet ({error}). Copy or create the file again") from None
        return table.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line"), pl.all())
    if kind in ("lists", *MATRICES):
        raise InputError(
            f"{path}: a table of features must be delimited text, JSON lines or Parquet, not {kind!r}. Set format="
        )
    if kind == "jsonl":
        return _json_lines(path, encoding)
    chunks = line_chunks(path, encoding, whole=kind == "csv")
    first = next(chunks, None)
    if first is None:
        raise InputError(f"{path}: is empty")
    filled = first.texts.filter(first.texts.str.contains(r"\S")).head(1000)
    dialect = dialect_of(kind, (filled if len(filled) else first.texts).str.strip_suffix("\r").to_list())
    found = records(chain([first], chunks), dialect, str(path))
    top = next(found, None)
    if top is None or len(top.texts) == 0:
        raise InputError(f"{path}: the file is empty, or its first line opens a quoted field that is never closed")
    rows = [fields_of(text, dialect) for text in top.texts.head(1000).to_list()]
    if names is not None and len(rows[0]) == len(names) and not is_known(rows[0][0]):
        shown = names
    else:
        shape = shape_of(rows, header, {name for name in (columns or {}).values() if not name.isdigit()}, str(path))
        shown = shape.names
        if shape.has_header:
            top = Records(top.numbers[1:], top.texts[1:], top.broken)
    return _whole(path, chain([top], found), dialect, shown, on_error)


def _json_lines(path: Path, encoding: str) -> pl.DataFrame:
    """`line` and the fields of the objects of a file, one on each line."""
    parts = [pl.DataFrame({"line": chunk.numbers, "text": chunk.texts}) for chunk in line_chunks(path, encoding)]
    rows = pl.concat(parts).filter(pl.col("text").str.contains(r"\S"))
    try:
        table = table_of_lines("\n".join(rows["text"].to_list()).encode())
    except (InputError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read as JSON lines, one object on each line: {str(error)[:300]}") from None
    if table.height != rows.height or "line" in table.columns:
        raise InputError(f"{path}: every line must hold one JSON object, without a field 'line'")
    return table.select(rows["line"].cast(pl.Int64), pl.all())


def _whole(path: Path, pieces: Iterator[Records], dialect: Dialect, names: list[str], on_error: str) -> pl.DataFrame:
    """`line` and the columns of all records; those that are broken are an error, or are left out and counted."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    parts, left_out = [], 0
    for part in pieces:
        raw, broken = divide(part, dialect, names, {name: name for name in names})
        if broken.height and on_error == "raise":
            line, value, reason = broken.row(0)
            raise InputError(
                f"{path}, line {line}: {value[:80]!r} {reason}. Correct the line, or leave out such lines with "
                "on_error='skip' (--on-error skip)"
            )
        left_out += broken.height
        parts.append(raw)
    if left_out:
        _say_left_out(path, left_out, "cannot be divided into fields")
    return pl.concat(parts)


def _say_left_out(path: Path, lines: int, reason: str) -> None:
    warnings.warn(f"{path}: {lines:,} lines left out ({reason})", UserWarning, stacklevel=2)


def _ml_100k_items(path: Path, encoding: str, on_error: str) -> pl.DataFrame:
    listed = path.with_name("u.genre")
    genres = _ML_GENRES
    if listed.is_file():
        genres = [text.split("|")[0] for chunk in line_chunks(listed, encoding) for text in chunk.texts]
    names = [*_ML_ITEM, *(f"genre {genre}" for genre in genres)]
    dialect = Dialect("|", False)
    chunks: Iterator[Lines] = line_chunks(path, encoding)
    first = next(chunks, None)
    if first is None:
        raise InputError(f"{path}: is empty")
    table = _whole(path, records(chain([first], chunks), dialect, str(path)), dialect, names, on_error)
    flags = [pl.when(pl.col(f"genre {genre}") == "1").then(pl.lit(genre)) for genre in genres]
    return table.select("line", *_ML_ITEM, pl.concat_list(flags).list.drop_nulls().alias("genres"))


def _renamed(table: pl.DataFrame, picked: Mapping[str, str]) -> pl.DataFrame:
    """Give the picked columns our names and the others theirs without a RecBole type, which types them."""
    ours = {theirs: name for name, theirs in picked.items()}
    columns = [pl.col("line")]
    for name in table.columns[1:]:
        plain, _, kind = name.partition(":")
        column = pl.col(name)
        if kind == "float":
            column = column.cast(pl.Float64, strict=False)
        elif kind in ("token_seq", "float_seq") and ours.get(name) != "title":
            column = column.str.split(" ")
        final = ours.get(name, plain)
        columns.append(column.alias(f"column_{final}" if final.isdigit() else final))
    return table.select(columns)


def _typed(table: pl.DataFrame, path: Path, key: str, on_error: str) -> pl.DataFrame:
    """Empty text becomes null, whole numbers and numbers become such; ids are there and distinct. Drops `line`."""
    if on_error == "skip":
        filled = _filled(table[key])
        keep = filled.is_not_null() & filled.is_first_distinct()
        if not keep.all():
            _say_left_out(path, int((~keep).sum()), f"{key} is missing or listed a second time")
            table = table.filter(keep)
    typed = pl.DataFrame(
        [_filled(column) if column.name in ("line", "title") else _numbers_if_all(column) for column in table]
    )
    missing = typed.filter(pl.col(key).is_null())
    if missing.height:
        raise InputError(f"{path}, line {missing['line'][0]}: {key} is missing. Correct the line")
    repeated = typed.filter(pl.col(key).is_duplicated() & ~pl.col(key).is_first_distinct())
    if repeated.height:
        row = repeated.row(0, named=True)
        raise InputError(
            f"{path}, line {row['line']}: {key} {row[key]!r} is listed a second time. Keep one line per {key}"
        )
    if table[key].dtype == pl.String and typed[key].dtype == pl.Float64:
        typed = typed.with_columns(table[key])
    return typed.drop("line")


def _filled(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String:
        return column
    return pl.select(pl.when(column.str.len_bytes() > 0).then(column).alias(column.name)).to_series()


def _numbers_if_all(column: pl.Series) -> pl.Series:
    filled = _filled(column)
    if filled.dtype != pl.String or filled.null_count() == len(filled):
        return filled
    whole = integers_if_whole(filled)
    if whole.dtype != pl.String or filled.str.contains(r"^[+-]?0\d").any():
        return whole
    numbers = filled.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == filled.null_count() and numbers.is_finite().all() else filled
