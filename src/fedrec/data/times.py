"""Times in any common notation to seconds since 1970."""

from __future__ import annotations

import polars as pl

from fedrec.errors import InputError

__all__ = ["iso_seconds", "latest_second", "unit_of"]

latest_second = 253_402_300_800.0
"""The end of the year 9999: a time beyond it is a mistake."""

_ISO = (
    r"^(?P<day>\d{4}-\d{2}-\d{2})(?:[T ](?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2}(?:[.,]\d+)?))?)?"
    r"\s*(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?$"
)


def iso_seconds(texts: pl.Series) -> pl.Series:
    """Seconds since 1970 (Float64) of ISO 8601 texts; null where a text is none. Without a zone it counts as UTC.

    >>> iso_seconds(pl.Series(["1970-01-02", "1970-01-01T00:01:00.5", "1970-01-01 01:00+01:00", "soon"])).to_list()
    [86400.0, 60.5, 0.0, None]
    """
    parts = texts.str.extract_groups(_ISO).struct.unnest()

    def number(name: str) -> pl.Expr:
        return pl.col(name).str.replace(",", ".", literal=True).cast(pl.Float64, strict=False).fill_null(0.0)

    zone = pl.col("zone").str.replace_all(r"[:Z]", "")
    offset = (
        zone.str.slice(1, 2).cast(pl.Float64, strict=False).fill_null(0.0) * 3600
        + zone.str.slice(3, 2).cast(pl.Float64, strict=False).fill_null(0.0) * 60
    ) * pl.when(zone.str.starts_with("-")).then(-1.0).otherwise(1.0)
    days = pl.col("day").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Float64)
    sound = (number("hour") < 24) & (number("minute") < 60) & (number("second") < 61)
    seconds = days * 86400 + number("hour") * 3600 + number("minute") * 60 + number("second") - offset
    return parts.select(pl.when(sound).then(seconds).alias("timestamp")).to_series()


def unit_of(numbers: pl.Series) -> tuple[float, str]:
    """How many of the unit make a second, and its name, told by the median size of the numbers.

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
    """Seconds since 1970 (Float64) of dates or date-times; without a zone they count as UTC.

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
