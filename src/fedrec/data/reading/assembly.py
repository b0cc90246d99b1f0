"""Makes `Interactions` of checked rows: typed ids, CSR arrays, order in time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions, RowOrder, offsets
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.data.reading.reports import LEFT_OUT, Loaded, ReadReport, no_rows_left_out
from fedrec.data.reading.rows import Fault, RowRules, check_rows, integers_if_whole, numbers_in, set_aside
from fedrec.data.reading.tables import Piece
from fedrec.data.reading.times import divided, latest_second, unit_of
from fedrec.errors import InputError, NothingLeftError

__all__ = ["UNKNOWN_ITEM", "assemble", "check_broken", "joined"]

UNKNOWN_ITEM = "Add the item to the catalog, or set unknown_items='skip'"
"""What to do about an item that the catalog does not list."""


def assemble(
    pieces: Iterable[tuple[Piece, RowRules]],
    report: ReadReport,
    *,
    text: bool,
    catalog: Catalog | None = None,
    unknown_items: Literal["raise", "skip"] = "raise",
    user_columns: Sequence[str] = (),
    ordered: bool = True,
    sequence: bool = False,
) -> Loaded:
    """Check pieces of rows, piece by piece, and make interactions of them.

    Args:
        pieces: rows in the order of the file, each piece with its rules.
        report: source, format, columns and notes; this function adds rows and left-out rows.
        text: whether ids are text without a type, so that whole numbers become `Int64`.
        catalog: the items; `None` makes a catalog of the items in the data.
        unknown_items: what to do with an item that is not in `catalog`: stop, or leave out its rows and count them.
        user_columns: further columns that become features of users; each user has one value.
        ordered: whether rows keep the order of the file; otherwise only the values decide the order of rows with the
            same user and time.
        sequence: whether the rows of a user are in order, oldest first, by definition of the source.

    Raises:
        InputError: if a row cannot be used (`on_error="raise"`), or if there are no rows.
    """
    checked: list[pl.DataFrame] = []
    left_out: list[pl.DataFrame] = []
    found = 0
    notation: Literal["numbers", "iso", "seconds"] | None = None
    rules = RowRules(report.source)
    for piece, rules in pieces:
        found += piece.raw.height + piece.broken.height
        left_out.append(check_broken(piece.broken, rules))
        if "timestamp" in piece.raw.columns and notation is None and piece.raw.height:
            notation = "seconds" if rules.times == "seconds" else _notation(piece.raw["timestamp"], rules)
        good, bad = check_rows(piece.raw, replace(rules, times=notation or "numbers"))
        left_out.append(bad)
        if text:
            good = good.with_columns(integers_if_whole(good["user_id"]), integers_if_whole(good["item_id"]))
        if "rating" in good.columns:
            good = good.with_columns(pl.col("rating").cast(pl.Float32))
        temporal = "timestamp" in piece.raw.columns and piece.raw["timestamp"].dtype.is_temporal()
        notation = "iso" if temporal else notation
        checked.append(_compact(good if catalog is not None or user_columns else good.drop("line")))
        del piece, good
    table = joined(checked)
    del checked
    notes = report.notes
    if "timestamp" in table.columns and notation == "numbers":
        per_second, unit = unit_of(table["timestamp"])
        table = table.with_columns(divided(table["timestamp"], per_second).alias("timestamp"))
        notes = (*notes, f"times are {unit}")
    if "timestamp" in table.columns and bool((table["timestamp"].fill_nan(0.0).abs() > latest_second).any()):
        raise InputError(
            f"{report.source}: most times are numbers of one unit, but some lie beyond the year 9999; "
            f"give all times in seconds"
        )
    if catalog is not None:
        table, unknown = _known_items(table, catalog, text, replace(rules, on_error=unknown_items))
        left_out.append(unknown)
    left = pl.concat(left_out) if left_out else no_rows_left_out()
    if table.height == 0:
        raise NothingLeftError(
            f"{report.source}: " + ("every row was left out" if found else "the source holds no interactions")
        )
    if left.height:
        left = left.sort("line", maintain_order=True) if left["step"].n_unique() == 1 else left
    by = RowOrder("sequence" if sequence else "rows" if ordered else "chance")
    data = _interactions(table, catalog, user_columns, report.source, ordered, by)
    return Loaded(data, replace(report, rows=found, left_out=left, notes=notes))


def _compact(table: pl.DataFrame) -> pl.DataFrame:
    """The same rows with every text id kept once: a row of text takes ten times the memory of its number."""
    texts = [name for name in ("user_id", "item_id") if table[name].dtype == pl.String]
    return table.with_columns(pl.col(texts).cast(pl.Categorical)) if texts else table


def _notation(times: pl.Series, rules: RowRules) -> Literal["numbers", "iso"]:
    if times.dtype != pl.String:
        return "numbers"
    if rules.time_format is not None:
        return "iso"
    present = times.filter(times.str.len_bytes().fill_null(0) > 0)
    return "numbers" if 2 * numbers_in(present, rules.decimal).is_not_null().sum() >= len(present) else "iso"


def check_broken(broken: pl.DataFrame, rules: RowRules) -> pl.DataFrame:
    """Lines that are no rows, as left-out rows.

    Raises:
        InputError: if `rules` leave out no rows; the message names the first such line.
    """
    if broken.height == 0:
        return no_rows_left_out()
    if rules.on_error == "raise":
        line, value, reason = broken.row(0)
        shown = value if len(value) <= 80 else value[:80] + "…"
        raise InputError(
            f"{rules.source}, {rules.unit} {line}: {shown!r} {reason}. "
            "Correct the line, or leave out such rows (counted, and kept in the report) with on_error='skip' "
            "(--on-error skip)"
        )
    added = {name: pl.lit(None, dtype=kind()) for name, kind in LEFT_OUT.items()}
    added |= {"step": pl.lit(rules.step), "reason": pl.col("reason"), "value": pl.col("value")}
    added |= {"line": pl.col("line").cast(pl.Int64), "field": pl.lit("whole line")}
    return broken.select(column.alias(name) for name, column in added.items())


def joined(checked: list[pl.DataFrame]) -> pl.DataFrame:
    """Checked pieces as one table; ids are text if the ids of any piece are text."""
    if not checked:
        return pl.DataFrame(schema={"user_id": pl.String, "item_id": pl.String})
    if len(checked) == 1:
        return checked[0]
    for name in ("user_id", "item_id"):
        if len({table[name].dtype for table in checked if table.height}) > 1:
            checked = [table.with_columns(pl.col(name).cast(pl.String)) for table in checked]
    return pl.concat([table for table in checked if table.height] or checked[:1], how="diagonal_relaxed")


def _known_items(
    table: pl.DataFrame, catalog: Catalog, text: bool, rules: RowRules
) -> tuple[pl.DataFrame, pl.DataFrame]:
    items = table["item_id"]
    if items.dtype == pl.Categorical:
        items = items.cast(pl.String)
    if text and catalog.items.is_text:
        items = items.cast(pl.String)
    if items.dtype != catalog.items.series.dtype and not text:
        names = ("text", "whole numbers") if catalog.items.is_text else ("whole numbers", "text")
        raise InputError(
            f"{rules.source}: item ids of the catalog are {names[0]}, item ids of the data are {names[1]}. Use the "
            "same type for both"
        )
    positions = catalog.items.find(items)
    if text and not catalog.items.is_text and items.dtype == pl.String:
        texts = catalog.items.series.cast(pl.String)
        order = texts.arg_sort().to_numpy().astype(np.int64)
        positions = Identifiers(texts.sort()).find(items)
        positions = np.where(positions >= 0, order[positions], -1)
    table = table.with_columns(pl.Series("item", positions.astype(np.int32)))
    fault = Fault("item_id", pl.Series(positions < 0), "is not in the catalog")
    keep, unknown = set_aside(table, [fault], rules, advice=UNKNOWN_ITEM)
    return (table.filter(keep) if unknown.height else table), unknown


def _interactions(
    table: pl.DataFrame,
    catalog: Catalog | None,
    user_columns: Sequence[str],
    source: str,
    ordered: bool,
    order_of_rows: RowOrder,
) -> Interactions:
    users = Identifiers.of(table["user_id"].unique())
    if catalog is None:
        catalog = Catalog(Identifiers.of(table["item_id"].unique()))
        items = _positions(catalog.items, table["item_id"]).astype(np.int32)
    else:
        items = table["item"].to_numpy()
    rows = _positions(users, table["user_id"])
    features = _user_features(table, users, rows, user_columns, source) if user_columns else None
    times = table["timestamp"].to_numpy() if "timestamp" in table.columns else None
    indptr = offsets(np.bincount(rows, minlength=len(users)))
    order = order_in_time(rows, times, None if ordered else _order_of_values(users, rows, catalog, items, table))

    def arranged(name: str, kind: type) -> np.ndarray | None:
        return table[name].to_numpy()[order].astype(kind, copy=False) if name in table.columns else None

    return Interactions(
        users=users,
        catalog=catalog,
        indptr=indptr,
        items=items[order],
        values=arranged("rating", np.float32),
        times=None if times is None else times[order].astype(np.float64, copy=False),
        part=arranged("part", np.int8),
        user_features=features,
        order=order_of_rows if times is None else RowOrder("time"),
    )


def _positions(ids: Identifiers, values: pl.Series) -> np.ndarray:
    """Positions [n] of values that are all in `ids`; dense integers are looked up in a table, which is quicker."""
    if values.dtype == pl.Categorical:
        distinct = values.unique()
        codes = distinct.to_physical().to_numpy()
        coded = np.zeros(int(codes.max(initial=0)) + 1, dtype=np.int64)
        coded[codes] = ids.find(distinct)
        return np.asarray(coded[values.to_physical().to_numpy()])
    if ids.is_text or len(ids) == 0:
        return ids.find(values)
    known = ids.series.to_numpy()
    low, span = int(known[0]), int(known[-1]) - int(known[0]) + 1
    if span > 4 * len(values) + 1000:
        return ids.find(values)
    table = np.zeros(span, dtype=np.int64)
    table[known - low] = np.arange(len(known))
    return np.asarray(table[values.to_numpy() - low])


def order_in_time(rows: np.ndarray, times: np.ndarray | None, ties: np.ndarray | None = None) -> np.ndarray:
    """Order [n] that sorts by user position, time and `ties`; equal rows keep their order, and NaN times come last.

    >>> order_in_time(np.array([1, 0, 1]), np.array([2.0, 5.0, 1.0])).tolist()
    [1, 2, 0]
    """
    given = {"user": rows, "time": times, "tie": ties}
    keys = {name: key for name, key in given.items() if key is not None}
    order = pl.arg_sort_by(*keys, maintain_order=True).cast(pl.Int64)
    return pl.DataFrame(keys).select(order).to_series().to_numpy()


def _order_of_values(
    users: Identifiers, rows: np.ndarray, catalog: Catalog, items: np.ndarray, table: pl.DataFrame
) -> np.ndarray:
    """Keys [n] uint64 that only the ids and the value of a row decide, and that look like chance.

    No item comes first or last more often than another, so that "the last" of equal times is not the one with the
    highest id; and what other users did changes nothing. Rows with equal keys are equal (or 64 bits collide).
    """
    source = KeyedSource.from_seed(0).child("order of equal times")
    columns = [client_keys(source.child("user"), users)[rows], client_keys(source.child("item"), catalog.items)[items]]
    if "rating" in table.columns:
        columns.append(table["rating"].to_numpy().astype(np.float32, copy=False).view(np.uint32))
    if "part" in table.columns:
        columns.append(table["part"].to_numpy())
    keys = np.zeros(len(rows), dtype=np.uint64)
    for column in columns:  # the mix of splitmix64
        keys += column.astype(np.uint64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            keys ^= keys >> np.uint64(shift)
            keys *= np.uint64(factor)
        keys ^= keys >> np.uint64(31)
    return keys


def _user_features(
    table: pl.DataFrame, users: Identifiers, rows: np.ndarray, columns: Sequence[str], source: str
) -> pl.DataFrame:
    frame = table.select(columns).with_columns(pl.Series("user", rows))
    for name in columns:
        varying = frame.group_by("user").agg(pl.col(name).n_unique().alias("n")).filter(pl.col("n") > 1)
        if varying.height:
            first = users[int(varying["user"].min())]  # type: ignore[arg-type]
            raise InputError(
                f"{source}: column {name!r} has several values for user {first!r}, so it is not a feature of users; "
                f"remove it from user_columns"
            )
    return frame.group_by("user").first().sort("user").drop("user")
