"""What values of interactions are to a model: weights, ratings, or nothing."""

from __future__ import annotations

from fedrec.models.base import RatingRecommender, Recommender

__all__ = ["rating_scale", "weighted"]


def rating_scale(model: Recommender) -> tuple[float, float] | None:
    """Lowest and highest rating, for a model that reads ratings.

    >>> from fedrec.models.registry import build_model
    >>> rating_scale(build_model("ease", {})), rating_scale(build_model("biased-mf", {"lowest": 0, "highest": 10}))
    (None, (0.0, 10.0))
    """
    return model.rating_scale if isinstance(model, RatingRecommender) else None


def weighted(model: Recommender, heaviest: float) -> Recommender:
    """The model as it is trained on interactions that weigh up to `heaviest`; one without weights as it is."""
    return model._weighted(heaviest) if model.traits.weights else model
