"""What the catalog says of items as numbers: a matrix with one row per item, made of blocks.

A block is one column of the catalog, read in one way. Its rows have length 1, or are zero where the catalog says
nothing of the item; blocks stand side by side, divided by the root of their number, or weighed. Numbers are multiples
of 2⁻¹⁶: machines whose exponentials differ in the last bit make the same matrix, and sums of rows are exact in any
order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import AfterValidator

from fedrec.data.catalog import Catalog
from fedrec.data.encoded import is_encoder, joined_texts, text_vectors
from fedrec.errors import InputError, suggestion

__all__ = [
    "MOST_COLUMNS",
    "Block",
    "Columns",
    "ItemColumns",
    "feature_blocks",
    "feature_matrix",
    "kinds_of_columns",
    "unit_rows",
    "weighed_kinds",
]

MOST_COLUMNS = 4096
"""Columns of a matrix of features, at most."""

_UNIT = 2.0**16
_MOST_CATEGORIES, _MOST_WORDS, _MOST_BUMPS = 1000, 512, 120
_YEARS_APART = 5
_PLACES = np.arange(-2.0, 3.0)
"""Where the bumps of standardised numbers stand."""
_FARTHEST = 2.5


def weighed_kinds(columns: Mapping[str, str | list[str] | dict[str, float]]) -> dict[str, dict[str, float]]:
    """Every column with its kinds and their weights, however they were written.

    >>> weighed_kinds({"genres": "categories", "title": ["year", "text"]})
    {'genres': {'categories': 1.0}, 'title': {'year': 1.0, 'text': 1.0}}
    """
    found = {}
    for column, kinds in columns.items():
        names = [kinds] if isinstance(kinds, str) else kinds
        found[column] = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)
        for kind, weight in found[column].items():
            if kind not in _READERS and not is_encoder(kind):
                choices = [*_READERS, "text:PATH"]
                raise ValueError(f"column {column!r} cannot be read as {kind!r}{suggestion(kind, choices)}")
            if not 0 < weight < math.inf:
                raise ValueError(f"column {column!r}, read as {kind}, needs a weight above 0, not {weight!r}")
    if not all(found.values()):
        raise ValueError(f"columns need a kind, such as {{genres: categories}}; kinds are {', '.join(_READERS)}")
    return found


Columns = Literal["auto"] | dict[str, str | list[str] | dict[str, float]]
ItemColumns = Annotated[
    Columns, AfterValidator(lambda columns: columns if columns == "auto" else weighed_kinds(columns))
]
"""Which columns of the catalog are read, and how: a kind, several, or kinds with weights for each column; `auto` takes
all columns whose type says how to read them, see `kinds_of_columns`."""


@dataclass(frozen=True, eq=False)
class Block:
    """One column of the catalog, read in one way.

    Args:
        column: its name.
        kind: how it is read.
        names: what each number stands for [width]: a category, a word, a year.
        rows: [items, width] float64 of length 1, or 0 for items of which the column says nothing.
        weight: how much the block counts beside others.
    """

    column: str
    kind: str
    names: tuple[str, ...]
    rows: np.ndarray
    weight: float = 1.0

    @property
    def missing(self) -> int:
        """Items of which the column says nothing."""
        return int(np.sum(~self.rows.any(axis=1)))


def feature_matrix(catalog: Catalog, columns: Columns) -> np.ndarray:
    """The features of all items: [items, width] float32, rows of length 1 at most.

    Args:
        catalog: with its columns.
        columns: see `ItemColumns`.

    Raises:
        InputError: see `feature_blocks`.

    Example:
        >>> table = pl.DataFrame({"item_id": [1, 2], "genres": [["War"], ["Drama", "War"]], "year": [1990, 1995]})
        >>> feature_matrix(Catalog.of(table), {"genres": "categories"}).astype(float).round(3).tolist()
        [[0.0, 1.0], [0.707, 0.707]]
    """
    blocks = feature_blocks(catalog, columns)
    whole = sum(block.weight for block in blocks)
    sides = [np.rint(block.rows * (np.sqrt(block.weight / whole) * _UNIT)) / _UNIT for block in blocks]
    return np.ascontiguousarray(np.hstack(sides), dtype=np.float32)


def feature_blocks(catalog: Catalog, columns: Columns) -> tuple[Block, ...]:
    """The blocks of which features are made, in the order of `columns`.

    Raises:
        InputError: if there is no such column, or none at all; if a column has another type than its kind needs, holds
            NaN, or says nothing of any item; if there are more than 4,096 numbers per item.
    """
    table = catalog.features
    if table is None or not table.width:
        raise InputError(
            "the catalog says nothing of its items; give a file with a column item_id and columns such as title, "
            "genres or price (--catalog items.csv)"
        )
    chosen = weighed_kinds(dict(kinds_of_columns(table)) if columns == "auto" else columns)
    if not chosen:
        raise InputError(
            "no column of the catalog shows by its type how to read it; say it, as in item_features: {title: text, "
            f"price: numbers}}. The columns are {_named(table)}"
        )
    blocks = []
    for column, kinds in chosen.items():
        if column not in table.columns and not (
            all(map(is_encoder, kinds)) and joined_texts(table, column) is not None
        ):
            hint = suggestion(column, table.columns).rstrip(".")
            raise InputError(
                f"the catalog has no column {column!r}{hint}{'' if hint.endswith('?') else '.'} Its columns are "
                f"{_named(table)}"
            )
        for kind, weight in kinds.items():
            names, rows = _encoded(table, column, kind) if is_encoder(kind) else _READERS[kind](table[column], catalog)
            if not rows.any():
                raise InputError(
                    f"column {column!r} of the catalog says nothing of any item when it is read as "
                    f"{kind.partition('@')[0]}; leave it out"
                )
            blocks.append(Block(column, kind, names, unit_rows(rows), weight))
    width = sum(block.rows.shape[1] for block in blocks)
    if width > MOST_COLUMNS:
        raise InputError(f"features have {width:,} numbers per item; {MOST_COLUMNS:,} are the most. Leave columns out")
    return tuple(blocks)


def kinds_of_columns(table: pl.DataFrame) -> dict[str, str]:
    """Columns whose type says how to read them: lists of text are categories, lists of numbers vectors, dates years.

    >>> kinds_of_columns(pl.DataFrame({"genres": [["War"]], "title": ["Heat"], "cover": [[0.5, 1.0]], "price": [9.5]}))
    {'genres': 'categories', 'cover': 'vectors'}
    """
    found: dict[str, str] = {}
    for name, kind in table.schema.items():
        if isinstance(kind, pl.List | pl.Array):
            inner = kind.inner
            if inner == pl.String or isinstance(inner, pl.Categorical | pl.Enum):
                found[name] = "categories"
            elif inner is not None and inner.is_numeric():
                found[name] = "vectors"
        elif kind.is_temporal() and kind != pl.Time and not isinstance(kind, pl.Duration):
            found[name] = "year"
    return found


def _categories(column: pl.Series, catalog: Catalog) -> tuple[tuple[str, ...], np.ndarray]:
    """Which categories an item has: those of a list, or of a text divided at `|`."""
    kind = column.dtype
    inner = kind.inner if isinstance(kind, pl.List | pl.Array) else kind
    if kind.is_float() or isinstance(inner, pl.List | pl.Array | pl.Struct) or inner.is_float():
        raise _wrong(column, "categories", "text, whole numbers, or lists of them")
    if isinstance(kind, pl.List | pl.Array):
        lists = column.cast(pl.List(pl.String))
    else:
        lists = column.cast(pl.String).str.split("|")
    return _marked(lists.list.eval(pl.element().str.strip_chars()), _MOST_CATEGORIES)


def _text(column: pl.Series, catalog: Catalog) -> tuple[tuple[str, ...], np.ndarray]:
    """Words, by how often the item has them and how few items do: TF-IDF with idf = ln((1 + n) / (1 + n_w)) + 1."""
    kind = column.dtype
    if kind in (pl.List(pl.String), pl.Array(pl.String, getattr(kind, "size", 0))):
        column = column.cast(pl.List(pl.String)).list.join(" ")
    elif kind != pl.String:
        raise _wrong(column, "text", "text, or lists of text")
    words = column.str.to_lowercase().str.extract_all(r"\w\w+")
    names, counts = _marked(words, _MOST_WORDS, fewest=2)
    idf = np.log((1 + len(column)) / (1 + np.sum(counts > 0, axis=0))) + 1
    return names, counts * idf


def _marked(lists: pl.Series, most: int, fewest: int = 1) -> tuple[tuple[str, ...], np.ndarray]:
    """How often each row has each word [rows, words], of the `most` words that most rows have, `fewest` or more."""
    table = pl.DataFrame({"row": np.arange(len(lists)), "word": lists}).explode("word").drop_nulls()
    table = table.filter(pl.col("word") != "").group_by("row", "word").len()
    known = table.group_by("word").len("rows").filter(pl.col("rows") >= fewest)
    known = known.sort(["rows", "word"], descending=[True, False]).head(most).sort("word")
    table = table.join(known.with_row_index("place"), on="word")
    counts = np.zeros((len(lists), known.height))
    counts[table["row"].to_numpy(), table["place"].to_numpy()] = table["len"].to_numpy()
    return tuple(known["word"].to_list()), counts


def _numbers(column: pl.Series, catalog: Catalog) -> tuple[tuple[str, ...], np.ndarray]:
    """Bumps at −2, −1, 0, 1 and 2 deviations from the mean of the catalog, of width 1."""
    if not column.dtype.is_numeric() and column.dtype != pl.Boolean:
        raise _wrong(column, "numbers", "numbers")
    values = column.cast(pl.Float64)
    _check_finite(values, catalog)
    known = values.drop_nulls().to_numpy()
    deviation = float(known.std()) if len(known) else 0.0
    if deviation == 0.0:
        raise InputError(f"column {column.name!r} of the catalog has the same number for all items; leave it out")
    mean = float(known.mean())
    there = values.is_not_null().to_numpy()
    places = np.clip((values.fill_null(mean).to_numpy() - mean) / deviation, -_FARTHEST, _FARTHEST)
    names = tuple(f"{mean + place * deviation:.4g}" for place in _PLACES)
    return names, np.where(there[:, None], _bumps(places, _PLACES, 1.0), 0.0)


def _year(column: pl.Series, catalog: Catalog) -> tuple[tuple[str, ...], np.ndarray]:
    """Bumps every five years, five years wide. Text has its year at its end, as in "Heat (1995)", or is a date."""
    kind = column.dtype
    if kind == pl.String:
        text = column.str.strip_chars()
        found = text.str.extract(r"\((\d{4})\)$").fill_null(text.str.extract(r"^(\d{4})(?:-\d\d(?:-\d\d.*)?)?$"))
        years = found.fill_null(text.str.extract(r"^\d\d?[-/. ]\w{2,9}[-/. ](\d{4})$")).cast(pl.Float64)
    elif kind.is_temporal() and kind != pl.Time and not isinstance(kind, pl.Duration):
        years = column.dt.year().cast(pl.Float64) + (column.dt.ordinal_day().cast(pl.Float64) - 1) / 365.25
    elif kind.is_numeric():
        years = column.cast(pl.Float64)
        _check_finite(years, catalog)
    else:
        raise _wrong(column, "year", "dates, years, or text that ends with a year in parentheses, as in 'Heat (1995)'")
    known = years.drop_nulls()
    if not len(known):
        return (), np.zeros((len(column), 0))
    first, last = (float(known.min()), float(known.max()))  # type: ignore[arg-type]
    centres = np.arange(np.floor(first / _YEARS_APART), np.ceil(last / _YEARS_APART) + 1) * _YEARS_APART
    if len(centres) > _MOST_BUMPS:
        raise InputError(
            f"column {column.name!r} of the catalog has years from {first:g} to {last:g}; correct them, or read the "
            "column as numbers"
        )
    there = years.is_not_null().to_numpy()
    bumps = _bumps(years.fill_null(first).to_numpy(), centres, float(_YEARS_APART))
    return tuple(f"{centre:g}" for centre in centres), np.where(there[:, None], bumps, 0.0)


def _vectors(column: pl.Series, catalog: Catalog) -> tuple[tuple[str, ...], np.ndarray]:
    """Vectors that came with the catalog, less their mean."""
    kind = column.dtype
    if not isinstance(kind, pl.List | pl.Array) or kind.inner is None or not kind.inner.is_numeric():
        raise _wrong(column, "vectors", "lists of numbers, all of one length")
    lists = column.cast(pl.List(pl.Float64))
    lengths = lists.list.len().drop_nulls().unique().sort()
    if len(lengths) > 1:
        raise InputError(
            f"column {column.name!r} of the catalog has vectors of {lengths[0]} and of {lengths[-1]} numbers; all need "
            "one length"
        )
    there = lists.is_not_null().to_numpy()
    width = int(lengths[0]) if len(lengths) else 0
    rows = np.zeros((len(column), width))
    if width:
        rows[there] = lists.drop_nulls().explode().to_numpy().reshape(-1, width)
        if not (finite := np.isfinite(rows).all(axis=1)).all():
            raise _not_finite(column.name, catalog, int(np.argmin(finite)))
        rows[there] -= rows[there].mean(axis=0)
    return tuple(map(str, range(width))), rows


def _encoded(table: pl.DataFrame, column: str, kind: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Vectors of an encoder on this machine, less their mean."""
    texts = joined_texts(table, column)
    assert texts is not None
    rows = text_vectors(texts, kind)
    return tuple(map(str, range(rows.shape[1]))), rows


_READERS: dict[str, Callable[[pl.Series, Catalog], tuple[tuple[str, ...], np.ndarray]]] = {
    "categories": _categories,
    "numbers": _numbers,
    "text": _text,
    "vectors": _vectors,
    "year": _year,
}


def _bumps(values: np.ndarray, centres: np.ndarray, width: float) -> np.ndarray:
    """exp(−((v − c) / width)² / 2) [values, centres]."""
    bumps: np.ndarray = np.exp(-(((values[:, None] - centres) / width) ** 2) / 2)
    return bumps


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows [n, width] float64 of length 1; zeros stay.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    lengths = np.sqrt(np.sum(rows**2, axis=1, keepdims=True))
    return np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)


def _check_finite(values: pl.Series, catalog: Catalog) -> None:
    wrong = (~values.is_finite()).fill_null(False)
    if wrong.any():
        raise _not_finite(values.name, catalog, int(wrong.arg_max() or 0))


def _not_finite(column: str, catalog: Catalog, place: int) -> InputError:
    return InputError(
        f"column {column!r} of the catalog: item {catalog.items[place]!r} has a number that is not finite; leave the "
        "cell empty where nothing is known"
    )


def _wrong(column: pl.Series, kind: str, needed: str) -> InputError:
    return InputError(
        f"column {column.name!r} of the catalog holds {column.dtype}, which cannot be read as {kind}: that takes "
        f"{needed}"
    )


def _named(table: pl.DataFrame) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in table.schema.items())
