"""What users did since a model was trained, by user, in memory: the model's answers follow it at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fedrec.data.events import Event, EventTable

__all__ = ["Deed", "Recent"]


class Deed(NamedTuple):
    """An interaction of a user: the item, when, and the rating if there is one."""

    item: int | str
    at: float
    value: float | None


class Recent:
    """Interactions of users in the order in which they came, and users whose trained history counts no more.

    Example:
        >>> recent = Recent()
        >>> recent.add([Event("e1", 7, "a", "click", 10.0), Event("e2", 7, "b", "impression", 11.0)])
        >>> recent.of(7), recent.of(8), recent.version(7)
        ([Deed(item='a', at=10.0, value=None)], [], 1)
        >>> recent.forget(7)
        >>> recent.of(7), recent.is_forgotten(7)
        ([], True)
    """

    def __init__(self) -> None:
        self._deeds: dict[int | str, list[Deed]] = {}
        self._forgotten: dict[int | str, int] = {}

    @classmethod
    def from_table(cls, table: EventTable) -> Recent:
        """Everything that a log holds."""
        recent = cls()
        for user in table.forgotten["user_id"].to_list():
            recent._forgotten[user] = 1
        for user, item, at, value in table.interactions.iter_rows():
            recent._deeds.setdefault(user, []).append(Deed(item, at, value))
        return recent

    def add(self, events: Iterable[Event]) -> None:
        """Take note of new events; those that are no interactions leave histories as they are."""
        for event in events:
            if event.is_interaction:
                self._deeds.setdefault(event.user, []).append(Deed(event.item, event.at, event.value))

    def forget(self, user: int | str) -> None:
        """Drop all that is known of a user, and what models were trained on of the user."""
        self._deeds.pop(user, None)
        self._forgotten[user] = self._forgotten.get(user, 0) + 1

    def of(self, user: int | str) -> list[Deed]:
        """The interactions of a user."""
        return self._deeds.get(user, [])

    def is_forgotten(self, user: int | str) -> bool:
        """Whether the history that models were trained on counts no more."""
        return user in self._forgotten

    def version(self, user: int | str) -> int:
        """A number that is another one whenever the history of the user is."""
        return len(self._deeds.get(user, ())) + (self._forgotten.get(user, 0) << 32)
