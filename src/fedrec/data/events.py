"""Events: what users did with items that a recommender showed them, and the log that keeps events for good."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

__all__ = [
    "KINDS",
    "SHOWN",
    "Event",
    "EventLog",
    "EventTable",
    "Kind",
]

Kind = Literal["impression", "dismiss", "view", "click", "like", "cart", "purchase", "rate"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What a user can do with an item."""
SHOWN: tuple[Kind, ...] = ("impression", "dismiss")
"""Kinds that are no interaction: the item was shown, or refused. All other kinds are interactions for models."""


@dataclass(frozen=True)
class Event:
    """Something that a user did with an item.

    Args:
        event_id: names the event; a second event of the same name is the same event.
        user, item: ids of the type that the data has.
        kind: one of `KINDS`.
        at: seconds since 1970.
        value: a rating; `None` without.
        model: digest of the model that showed the item.
        request_id: the answer that showed the item.
        rank: place in that answer, from 1.
        propensity: probability with which the item was shown there.
    """

    event_id: str
    user: int | str
    item: int | str
    kind: Kind
    at: float
    value: float | None = None
    model: str | None = None
    request_id: str | None = None
    rank: int | None = None
    propensity: float | None = None

    @property
    def is_interaction(self) -> bool:
        """Whether models take the event as an interaction."""
        return self.kind not in SHOWN


@dataclass(frozen=True, eq=False)
class EventTable:
    """What a log holds for models.

    Args:
        interactions: one row per event that is an interaction, in the order in which they came: `user_id`, `item_id`,
            `timestamp` Float64 and `rating` Float64, null where the event has no value.
        forgotten: users that asked to be forgotten, with the time of the wish: `user_id`, `timestamp`.
    """

    interactions: pl.DataFrame
    forgotten: pl.DataFrame


class EventLog(ABC):
    """An append-only table of events. What `add` has returned from is on the disk, whatever happens then."""

    @abstractmethod
    def add(self, events: Sequence[Event]) -> list[Event]:
        """Keep events that are not there yet, but for those that are older than the wish of their user to be forgotten.

        Returns:
            Those that the log has now and had not before, in order.

        Raises:
            FedrecError: if they cannot be kept; then none of them is.
        """

    @abstractmethod
    def forget(self, user: int | str, at: float) -> int:
        """Remove all events of a user, note that the user is to be forgotten, and return how many events there were.

        Raises:
            FedrecError: if that fails; then nothing is removed.
        """

    @abstractmethod
    def close(self) -> None:
        """End the connection."""
