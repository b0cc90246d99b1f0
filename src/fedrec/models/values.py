"""What values of interactions are to a model: weights, ratings, or nothing."""

from __future__ import annotations

from fedrec.errors import PlanError
from fedrec.models.base import RatingRecommender, Recommender
from fedrec.models.registry import models_where

__all__ = ["rating_scale", "weighted"]


def rating_scale(model: Recommender) -> tuple[float, float] | None:
    """Lowest and highest rating, for a model that reads ratings.

    >>> from fedrec.models.registry import build_model
    >>> rating_scale(build_model("ease", {})), rating_scale(build_model("biased-mf", {"lowest": 0, "highest": 10}))
    (None, (0.0, 10.0))
    """
    return model.rating_scale if isinstance(model, RatingRecommender) else None


def weighted(model: Recommender, heaviest: float) -> Recommender:
    """The model as it is trained on interactions that weigh up to `heaviest`.

    Raises:
        PlanError: if the model knows no weights.
    """
    if model.traits.reads_ratings:
        raise PlanError(
            f"weights: model {model.name!r} reads values as ratings, not as weights; leave weights out of the plan"
        )
    if not model.traits.weights:
        raise PlanError(
            f"weights: model {model.name!r} counts every interaction once, whatever its value; leave weights out "
            "(and low ratings too, with cleaning: rating_at_least), or take a model that uses weights: "
            f"{models_where(lambda other: bool(other.traits.weights))}"
        )
    return model._weighted(heaviest)
