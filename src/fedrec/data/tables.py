"""Lines of delimited text to columns of text, all lines at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import polars as pl

from fedrec.data.formats import Dialect

__all__ = ["Piece", "Shape", "divide", "shape_of"]

_COMMA, _QUOTE = "\x1f", "\x1e"


class Shape(NamedTuple):
    """Names of the columns (`1`, `2`, … where the file has none) and whether the first line holds them."""

    names: list[str]
    has_header: bool


class Piece(NamedTuple):
    """Rows of a file: those whose shape is right, and the lines that are not rows at all.

    Args:
        raw: `line` [n] and columns of text or of the type found.
        broken: `line`, `value` (the text), `reason`.
    """

    raw: pl.DataFrame
    broken: pl.DataFrame


def fields_of(texts: pl.Series, dialect: Dialect) -> tuple[pl.Series, pl.Series]:
    """Fields of every line (lists of text) and which lines have quotes that do not close (bool).

    >>> fields, unclosed = fields_of(pl.Series(['a,"b, c"', 'a,"b']), Dialect(",", True))
    >>> fields[0].to_list(), unclosed.to_list()
    (['a', 'b, c'], [False, True])
    """
    fine = pl.repeat(False, len(texts), eager=True)
    if not dialect.quoted or not texts.str.contains('"', literal=True).any():
        return texts.str.split(dialect.separator), fine
    # Between quotes are the odd parts: hide their separators, then divide as usual and put them back.
    parts = texts.str.replace_all('""', _QUOTE, literal=True).str.split('"')
    element = pl.element()
    hidden = element.str.replace_all(dialect.separator, _COMMA, literal=True)
    joined = parts.list.eval(pl.when(pl.int_range(pl.len()) % 2 == 1).then(hidden).otherwise(element)).list.join("")
    # A field of nothing but quotes loses the pair that enclosed it.
    only_quotes = element.str.contains(f"^{_QUOTE}+$")
    bare = pl.when(only_quotes).then(element.str.slice(1)).otherwise(element)
    shown = bare.str.replace_all(_COMMA, dialect.separator, literal=True).str.replace_all(_QUOTE, '"', literal=True)
    return joined.str.split(dialect.separator).list.eval(shown), parts.list.len() % 2 == 0


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def shape_of(
    first: list[str], dialect: Dialect, header: bool | None, named: Collection[str], is_known: Callable[[str], bool]
) -> Shape:
    """Names of the columns, from the first two lines.

    With `header=None` the first line is a header if it holds one of the `named` columns or a name that `is_known`, or
    no number while the next line holds one.
    """
    rows = [
        [field.strip() for field in row]
        for row in fields_of(pl.Series(first[:2], dtype=pl.String), dialect)[0].to_list()
    ]
    top = [name.strip().removeprefix("\ufeff") for name in rows[0]]
    if header is None:
        numbers = [any(map(_is_number, row)) for row in rows]
        header = any(name in named or is_known(name) for name in top) or (
            len(rows) > 1 and not numbers[0] and numbers[1]
        )
    return Shape(top, True) if header else Shape([str(number + 1) for number in range(len(top))], False)


def divide(
    numbers: pl.Series, texts: pl.Series, dialect: Dialect, names: list[str], picked: Mapping[str, str]
) -> Piece:
    """Divide lines into the `picked` columns (our names to theirs); lines with another number of fields are broken."""
    fields, unclosed = fields_of(texts, dialect)
    counts = fields.list.len()
    table = pl.DataFrame({"line": numbers, "fields": fields})
    columns = [
        pl.col("fields").list.get(names.index(theirs), null_on_oob=True).str.strip_chars().alias(ours)
        for ours, theirs in picked.items()
    ]
    right = (counts == len(names)) & ~unclosed
    broken = pl.DataFrame({"line": numbers, "value": texts, "count": counts, "unclosed": unclosed}).filter(~right)
    reason = (
        pl.when("unclosed")
        .then(pl.lit("has a double quote that is not closed on its line"))
        .otherwise(pl.format("has {} fields where {} are expected", "count", pl.lit(len(names))))
    )
    if broken.height:
        table = table.filter(right)
    return Piece(table.select("line", *columns), broken.select("line", "value", reason.alias("reason")))
