"""Training that goes on from a finished run: what is carried over, and what changed since.

Items and users are matched by their typed ids. The coordinator brings shared and server arrays (`Earlier`), each node
its users' histories and private rows (`Remembered`); nothing else of the earlier run is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions, offsets, rows_of
from fedrec.data.splits import TEST, VALID, Split
from fedrec.data.weights import Weights
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.fitting import SUM
from fedrec.models.base import Arrays, Recommender, State
from fedrec.models.outline import is_additive
from fedrec.models.private_state import OwnRows, placed

__all__ = ["Changed", "Earlier", "How", "Remembered", "carried", "first_rows", "how_to_start", "kept_sums"]

How = Literal["goes on", "adds the change", "computed anew"]
_FREE = frozenset({"rounds", "learning_rate", "item_rate", "server_learning_rate", "epochs", "negatives", "batch_size"})
"""Hyperparameters that say how long and how fast to train, and may differ from those of the earlier run."""


@dataclass(frozen=True, eq=False)
class Earlier:
    """What the coordinator has of a finished run.

    Args:
        name: for messages.
        model: its recommender.
        catalog: its items.
        state: shared arrays, and server arrays where they were kept.
        release: its steps before the sum, as the plan writes them.
        seed: of its draws.
        weights: how values weighed in it.
        leaky: whether it was told about held-out items.
    """

    name: str
    model: Recommender
    catalog: Catalog
    state: State
    release: tuple[Any, ...]
    seed: int
    weights: Weights | None
    leaky: bool

    @property
    def sums(self) -> dict[str, np.ndarray]:
        """The summed integers that were kept, by name."""
        return {name.removeprefix(SUM): array for name, array in self.state.server.items() if name.startswith(SUM)}


@dataclass(frozen=True, eq=False)
class Remembered:
    """What a node has of a finished run.

    Args:
        train: what its users were trained on; users without interactions took no part.
        private: private rows in the order of its users; `None` for a model without.
    """

    train: Interactions
    private: Mapping[str, Any] | None

    def take(self, positions: np.ndarray) -> Remembered:
        """The users at ascending `positions` only."""
        rows = None if self.private is None else {name: array[positions] for name, array in self.private.items()}
        return Remembered(self.train.take_users(positions), rows)

    def check_future(self, split: Split) -> None:
        """Check that nothing was trained on that the split now holds out.

        Raises:
            PlanError: with the number of such interactions.
        """
        users = split.data.users.find(self.train.users.series)[self.train.rows_of_users()]
        items = split.data.catalog.items.find(self.train.catalog.items.series)[self.train.items]
        there = (users >= 0) & (items >= 0)
        seen = users[there] * split.data.n_items + items[there]
        held = (split.part == VALID) | (split.part == TEST)
        now = (split.data.rows_of_users() * split.data.n_items + split.data.items)[held]
        known = int(np.isin(now, seen).sum())
        if known:
            raise PlanError(
                f"warm_start: the earlier run was trained on {known} interactions that this split holds out for "
                "validation or test. Hold out later interactions (temporal, or leave-last-out on longer histories), or "
                "train without warm_start"
            )


def how_to_start(
    model: Recommender,
    earlier: Earlier,
    cohort: float,
    release: tuple[Any, ...],
    seed: int,
    weights: Weights | None,
) -> How:
    """What a training gains from an earlier one.

    Raises:
        PlanError: naming the key in which the two cannot differ.
    """
    if model.name != earlier.model.name:
        raise PlanError(
            f"warm_start: {earlier.name} is a run of model {earlier.model.name!r}, but this plan has {model.name!r}; "
            f"set model: {{name: {earlier.model.name}}}, or train without warm_start"
        )
    if not model.traits.iterative:
        if not (is_additive(model) and is_additive(earlier.model) and earlier.sums):
            return "computed anew"
        for key, mine, theirs in (
            *((key, getattr(model, key), getattr(earlier.model, key)) for key in sorted(model.traits.sums_by)),
            ("release", release, earlier.release),
            ("seed", seed if release else 0, earlier.seed if release else 0),
            ("cohort", cohort, 1.0),
            ("weights", weights, earlier.weights),
        ):
            if mine != theirs:
                raise PlanError(
                    f"warm_start: {key} is {theirs!r} in the sums that {earlier.name} kept, but {mine!r} in this plan; "
                    f"set {key} to the value of {earlier.name}, or train without warm_start"
                )
        return "adds the change"
    for key, mine in model:
        theirs = getattr(earlier.model, key)
        if key not in _FREE and mine != theirs:
            raise PlanError(
                f"warm_start: {earlier.name} was trained with {key}={theirs!r}, but this plan has {mine!r}; set "
                f"{key}={theirs!r}, or train without warm_start"
            )
    return "goes on"


def places_of(old: Catalog, new: Catalog, name: str) -> np.ndarray:
    """Position [old items] int64 of each old item in the new catalog; −1 for those that are gone.

    Raises:
        PlanError: if the catalogs have no item in common.
    """
    places = new.items.find(old.items.series)
    if not (places >= 0).any():
        kinds = ["text" if catalog.items.is_text else "whole numbers" for catalog in (old, new)]
        types = f" (ids are {kinds[0]} in the earlier run, {kinds[1]} in this data)" if kinds[0] != kinds[1] else ""
        raise PlanError(f"warm_start: {name} and this data have no item in common{types}")
    return places


def carried(fresh: Arrays, old: Arrays, places: np.ndarray, items: tuple[int, int]) -> dict[str, np.ndarray]:
    """`fresh` arrays with what `old` ones of the same names hold.

    Args:
        fresh, old: arrays with one row per item, or of equal shapes.
        places: [old items] positions in the new catalog, −1 for items that are gone.
        items: numbers of old and new items.

    Raises:
        PlanError: if an array has another shape.
    """
    out = {}
    for name, array in fresh.items():
        before = old.get(name)
        if before is None:
            out[name] = array
        elif before.ndim and (before.shape[0], array.shape[0]) == items and before.shape[1:] == array.shape[1:]:
            out[name] = array.copy()
            out[name][places[places >= 0]] = before[places >= 0]
        elif before.shape == array.shape:
            out[name] = before.astype(array.dtype)
        else:
            raise PlanError(f"warm_start: {name!r} has shape {before.shape} in the earlier run, but {array.shape} here")
    return out


def first_rows(joined: Mapping[str, Any], users: Identifiers, catalog: Catalog, before: Remembered) -> dict[str, Any]:
    """Private rows of the node's clients: known users' from before, the others' as they joined."""
    places = users.find(before.train.users.series)
    known = np.flatnonzero((places >= 0) & (before.train.lengths > 0))
    items = catalog.items.find(before.train.catalog.items.series)
    rows = dict(joined)
    for name, array in (before.private or {}).items():
        if name not in rows:
            continue
        mine = array[known]
        if isinstance(mine, OwnRows):
            mine = _renumbered(mine, items)
        if np.shape(getattr(mine, "values", mine))[1:] != np.shape(getattr(rows[name], "values", rows[name]))[1:]:
            raise PlanError(f"warm_start: private rows {name!r} have another width in the earlier run than in this run")
        rows[name] = placed(rows[name].copy(), places[known], mine)
    return rows


def kept_sums(total: Sum) -> dict[str, np.ndarray]:
    """The integers of a sum as server arrays."""
    return {SUM + name: array for name, array in total.arrays.items()}


@dataclass(frozen=True, eq=False)
class Changed:
    """Two catalogs as one: the new items at their positions, behind them those that are gone.

    Args:
        places: [old items] position of each old item.
        n_items: items of both together.
        n_new: items of the new catalog.
    """

    places: np.ndarray
    n_items: int
    n_new: int

    @classmethod
    def of(cls, old: Catalog, new: Catalog, name: str = "the earlier run") -> Changed:
        """Match two catalogs."""
        places = places_of(old, new, name)
        gone = places < 0
        places[gone] = len(new) + np.arange(gone.sum())
        return cls(places, len(new) + int(gone.sum()), len(new))

    def widened(self, spec: SumSpec) -> SumSpec:
        """The spec of a sum over all these items, with the rings of `spec`."""
        return SumSpec(tuple(replace(array, shape=_resized(array, self.n_items)) for array in spec.arrays), spec.n_max)

    def clients(self, before: Remembered, now: Clients, users: Identifiers, keys: np.ndarray) -> tuple[Clients, ...]:
        """Clients whose training history changed: with the new one, and with the old one.

        Args:
            before: the node's memory, of users that may be gone now.
            now: all clients of the node, in the order of `users`.
            users: the node's users.
            keys: [old users] uint64.
        """
        old = before.train
        old_items = self.places[old.items].astype(np.int32)
        places = users.find(old.users.series)
        known = np.flatnonzero(places >= 0)
        lengths = now.lengths[places[known]]
        alike = known[old.lengths[known] == lengths]
        mine = now.items[rows_of(now.indptr, places[alike])]
        theirs = old_items[rows_of(old.indptr, alike)]
        differing = mine != theirs
        if now.values is not None and old.values is not None:
            differing |= now.values[rows_of(now.indptr, places[alike])] != old.values[rows_of(old.indptr, alike)]
        if now.times is not None and old.times is not None:
            differing |= now.times[rows_of(now.indptr, places[alike])] != old.times[rows_of(old.indptr, alike)]
        owner = np.repeat(np.arange(len(alike)), old.lengths[alike])
        differs = np.bincount(owner[differing], minlength=len(alike)) > 0
        same = alike[~differs]
        new_changed = np.ones(len(now), dtype=np.bool_)
        new_changed[places[same]] = False
        old_changed = np.ones(old.n_users, dtype=np.bool_)
        old_changed[same] = False
        former = replace(Clients.of(old, keys), items=old_items, n_items=self.n_items)
        return (
            replace(now.take(np.flatnonzero(new_changed & (now.lengths > 0))), n_items=self.n_items),
            former.take(np.flatnonzero(old_changed & (old.lengths > 0))),
        )

    def added(self, sums: Mapping[str, np.ndarray], change: Sum, spec: SumSpec) -> Sum:
        """The sum over everybody, for the new catalog: what was kept, and the change.

        Raises:
            DamagedError: if an item that is gone is still counted, or the kept sums are of another catalog.
        """
        total = Sum(spec, change.round, {}, change.clients, change.left_out, change.saturated)
        for array in spec.arrays:
            whole = change.arrays[array.name]
            before = sums.get(array.name)
            if before is None or before.shape != _resized(array, len(self.places)):
                raise DamagedError(f"warm_start: the kept sum {array.name!r} does not fit the earlier catalog")
            square = array.kind == "pairs" and len(array.shape) == 2
            whole += self._spread(before, whole.shape, square).astype(whole.dtype)
            total.arrays[array.name] = self._restricted(whole, array.shape, square)
            if np.count_nonzero(whole) != np.count_nonzero(total.arrays[array.name]):
                raise DamagedError(f"warm_start: {array.name!r} counts items that are no longer in the catalog")
        return total

    def _spread(self, before: np.ndarray, shape: tuple[int, ...], square: bool) -> np.ndarray:
        out = np.zeros(shape, dtype=before.dtype)
        if before.ndim > 1:
            out[np.ix_(self.places, self.places) if square else self.places] = before
            return out
        start = 0
        for row, place in enumerate(self.places):
            others = self.places[row:]
            out[_flat(np.minimum(place, others), np.maximum(place, others), self.n_items)] = before[
                start : start + len(others)
            ]
            start += len(others)
        return out

    def _restricted(self, whole: np.ndarray, shape: tuple[int, ...], square: bool) -> np.ndarray:
        if whole.shape == shape:
            return whole
        if whole.ndim > 1:
            return whole[: self.n_new, : self.n_new if square else None].copy()
        out = np.empty(shape, dtype=whole.dtype)
        start, of_whole = 0, 0
        for row in range(self.n_new):
            out[start : start + self.n_new - row] = whole[of_whole : of_whole + self.n_new - row]
            start += self.n_new - row
            of_whole += self.n_items - row
        return out


def _resized(array: ArraySpec, n_items: int) -> tuple[int, ...]:
    """The shape of an array over items for so many items: triangle, square of pairs, or rows."""
    if len(array.shape) == 1:
        return (triangle_size(n_items),)
    return (n_items, n_items) if array.kind == "pairs" else (n_items, *array.shape[1:])


def _flat(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """Positions in an upper triangle by rows.

    >>> _flat(np.array([0, 1, 2]), np.array([2, 1, 2]), 3).tolist()
    [2, 3, 5]
    """
    places: np.ndarray = low * n - low * (low - 1) // 2 + high - low
    return places


def _renumbered(rows: OwnRows, items: np.ndarray) -> OwnRows:
    """Own rows with items at their new positions [old items]; rows of items that are gone go."""
    packed = rows.packed()
    places = items[packed.items]
    owner = np.repeat(np.arange(len(packed)), packed.lengths)[places >= 0]
    indptr = offsets(np.bincount(owner, minlength=len(packed)))
    return OwnRows.of(indptr, places[places >= 0], packed.values[places >= 0])
