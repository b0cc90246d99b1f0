"""Private rows of a node's clients: journalled when computed, applied when the round is known to be committed.

On disk: `base.safetensors` (all rows as of a round) and one `round-N.safetensors` per later round with the rows that it
changed. A journal of a round that was never committed is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.own_rows import flattened, placed, restored
from fedrec.errors import DamagedError
from fedrec.models.base import Private
from fedrec.record.durable import load_arrays, save_arrays

__all__ = ["PrivateRows"]

_ROUND = "__round"
_POSITIONS = "__positions"


@dataclass(eq=False)
class PrivateRows:
    """Named arrays with one row per client, or with ranges of rows, in step with committed rounds.

    Args:
        arrays: name → [clients, …] or `OwnRows`.
        folder: where they are kept; `None` for in memory only.
        applied: the last round whose changes are in `arrays`; −1 before the first.
    """

    arrays: dict[str, Any]
    folder: Path | None = None
    applied: int = -1
    _pending: tuple[int, np.ndarray, Private] | None = field(default=None, init=False)
    _kept: dict[str, Any] | None = field(default=None, init=False)
    _kept_round: int = field(default=-1, init=False)
    _journalled: int = field(default=0, init=False)

    @classmethod
    def open(cls, folder: Path) -> PrivateRows | None:
        """The rows kept in `folder`, with no journal applied yet; `None` if there are none yet."""
        base = folder / "base.safetensors"
        if not base.exists():
            return None
        arrays = load_arrays(base)
        if _ROUND not in arrays:
            raise DamagedError(f"{base} is not a table of private rows")
        applied = int(arrays.pop(_ROUND)[0])
        return cls(restored(arrays), folder, applied)

    @classmethod
    def create(cls, private: Private, folder: Path | None, applied: int = -1) -> PrivateRows:
        """Rows of all clients as of round `applied`; −1 for their first rows."""
        rows = cls({name: array.copy() for name, array in private.items()}, folder, applied)
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
                    changed = load_arrays(self._journal(round))
                    changed.pop(_ROUND)
                    self._apply(round, changed.pop(_POSITIONS), restored(changed))
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
                arrays = load_arrays(self.folder / "kept.safetensors")
                if int(arrays.pop(_ROUND)[0]) != kept:
                    raise DamagedError(f"private rows of round {kept} are not in {self.folder}")
                self.arrays = restored(arrays)
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
    return int(journal.stem.removeprefix("round-"))
