"""Private rows of a node's clients: journalled when computed, applied when the round is known to be committed.

On disk: `base.safetensors` (all rows as of a round) and one `round-N.safetensors` per later round with the rows that it
changed. A journal of a round that was never committed is thrown away. What is read from the disk is held to what the
model declares before anything uses it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.errors import DamagedError, PlanError
from fedrec.models.base import Private
from fedrec.models.private_state import flattened, parts_of, placed, restored
from fedrec.models.shapes import Own, Shape, check_rows, whole_number
from fedrec.record.durable import load_arrays, save_arrays

__all__ = ["PrivateRows", "RowShapes"]

_ROUND = "__round"
_POSITIONS = "__positions"
_MOST_ROUNDS = 1 << 31


@dataclass(frozen=True)
class RowShapes:
    """What the private rows of a node look like.

    Args:
        shapes: what the model declares (`Recommender.rows`).
        clients: of the node.
        n_items: length of the catalog.
    """

    shapes: Mapping[str, Shape | Own]
    clients: int
    n_items: int

    def __post_init__(self) -> None:
        for name in self.own:
            taken = [part for part in parts_of(name) if part in self.shapes]
            if taken:
                raise PlanError(
                    f"the model's private array {taken[0]!r} has the name of a part of its own rows {name!r}; "
                    "rename one of them"
                )

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the rows that are ranges of items which each client owns."""
        return tuple(name for name, shape in self.shapes.items() if isinstance(shape, Own))

    def read(self, path: Path) -> tuple[dict[str, Any], int]:
        """The rows of all clients that a file holds, and the round that they are of.

        Raises:
            DamagedError: naming the file, the array and what it should be.
        """
        arrays = load_arrays(path)
        round = whole_number(arrays.pop(_ROUND, None), -1, _MOST_ROUNDS)
        if round is None:
            raise DamagedError(f"{path}: {_ROUND} must be one whole number, the round that the rows are of")
        try:
            rows = restored(arrays, self.own)
            check_rows(rows, self.shapes, self.clients, self.n_items)
        except DamagedError as error:
            raise DamagedError(f"{path}: {error}") from None
        return rows, round

    def read_changes(self, path: Path) -> tuple[dict[str, Any], np.ndarray]:
        """The rows that a round's journal holds, and the positions [n] of their clients.

        Raises:
            DamagedError: naming the file, the array and what it should be.
        """
        arrays = load_arrays(path)
        positions = arrays.pop(_POSITIONS, np.zeros(0))
        wrong = positions.dtype != np.int64 or positions.ndim != 1
        if wrong or (len(positions) and not 0 <= positions.min() <= positions.max() < self.clients):
            raise DamagedError(f"{path}: {_POSITIONS} must be int64 [n], each from 0 to {self.clients - 1}")
        if len(np.unique(positions)) < len(positions):
            raise DamagedError(f"{path}: {_POSITIONS} has a client twice")
        if whole_number(arrays.pop(_ROUND, None), 0, _MOST_ROUNDS) != _round_of(path):
            raise DamagedError(f"{path}: {_ROUND} must be the round in its name")
        try:
            rows = restored(arrays, self.own)
            check_rows(rows, self.shapes, len(positions), self.n_items)
        except DamagedError as error:
            raise DamagedError(f"{path}: {error}") from None
        return rows, positions


@dataclass(eq=False)
class PrivateRows:
    """Named arrays with one row per client, or with ranges of rows, in step with committed rounds.

    Args:
        arrays: name → [clients, …] or `OwnRows`.
        shapes: what they look like, for those that come from the disk.
        folder: where they are kept; `None` for in memory only.
        applied: the last round whose changes are in `arrays`; −1 before the first.
    """

    arrays: dict[str, Any]
    shapes: RowShapes
    folder: Path | None = None
    applied: int = -1
    _pending: tuple[int, np.ndarray, Private] | None = field(default=None, init=False)
    _kept: dict[str, Any] | None = field(default=None, init=False)
    _kept_round: int = field(default=-1, init=False)
    _journalled: int = field(default=0, init=False)

    @classmethod
    def open(cls, folder: Path, shapes: RowShapes) -> PrivateRows | None:
        """The rows kept in `folder`, with no journal applied yet; `None` if there are none yet.

        Raises:
            DamagedError: if they are not those of the model and the clients.
        """
        base = folder / "base.safetensors"
        if not base.exists():
            return None
        rows, applied = shapes.read(base)
        return cls(rows, shapes, folder, applied)

    @classmethod
    def create(cls, private: Private, shapes: RowShapes, folder: Path | None, applied: int = -1) -> PrivateRows:
        """Rows of all clients as of round `applied`; −1 for their first rows."""
        rows = cls({name: array.copy() for name, array in private.items()}, shapes, folder, applied)
        rows._save_base()
        return rows

    def begin_anew(self, private: Private) -> None:
        """Take other first rows, as long as no round counts; what was kept stays."""
        self.arrays = {name: array.copy() for name, array in private.items()}
        self._save_base()

    def take(self, positions: np.ndarray) -> dict[str, Any]:
        """The rows of some clients; what is done to them changes nothing here."""
        return {name: array[positions] for name, array in self.arrays.items()}

    def stage(self, round: int, positions: np.ndarray, rows: Private) -> None:
        """Journal the rows that `round` changes; they count once `settle` hears that it was committed."""
        if self.folder is not None:
            changed = flattened(rows) | {_ROUND: np.array([round]), _POSITIONS: positions}
            save_arrays(self._journal(round), changed)
        self._pending = (round, positions, rows)

    def settle(self, committed: int, anew: bool = True) -> None:
        """Bring the rows to the state after round `committed`.

        Args:
            committed: the last round that counts.
            anew: throw away journals of later rounds, which will be computed again; otherwise they may still count.
        """
        if committed < self.applied:
            raise DamagedError(
                f"private rows in {self.folder} are of round {self.applied}, but only round {committed} was committed"
            )
        pending = self._pending
        if pending is not None and (anew or pending[0] <= committed):
            self._pending = None
        next_only = pending is not None and pending[0] == committed == self.applied + 1
        if pending is not None and (next_only or (self.folder is None and self.applied < pending[0] <= committed)):
            self._apply(*pending)
        elif self.folder is not None:
            for round in sorted(_round_of(path) for path in self.folder.glob("round-*.safetensors")):
                if self.applied < round <= committed:
                    rows, positions = self.shapes.read_changes(self._journal(round))
                    self._apply(round, positions, rows)
        self.applied = committed
        if self.folder is not None:
            for path in self.folder.glob("round-*.safetensors") if anew else ():
                if _round_of(path) > committed:
                    path.unlink()
            if self._journalled > sum(array.nbytes for array in self.arrays.values()):
                self._save_base()

    def keep(self) -> None:
        """Remember the rows as they are now: those of the best round so far."""
        self._kept = {name: array.copy() for name, array in self.arrays.items()}
        self._kept_round = self.applied
        if self.folder is not None:
            save_arrays(self.folder / "kept.safetensors", flattened(self._kept) | {_ROUND: np.array([self.applied])})

    def finish(self, kept: int) -> None:
        """End with the rows of round `kept`, and only those on disk; may be called again after a crash."""
        if kept != self.applied:
            if self.folder is not None:
                rows, round = self.shapes.read(self.folder / "kept.safetensors")
                if round != kept:
                    raise DamagedError(f"private rows of round {kept} are not in {self.folder}")
                self.arrays = rows
            elif self._kept is None or self._kept_round != kept:
                raise DamagedError(f"private rows of round {kept} were not kept")
            else:
                self.arrays = self._kept
            self.applied = kept
        self._save_base()
        if self.folder is not None:
            for path in (*self.folder.glob("round-*.safetensors"), self.folder / "kept.safetensors"):
                path.unlink(missing_ok=True)

    def _apply(self, round: int, positions: np.ndarray, rows: Private) -> None:
        for name, array in self.arrays.items():
            self.arrays[name] = placed(array, positions, rows[name])
            self._journalled += rows[name].nbytes
        self.applied = round

    def _journal(self, round: int) -> Path:
        assert self.folder is not None
        return self.folder / f"round-{round:06d}.safetensors"

    def _save_base(self) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        save_arrays(self.folder / "base.safetensors", flattened(self.arrays) | {_ROUND: np.array([self.applied])})
        for path in self.folder.glob("round-*.safetensors"):
            if _round_of(path) <= self.applied:
                path.unlink()
        self._journalled = 0


def _round_of(journal: Path) -> int:
    number = journal.stem.removeprefix("round-")
    if not number.isdecimal():
        raise DamagedError(f"{journal} has no round in its name; fedrec did not write it")
    return int(number)
