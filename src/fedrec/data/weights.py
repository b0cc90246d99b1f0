"""Values of interactions as weights: how much a rating, a play count or a quantity makes an interaction count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from fedrec.data.interactions import Interactions
from fedrec.errors import InputError, PlanError

__all__ = ["Weights"]


class Weights(BaseModel):
    """How the value v of an interaction becomes its weight c (Hu, Koren & Volinsky 2008, "Collaborative filtering for
    implicit feedback datasets", section 4 and equation 6).

    An interaction of weight c counts as c interactions; each model says what this means. Models learn nothing from an
    interaction of weight 0, and evaluation does not look for its item; the item still counts as seen.

    Args:
        form: `linear` c = 1 + alpha · v, `log` c = 1 + alpha · log(1 + v / epsilon), `value` c = v.
        alpha: how much a value adds to the weight; larger values set interactions further apart.
        epsilon: scale of values in `log`: values far below it add in proportion, larger ones add less and less.
        most: the maximum weight; larger weights are cut to it, and counted. The maximum bounds what one interaction can
            add to a sum, so all nodes use the same one.

    Raises:
        PlanError: if the form does not have a setting.

    Example:
        >>> Weights(form="log", alpha=2.0).uncut(np.array([0.0, 9.0])).round(3).tolist()
        [1.0, 5.605]
        >>> Weights(form="value", most=5).of(np.array([0.5, 80.0])).tolist()
        [0.5, 5.0]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    form: Literal["linear", "log", "value"] = "linear"
    alpha: PositiveFloat = 1.0
    epsilon: PositiveFloat = 1.0
    most: PositiveFloat = Field(default=100.0, le=2.0**20)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"form": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> Weights:
        for name, forms in (("alpha", ("linear", "log")), ("epsilon", ("log",))):
            if name in self.model_fields_set and getattr(self, name) != 1.0 and self.form not in forms:
                raise PlanError(
                    f"weights: form {self.form} does not use {name}; remove {name}, or set form: {' or '.join(forms)}"
                )
        return self

    def uncut(self, values: np.ndarray) -> np.ndarray:
        """Weights [interactions] float64 of values, however large."""
        numbers = values.astype(np.float64)
        if self.form == "value":
            return numbers
        return 1.0 + self.alpha * (numbers if self.form == "linear" else np.log1p(numbers / self.epsilon))

    def of(self, values: np.ndarray) -> np.ndarray:
        """Weights [interactions] float32 of values, at most `most`."""
        return np.minimum(self.uncut(values), self.most).astype(np.float32)

    def cut(self, data: Interactions) -> int:
        """How many weights of `data` are cut to `most`."""
        return 0 if data.values is None else int(np.sum(self.uncut(data.values) > self.most))

    def remark(self, cut: int) -> str:
        """A remark about so many weights that were cut."""
        return (
            f"{cut:,} weights were above the maximum of the plan and were reduced to {self.most:g}; raise "
            "weights.most, or use form: log, which grows slowly"
        )

    def weighed(self, data: Interactions) -> Interactions:
        """The interactions with weights instead of values.

        Raises:
            InputError: if the data has no values, or a value is missing or below 0; names user and item.
        """
        if data.values is None:
            if len(data) == 0:
                return data
            raise InputError(
                "weights: the data has no ratings, weights or counts to weigh interactions by. Name the column "
                "(columns={'weight': …}, --columns weight=…), count repeated rows (repeats: count), or remove "
                "weights from the plan"
            )
        wrong = np.flatnonzero(~(np.isfinite(data.values) & (data.values >= 0)))
        if len(wrong):
            row = int(wrong[0])
            raise InputError(
                f"weights: {len(wrong):,} values are below 0 or missing, the first, {data.values[row]:g}, of "
                f"{data.named(row)}; a weight must be 0 or more. Remove such rows (cleaning: rating_at_least, "
                "drop_missing), or do not use this column as weights"
            )
        return replace(data, values=self.of(data.values))
