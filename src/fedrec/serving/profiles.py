"""Users as a model reads them: the history that a run keeps, with what they did since, or a history from outside."""

from __future__ import annotations

import warnings
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.models.base import Given, Private
from fedrec.node.shard import Shard, rows_read
from fedrec.runs.finished import OpenedRun
from fedrec.runs.visitors import Visitors
from fedrec.serving.recent import Deed, Recent

__all__ = ["Index", "Place", "Profile", "Profiles"]

_MOST_KEPT = 10_000
"""Profiles that are kept for the next request; others are worked out again."""


@dataclass(frozen=True, eq=False)
class Profile:
    """One user as a model reads them.

    Args:
        client: the history, of one client.
        private: private arrays [1, …]; `None` for a model without.
        seen: positions of items that the user has [n] int32.
    """

    client: Clients
    private: Private | None
    seen: np.ndarray


@dataclass(frozen=True, eq=False)
class Place:
    """Where a user of the run is: the number of the shard, and the position there."""

    shard: int
    position: int


class Profiles:
    """Profiles of the users of a run.

    Args:
        opened: the run; its nodes are read here.
    """

    def __init__(self, opened: OpenedRun) -> None:
        self._opened = opened
        self._shards = opened.engine.shards
        self._rows = [_Rows(shard) for shard in self._shards]
        self._users = [Index(shard.data.users) for shard in self._shards]
        self._items = Index(opened.catalog.items)
        for shard in self._shards:  # brings the private rows to the round of the model
            for _ in shard.scores(
                opened.trained.state.shared, opened.trained.round, shard.known, np.arange(min(1, len(shard)))
            ):
                pass
        self._private = [shard.private() for shard in self._shards]
        self._given = Given.to_score(opened.trained.state.shared, opened.agreement.public)
        self._kept: dict[int | str, tuple[int, Profile]] = {}

    def place(self, user: int | str) -> Place | None:
        """Where a user is; `None` for a user that the run does not know."""
        for number, users in enumerate(self._users):
            position = users.find(user)
            if position >= 0:
                return Place(number, position)
        return None

    def known(self, user: int | str, recent: Recent) -> Profile | None:
        """A user of the run, or one whose first interactions came since; `None` if nothing is known of the user."""
        version = recent.version(user)
        kept = self._kept.get(user)
        if kept is not None and kept[0] == version:
            return kept[1]
        deeds = recent.of(user)
        place = None if recent.is_forgotten(user) else self.place(user)
        if place is None and not deeds:
            return None
        profile = self._trained(place) if place is not None and not deeds else self._made(place, deeds)
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[user] = version, profile
        return profile

    def stranger(self, deeds: Sequence[Deed]) -> Profile:
        """Somebody of whom nothing but these interactions is known; nothing is kept."""
        return self._made(None, deeds)

    def some(self, n: int) -> list[int | str]:
        """The first users of each shard, `n` at most."""
        return [user for shard in self._shards for user in shard.data.users.series.head(n).to_list()][:n]

    def _trained(self, place: Place) -> Profile:
        rows = self._rows[place.shard]
        low, high = rows.known.indptr[place.position], rows.known.indptr[place.position + 1]
        client = rows.clients.take(np.array([place.position]))
        return Profile(client, self._private_of(place, client), rows.known.items[low:high])

    def _made(self, place: Place | None, deeds: Sequence[Deed]) -> Profile:
        """The profile of rows of the run, if there are any, and interactions that came since."""
        opened = self._opened
        history = self._joined(place, deeds)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what cleaning leaves out
            history = Visitors(history, history.users.series.clear()).cleaned(opened.plan.data.cleaning).data
        if opened.plan.weights is not None and history.values is not None:
            history = history.where(np.isfinite(history.values) & (history.values >= 0))
        history = rows_read(history, opened.model, opened.plan.weights)
        if not len(history.users):
            none, empty = np.zeros(2, dtype=np.int64), np.empty(0, dtype=np.int32)
            clients = Clients(none, empty, None, None, _NO_KEY, len(opened.catalog), none, empty)
        else:
            clients = Clients.of(history, _NO_KEY)
        return Profile(clients, self._private_of(place, clients), np.unique(clients.items))

    def _joined(self, place: Place | None, deeds: Sequence[Deed]) -> Interactions:
        catalog, rates = self._opened.catalog, self._rows[0].raw.values is not None
        read = self._opened.model.traits.reads_ratings or self._opened.plan.weights is not None
        if read:
            deeds = [deed for deed in deeds if deed.value is not None]
        positions = np.array([self._items.find(deed.item) for deed in deeds], dtype=np.int64)
        kept = positions >= 0
        items = positions[kept].astype(np.int32)
        times = np.array([deed.at for deed in deeds], dtype=np.float64)[kept]
        values = np.array([np.nan if deed.value is None else deed.value for deed in deeds], dtype=np.float32)[kept]
        user, features, timed = 0, None, True
        if place is not None:
            raw = self._rows[place.shard].raw
            timed = raw.times is not None
            low, high = raw.indptr[place.position], raw.indptr[place.position + 1]
            own = raw.items[low:high]
            if raw.times is None:
                fresh = ~np.isin(items, own)
                times_before = np.zeros(len(own))
            else:
                times_before = raw.times[low:high]
                pairs = set(zip(own.tolist(), times_before.tolist(), strict=True))
                fresh = np.array([pair not in pairs for pair in zip(items.tolist(), times.tolist(), strict=True)], bool)
            items = np.concatenate([own, items[fresh]])
            times = np.concatenate([times_before, times[fresh]])
            before = np.full(len(own), np.nan, np.float32) if raw.values is None else raw.values[low:high]
            values = np.concatenate([before, values[fresh]])
            features = None if raw.user_features is None else raw.user_features[[place.position]]
        order = np.argsort(times, kind="stable") if timed else np.arange(len(items))
        return Interactions(
            Identifiers(pl.Series("user_id", [user])),
            catalog,
            np.array([0, len(items)], dtype=np.int64),
            items[order],
            values[order] if rates or read else None,
            times[order] if timed else None,
            user_features=features,
        )

    def _private_of(self, place: Place | None, client: Clients) -> Private | None:
        """Rows of training for who took part; for others what follows from the history."""
        if place is not None and self._shards[place.shard].met[place.position]:
            rows = self._private[place.shard]
            return None if rows is None else {name: array[np.array([place.position])] for name, array in rows.items()}
        return self._opened.model.fold_in(self._given, client)


class _Rows:
    """The rows of a shard: as the model reads them, and as they were before."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.known = shard.known
        self.clients = Clients.of(self.known, shard.keys)

    @cached_property
    def raw(self) -> Interactions:
        """With values, times and features whatever the model reads."""
        return self._shard.split.repeated(self._shard.split.data)


_NO_KEY = np.zeros(1, dtype=np.uint64)
"""Scores depend on no key."""


class Index:
    """Finds single ids in microseconds.

    Args:
        ids: ascending.

    >>> Index(Identifiers.of(["a", "c"])).find("c"), Index(Identifiers.of([3, 5])).find(4)
    (1, -1)
    """

    def __init__(self, ids: Identifiers) -> None:
        self._text, self._length = ids.is_text, len(ids)
        self._sorted: pl.Series | np.ndarray = ids.series if ids.is_text else ids.series.to_numpy()

    def find(self, wanted: int | str) -> int:
        """The position of an id, −1 if it is not there."""
        if isinstance(wanted, str) is not self._text:
            return -1
        if isinstance(self._sorted, np.ndarray):
            place = int(self._sorted.searchsorted(wanted))
        else:
            place = bisect_left(self._sorted, wanted)
        return place if place < self._length and self._sorted[place] == wanted else -1
