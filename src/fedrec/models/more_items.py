"""A finished model for a catalog with more items, without training: what it says of new items follows from features."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from fedrec.errors import InputError
from fedrec.models.base import Arrays, Recommender
from fedrec.models.outline import reads_item_features

__all__ = ["MORE_ITEMS", "TakesItems", "with_more_items"]

MORE_ITEMS = "content, or autoencoder, ease, ials, mf and spectral with item_features"
"""Models that take new items without training."""


@runtime_checkable
class TakesItems(Protocol):
    """A model that scores new items from their features."""

    def extended(self, shared: Arrays, before: np.ndarray, features: np.ndarray, places: np.ndarray) -> Arrays:
        """The shared arrays of a finished model for a larger catalog.

        Args:
            shared: the arrays.
            before: features of the old items, in their catalog.
            features: features of all items of the larger catalog.
            places: positions in it [old items] int64, ascending.
        """


def with_more_items(model: Recommender, shared: Arrays, before: Arrays, public: Arrays, places: np.ndarray) -> Arrays:
    """The shared arrays of a finished model for a larger catalog.

    Args:
        model: whose arrays they are.
        shared: the arrays.
        before, public: what the model makes from the catalog that it was trained with, and from the larger one.
        places: positions of the old items in the larger catalog [old items] int64, ascending.

    Raises:
        InputError: if the model knows items by number only.
    """
    if not isinstance(model, TakesItems) or not reads_item_features(model):
        raise InputError(
            f"model {model.name!r} says nothing of items that it was not trained with; train again with them, or take "
            f"{MORE_ITEMS}"
        )
    return model.extended(shared, before["features"], public["features"], places)
