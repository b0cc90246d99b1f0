"""Cleaning in named steps: each step counts the interactions, users and items that it left out, and keeps them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedrec.data.arguments import check_arguments
from fedrec.data.interactions import Interactions
from fedrec.data.merging import Repeats, latest_rows, with_merged_values
from fedrec.data.reading.reports import LEFT_OUT, no_rows_left_out, reason_counts, write_left_out
from fedrec.errors import InputError, NothingLeftError, suggestion
from fedrec.kernels.splitting import count_items

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Cleaning", "CleaningReport", "CleaningStep", "clean", "item_counts", "within_bounds", "without_items"]


_MERGED = {
    "latest": "repeated, a later one is kept",
    "sum": "repeated, added to the latest",
    "count": "repeated, counted with the latest",
    "max": "repeated, the latest has the largest value",
}


class Cleaning(BaseModel):
    """Cleaning steps, which are done in this order.

    Args:
        drop_missing: leave out interactions without a rating or a time (NaN); otherwise such interactions are an error.
        repeats: what to do if a user has an item more than once. All but `keep` keep the latest interaction, or the
            later line if times are equal: `latest` with its own value, `sum`, `count` and `max` with the sum, number or
            maximum of all values. `keep` keeps all rows; the split then uses the latest one.
        rating_at_least: leave out lower ratings; `none` keeps all ratings, without a remark about it.
        rating_at_most: leave out higher ratings.
        min_user_interactions: leave out users with fewer interactions. Done once.
        min_item_interactions: then leave out items with fewer interactions. Done once.
        k_core: then leave out users and items with fewer interactions, repeatedly, until all users and items have this
            many.
        shrink_catalog: remove items from the catalog that lose their last interaction here. Has no effect on an agreed
            catalog.

    >>> Cleaning(k_core=5)
    Cleaning(drop_missing=False, repeats='latest', rating_at_least=None, rating_at_most=None,
             min_user_interactions=None, min_item_interactions=None, k_core=5, shrink_catalog=True)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drop_missing: bool = False
    repeats: Repeats = "latest"
    rating_at_least: float | Literal["none"] | None = Field(default=None)
    rating_at_most: float | None = Field(default=None, allow_inf_nan=False)
    min_user_interactions: int | None = Field(default=None, ge=1)
    min_item_interactions: int | None = Field(default=None, ge=1)
    k_core: int | None = Field(default=None, ge=1)
    shrink_catalog: bool = True

    def __init__(self, **settings: object) -> None:
        for name in settings:
            if name not in (*Cleaning.model_fields, "merge_repeats"):
                raise InputError(f"cleaning: {name!r} is not a setting{suggestion(name, Cleaning.model_fields)}")
        try:
            super().__init__(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            reason = first["msg"].removeprefix("Value error, ")
            where = f"{first['loc'][0]} = {first['input']!r}: " if first["loc"] else ""
            raise InputError(f"cleaning: {where}{reason}") from None

    @model_validator(mode="before")
    @classmethod
    def _earlier(cls, value: Any) -> Any:
        """Plans have `merge_repeats: true` for `repeats: latest`, and `false` for `keep`: their digests stay."""
        if not isinstance(value, dict) or "merge_repeats" not in value:
            return value
        merges = value["merge_repeats"]
        if "repeats" in value:
            raise ValueError("repeats replaces merge_repeats; remove merge_repeats")
        if not isinstance(merges, bool):
            raise ValueError(
                "merge_repeats must be true or false; for other rules use repeats: latest, sum, count or max"
            )
        kept = {name: setting for name, setting in value.items() if name != "merge_repeats"}
        return kept | {"repeats": "latest" if merges else "keep"}

    @field_validator("rating_at_least", mode="before")
    @classmethod
    def _bound(cls, value: Any) -> Any:
        if value is None or (isinstance(value, str) and value == "none"):
            return value
        try:
            bound = float(value)
        except (TypeError, ValueError):
            bound = float("nan")
        if not np.isfinite(bound):
            raise ValueError("must be a number, or none to keep all ratings")
        return bound

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`repeats` is written only where it says something that `merge_repeats` did not."""
        earlier = {"latest": ("merge_repeats", True), "keep": ("merge_repeats", False)}
        return dict(
            earlier.get(setting, (name, setting)) if name == "repeats" else (name, setting)
            for name, setting in write(self).items()
        )

    @property
    def lowest_rating(self) -> float | None:
        """The lowest rating that is kept; `None` if all ratings are kept, with or without `rating_at_least: none`.

        >>> Cleaning(rating_at_least=2).lowest_rating, Cleaning(rating_at_least="none").lowest_rating
        (2.0, None)
        """
        return None if self.rating_at_least == "none" else self.rating_at_least

    @property
    def judges(self) -> bool:
        """Whether the settings say which ratings count, which `rating_at_least: none` does too."""
        return self.rating_at_least is not None or self.rating_at_most is not None

    @property
    def bounds(self) -> str:
        """The bounds of ratings, as a plan writes them.

        >>> Cleaning(rating_at_least=2, rating_at_most=4).bounds
        'rating_at_least=2, rating_at_most=4'
        """
        found = {"rating_at_least": self.lowest_rating, "rating_at_most": self.rating_at_most}
        return ", ".join(f"{name}={bound:g}" for name, bound in found.items() if bound is not None)

    @property
    def across_users(self) -> tuple[str, ...]:
        """Settings in use with which the absence of one user changes what is kept of other users.

        >>> Cleaning(rating_at_least=4, min_user_interactions=5, k_core=5).across_users
        ('k_core',)
        """
        return tuple(name for name in ("min_item_interactions", "k_core") if getattr(self, name) is not None)


@dataclass(frozen=True)
class CleaningStep:
    """One step: users and items with interactions, and interactions, before and after."""

    name: str
    users_before: int
    items_before: int
    interactions_before: int
    users_after: int
    items_after: int
    interactions_after: int


@dataclass(frozen=True, eq=False)
class CleaningReport:
    """The effect of each cleaning step.

    Args:
        steps: the steps, in order.
        left_out: every interaction left out, with step and reason (columns of `reports.LEFT_OUT`).
    """

    steps: tuple[CleaningStep, ...]
    left_out: pl.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """Interactions left out for each reason."""
        return reason_counts(self.left_out)

    def table(self) -> Table:
        """The steps as a table for printing with Rich."""
        from rich.table import Table

        table = Table("step", "users", "items", "interactions", "left out", title="cleaning", title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for step in self.steps:
            removed = step.interactions_before - step.interactions_after
            counts = (step.users_after, step.items_after, step.interactions_after, removed)
            table.add_row(step.name, *(f"{count:,}" for count in counts))
        return table

    def write_left_out(self, path: str | Path) -> None:
        """Write the left-out interactions to a `.parquet` or `.csv` file."""
        write_left_out(self.left_out, path)


def clean(
    data: Interactions, cleaning: Cleaning | None = None, **settings: object
) -> tuple[Interactions, CleaningReport]:
    """Clean interactions by the steps of `cleaning`, or of `Cleaning(**settings)`.

    Users who lose their last interaction here are removed; users who had no interactions before stay.

    Returns:
        the cleaned interactions and the report.

    Raises:
        InputError: if a setting does not exist or does not fit, if a step needs ratings and the data has none, if a
            rating or time is missing without `drop_missing`, or if no interaction is left.

    Example:
        >>> from fedrec.data.reading.frames import interactions_from
        >>> data = interactions_from({"user": [1, 1, 2], "item": ["a", "a", "b"], "rating": [2, 5, 1]})
        >>> cleaned, report = clean(data, rating_at_least=2)
        >>> cleaned.to_frame().rows()
        [(1, 'a', 5.0)]
        >>> report.counts
        {'repeated, a later one is kept': 1, 'rating below 2': 1}
    """
    check_arguments(clean, locals())
    if cleaning is not None and settings:
        raise InputError("give clean() a Cleaning or settings, not both")
    chosen = cleaning or Cleaning(**settings)
    users_before, items_before = data.lengths > 0, item_counts(data) > 0
    steps: list[CleaningStep] = []
    left_out: list[pl.DataFrame] = []
    for step in _plan(data, chosen):
        keep = step.keeps(data)
        changed = step.changes(data)
        after = changed if keep.all() else changed.where(keep)
        steps.append(CleaningStep(step.name, *_sizes(data), *_sizes(after)))
        if not keep.all():
            left_out.append(_removed(data, ~keep, step.name, step.reason))
        data = after
        if len(data) == 0:
            raise NothingLeftError(
                f"cleaning: no interaction is left after the step {step.name!r} ({step.reason}). Relax this setting"
            )
    if left_out:
        data = _without_emptied(data, users_before, items_before, chosen.shrink_catalog)
    if chosen.judges:
        data = replace(data, judged=True)
    return data, CleaningReport(tuple(steps), pl.concat(left_out) if left_out else no_rows_left_out())


def within_bounds(data: Interactions, cleaning: Cleaning) -> np.ndarray:
    """Which interactions [interactions] bool have a rating within the bounds of `cleaning`; all interactions, if the
    data has no ratings."""
    keep = np.ones(len(data), dtype=np.bool_)
    if data.values is None:
        return keep
    if cleaning.lowest_rating is not None:
        keep &= _rated(cleaning.lowest_rating, "below")(data)
    if cleaning.rating_at_most is not None:
        keep &= _rated(cleaning.rating_at_most, "above")(data)
    return keep


class _Step(NamedTuple):
    """A step: why rows go, which rows [interactions] bool stay, and what of the values changes before others go."""

    name: str
    reason: str
    keeps: Callable[[Interactions], np.ndarray]
    changes: Callable[[Interactions], Interactions] = lambda data: data


def _plan(data: Interactions, chosen: Cleaning) -> list[_Step]:
    """Every step asked for."""
    missing = ~_complete(data)
    if missing.any() and not chosen.drop_missing:
        raise InputError(
            f"cleaning: {int(missing.sum()):,} interactions have no rating or no time, the first of "
            f"{data.named(int(np.argmax(missing)))}. Remove them with drop_missing=True"
        )
    steps: list[_Step] = []
    if chosen.drop_missing:
        steps.append(_Step("drop_missing", "rating or time is missing", _complete))
    if chosen.repeats != "keep":
        rule = chosen.repeats
        if rule in ("sum", "max") and data.values is None:
            raise InputError(
                f"cleaning: repeats = {rule} needs ratings or weights, and this data has neither. Name their column "
                "(--columns weight=…), or use repeats = count for the number of rows"
            )
        steps.append(_Step("merge_repeats", _MERGED[rule], latest_rows, lambda data: with_merged_values(data, rule)))
    bounds = ((chosen.lowest_rating, "at_least", "below"), (chosen.rating_at_most, "at_most", "above"))
    for bound, name, word in bounds:
        if bound is not None:
            if data.values is None and chosen.repeats != "count":
                raise InputError(f"cleaning: rating_{name} needs ratings, and this data has no ratings")
            steps.append(_Step(f"rating_{name}", f"rating {word} {bound:g}", _rated(bound, word)))
    if chosen.min_user_interactions is not None:
        least = chosen.min_user_interactions
        steps.append(_Step("min_user_interactions", f"user has fewer than {least}", _frequent(least, users=True)))
    if chosen.min_item_interactions is not None:
        least = chosen.min_item_interactions
        steps.append(_Step("min_item_interactions", f"item has fewer than {least}", _frequent(least, items=True)))
    if chosen.k_core is not None:
        k = chosen.k_core
        steps.append(_Step("k_core", f"outside the {k}-core", _frequent(k, users=True, items=True)))
    return steps


def _complete(data: Interactions) -> np.ndarray:
    keep = np.ones(len(data), dtype=bool)
    for column in (data.values, data.times):
        if column is not None:
            keep &= np.isfinite(column)
    return keep


def _rated(bound: float, word: str) -> Callable[[Interactions], np.ndarray]:
    limit = np.float32(bound)

    def keep(data: Interactions) -> np.ndarray:
        assert data.values is not None
        return data.values >= limit if word == "below" else data.values <= limit

    return keep


def _frequent(least: int, *, users: bool = False, items: bool = False) -> Callable[[Interactions], np.ndarray]:
    """Rows whose user or item, or both, has at least `least` rows; with both, the largest set where that holds."""

    def keep(data: Interactions) -> np.ndarray:
        rows = data.rows_of_users()
        kept = np.ones(len(data), dtype=bool)
        while True:
            before = np.count_nonzero(kept)
            if users:
                kept &= np.bincount(rows[kept], minlength=data.n_users)[rows] >= least
            if items:
                kept &= np.bincount(data.items[kept], minlength=data.n_items)[data.items] >= least
            if not (users and items) or np.count_nonzero(kept) == before:
                return kept

    return keep


def item_counts(data: Interactions) -> np.ndarray:
    """Interactions of each item [items] int64."""
    counts = np.zeros(data.n_items, dtype=np.int64)
    count_items(data.items, counts)
    return counts


def _sizes(data: Interactions) -> tuple[int, int, int]:
    return int(np.count_nonzero(data.lengths)), int(np.count_nonzero(item_counts(data))), len(data)


def _removed(data: Interactions, rows: np.ndarray, step: str, reason: str) -> pl.DataFrame:
    frame = data.where(rows).to_frame()
    columns = [
        pl.lit(step).alias("step")
        if name == "step"
        else pl.lit(reason).alias("reason")
        if name == "reason"
        else pl.col(name).cast(kind)
        if name in frame.columns
        else pl.lit(None, dtype=kind()).alias(name)
        for name, kind in LEFT_OUT.items()
    ]
    return frame.select(columns)


def _without_emptied(data: Interactions, users: np.ndarray, items: np.ndarray, shrink: bool) -> Interactions:
    """Drop users, and with `shrink` items, that had interactions before and have none now."""
    gone = users & (data.lengths == 0)
    if gone.any():
        data = data.take_users(np.flatnonzero(~gone))
    emptied = items & (item_counts(data) == 0)
    if not shrink or not emptied.any():
        return data
    return without_items(data, emptied)


def without_items(data: Interactions, gone: np.ndarray) -> Interactions:
    """The data with a catalog without the items that are `gone` [items] bool, which have no interactions."""
    positions = np.cumsum(~gone, dtype=np.int32) - np.int32(1)
    return replace(data, catalog=data.catalog.take(np.flatnonzero(~gone)), items=positions[data.items])
