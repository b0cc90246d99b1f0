"""Makes columns of text of records of delimited text, all records at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import polars as pl

from fedrec.data.reading.records import NO_LINES, Dialect, Records, field_pattern, fields_of

__all__ = ["Piece", "divide"]

_TORN = "has a CR in the middle, where other lines end with LF"


class Piece(NamedTuple):
    """Rows of a file with the right number of fields, and lines that are no rows.

    Args:
        raw: `line` [n] and columns of text or of another type.
        broken: `line`, `value` (the text), `reason`.
    """

    raw: pl.DataFrame
    broken: pl.DataFrame


def divide(found: Records, dialect: Dialect, names: list[str], picked: Mapping[str, str]) -> Piece:
    """Split records into the `picked` columns (standard names to names in the file); records with another number of
    fields are broken.

    Blanks around a field are not part of it.

    >>> texts = pl.Series(['1,"a, b"', "2,c,d", '3,12" single'])
    >>> piece = divide(Records(pl.Series([1, 2, 3]), texts, NO_LINES), Dialect(",", True), ["u", "i"], {"item_id": "i"})
    >>> piece.raw.rows(), piece.broken.rows()
    ([(1, 'a, b'), (3, '12" single')], [(2, '2,c,d', 'has 3 fields where 2 are expected')])
    """
    numbers, texts, broken = found
    marked = texts.str.contains('"', literal=True) if dialect.quoted else pl.repeat(False, len(texts), eager=True)
    places = {ours: names.index(theirs) for ours, theirs in picked.items()}
    if not marked.any():
        piece = _plain(numbers, texts, dialect, len(names), places)
    elif marked.all():
        piece = _quoted(numbers, texts, dialect, len(names), places)
    else:
        plain = _plain(numbers.filter(~marked), texts.filter(~marked), dialect, len(names), places)
        quoted = _quoted(numbers.filter(marked), texts.filter(marked), dialect, len(names), places)
        piece = Piece(*(pl.concat([one, two]).sort("line") for one, two in zip(plain, quoted, strict=True)))
    if broken.height:
        piece = Piece(piece.raw, pl.concat([piece.broken, broken]).sort("line"))
    return piece


def _plain(numbers: pl.Series, texts: pl.Series, dialect: Dialect, width: int, places: Mapping[str, int]) -> Piece:
    """Records without quotes that mean anything."""
    if dialect.separator == " ":
        fields = texts.str.strip_chars().str.replace_all(r"\s+", " ").str.split(" ")
    else:
        fields = texts.str.split(dialect.separator)
    counts = fields.list.len()
    table = pl.DataFrame({"line": numbers, "fields": fields})
    columns = [
        pl.col("fields").list.get(place, null_on_oob=True).str.strip_chars(" ").alias(ours)
        for ours, place in places.items()
    ]
    right = counts == width
    torn = texts.str.contains("\r", literal=True)
    if torn.any():
        right &= ~torn
    if right.all():
        return Piece(table.select("line", *columns), NO_LINES)
    reason = (
        pl.when("torn")
        .then(pl.lit(_TORN))
        .otherwise(pl.format("has {} fields where {} are expected", "count", pl.lit(width)))
    )
    wrong = pl.DataFrame({"line": numbers, "value": texts, "count": counts, "torn": torn}).filter(~right)
    return Piece(table.filter(right).select("line", *columns), wrong.select("line", "value", reason.alias("reason")))


def _quoted(numbers: pl.Series, texts: pl.Series, dialect: Dialect, width: int, places: Mapping[str, int]) -> Piece:
    """Records with quotes: one expression says whether a record is sound and has its picked fields as groups."""
    wanted = sorted(set(places.values()))
    fields = (field_pattern(dialect.separator, groups=place in wanted) for place in range(width))
    expression = f"^({re.escape(dialect.separator).join(fields)})$"
    groups = texts.str.extract_groups(expression).struct.unnest()
    groups.columns = ["whole", *(f"{kind}{place}" for place in wanted for kind in ("quoted ", "bare "))]
    right = groups["whole"].is_not_null()
    if texts.str.contains("\r", literal=True).any():
        right &= ~texts.str.replace_all(r'"[^"]*"', "").str.contains("\r", literal=True)
    columns = [
        pl.coalesce(pl.col(f"quoted {place}").str.replace_all('""', '"', literal=True), f"bare {place}", pl.lit(""))
        .str.strip_chars(" ")
        .alias(ours)
        for ours, place in places.items()
    ]
    table = groups.with_columns(numbers.alias("line"))
    if right.all():
        return Piece(table.select("line", *columns), NO_LINES)
    wrong = [
        (number, text, _fault(text, dialect, width))
        for number, text in zip(numbers.filter(~right), texts.filter(~right), strict=True)
    ]
    broken = pl.DataFrame(wrong, schema=NO_LINES.schema, orient="row")
    return Piece(table.filter(right).select("line", *columns), broken)


def _fault(text: str, dialect: Dialect, width: int) -> str:
    field, mark = field_pattern(dialect.separator), re.escape(dialect.separator)
    if re.fullmatch(f"{field}(?:{mark}{field})*", text) is None:
        return "has text after the closing quote of a field (write a quote inside a field twice)"
    count = len(fields_of(text, dialect))
    return _TORN if count == width else f"has {count} fields where {width} are expected"
