"""Fields within fields, as in JSON and Parquet: a column for each, named with dots."""

from __future__ import annotations

import polars as pl

__all__ = ["unnested", "unnested_schema"]


def unnested_schema(schema: dict[str, pl.DataType]) -> dict[str, pl.Expr]:
    """Every column, and in the place of one that holds fields each of those.

    A column whose own name has the dots of another's wins.

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
    """The table with a column for every field within a field.

    >>> unnested(pl.DataFrame({"user": [{"id": 7}], "item": [1]})).rows()
    [(7, 1)]
    """
    columns = unnested_schema(dict(table.schema))
    if list(columns) == table.columns:
        return table
    return table.select(column.alias(name) for name, column in columns.items())
