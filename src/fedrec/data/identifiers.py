"""Ids as the user gave them, with their type, and their positions."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from fedrec.data.arguments import check_fields
from fedrec.data.listing import listed_ids
from fedrec.errors import InputError, suggestion

__all__ = ["Identifiers"]

_BEYOND = "ids hold numbers beyond 64 bits; give these ids as text"


@dataclass(frozen=True, eq=False)
class Identifiers:
    """Distinct ids in ascending order of their type (64-bit integers or text).

    Args:
        series: ids, `Int64` or `String`, without nulls, ascending and distinct.

    Example:
        >>> ids = Identifiers.of(["b", "a", "b"])
        >>> list(ids)
        ['a', 'b']
        >>> ids.find(["b", "z"]).tolist()
        [1, -1]
    """

    series: pl.Series

    def __post_init__(self) -> None:
        check_fields(self)
        if self.series.dtype not in (pl.Int64, pl.String):
            raise InputError(f"ids must be whole numbers or text, not {self.series.dtype}")

    @classmethod
    def of(cls, values: Iterable[object] | pl.Series) -> Identifiers:
        """Sort `values` and remove duplicates; integers of any width become 64-bit, all other ids must be text."""
        return cls(typed_ids(values).unique().sort())

    def __len__(self) -> int:
        return len(self.series)

    def __iter__(self) -> Iterable[object]:
        return iter(self.series)

    def __getitem__(self, position: int) -> int | str:
        value: int | str = self.series[int(position)]
        return value

    @property
    def is_text(self) -> bool:
        """Whether the ids are text rather than whole numbers."""
        return self.series.dtype == pl.String

    def same_as(self, other: Identifiers) -> bool:
        """Whether both hold the same ids of the same type."""
        return self.series.dtype == other.series.dtype and self.series.equals(other.series)

    def take(self, positions: np.ndarray) -> pl.Series:
        """Ids at `positions` [n], in that order."""
        return self.series.gather(pl.Series(np.asarray(positions, dtype=np.int64)))

    @cached_property
    def _numbers(self) -> np.ndarray:
        return self.series.to_numpy()

    def find(self, values: Iterable[object] | pl.Series) -> np.ndarray:
        """Positions [n] int64 of `values`; −1 for unknown ids. Ids of the other type are unknown."""
        wanted = typed_ids(values)
        if len(wanted) == 0:
            return np.empty(0, dtype=np.int64)
        if wanted.dtype != self.series.dtype:
            return np.full(len(wanted), -1, dtype=np.int64)
        if not self.is_text:
            numbers = wanted.to_numpy()
            places = np.searchsorted(self._numbers, numbers)
            inside = np.minimum(places, max(len(self) - 1, 0))
            known = (self._numbers[inside] == numbers) if len(self) else np.zeros(len(numbers), dtype=bool)
            return np.where(known, inside, -1).astype(np.int64)
        table = pl.DataFrame({"id": self.series, "position": np.arange(len(self), dtype=np.int64)})
        found = pl.DataFrame({"id": wanted}).join(table, on="id", how="left", maintain_order="left")
        return found["position"].fill_null(-1).to_numpy().astype(np.int64)

    def look_up(self, values: Iterable[object] | pl.Series) -> np.ndarray:
        """`find` for ids that a person wrote: whole numbers may be text, and text may be whole numbers.

        >>> Identifiers.of([7, 9]).look_up(["9", "x"]).tolist()
        [1, -1]
        """
        wanted = typed_ids(values)
        if wanted.dtype == self.series.dtype:
            return self.find(wanted)
        if self.is_text:
            return self.find(wanted.cast(pl.String))
        numbers = wanted.cast(pl.Int64, strict=False)
        written = (numbers.cast(pl.String) == wanted).fill_null(False).to_numpy()  # 007 is not 7
        return np.where(written, self.find(numbers.fill_null(0)), -1)

    def parse(self, text: str) -> int | str:
        """Read an id written on a command line as the type of these ids."""
        if self.is_text:
            return text
        if re.fullmatch(r"-?[0-9]{1,19}", text) is None or str(int(text)) != text or abs(int(text)) >= 2**63:
            raise InputError(f"id {text!r} is not a whole number, but the ids of this data are whole numbers")
        return int(text)

    def explain_unknown(self, value: object) -> str:
        """A hint for an unknown id: a similar id, or the expected type."""
        if isinstance(value, str) and not self.is_text:
            return ". Ids of this data are whole numbers, without quotes"
        if not isinstance(value, str) and self.is_text:
            return ". Ids of this data are text, with quotes"
        if self.is_text and len(self) <= 200_000:
            near = suggestion(value, self.series.to_list())
            return near if near.startswith(". Did") else ""
        return ""


def typed_ids(values: Iterable[object] | pl.Series) -> pl.Series:
    """Turn `values` into an `Int64` or `String` series without nulls, in the order given."""
    values = listed_ids(values)
    series = values if isinstance(values, pl.Series) else _series(values)
    if len(series) == 0 and series.dtype == pl.Null:
        return pl.Series("id", [], dtype=pl.String)
    if series.dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    if series.dtype.is_integer():
        try:
            series = series.cast(pl.Int64)
        except pl.exceptions.InvalidOperationError:
            raise InputError(_BEYOND) from None
    if series.dtype not in (pl.Int64, pl.String):
        raise InputError(f"ids must be whole numbers or text, not {series.dtype}")
    if series.null_count():
        raise InputError(f"id number {int(series.is_null().arg_true()[0]) + 1} is missing")
    return series


def _series(values: Iterable[object]) -> pl.Series:
    """Ids in a list, a NumPy array or a pandas series; what pandas calls missing is missing."""
    listed = [None if type(value).__name__ in ("NAType", "NaTType") else value for value in values]
    try:
        return pl.Series("id", listed, strict=False)
    except OverflowError:
        raise InputError(_BEYOND) from None
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise InputError(f"ids must be whole numbers or text ({error})") from None
