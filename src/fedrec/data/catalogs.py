"""Catalogs and features of users from files, and how they are joined to interactions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.columns import is_known, resolve
from fedrec.data.files import check_path, line_chunks
from fedrec.data.formats import Dialect, detect_format, dialect_of
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.rows import integers_if_whole
from fedrec.data.tables import divide, shape_of
from fedrec.errors import InputError

__all__ = ["describe", "read_catalog", "read_user_features", "with_user_features"]

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
) -> Catalog:
    """Read items with their titles, genres and any other feature.

    Genres are divided at `|`. Reads delimited text and Parquet with a column of item ids, `id::title::genres`, the
    `u.item` of MovieLens 100K (Latin-1, genre flags named by the `u.genre` beside it), and the `.item` and `.link` of
    RecBole (`res:The_Prophet_(book)` becomes the title "The Prophet (book)").

    Args:
        path: the file, plain, gzip or zstd.
        format: `csv`, `tsv`, `::`, `inter` (RecBole) or `parquet`; told by name and first lines if `None`.
        columns: `item_id`, `title` and `genres` to names in the file, or to column numbers where it has no header.
        encoding: of text; `None` is UTF-8, and Latin-1 for `u.item`.
        header: whether the first line holds names; told by its content if `None`.

    Raises:
        InputError: the file cannot be read, has no item ids, or lists an item twice.

    Example:
        >>> import tempfile, pathlib
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "movies.dat"
        >>> _ = path.write_text("7::Seven (1995)::Crime|Thriller\\n3::Heat (1995)::Crime\\n")
        >>> catalog = read_catalog(path)
        >>> catalog.title(1), catalog.features["genres"].to_list()
        ('Seven (1995)', [['Crime'], ['Crime', 'Thriller']])
    """
    place = check_path(path)
    if place.name == "u.item" and format is None and columns is None:
        table = _ml_100k_items(place, encoding or "latin-1")
        return Catalog.of(_typed(table, place, "item_id"))
    table = _read(place, format, encoding or "utf-8", header, _HEADERLESS.get(place.name))
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
    return Catalog.of(_typed(table, place, "item_id"))


_ITEM = ("item_id", "title", "genres")


def read_user_features(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    encoding: str = "utf-8",
    header: bool | None = None,
) -> pl.DataFrame:
    """Read a table with one row per user: `user_id` and any features.

    Knows the columns of the `u.user` of MovieLens 100K and the `users.dat` of MovieLens 1M.

    Raises:
        InputError: the file cannot be read, has no user ids, or lists a user twice.
    """
    place = check_path(path)
    table = _read(place, format, encoding, header, _HEADERLESS.get(place.name))
    table = _renamed(table, resolve(table.columns[1:], columns, str(place), fields=("user_id",), required=("user_id",)))
    return _typed(table, place, "user_id")


def describe(items: Identifiers, described: Catalog) -> Catalog:
    """The catalog of `items` with the features of `described`; items that it does not list have none.

    >>> items = Identifiers.of([2, 3])
    >>> described = Catalog.of(pl.DataFrame({"item_id": [1, 2], "title": ["One", "Two"]}))
    >>> describe(items, described).features["title"].to_list()
    ['Two', None]
    """
    if described.features is None:
        return Catalog(items)
    return Catalog(items, _matched(items, described.items.series, described.features))


def with_user_features(data: Interactions, features: pl.DataFrame) -> Interactions:
    """`data` with the features of a table with `user_id`; users that it does not list have none."""
    if "user_id" not in features.columns:
        raise InputError(f"features of users need a column user_id; found {', '.join(features.columns)}")
    return replace(data, user_features=_matched(data.users, features["user_id"], features.drop("user_id")))


def _matched(ids: Identifiers, keys: pl.Series, features: pl.DataFrame) -> pl.DataFrame:
    table = features.with_columns(keys.cast(ids.series.dtype, strict=False).alias("\0id")).filter(
        pl.col("\0id").is_not_null()
    )
    wanted = pl.DataFrame({"\0id": ids.series})
    return wanted.join(table, on="\0id", how="left", maintain_order="left").drop("\0id")


def _read(path: Path, format: str | None, encoding: str, header: bool | None, names: list[str] | None) -> pl.DataFrame:
    """`line` and every column of a table, as text or as typed in the file."""
    kind = detect_format(path, format, encoding)
    if kind == "parquet":
        try:
            table = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{path}: cannot be read as Parquet ({error}). Copy or make it again") from None
        return table.select(pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line"), pl.all())
    if kind in ("jsonl", "lists"):
        raise InputError(f"{path}: a table of features is delimited text or Parquet, not {kind!r}. Say format=")
    chunks = line_chunks(path, encoding)
    first = next(chunks, None)
    if first is None:
        raise InputError(f"{path}: is empty")
    top = first.texts.head(2).to_list()
    dialect = dialect_of(kind, top[0])
    fields = top[0].split(dialect.separator)
    if names is not None and len(fields) == len(names) and not is_known(fields[0]):
        shown, has_header = names, False
    else:
        shape = shape_of(top, dialect, header, (), is_known)
        shown, has_header = shape.names, shape.has_header
    parts = []
    for number, chunk in enumerate(chain([first], chunks)):
        skip = 1 if has_header and number == 0 else 0
        parts.append(_whole(path, chunk.numbers[skip:], chunk.texts[skip:], dialect, shown))
    return pl.concat(parts)


def _whole(path: Path, numbers: pl.Series, texts: pl.Series, dialect: Dialect, names: list[str]) -> pl.DataFrame:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    raw, broken = divide(numbers, texts, dialect, names, {name: name for name in names})
    if broken.height:
        line, value, reason = broken.row(0)
        raise InputError(f"{path}, line {line}: {value[:80]!r} {reason}. Correct it")
    return raw


def _ml_100k_items(path: Path, encoding: str) -> pl.DataFrame:
    listed = path.with_name("u.genre")
    genres = _ML_GENRES
    if listed.is_file():
        genres = [text.split("|")[0] for chunk in line_chunks(listed, encoding) for text in chunk.texts]
    names = [*_ML_ITEM, *(f"genre {genre}" for genre in genres)]
    parts = [_whole(path, *chunk, Dialect("|", False), names) for chunk in line_chunks(path, encoding)]
    if not parts:
        raise InputError(f"{path}: is empty")
    flags = [pl.when(pl.col(f"genre {genre}") == "1").then(pl.lit(genre)) for genre in genres]
    return pl.concat(parts).select("line", *_ML_ITEM, pl.concat_list(flags).list.drop_nulls().alias("genres"))


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


def _typed(table: pl.DataFrame, path: Path, key: str) -> pl.DataFrame:
    """Empty text becomes null, whole numbers and numbers become such; ids are there and distinct. Drops `line`."""
    typed = pl.DataFrame(
        [_filled(column) if column.name in ("line", "title") else _numbers_if_all(column) for column in table]
    )
    missing = typed.filter(pl.col(key).is_null())
    if missing.height:
        raise InputError(f"{path}, line {missing['line'][0]}: {key} is missing. Correct it")
    repeated = typed.filter(pl.col(key).is_duplicated() & ~pl.col(key).is_first_distinct())
    if repeated.height:
        row = repeated.row(0, named=True)
        raise InputError(
            f"{path}, line {row['line']}: {key} {row[key]!r} is listed a second time. Keep one line of each"
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
