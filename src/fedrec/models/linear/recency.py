"""Histories in which an interaction counts the less, the older it is: at scoring time only, whatever was summed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field

from fedrec.data.clients import Clients
from fedrec.models.later_settings import LaterSettings

__all__ = ["NO_DECAY", "Decay", "Decaying", "decayed"]

_LEAST = 2.0**-24
"""Weights below this part of the newest one's, which float32 does not see beside it, are left out."""

Decay = Annotated[float, Field(gt=0.0, le=1.0)]
"""A hyperparameter of the models below."""

NO_DECAY = ("decay", 1.0)
"""With this value they take all interactions alike."""


class Decaying(LaterSettings):
    """A model that scores from a history, of which it takes the newest interactions for more than older ones.

    Subclasses have a field `decay` of type `Decay`, and score what `recent` gives. Their traits read `order` unless
    `NO_DECAY`, and name `decay` in `scores_by`.
    """

    unsaid: ClassVar[frozenset[str]] = frozenset({"decay"})

    if TYPE_CHECKING:  # a field of each model, after those that it had before
        decay: float

    def recent(self, clients: Clients) -> Clients:
        """The clients with the weights that their interactions have in scores."""
        return clients if self.decay == 1.0 else decayed(clients, self.decay)


def decayed(clients: Clients, decay: float) -> Clients:
    """The clients with weights times decay^age, where the newest interaction of a client has age 0, the one before it
    age 1, and so on; without the interactions whose decay^age is below 2⁻²⁴.

    Args:
        clients: with their interactions oldest first.
        decay: above 0, below 1.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user": [1, 1, 1, 2], "item": [5, 6, 7, 5], "time": [1, 2, 3, 1]})
        >>> decayed(Clients.of(data, np.zeros(2, dtype=np.uint64)), 0.5).values.tolist()
        [0.25, 0.5, 1.0, 1.0]
    """
    # One product after the other, so that a weight has the same bits in histories of any length.
    powers = np.cumprod(np.append(1.0, np.full(max(int(clients.lengths.max(initial=0)) - 1, 0), decay)))
    ages = np.repeat(clients.indptr[1:], clients.lengths) - 1 - np.arange(len(clients.items))
    keep = powers[ages] >= _LEAST
    recent = clients.where(keep)
    weights = powers[ages[keep]].astype(np.float32)
    return replace(recent, values=weights if recent.values is None else weights * recent.values)
