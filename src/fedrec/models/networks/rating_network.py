"""A torch module that predicts ratings, or any other values of interactions: the class to derive from."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fedrec.data.clients import Clients
from fedrec.models.base import Given, Private
from fedrec.models.networks.network import Network
from fedrec.models.rating_scale import OnScale
from fedrec.models.traits import Traits

__all__ = ["RatingNetwork"]


class RatingNetwork(Network, OnScale):
    """A network whose batches have values (`batch.values`, `batch.dense`), and whose scores are predicted values.

    Args:
        lowest, highest: the scale of the values, which is public: predictions are cut to the scale, and a value outside
            it is an error.
    """

    lowest: float = 1.0
    highest: float = 5.0

    traits: ClassVar[Traits] = Traits(reads=frozenset({"items", "values"}), bits="node", iterative=True)
    most_terms: ClassVar[str] = "window"

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """The module's scores, cut to the scale."""
        return np.clip(super().score(given, clients, private, items), np.float32(self.lowest), np.float32(self.highest))
