"""Makes typed columns of raw fields, and finds rows that cannot be used, with the reason."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import polars as pl

from fedrec.data.interactions import PARTS
from fedrec.data.reading.kinds import KIND, Kinds
from fedrec.data.reading.reports import LEFT_OUT, no_rows_left_out
from fedrec.data.reading.times import calendar_seconds, dates_in, iso_seconds, local_seconds
from fedrec.errors import InputError

__all__ = ["Fault", "RowRules", "check_rows", "integers_if_whole", "numbers_in", "set_aside", "texts_in"]

_PART_NAMES = {**{name: code for code, name in enumerate(PARTS)}, "validation": 1, "val": 1, "dev": 1}
_ADVICE = (
    "Correct the row, or leave out such rows (counted, and kept in the report) with on_error='skip' (--on-error skip)"
)


@dataclass(frozen=True)
class RowRules:
    """How rows are checked.

    Args:
        source: name of the file or table in errors.
        unit: the word for a row in errors.
        on_error: `raise` stops at the first bad row; `skip` leaves out bad rows and counts them.
        keep_missing: whether an empty rating or time becomes NaN, for a later cleaning step, instead of a fault.
        times: format of times in text; `seconds` if all times are numbers of seconds since 1970.
        step: name of the step in the table of left-out rows.
        time_format: format of times in text, see `times.local_seconds`, if the file does not decide it.
        decimal: the decimal mark of numbers in text, and then groups of three digits may be set apart; without it a
            point, and no groups.
        kinds: weight of each kind of row; the value of a row is this weight, times its own rating or weight if it has
            one.
    """

    source: str
    unit: Literal["line", "row"] = "line"
    on_error: Literal["raise", "skip"] = "raise"
    keep_missing: bool = False
    times: Literal["numbers", "iso", "seconds"] = "numbers"
    step: str = "reading"
    time_format: str | None = None
    decimal: Literal[".", ","] | None = None
    kinds: Kinds | None = None


class Fault(NamedTuple):
    """Rows [n] bool in which `field` cannot be used, and why."""

    field: str
    rows: pl.Series
    reason: str


def integers_if_whole(ids: pl.Series) -> pl.Series:
    """Text ids as `Int64` if every id is a whole number as Python prints it; otherwise unchanged.

    >>> integers_if_whole(pl.Series(["7", "12"])).dtype, integers_if_whole(pl.Series(["007", "12"])).dtype
    (Int64, String)
    """
    if ids.dtype != pl.String:
        return ids
    numbers = ids.cast(pl.Int64, strict=False)
    if numbers.null_count() == ids.null_count() and bool((numbers.cast(pl.String) == ids).all()):
        return numbers
    return ids


def numbers_in(texts: pl.Series, decimal: Literal[".", ","] | None = None) -> pl.Series:
    """Numbers (Float64) written as text, with or without a currency sign; null if a text is no number.

    With `decimal` that mark is the decimal one, and groups of three digits may be set apart by the other, a blank or an
    apostrophe.

    >>> numbers_in(pl.Series(["4.5", "$3", "4,50 €", "1.234"])).to_list()
    [4.5, 3.0, None, 1.234]
    >>> numbers_in(pl.Series(["4,50 €", "1.234,5", "4.5", "1 234"]), ",").to_list()
    [4.5, 1234.5, None, 1234.0]
    """

    def read(texts: pl.Series) -> pl.Series:
        if decimal is None:
            return texts.cast(pl.Float64, strict=False)
        other = "." if decimal == "," else ","
        grouped = rf"^[+-]?\d{{1,3}}(?:[{other}'’\u{{a0}}\u{{202f}} ]\d{{3}})+(?:[{decimal}]\d*)?$"
        bare = texts.str.replace_all(rf"[^\d+{decimal}-]", "")
        shown = bare.zip_with(texts.str.contains(grouped).fill_null(False), texts)
        if decimal == ",":
            shown = shown.set(shown.str.contains(".", literal=True).fill_null(False), None)
        return shown.str.replace(decimal, ".", literal=True).cast(pl.Float64, strict=False)

    numbers = read(texts)
    if numbers.null_count() > texts.null_count() and texts.str.contains(r"\p{Sc}").any():
        unmarked = texts.str.replace(r"^\s*([+-]?)\s*\p{Sc}\s*", "$1").str.replace(r"\s*\p{Sc}\s*$", "")
        numbers = numbers.zip_with(numbers.is_not_null(), read(unmarked))
    return numbers


def texts_in(column: pl.Series, name: str, source: str) -> pl.Series:
    """A column of values as text, as polars writes them; null for missing values.

    Raises:
        InputError: if the column has lists, structs or the like.

    >>> texts_in(pl.Series([True, None]), "bought", "log.csv").to_list()
    ['true', None]
    """
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise InputError(f"{source}: {name} is of type {column.dtype}; it must hold text, numbers or truth values")
    return column.cast(pl.String, strict=False)


def set_aside(
    raw: pl.DataFrame, faults: list[Fault], rules: RowRules, advice: str = _ADVICE
) -> tuple[pl.Series, pl.DataFrame]:
    """Rows to keep [n] bool, and the table of the other rows.

    The first fault of a row, in the order of `faults`, is its reason. With `on_error="raise"` an error names the first
    bad row, by its ids if the row has no `line`.
    """
    bad = np.zeros(raw.height, dtype=bool)
    which = np.zeros(raw.height, dtype=np.int64)
    for number, fault in enumerate(faults):
        rows = fault.rows.fill_null(False).to_numpy()
        which[rows & ~bad] = number
        bad |= rows
    keep = pl.Series("keep", ~bad)
    if not bad.any():
        return keep, no_rows_left_out()
    rows_out = np.flatnonzero(bad)
    out = raw[rows_out]
    which = which[rows_out]
    texts = {
        name: out[name].cast(pl.String, strict=False) for name in out.columns if name in (*LEFT_OUT, "weight", "part")
    }
    if rules.kinds is not None and KIND in out.columns:
        texts[rules.kinds.column] = rules.kinds.texts(out[KIND])
    empty = pl.Series([None] * out.height, dtype=pl.String)
    fields = np.asarray([fault.field for fault in faults])[which]
    values = empty
    for number, fault in enumerate(faults):
        if fault.field in texts:
            here = pl.Series(which == number)
            values = texts[fault.field].zip_with(here, values)
    table = pl.DataFrame(
        {
            "step": pl.repeat(rules.step, out.height, eager=True),
            "reason": np.asarray([f"{fault.field} {fault.reason}" for fault in faults])[which],
            "line": out["line"].cast(pl.Int64),
            "field": fields,
            "value": values,
            "user_id": texts.get("user_id", empty),
            "item_id": texts.get("item_id", empty),
            "rating": texts.get("rating", texts.get("weight", empty)),
            "timestamp": texts.get("timestamp", empty),
        },
        schema_overrides=LEFT_OUT,
    )
    if rules.on_error == "raise":
        first = table.row(0, named=True)
        shown = "" if first["value"] in (None, "") else f" {first['value'][:200]!r}"
        place = f"{rules.unit} {first['line']}"
        if first["line"] is None:
            place = f"the row of user {first['user_id']!r} and item {first['item_id']!r}"
        raise InputError(
            f"{rules.source}, {place}: {first['field']}{shown} {faults[which[0]].reason}. "
            f"{_hint(first['field'], first['value'] or '', rules)}{advice}"
        )
    return keep, table


def _hint(field: str, value: str, rules: RowRules) -> str:
    if rules.kinds is not None and field == rules.kinds.column and value and value not in rules.kinds.weights:
        return rules.kinds.advice(value)
    if field in ("rating", "weight") and re.search(r"\d,\d", value):
        return "Set the decimal mark with decimal=',' or decimal='.' (--decimal). "
    words = re.search(r"[^\W\d_]{2}", value) and value.strip("+- ").lower() not in ("nan", "inf", "infinity")
    if field in ("rating", "weight") and rules.kinds is None and words:
        return f"Give each word a weight with kinds (--kinds 'COLUMN: {value}=…, …'). "
    if field == "weight" and value.lstrip().startswith("-"):
        return (
            "If values may be negative, such as returned quantities, read the column as rating "
            "(--columns rating=…), and add up repeats (--clean repeats=sum). "
        )
    if field == "timestamp" and dates_in(pl.Series([value])):
        return "For local date formats set time_format='day-first', 'month-first' or a format (--time-format). "
    return ""


def check_rows(raw: pl.DataFrame, rules: RowRules) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Type the columns of `raw`; return the good rows and the table of left-out ones.

    Args:
        raw: `line` and any of the standard columns, unchanged; other columns pass through.
        rules: how to check.

    Returns:
        good rows (`user_id` and `item_id` `Int64` or `String`, `rating` and `timestamp` Float64, `part` Int8), and
        the left-out rows.
    """
    coded = [name for name, kind in raw.schema.items() if isinstance(kind, (pl.Categorical, pl.Enum))]
    raw = raw.with_columns(pl.col(coded).cast(pl.String)) if coded else raw
    typed: dict[str, pl.Series] = {}
    faults: list[Fault] = []
    for field in raw.columns:
        if field in ("user_id", "item_id"):
            typed[field] = _ids(raw[field], rules)
            faults.append(Fault(field, typed[field].is_null(), "is missing"))
        elif field in ("rating", "weight"):
            typed["rating"] = _numbers(field, raw[field], faults, rules)
            if field == "weight":
                faults.append(Fault(field, typed["rating"] < 0, "is negative; a weight must be 0 or more"))
        elif field == "timestamp":
            typed[field] = _times(raw[field], faults, rules)
        elif field == "part":
            names = texts_in(raw[field], field, rules.source).str.strip_chars().str.to_lowercase()
            typed[field] = names.replace_strict(_PART_NAMES, default=None, return_dtype=pl.Int8)
            faults.append(Fault(field, typed[field].is_null(), f"is not one of {', '.join(PARTS)}"))
        elif field == KIND and rules.kinds is not None:
            continue
        else:
            typed[field] = raw[field]
    if rules.kinds is not None:
        typed["rating"] = _weighed(raw[KIND], typed.get("rating"), faults, rules.kinds)
    keep, left_out = set_aside(raw, faults, rules)
    good = pl.DataFrame({name: column.alias(name) for name, column in typed.items()})
    return (good.filter(keep) if left_out.height else good), left_out


def _weighed(column: pl.Series, values: pl.Series | None, faults: list[Fault], kinds: Kinds) -> pl.Series:
    """What rows weigh (Float64): the weight of their kind, times their own value where they have one."""
    missing = _is_empty(column)
    weights = kinds.of_rows(column)
    faults.append(Fault(kinds.column, missing, "is missing"))
    faults.append(Fault(kinds.column, weights.is_null() & ~missing, "has no weight"))
    if values is None:
        return weights
    weighed = weights * values
    with np.errstate(over="ignore"):
        narrow = pl.Series(weighed.to_numpy().astype(np.float32))
    faults.append(Fault(kinds.column, weighed.is_finite() & ~narrow.is_finite(), "times the row's value is too large"))
    return weighed


def _ids(column: pl.Series, rules: RowRules) -> pl.Series:
    kind = column.dtype
    if column.dtype == pl.String:
        return pl.select(pl.when(column.str.len_bytes() > 0).then(column)).to_series()
    if kind == pl.Null:
        return column.cast(pl.String)
    if kind.is_float():
        whole = column.fill_nan(None)
        if bool((whole.drop_nulls() == whole.drop_nulls().floor()).all()) and bool(
            (whole.drop_nulls().abs() < 2**53).all()
        ):
            return whole.cast(pl.Int64)
    try:
        if kind.is_integer():
            return column.cast(pl.Int64)
    except pl.exceptions.InvalidOperationError:
        raise InputError(
            f"{rules.source}: {column.name} holds numbers of more than 64 bits; convert these ids to text"
        ) from None
    raise InputError(f"{rules.source}: {column.name} is of type {kind}; ids must be whole numbers or text")


def _is_empty(column: pl.Series) -> pl.Series:
    return (column.is_null() | (column.str.len_bytes() == 0)) if column.dtype == pl.String else column.is_null()


def _numbers(field: str, column: pl.Series, faults: list[Fault], rules: RowRules) -> pl.Series:
    if not (column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null, pl.Boolean)):
        raise InputError(f"{rules.source}: {field} is of type {column.dtype}; it must hold numbers")
    empty = _is_empty(column)
    numbers = numbers_in(column, rules.decimal) if column.dtype == pl.String else column.cast(pl.Float64, strict=False)
    _fault_numbers(field, numbers, empty, faults, rules, "is not a number")
    with np.errstate(over="ignore"):
        narrow = pl.Series(numbers.to_numpy().astype(np.float32))
    faults.append(Fault(field, numbers.is_finite() & ~narrow.is_finite(), "is too large"))
    return numbers.fill_null(float("nan")) if rules.keep_missing else numbers


def _times(column: pl.Series, faults: list[Fault], rules: RowRules) -> pl.Series:
    if column.dtype.is_temporal():
        seconds, empty = calendar_seconds(column), column.is_null()
    elif column.dtype.is_numeric() or column.dtype in (pl.String, pl.Null):
        empty = _is_empty(column)
        if column.dtype.is_numeric() and rules.time_format is not None:
            raise InputError(f"{rules.source}: timestamp holds numbers, not text; leave out time_format")
        if column.dtype == pl.String and rules.time_format is not None:
            seconds = local_seconds(column, rules.time_format)
        elif column.dtype == pl.String:
            seconds = iso_seconds(column) if rules.times == "iso" else numbers_in(column, rules.decimal)
        else:
            seconds = column.cast(pl.Float64, strict=False)
    else:
        raise InputError(f"{rules.source}: timestamp is of type {column.dtype}; it must hold numbers, text or dates")
    reason = "is not a time (numbers of seconds, or text such as 2024-05-01 12:30:00)"
    _fault_numbers("timestamp", seconds, empty, faults, rules, reason)
    return seconds.fill_null(float("nan")) if rules.keep_missing else seconds


def _fault_numbers(
    field: str, numbers: pl.Series, empty: pl.Series, faults: list[Fault], rules: RowRules, reason: str
) -> None:
    if not rules.keep_missing:
        faults.append(Fault(field, empty, "is missing"))
        faults.append(Fault(field, numbers.is_nan(), "is not a number"))
    faults.append(Fault(field, numbers.is_null() & ~empty, reason))
    faults.append(Fault(field, numbers.is_infinite(), "is not finite"))
