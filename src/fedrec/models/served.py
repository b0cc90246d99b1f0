"""What a model may say besides, to those who answer for single clients; no model has to.

A model that has a method of these names, with these arguments, is asked; for every other model the functions below know
what is true of any model.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from fedrec.data.clients import Clients
from fedrec.models.base import Arrays, Given, Recommender

__all__ = ["COLUMNS", "ready", "reasons", "with_columns"]

COLUMNS = "columns"
"""Name of the array that `with_columns` adds."""


@runtime_checkable
class _Explains(Protocol):
    def reasons(self, given: Given, client: Clients, item: int) -> np.ndarray | None: ...


@runtime_checkable
class _Readies(Protocol):
    def ready(self, shared: Arrays) -> Arrays: ...


def reasons(model: Recommender, given: Given, client: Clients, item: int) -> np.ndarray | None:
    """How much each interaction of one client adds to the client's score of the item at a position.

    Returns:
        [interactions] float32 that add up to the score; `None` for a model whose scores are no such sum.
    """
    return model.reasons(given, client, item) if isinstance(model, _Explains) else None


def ready(model: Recommender, shared: Arrays) -> Arrays:
    """The shared arrays with others that follow from them, with which single clients are scored faster, to the same
    bits. A server makes them once; `score` works without them."""
    return model.ready(shared) if isinstance(model, _Readies) else shared


def with_columns(shared: Arrays, name: str) -> Arrays:
    """Shared arrays with the table of items `name` [items, d] in the order [d, items] too."""
    return {**shared, COLUMNS: np.ascontiguousarray(shared[name].T)}
