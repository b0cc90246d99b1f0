"""Interactions from tables in memory: polars, pandas, Arrow, or a mapping of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import polars as pl

from fedrec.data.arguments import check_arguments
from fedrec.data.catalog import Catalog
from fedrec.data.interactions import Interactions
from fedrec.data.reading.assembly import assemble
from fedrec.data.reading.kinds import Kinds
from fedrec.data.reading.picking import Picking
from fedrec.data.reading.readers import with_unread, without_report
from fedrec.data.reading.records import NO_LINES
from fedrec.data.reading.reports import Loaded, ReadReport, no_rows_left_out
from fedrec.data.reading.rows import RowRules
from fedrec.data.reading.tables import Piece
from fedrec.errors import InputError
from fedrec.progress import stage

__all__ = ["as_interactions", "as_table", "interactions_from", "is_pandas", "table_with_report"]


def interactions_from(
    table: object,
    *,
    columns: Mapping[str, str] | None = None,
    catalog: Catalog | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_items: Literal["raise", "skip"] = "raise",
    user_columns: Sequence[str] = (),
    kinds: Kinds | Mapping[str, Any] | None = None,
) -> Interactions:
    """Interactions from a table; ids keep their type.

    Rows that are left out are counted in a `UserWarning`; `table_with_report` returns them.

    Args:
        table: a polars, pandas or Arrow table (anything with `__arrow_c_stream__`), or a mapping of columns.
        columns: maps standard names to names in the table.
        catalog: the agreed items; `None` makes a catalog of the items in the table.
        on_error: `raise` stops at the first row that cannot be used; `skip` leaves out such rows.
        unknown_items: what to do with an item that is not in `catalog`: stop, or leave out its rows.
        user_columns: columns that become features of users; each user has one value.
        kinds: weight of each kind of row, as in `read_interactions`.

    Raises:
        InputError: if `table` is not a table, a column is missing or has a wrong type, or a row cannot be used.

    Example:
        >>> data = interactions_from({"user": ["b", "a"], "item": [2, 1], "time": ["2024-01-01", "2023-01-01"]})
        >>> data.to_frame().rows()
        [('a', 1, 1672531200.0), ('b', 2, 1704067200.0)]
    """
    loaded = table_with_report(
        table,
        columns=columns,
        catalog=catalog,
        on_error=on_error,
        unknown_items=unknown_items,
        user_columns=user_columns,
        kinds=kinds,
    )
    data = without_report(loaded, "table_with_report")
    return replace(data, pandas=True) if is_pandas(table) else data


@stage("read")
def table_with_report(
    table: object,
    *,
    columns: Mapping[str, str] | None = None,
    catalog: Catalog | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_items: Literal["raise", "skip"] = "raise",
    user_columns: Sequence[str] = (),
    keep_missing: bool = False,
    kinds: Kinds | Mapping[str, Any] | None = None,
) -> Loaded:
    """`interactions_from` with a report: number of rows, and left-out rows with the reason."""
    check_arguments(table_with_report, locals())
    frame = as_table(table)
    weighing = None if kinds is None else Kinds.of(kinds)
    picking = Picking("table", columns, tuple(user_columns), kinds=weighing)
    picking.pick(frame.columns, frame.head(1000))
    line = pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("line")
    raw = frame.select(line, *(pl.col(theirs).alias(ours) for ours, theirs in picking.wanted.items()))
    raw = picking.kept(raw)
    picking.close()
    rules = RowRules("table", "row", on_error, keep_missing, kinds=weighing)
    loaded = assemble(
        [(Piece(raw, NO_LINES), rules)],
        ReadReport("table", "table", picking.picked, 0, no_rows_left_out()),
        text=False,
        catalog=catalog,
        unknown_items=unknown_items,
        user_columns=user_columns,
    )
    return with_unread(loaded, picking, agreed=catalog is not None)


def as_interactions(table: object) -> Interactions:
    """Interactions unchanged, or interactions from any table, see `interactions_from`."""
    return table if isinstance(table, Interactions) else interactions_from(table)


def is_pandas(table: object) -> bool:
    """Whether a table is a pandas table."""
    return type(table).__module__.split(".")[0] == "pandas"


def as_table(table: object) -> pl.DataFrame:
    """Any supported table as a polars DataFrame.

    >>> as_table({"a": [1, 2.5]}).rows()
    [(1.0,), (2.5,)]
    """
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        try:
            return table.collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"table: the lazy frame cannot be computed ({' '.join(str(error).split())})") from None
    if type(table).__module__.split(".")[0] == "pandas":
        return _from_pandas(table)
    if hasattr(table, "__arrow_c_stream__"):
        try:
            return pl.DataFrame(cast(Any, table))
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise InputError(f"table: polars cannot convert this {type(table).__name__} ({error})") from None
    if isinstance(table, Mapping):
        columns = {str(name): _column(str(name), values) for name, values in table.items()}
        if len({len(column) for column in columns.values()}) > 1:
            sizes = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
            raise InputError(f"table: columns have different lengths: {sizes}")
        return pl.DataFrame(columns)
    raise InputError(
        f"interactions must be a polars, pandas or Arrow table or a mapping of columns, not "
        f"{type(table).__name__}. For a file use read_interactions"
    )


def _from_pandas(table: object) -> pl.DataFrame:
    frame = cast(Any, table)
    if not hasattr(frame, "columns"):
        raise InputError(f"interactions must be a pandas DataFrame, not a pandas {type(table).__name__}")
    return pl.DataFrame({str(name): _pandas_column(str(name), frame[name]) for name in frame.columns})


def _pandas_column(name: str, column: Any) -> pl.Series:
    try:
        return pl.Series(name, pl.from_pandas(column, nan_to_null=True))
    except (ImportError, OverflowError, TypeError, ValueError, pl.exceptions.PolarsError):
        pass
    except Exception as error:  # pyarrow has its own error types for mixed columns
        if not type(error).__module__.startswith("pyarrow"):
            raise
    missing = column.isna().to_numpy()
    values = column.to_numpy()
    if values.dtype.kind in "iufM":
        return _column(name, values)
    objects = column.astype(object).to_numpy(copy=True)
    objects[missing] = None
    return _column(name, objects.tolist())


def _column(name: str, values: Any) -> pl.Series:
    if isinstance(values, pl.Series):
        return values.alias(name)
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise InputError(f"table: column {name!r} has shape {values.shape}; a column must have one dimension")
        if values.dtype.kind == "O":
            values = values.tolist()
        elif values.dtype.kind == "S":
            raise InputError(f"table: column {name!r} holds bytes; decode them to text first")
        elif values.dtype.kind == "M":
            return pl.Series(name, values.astype("datetime64[us]"))
        else:
            return pl.Series(name, values)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        if type(values).__module__.split(".")[0] == "pandas":
            return _pandas_column(name, values)
        raise InputError(f"table: column {name!r} is a single {type(values).__name__}; it must be a sequence of values")
    if type(values).__module__.split(".")[0] == "pandas":
        return _pandas_column(name, values)
    listed = list(values)
    if any(isinstance(value, int) and not -(2**63) <= value < 2**64 for value in listed):
        raise InputError(f"table: column {name!r} holds numbers of more than 64 bits; convert them to text")
    try:
        return pl.Series(name, listed, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        kinds = sorted({type(value).__name__ for value in listed if value is not None})
        if all(isinstance(value, (int, float)) or value is None for value in listed):
            return pl.Series(name, listed, dtype=pl.Float64, strict=False)
        raise InputError(f"table: column {name!r} mixes values of type {', '.join(kinds)}; use one type") from None
