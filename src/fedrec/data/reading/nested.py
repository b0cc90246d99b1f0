"""Inner fields, as in JSON and Parquet: one column for each, with dots in its name, up to a maximum depth.

To learn the type of a value, Polars needs more time than the square of its depth, for each line: a line of a few
kilobytes could take hours. Therefore fedrec checks the depth of each line before Polars reads JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import polars as pl

__all__ = ["levels_of", "levels_of_type", "many_brackets", "unnested", "unnested_schema"]

_TEXT = re.compile(rb'"(?:[^"\\]|\\.)*+"')
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1
_CHUNK = 1 << 22


def levels_of(line: bytes) -> int:
    """The depth of a line of JSON: maximum number of lists and objects inside each other.

    >>> levels_of(b'{"item_id": 1, "genres": ["[[[", "Drama"]}')
    2
    """
    marks = np.frombuffer(_TEXT.sub(b"", line), dtype=np.uint8)
    return int(np.cumsum(_STEPS[marks], dtype=np.int32).max(initial=0))


def many_brackets(text: bytes, most: int) -> Iterator[tuple[int, bytes]]:
    """Lines with more than `most` opening brackets, in text or not: only these lines can be nested deeper.

    Yields:
        Where the line begins in `text`, and the line.

    >>> list(many_brackets(b'[1]\\n{"a": [2]}\\n[3]', 1))
    [(4, b'{"a": [2]}')]
    """
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + _CHUNK) + 1 or text.find(b"\n", start) + 1 or len(text)
        part = np.frombuffer(text, dtype=np.uint8, count=end - start, offset=start)
        opened = np.flatnonzero((part & 0xDF) == 0x5B)  # [ or {
        ends = np.append(np.flatnonzero(part == 0x0A), len(part))
        counts = np.diff(np.searchsorted(opened, ends), prepend=0)
        for line in np.flatnonzero(counts > most).tolist():
            begin = start + (int(ends[line - 1]) + 1 if line else 0)
            yield begin, text[begin : start + int(ends[line])]
        start = end


def levels_of_type(kind: object) -> int:
    """The depth of a type: number of lists and structs inside each other.

    >>> levels_of_type(pl.List(pl.Struct({"name": pl.String})))
    2
    """
    if isinstance(kind, pl.List | pl.Array):
        return 1 + levels_of_type(kind.inner)
    if isinstance(kind, pl.Struct):
        return 1 + max((levels_of_type(field.dtype) for field in kind.fields), default=0)
    return 0


def unnested_schema(schema: dict[str, pl.DataType]) -> dict[str, pl.Expr]:
    """All columns, with inner fields in place of the columns that have them.

    A column whose own name has dots comes before an inner field of that name.

    >>> list(unnested_schema({"user": pl.Struct({"id": pl.Int64}), "item": pl.Int64}))
    ['user.id', 'item']
    """
    found: dict[str, pl.Expr] = {}
    for name, kind in schema.items():
        _add(found, name, kind, pl.col(name), set(schema))
    return found


def _add(found: dict[str, pl.Expr], name: str, kind: object, column: pl.Expr, taken: set[str]) -> None:
    if not isinstance(kind, pl.Struct):
        if name not in found:
            found[name] = column
        return
    for part in kind.fields:
        inner = f"{name}.{part.name}"
        if inner not in taken:
            _add(found, inner, part.dtype, column.struct.field(part.name), taken)


def unnested(table: pl.DataFrame) -> pl.DataFrame:
    """The table with a column for every inner field.

    >>> unnested(pl.DataFrame({"user": [{"id": 7}], "item": [1]})).rows()
    [(7, 1)]
    """
    columns = unnested_schema(dict(table.schema))
    if list(columns) == table.columns:
        return table
    return table.select(column.alias(name) for name, column in columns.items())
