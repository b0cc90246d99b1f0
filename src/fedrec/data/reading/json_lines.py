"""Reads JSON lines: one object on each line, whose inner fields become columns with dots in their names."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.reading.files import Lines
from fedrec.data.reading.nested import levels_of, unnested
from fedrec.data.reading.picking import Picking
from fedrec.data.reading.records import NO_LINES
from fedrec.data.reading.tables import Piece
from fedrec.documents import DocumentError, parse_json
from fedrec.errors import InputError

__all__ = ["json_pieces"]

_SAMPLE = 1000
_MOST_LEVELS = 16
"""Lists and objects within each other on a line, its own object among them."""


def json_pieces(chunks: Iterator[Lines], picking: Picking) -> Iterator[Piece]:
    """Rows of a file of JSON lines, piece by piece; the first piece decides the columns."""
    picked = False
    for lines, texts in chunks:
        deep = _too_deep(texts)
        sound = texts.str.starts_with("{") & ~deep
        table = _parsed(texts.filter(sound)) if sound.all() else None
        if table is None:
            sound = texts.str.json_path_match("$").is_not_null() & texts.str.strip_chars().str.starts_with("{") & ~deep
            table = _parsed(texts.filter(sound))
            table = _read_apart(texts.filter(sound), picking.source) if table is None else table
        broken = pl.DataFrame({"line": lines, "value": texts, "deep": deep}).filter(~sound)
        broken = broken.select("line", "value", _reason().alias("reason"))
        if broken.height == 0 and table.height != len(texts):
            raise InputError(f"{picking.source}: the file is not JSON lines (one object per line). Check format=")
        table = unnested(table)
        if not picked and table.height:
            picking.pick(table.columns, table.head(_SAMPLE))
            picked = True
        wanted = picking.wanted
        here = [
            (pl.col(theirs) if theirs in table.columns else pl.lit(None, dtype=pl.String)).alias(ours)
            for ours, theirs in wanted.items()
        ]
        rows = picking.kept(table.select(lines.filter(sound).alias("line"), *here)) if picked else NO_LINES
        yield Piece(rows, broken)


def _too_deep(texts: pl.Series) -> pl.Series:
    """Which lines are nested too deep; only those with many brackets are looked at closely."""
    many = texts.str.count_matches(r"[\[{]") > _MOST_LEVELS
    deep = [number for number in many.arg_true() if levels_of(texts[number].encode()) > _MOST_LEVELS]
    return pl.Series(np.isin(np.arange(len(texts)), deep))


def _reason() -> pl.Expr:
    start = pl.col("value").str.strip_chars_start()
    return (
        pl.when("deep")
        .then(pl.lit(f"is nested deeper than {_MOST_LEVELS} levels"))
        .when(start.str.starts_with("["))
        .then(pl.lit("begins a JSON array, not one JSON object; jq -c '.[]' puts each object on a line"))
        .when(start.str.contains(r"^\{\s*$"))
        .then(pl.lit("is not one JSON object but the beginning of one; jq -c . puts each object on a line"))
        .otherwise(pl.lit("is not one JSON object"))
    )


def _parsed(texts: pl.Series) -> pl.DataFrame | None:
    if len(texts) == 0:
        return pl.DataFrame()
    try:
        return pl.read_ndjson(io.BytesIO("\n".join(texts.to_list()).encode()), infer_schema_length=None)
    except pl.exceptions.PolarsError:
        return None


def _read_apart(texts: pl.Series, source: str) -> pl.DataFrame:
    """Objects of which a field holds values of unlike types, such as numbers on one line and true on another: such a
    field becomes text, as JSON writes it."""
    try:
        rows = [_flat(parse_json(text), "") for text in texts.to_list()]
    except DocumentError as error:
        raise InputError(
            f"{source}: the file is not JSON lines (one object per line): {error}. Check format="
        ) from None
    names = dict.fromkeys(name for row in rows for name in row)
    return pl.DataFrame([_column(name, [row.get(name) for row in rows]) for name in names])


def _flat(value: dict[str, Any], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= _flat(inner, f"{prefix}{name}.") if isinstance(inner, dict) else {f"{prefix}{name}": inner}
    return found


def _column(name: str, values: list[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1 or kinds == {int, float}:
        values = [float(value) if isinstance(value, int) else value for value in values] if len(kinds) > 1 else values
        try:
            return pl.Series(name, values, strict=True)
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            pass
    written = [value if isinstance(value, str | None) else json.dumps(value, ensure_ascii=False) for value in values]
    return pl.Series(name, written, dtype=pl.String)
