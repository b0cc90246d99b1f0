"""Detects whether a file of delimited text has a header, and the meaning of columns without names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import polars as pl

from fedrec.data.reading.columns import is_known
from fedrec.data.reading.times import dates_in
from fedrec.errors import InputError

__all__ = ["Shape", "by_place", "shape_of"]

_LATEST_RATING = 1e8


class Shape(NamedTuple):
    """Names of the columns (`1`, `2`, … if the file has no names), and whether the first line has them."""

    names: list[str]
    has_header: bool


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return any(letter.isdigit() for letter in text)


def shape_of(rows: Sequence[Sequence[str]], header: bool | None, named: Collection[str], where: str) -> Shape:
    """Names of the columns, from the fields of the first lines.

    With `header=None` the first line is a header if it has one of the `named` columns, or a standard name or alias, or
    if it has no number and the next line has one. The first line is a row if it has a number or a time, or if one of
    its fields appears again in the same column.

    Raises:
        InputError: if it is unclear whether the first line is a header.

    >>> shape_of([["reader", "book"], ["ann", "7"]], None, (), "log.csv")
    Shape(names=['reader', 'book'], has_header=True)
    >>> shape_of([["ann", "iliad"], ["bob", "iliad"]], None, (), "log.csv")
    Shape(names=['1', '2'], has_header=False)
    """
    fields = [[field.strip() for field in row] for row in rows]
    top = [name.removeprefix("\ufeff") for name in fields[0]]
    if header is None:
        header = _is_header(top, fields[1:], named, where)
    if not header:
        return Shape([str(number + 1) for number in range(len(top))], False)
    return Shape(top, True)


def _is_header(top: list[str], below: list[list[str]], named: Collection[str], where: str) -> bool:
    if any(name in named or is_known(name) for name in top):
        return True
    if _has_value(top):
        return False
    if below and _has_value(below[0]):
        return True
    if any(field and field == row[place] for place, field in enumerate(top) for row in below if place < len(row)):
        return False
    hint = ""
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in top):
        hint = " In tab-separated files, quotes are part of the text; if quotes enclose fields here, set format='csv'."
    raise InputError(
        f"{where}: the first line, {', '.join(top)[:80]!r}, has no known column name, so it may be a header or a "
        f"row.{hint} Set header=True and columns={{'user_id': …, 'item_id': …}}, or header=False (--header or "
        "--no-header, and --columns)"
    )


def _has_value(row: Sequence[str]) -> bool:
    return any(map(_is_number, row)) or dates_in(pl.Series(row, dtype=pl.String), least=1)


def by_place(sample: pl.DataFrame, where: str) -> dict[str, str]:
    """The columns of a file without a header: user, item, rating and time, if their content agrees.

    Args:
        sample: the first rows, with columns `1`, `2`, ….
        where: name of the file in errors.

    Raises:
        InputError: if the number of columns is another, if the columns of ids have times or fractions, or if times come
            before a fourth column.

    >>> by_place(pl.DataFrame({"1": ["7", "8"], "2": ["x", "y"], "3": ["881250949", "881250950"]}), "log.csv")
    {'user_id': '1', 'item_id': '2', 'timestamp': '3'}
    """
    names = sample.columns
    if len(names) not in (2, 3, 4):
        raise InputError(
            f"{where}: has {len(names)} columns and no header. Name the columns by number, such as "
            f"columns={{'user_id': '1', 'item_id': '2'}} (--columns user_id=1,item_id=2), or set header=True (--header)"
        )
    for name, meaning in zip(names[:2], ("user_id", "item_id"), strict=True):
        what = "times" if dates_in(sample[name]) else "fractions" if _holds_fractions(sample[name]) else None
        if what is not None:
            raise InputError(
                f"{where}: the file has no header, and column {name}, by its position {meaning}, holds {what} such as "
                f"{sample[name][0]!r}. Name the columns by number, such as "
                f"columns={{'user_id': '1', 'item_id': '3', 'timestamp': '{name}'}} (--columns user_id=1,…)"
            )
    if len(names) > 2 and _holds_times(sample["3"]):
        if len(names) == 3:
            return {"user_id": "1", "item_id": "2", "timestamp": "3"}
        raise InputError(
            f"{where}: the file has no header, and column 3, by its position rating, holds times such as "
            f"{sample['3'][0]!r}. Name the columns by number, such as "
            "columns={'user_id': '1', 'item_id': '2', 'timestamp': '3'} (--columns user_id=1,item_id=2,timestamp=3)"
        )
    return dict(zip(("user_id", "item_id", "rating", "timestamp"), names, strict=False))


def _holds_fractions(texts: pl.Series) -> bool:
    found = int(texts.str.contains(r"^[+-]?\d*\.\d*[1-9]\d*$").sum())
    return found > 0 and 2 * found >= len(texts)


def _holds_times(texts: pl.Series) -> bool:
    median = texts.cast(pl.Float64, strict=False).median()
    return dates_in(texts) or (isinstance(median, float) and median > _LATEST_RATING)
