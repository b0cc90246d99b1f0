"""Kinds of events, such as view, cart and purchase, which give rows their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from fedrec.errors import InputError

__all__ = ["KIND", "Kinds"]

KIND = "\0kind"
"""The column of kinds on its way through reading; no file has one of this name."""


class Kinds(BaseModel):
    """The weight of each kind of row.

    Args:
        column: the column with the kind; dots separate the names of inner fields.
        weights: maps each kind to its weight, which is not negative; rows of weight 0 are left out, and counted.

    Example:
        >>> kinds = Kinds.of({"column": "event", "weights": {"view": 1, "purchase": 10}})
        >>> kinds.of_rows(pl.Series(["view", "refund", "purchase"])).to_list()
        [1.0, None, 10.0]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    column: str
    weights: dict[str, float]

    @classmethod
    def of(cls, value: Any) -> Kinds:
        """Kinds unchanged, or kinds from a mapping with `column` and `weights`.

        Raises:
            InputError: if the kinds cannot be used; the message says why.
        """
        if isinstance(value, Kinds):
            return value
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["kinds", *map(str, first["loc"])])
            raise InputError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None

    @field_validator("weights", mode="before")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """Kinds are compared as text, as polars writes numbers and truth values."""
        if not isinstance(value, dict):
            return value
        return {_as_text(kind): weight for kind, weight in value.items()}

    @field_validator("weights")
    @classmethod
    def _check(cls, value: dict[str, float]) -> dict[str, float]:
        for kind, weight in value.items():
            with np.errstate(over="ignore"):
                narrow = np.float32(weight)
            if weight < 0:
                raise ValueError(f"{kind!r} has weight {weight:g}; a weight must not be negative")
            if not np.isfinite(narrow) or (weight > 0) != bool(narrow > 0):
                raise ValueError(f"{kind!r} has weight {weight:g}, which is too large or too small")
        if not any(value.values()):
            raise ValueError(
                "no kind has a weight above 0, so every row would be left out; give at least one kind a weight, as in "
                "{view: 1}"
            )
        return value

    @property
    def none(self) -> list[str]:
        """Kinds whose rows are left out."""
        return [kind for kind, weight in self.weights.items() if weight == 0]

    def texts(self, column: pl.Series) -> pl.Series:
        """Kinds of rows as text; numbers that are whole without a fraction, as they become floats where one is missing.

        Raises:
            InputError: if the column holds lists or the like.
        """
        if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
            raise InputError(
                f"kinds: column {self.column!r} is of type {column.dtype}; it must hold text, numbers or truth values"
            )
        if column.dtype.is_float():
            whole = pl.select(pl.when(column == column.floor()).then(column).cast(pl.Int64, strict=False)).to_series()
            return whole.cast(pl.String).zip_with(whole.is_not_null(), column.cast(pl.String))
        return column.cast(pl.String, strict=False)

    def of_rows(self, column: pl.Series) -> pl.Series:
        """Weights [rows] Float64; null for a kind without a weight."""
        return self.texts(column).replace_strict(self.weights, default=None, return_dtype=pl.Float64)

    def advice(self, kind: str) -> str:
        """What the user can do about a kind without a weight."""
        return (
            f"Add its weight to kinds, beside {', '.join(self.weights)}: 'weights': {{{kind!r}: …}} "
            f"(--kinds '{self.column}: …, {kind}=…'); weight 0 leaves out its rows. "
        )


def _as_text(kind: object) -> str:
    if isinstance(kind, bool):
        return str(kind).lower()
    return str(int(kind)) if isinstance(kind, float) and kind.is_integer() else str(kind)
