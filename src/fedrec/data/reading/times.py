"""Converts times in common formats to seconds since 1970."""

from __future__ import annotations

import re

import polars as pl

from fedrec.errors import InputError, suggestion

__all__ = [
    "TIME_FORMATS",
    "calendar_seconds",
    "check_time_format",
    "dates_in",
    "divided",
    "iso_seconds",
    "latest_second",
    "local_seconds",
    "named_like_time",
    "times_in",
    "unit_of",
]

latest_second = 253_402_300_800.0
"""The end of the year 9999: a time beyond it is a mistake."""

TIME_FORMATS = ("day-first", "month-first")
"""Names of local notations of times, beside formats such as `%d.%m.%Y %H:%M`."""

_CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?"
)
_ZONE = r"\s*(?P<zone>[Zz]|UTC|GMT|utc|gmt|[+-]\d{2}(?::?\d{2})?)?"
_ISO = rf"^(?P<day>\d{{4}}-\d{{2}}-\d{{2}})(?:[Tt ]{_CLOCK})?{_ZONE}$"
_LOCAL = r"^(?P<{}>\d{{1,2}})[./-](?P<{}>\d{{1,2}})[./-](?P<year>\d{{4}}|\d{{2}})(?:,?[Tt ]\s*{})?{}$"
_ANY_DATE = r"^\s*(?:\d{4}-\d{2}-\d{2}(?:$|[Tt ])|\d{1,2}([./-])\d{1,2}[./-]\d{4}(?:$|[,Tt ]))"
_SINCE_1985, _UNTIL_2100 = 473_385_600.0, 4_102_444_800.0
_NAME = re.compile(r"time|date|when|stamp|(?:^|[\W_])(?:at|on|day|ts|datum|fecha|zeit)$", re.IGNORECASE)
_NAME_AT = re.compile(r"[a-z](?:At|On|Day|Ts)$")


def iso_seconds(texts: pl.Series) -> pl.Series:
    """Seconds since 1970 (Float64) of ISO 8601 texts; null if a text is no time. A time without a zone is UTC.

    A blank may replace the `T` and precede the zone. `UTC`, `GMT`, small letters and 12-hour clocks are valid.

    >>> iso_seconds(pl.Series(["1970-01-02", "1970-01-01T00:01:00.5", "1970-01-01 01:00+01:00", "soon"])).to_list()
    [86400.0, 60.5, 0.0, None]
    >>> iso_seconds(pl.Series(["1970-01-01 00:00:07 UTC", "1970-01-01 01:00 PM", "1970-01-01 00:00+25:99"])).to_list()
    [7.0, 46800.0, None]
    """
    parts = texts.str.strip_chars().str.extract_groups(_ISO).struct.unnest()
    return _seconds(parts, pl.col("day").str.to_date("%Y-%m-%d", strict=False))


def local_seconds(texts: pl.Series, notation: str) -> pl.Series:
    """Seconds since 1970 (Float64) of texts in a local format; null if a text is no time. Zones as in `iso_seconds`.

    Args:
        texts: [n].
        notation: `day-first` (`31/12/2024 18:30`, also with dots or hyphens), `month-first` (`12/31/2024 6:30 PM`), or
            a format of `strptime`, such as `%d.%m.%Y %H:%M`. Years of two digits are 1969 to 2068.

    >>> local_seconds(pl.Series(["2/1/1970", "02.01.70 06:00", "1/2/1970 12:30 am"]), "day-first").to_list()
    [86400.0, 108000.0, 2680200.0]
    >>> local_seconds(pl.Series(["1/2/1970 12:30 AM", "13/1/1970"]), "month-first").to_list()
    [88200.0, None]
    >>> local_seconds(pl.Series(["2 Jan 1970", "soon"]), "%d %b %Y").to_list()
    [86400.0, None]
    """
    trimmed = texts.str.strip_chars()
    if notation not in TIME_FORMATS:
        return _formatted(trimmed, notation)
    order = ("date", "month") if notation == "day-first" else ("month", "date")
    parts = trimmed.str.extract_groups(_LOCAL.format(*order, _CLOCK, _ZONE)).struct.unnest()
    year = pl.col("year").cast(pl.Int32, strict=False)
    short = pl.col("year").str.len_bytes() == 2
    whole = pl.when(short & (year < 69)).then(year + 2000).when(short).then(year + 1900).otherwise(year)
    month, date = (pl.col(name).cast(pl.Int8, strict=False) for name in ("month", "date"))
    real = month.is_between(1, 12) & date.is_between(1, 31)
    text = pl.concat_str(
        whole.cast(pl.String), month.cast(pl.String).str.zfill(2), date.cast(pl.String).str.zfill(2), separator="-"
    )
    return _seconds(parts, pl.when(real).then(text).str.to_date("%Y-%m-%d", strict=False))


def _seconds(parts: pl.DataFrame, date: pl.Expr) -> pl.Series:
    """Seconds since 1970 of a date and the parts of a time of day."""

    def number(name: str) -> pl.Expr:
        return pl.col(name).str.replace(",", ".", literal=True).cast(pl.Float64, strict=False).fill_null(0.0)

    zone = pl.when(pl.col("zone").str.contains(r"^[+-]")).then(pl.col("zone").str.replace(":", "", literal=True))
    hours = zone.str.slice(1, 2).cast(pl.Float64, strict=False).fill_null(0.0)
    minutes = zone.str.slice(3, 2).cast(pl.Float64, strict=False).fill_null(0.0)
    offset = (hours * 3600 + minutes * 60) * pl.when(zone.str.starts_with("-")).then(-1.0).otherwise(1.0)
    half, hour = pl.col("half").str.to_lowercase(), number("hour")
    on_the_clock = (
        pl.when(half.is_null()).then(hour).otherwise(hour % 12 + pl.when(half == "p").then(12.0).otherwise(0.0))
    )
    sound = (
        (number("hour") < 24)
        & (half.is_null() | number("hour").is_between(1, 12))
        & (number("minute") < 60)
        & (number("second") < 61)
        & (hours < 24)
        & (minutes < 60)
    )
    days = date.cast(pl.Int32).cast(pl.Float64)
    seconds = days * 86400 + on_the_clock * 3600 + number("minute") * 60 + number("second") - offset
    return parts.select(pl.when(sound).then(seconds).alias("timestamp")).to_series()


def _formatted(texts: pl.Series, notation: str) -> pl.Series:
    try:
        if re.search(r"%[HIsTRcX]", notation) is None:
            return calendar_seconds(texts.str.to_date(notation, strict=False))
        return calendar_seconds(texts.str.to_datetime(notation, strict=False, time_unit="us"))
    except pl.exceptions.PolarsError:
        raise InputError(
            f"time_format {notation!r} is not a valid time format; write it as in '%d.%m.%Y %H:%M', or use one of "
            f"{', '.join(TIME_FORMATS)}"
        ) from None


def check_time_format(notation: str) -> None:
    """Check a format of times.

    Raises:
        InputError: if the format is neither a known name nor has a `%`.
    """
    if notation not in TIME_FORMATS and "%" not in notation:
        raise InputError(
            f"time_format {notation!r} is not known{suggestion(notation, TIME_FORMATS)}. A format such as "
            "'%d.%m.%Y %H:%M' works too"
        )
    if notation not in TIME_FORMATS:
        _formatted(pl.Series([""]), notation)


def dates_in(texts: pl.Series, least: int | None = None) -> bool:
    """Whether at least half of some texts, or at least `least` texts, are dates, with or without a time of day, in a
    common format.

    >>> dates_in(pl.Series(["2014-04-07T10:51:09.277Z", "x"])), dates_in(pl.Series(["881250949"]))
    (True, False)
    """
    found = int(texts.str.contains(_ANY_DATE).sum())
    return found > 0 and (2 * found >= len(texts) if least is None else found >= least)


def times_in(column: pl.Series) -> bool:
    """Whether a column looks like times: dates, or numbers of seconds or parts of them between 1985 and 2100.

    >>> times_in(pl.Series(["881250949"])), times_in(pl.Series([1_700_000_000_000])), times_in(pl.Series([5]))
    (True, True, False)
    """
    if column.dtype.is_temporal():
        return True
    if column.dtype == pl.String and dates_in(column):
        return True
    if column.dtype != pl.String and not column.dtype.is_numeric():
        return False
    median = column.cast(pl.Float64, strict=False).median()
    return isinstance(median, float) and any(
        _SINCE_1985 * unit <= median <= _UNTIL_2100 * unit for unit in (1.0, 1e3, 1e6, 1e9)
    )


def named_like_time(name: str) -> bool:
    """Whether the name of a column is typical for times.

    >>> [named_like_time(name) for name in ("when", "createdAt", "bought_on", "item", "what", "format")]
    [True, True, True, False, False, False]
    """
    return _NAME.search(name) is not None or _NAME_AT.search(name) is not None


def unit_of(numbers: pl.Series) -> tuple[float, str]:
    """Number of units in a second, and name of the unit, guessed from the median of the numbers.

    Up to 10¹¹ they are seconds (the year 5138), up to 10¹⁴ milliseconds (from 1973 on), up to 10¹⁷ microseconds,
    beyond that nanoseconds.

    >>> unit_of(pl.Series([881250949.0])), unit_of(pl.Series([881250949000.0]))
    ((1.0, 'seconds'), (1000.0, 'milliseconds'))
    """
    median = numbers.drop_nans().abs().median()
    if not isinstance(median, float) or median <= 1e11:
        return 1.0, "seconds"
    if median <= 1e14:
        return 1e3, "milliseconds"
    return (1e6, "microseconds") if median <= 1e17 else (1e9, "nanoseconds")


def calendar_seconds(times: pl.Series) -> pl.Series:
    """Seconds since 1970 (Float64) of dates or date-times; without a zone they are in UTC.

    >>> from datetime import date
    >>> calendar_seconds(pl.Series([date(1970, 1, 3)])).to_list()
    [172800.0]
    """
    if times.dtype == pl.Date:
        return times.cast(pl.Int32).cast(pl.Float64) * 86400.0
    if not isinstance(times.dtype, pl.Datetime):
        raise InputError(f"times must be numbers, text or dates, not {times.dtype}")
    per_second = {"ms": 1e3, "us": 1e6, "ns": 1e9}[times.dtype.time_unit]
    return divided(times.cast(pl.Int64).cast(pl.Float64), per_second)


def divided(numbers: pl.Series, divisor: float) -> pl.Series:
    """Quotients, rounded correctly; by a single number polars multiplies with its reciprocal instead.

    >>> divided(pl.Series([1700000000123.0]), 1000.0)[0]
    1700000000.123
    """
    return numbers / pl.repeat(divisor, len(numbers), dtype=pl.Float64, eager=True)
