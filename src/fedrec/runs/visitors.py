"""Users who were not trained on: their history as it was given, and what the model does not know of it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.cleaning import Cleaning, within_bounds
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.reading.assembly import UNKNOWN_ITEM
from fedrec.data.reading.frames import table_with_report
from fedrec.data.reading.readers import read_with_report
from fedrec.data.reading.reports import Loaded
from fedrec.data.splits import distinct
from fedrec.errors import InputError, NothingLeftError, suggestion

__all__ = ["UNKNOWN", "Unknown", "Visitors", "check_unknown", "some_of"]

Unknown = Literal["raise", "warn", "ignore"]
UNKNOWN: tuple[Unknown, ...] = ("raise", "warn", "ignore")
"""What to do with ids that nobody has, or items that the model does not know."""
_REASON = "item_id is not in the catalog"
_ADVICE = (
    "The model was trained without this item; leave such rows out with unknown_items='warn' or 'ignore' "
    "(--unknown-items)"
)


@dataclass(frozen=True, eq=False)
class Visitors:
    """Users to be folded in from their history alone.

    Args:
        data: their interactions with items that the model knows.
        lost: ids of users of whom nothing is left.

    Example:
        >>> import fedrec as fr
        >>> catalog = fr.interactions_from({"user": [1, 1], "item": [5, 6]}).catalog
        >>> history = {"user": [8, 9, 9], "item": [77, 5, 77]}
        >>> visitors = Visitors.read(history, catalog, "ignore")
        >>> list(visitors.data.users), visitors.lost.to_list()
        ([9], [8])
    """

    data: Interactions
    lost: pl.Series

    @classmethod
    def read(cls, history: Any, catalog: Catalog, unknown_items: Unknown = "raise", **reading: Any) -> Visitors:
        """Read a history: a table, `Interactions`, or the path of a file.

        Args:
            history: what the visitors did.
            catalog: items of the model.
            unknown_items: `raise` refuses an item that is not in `catalog`; `warn` and `ignore` leave its rows out.
            reading: options of `fedrec.read_interactions` or `fedrec.interactions_from`, such as `columns`.

        Raises:
            InputError: if the history cannot be read, or it has an unknown item and `unknown_items` is `raise`.
        """
        check_unknown(unknown_items, "unknown_items")
        if isinstance(history, Interactions):
            if history.catalog.items.same_as(catalog.items):
                return cls(history, _nobody(history.users))
            history = history.to_frame()
        if unknown_items == "raise":
            try:
                loaded = _load(history, catalog=catalog, **reading)
            except InputError as error:
                said = str(error)
                if not said.endswith(UNKNOWN_ITEM):
                    raise
                raise InputError(said.removesuffix(UNKNOWN_ITEM) + _ADVICE) from None
            _warn_of_others(loaded)
            return cls(loaded.interactions, _nobody(loaded.interactions.users))
        try:
            loaded = _load(history, catalog=catalog, unknown_items="skip", **reading)
        except NothingLeftError:
            whole = _load(history, **reading).interactions  # nothing at all in it is an error still
            visitors = cls(_without_rows(whole.users, catalog), whole.users.series)
            left_out = whole.to_frame().select("user_id", pl.col("item_id").cast(pl.String))
        else:
            _warn_of_others(loaded)
            left_out = loaded.report.left_out.filter(pl.col("reason") == _REASON)
            visitors = cls(loaded.interactions, _lost(left_out["user_id"], loaded.interactions.users))
        if unknown_items == "warn" and left_out.height:
            _warn(left_out, visitors.lost)
        return visitors

    def cleaned(self, cleaning: Cleaning) -> Visitors:
        """Visitors whose history is cleaned as that of the trained users was, as far as it looks at one user alone:
        repeats are merged, and ratings out of bounds left out, with a warning that counts them."""
        data = self.data if cleaning.repeats == "keep" else distinct(self.data, cleaning.repeats)[0]
        keep = within_bounds(data, cleaning)
        if keep.all():
            return Visitors(data, self.lost)
        after = data.where(keep)
        gone = (data.lengths > 0) & (after.lengths == 0)
        lost = pl.concat([self.lost, data.users.take(np.flatnonzero(gone))]).sort()
        left_out = int(np.sum(~keep))
        message = (
            f"history: {left_out:,} row{'s' if left_out > 1 else ''} left out, with ratings that the cleaning of the "
            f"trained users left out too ({cleaning.bounds})"
        )
        if gone.any():
            message += _nothing_left(lost)
        warnings.warn(message, stacklevel=2)
        return Visitors(after.take_users(np.flatnonzero(~gone)), lost)


def check_unknown(policy: str, name: str) -> None:
    """Check a word of a policy for what is unknown.

    Raises:
        InputError: naming the argument, if there is no such policy.
    """
    if policy not in UNKNOWN:
        raise InputError(f"{name}={policy!r} is not one of {', '.join(UNKNOWN)}{suggestion(policy, UNKNOWN)}")


def some_of(values: pl.Series) -> str:
    """The first few values, for a message."""
    return ", ".join(repr(value) for value in values.head(5).to_list()) + (", …" if len(values) > 5 else "")


def _load(history: Any, **options: Any) -> Loaded:
    if isinstance(history, str | Path):
        return read_with_report(history, **options)
    return table_with_report(history, **options)


def _nobody(like: Identifiers) -> pl.Series:
    return like.series.clear()


def _lost(mentioned: pl.Series, users: Identifiers) -> pl.Series:
    """Ids of users of left-out rows that have no other row."""
    ids = mentioned.drop_nulls().unique(maintain_order=True)
    ids = ids if users.is_text else ids.cast(pl.Int64)
    return ids.filter(pl.Series(users.find(ids) < 0)).sort()


def _without_rows(users: Identifiers, catalog: Catalog) -> Interactions:
    none = np.empty(0, dtype=np.int32)
    return Interactions(Identifiers(users.series.clear()), catalog, np.zeros(1, dtype=np.int64), none)


def _warn_of_others(loaded: Loaded) -> None:
    """Count rows that could not be read at all, as `fedrec.read_interactions` does."""
    if loaded.report.left_out.filter(pl.col("reason") != _REASON).height:
        warnings.warn(f"history: {loaded.report.summary()}", stacklevel=3)


def _warn(left_out: pl.DataFrame, lost: pl.Series) -> None:
    items = left_out["item_id"].unique(maintain_order=True)
    rows = f"{left_out.height:,} row{'s' if left_out.height > 1 else ''}"
    message = f"history: {rows} left out, with items that the model does not know: {some_of(items)}"
    if len(lost):
        message += _nothing_left(lost)
    warnings.warn(message, stacklevel=2)


def _nothing_left(lost: pl.Series) -> str:
    return f". {len(lost):,} user{'s' if len(lost) > 1 else ''} with nothing left: {some_of(lost)}"
