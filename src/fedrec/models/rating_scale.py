"""The scale of ratings, where it is two hyperparameters of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from fedrec.errors import PlanError
from fedrec.models.base import RatingRecommender

__all__ = ["OnScale"]


class OnScale(RatingRecommender):
    """A model of ratings with the hyperparameters `lowest` and `highest`.

    Raises:
        PlanError: if `highest` is not above `lowest`.
    """

    if TYPE_CHECKING:  # fields of each model, where it lists them
        lowest: float
        highest: float

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not self.highest > self.lowest:
            raise PlanError(
                f"model {self.name}: highest ({self.highest:g}) must be above lowest ({self.lowest:g}): they are the "
                "ends of the scale of the ratings"
            )
        return self

    @property
    def rating_scale(self) -> tuple[float, float]:
        """Lowest and highest rating."""
        return self.lowest, self.highest
