"""The list of a user, or of somebody with some items, with what each item is there for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedrec.data.databases.logs import read_events
from fedrec.errors import InputError
from fedrec.serving.model import Found, ServedModel
from fedrec.serving.profiles import Profile
from fedrec.serving.recent import Deed, Recent
from fedrec.serving.turns import Turns

__all__ = ["Models", "Reason", "Tried", "tried"]

_REASONS = 3
_MOST_ITEMS = 200
_KEPT = 2


@dataclass(frozen=True)
class Reason:
    """An item of a list, and the user's items that bring it.

    Args:
        found: the item.
        because: largest part first; empty where the model cannot tell.
    """

    found: Found
    because: tuple[Found, ...]


@dataclass(frozen=True)
class Tried:
    """A list.

    Args:
        whose: for whom, in words.
        had: number of items that the user has.
        rows: best first.
        how: `sum`, `similarity`, or `None` where the model cannot tell what brings an item.
        unknown: items of the question that the model does not know.
    """

    whose: str
    had: int
    rows: tuple[Reason, ...]
    how: str | None
    unknown: tuple[str, ...] = ()


class Models:
    """Models of runs, loaded when they are asked for; the last two are kept.

    Args:
        events: log whose events join the histories; `None` for none.
    """

    def __init__(self, events: str | None = None) -> None:
        self._events = events
        self._kept: dict[tuple[Path, int], ServedModel] = {}
        self.turns = Turns(16, 30.0)

    def of(self, folder: Path) -> ServedModel:
        """The model of a run.

        Raises:
            FedrecError: if the run is damaged or not finished, or its users are elsewhere.
        """
        key = folder.resolve(), (folder / "plan.yaml").stat().st_mtime_ns
        model = self._kept.pop(key, None) or ServedModel.load(folder)
        self._kept[key] = model
        while len(self._kept) > _KEPT:
            self._kept.pop(next(iter(self._kept)))
        return model

    def recent(self) -> Recent:
        """What users did since.

        Raises:
            InputError: if the log cannot be read.
        """
        return Recent() if self._events is None else Recent.from_table(read_events(self._events))


def tried(model: ServedModel, recent: Callable[[], Recent], user: str, items: str, n: int) -> Tried:
    """The list of a user or, without one, of somebody who has some items.

    Args:
        model: the model.
        recent: what users did since; asked for a user only.
        user: an id as text; empty for a list by `items`.
        items: ids of items as text, one in a line.
        n: length of the list.

    Raises:
        InputError: if the user is not known, no item is known, or there is neither.
    """
    if user:
        wanted = model.user_id(user)
        profile = model.profiles.known(wanted, recent())
        if profile is None:
            raise InputError(f"nothing is known of user {user}; give an id as in the data, or items")
        return _listed(model, profile, n, f"user {user}")
    lines = [line.strip() for line in items.splitlines() if line.strip()]
    if not lines:
        raise InputError("give a user, or items, one in a line")
    if len(lines) > _MOST_ITEMS:
        raise InputError(f"there are {len(lines):,} items; give {_MOST_ITEMS} at most")
    now = time.time()
    deeds, unknown = [], []
    for line in lines:
        item = _item(model, line)
        if item is None:
            unknown.append(line)
        else:
            deeds.append(Deed(item, now, None))
    if not deeds:
        raise InputError("the model knows none of these items; give ids as in the data, one in a line")
    whose = f"somebody with {len(deeds)} item{'s' if len(deeds) > 1 else ''}"
    return _listed(model, model.profiles.stranger(deeds), n, whose, unknown)


def _item(model: ServedModel, text: str) -> int | str | None:
    try:
        item = model.item_id(text)
    except InputError:
        return None
    return item if model.has_item(item) else None


def _listed(model: ServedModel, profile: Profile, n: int, whose: str, unknown: Sequence[str] = ()) -> Tried:
    rows, how = [], None
    for found in model.recommend(profile, n):
        try:
            why = model.explain(profile, found.item, _REASONS)
        except InputError:
            rows.append(Reason(found, ()))
        else:
            how = why.how
            rows.append(Reason(found, why.because))
    return Tried(whose, len(profile.seen), tuple(rows), how, tuple(unknown))
