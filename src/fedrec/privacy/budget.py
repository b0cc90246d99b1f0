"""An owner's privacy budget: what a node may ever spend on its users, and the journal of what it did."""

from __future__ import annotations

import fcntl
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrec.errors import DamagedError, InputError, PlanError
from fedrec.privacy.accounting import epsilon_of
from fedrec.record.ledger import Ledger

__all__ = ["Budget", "Limits"]

_SLACK = 1.0 + 1e-6
_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "limits": {"epsilon": (int, float), "delta": float},
    "open": {"run": str, "node": str, "reserved": (int, float), "terms": dict},
    "charge": {"run": str, "node": str, "round": int, "noise_multiplier": (int, float), "call": str},
}


@dataclass(frozen=True)
class Limits:
    """What an owner allows over all runs, whatever a plan says.

    Args:
        epsilon, delta: the most that users may lose over all runs, against somebody who sees all cohorts and sums.
        min_noise_multiplier: least noise of a round per unit of clip.
        max_clip: largest clip that a plan may ask for.
    """

    epsilon: float
    delta: float
    min_noise_multiplier: float | None = None
    max_clip: float | None = None

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)) or not 0 < self.delta < 1:
            raise InputError(f"a budget needs epsilon > 0 and delta between 0 and 1, not {self.epsilon}, {self.delta}")


class Budget:
    """A journal of charges with the owner's limits in its first line; in memory only where there is no file.

    A run reserves all that it may cost when it begins, so that runs which are stopped and go on cannot exceed the
    limits together. A charge is on the disk before the sum it pays for leaves the node. Users of different nodes are
    different clients, so each node's charges add up by themselves. Several processes may use one journal: they take
    turns.

    Args:
        path: the journal, or `None`.
        limits: set when the journal is made; `None` for no limit.
        sole: the journal is of one node: a line counts whatever name or key the node had when it was written, so that
            nobody begins at zero by being renamed.

    Raises:
        PlanError: if the journal has other limits than the ones given.
        DamagedError: if the journal was changed.
    """

    def __init__(self, path: Path | None = None, limits: Limits | None = None, sole: bool = False) -> None:
        if path is not None and path.exists() and not path.is_file():
            raise InputError(f"budget {path} is not a file")
        self.path = path
        self.sole = sole
        self._journal = Ledger(path)
        _check_lines(self._journal, path)
        found = self._journal.of_kind("limits")
        if not found and limits is not None:
            self._journal.append("limits", **vars(limits))
            found = self._journal.of_kind("limits")
        self.limits = _limits(found[0], path) if found else None
        if limits is not None and limits != self.limits:
            raise PlanError(
                f"budget {path} has other limits already ({self.limits}); its owner may edit it, a plan not"
            )

    @classmethod
    def open(cls, path: Path) -> Budget:
        """Open an owner's budget.

        Raises:
            InputError: if there is none.
        """
        if not path.is_file():
            raise InputError(
                f"budget {path} does not exist; 'fedrec privacy budget {path} --epsilon 8 --delta 1e-6' makes one"
            )
        budget = cls(path)
        if budget.limits is None:
            raise DamagedError(f"budget {path} has no limits; its first line must be of kind 'limits'")
        return budget

    def nodes(self) -> list[str]:
        """The nodes that took part in anything, in order of name."""
        return sorted({line["node"] for line in self._journal.of_kind("open")})

    def runs(self, node: str) -> int:
        """How many runs a node took part in."""
        return len(self._lines("open", node))

    def reserved(self, run: str, node: str) -> bool:
        """Whether a run has begun at a node, and what it may cost is reserved."""
        return any(line["run"] == run for line in self._lines("open", node))

    def spent(self, node: str) -> float:
        """Σ 1 / z² that the runs at a node reserved, each for the dearest rounds that one client may take part in."""
        return sum(line["reserved"] for line in self._lines("open", node))

    def epsilon(self, node: str, further: float = 0.0) -> float:
        """ε of all runs at a node, with `further` Σ 1 / z² on top, at the δ of the limits."""
        square = self.spent(node) + further
        if square == 0.0 or self.limits is None:
            return 0.0
        return epsilon_of(1.0 / math.sqrt(square), self.limits.delta, 1)

    def admit(self, node: str, multipliers: Sequence[float], participations: int | None, clip: float | None) -> None:
        """Check that a further run of so many rounds keeps the limits.

        Raises:
            PlanError: if it does not; says which limit.
        """
        limits = self.limits
        if limits is None:
            return
        least = min(multipliers)
        if limits.min_noise_multiplier is not None and least < limits.min_noise_multiplier:
            raise PlanError(
                f"node {node}: noise multiplier {least:.4g} is below the owner's least, "
                f"{limits.min_noise_multiplier:g}; "
                "lower the plan's epsilon or ask for fewer rounds"
            )
        if clip is not None:
            self.check_clip(node, clip)
        epsilon = self.epsilon(node, _cost(multipliers, participations))
        if epsilon > limits.epsilon * _SLACK:
            raise PlanError(
                f"node {node}: with this run its users would have lost epsilon {epsilon:.4g} at delta "
                f"{limits.delta:g}; "
                f"the owner's budget over all runs is {limits.epsilon:g}, of which {self.epsilon(node):.4g} is spent. "
                "Ask for a smaller epsilon, or ask the owner"
            )

    def check_clip(self, node: str, clip: float) -> None:
        """Check a clip, of a plan or of a round.

        Raises:
            PlanError: if it is above the owner's largest.
        """
        if self.limits is not None and self.limits.max_clip is not None and clip > self.limits.max_clip:
            raise PlanError(f"node {node}: clip {clip:g} is above the owner's largest, {self.limits.max_clip:g}")

    def begin(
        self,
        run: str,
        node: str,
        terms: dict[str, Any],
        multipliers: Sequence[float],
        participations: int | None,
        clip: float | None,
    ) -> None:
        """Note under which terms a run takes place, and reserve what it may cost; once.

        Raises:
            PlanError: if the run was begun under other terms, or is more than the limits allow.
        """
        with self._turn():
            for line in self._lines("open", node):
                if line["run"] == run:
                    changed = [key for key in terms if line["terms"].get(key) != terms[key]]
                    if changed:
                        key = changed[0]
                        raise PlanError(
                            f"node {node}: run {run[:8]} began with {key} = {line['terms'].get(key)}, now it says "
                            f"{terms[key]}; a run keeps its terms"
                        )
                    return
            self.admit(node, multipliers, participations, clip)
            reserved = _cost(multipliers, participations)
            self._journal.append("open", run=run, node=node, reserved=reserved, terms=terms)

    def charge(self, run: str, node: str, round: int, noise_multiplier: float, call: str) -> None:
        """Charge a round, before its sum is made. The same call again is not charged again.

        Raises:
            PlanError: if the round was charged for another call, or a later round was.
        """
        with self._turn():
            self._charge(run, node, round, noise_multiplier, call)

    def _charge(self, run: str, node: str, round: int, noise_multiplier: float, call: str) -> None:
        lines = [line for line in self._lines("charge", node) if line["run"] == run]
        for line in lines:
            if line["round"] == round and line["call"] != call:
                raise PlanError(
                    f"node {node}: round {round} of run {run[:8]} was answered already, for other parameters; two "
                    "answers could be subtracted from each other"
                )
        if lines and max(line["round"] for line in lines) > round:
            raise PlanError(f"node {node}: round {round} of run {run[:8]} is over; a later one was answered already")
        if any(line["round"] == round for line in lines):
            return
        self._journal.append("charge", run=run, node=node, round=round, noise_multiplier=noise_multiplier, call=call)

    def _lines(self, kind: str, node: str) -> list[dict[str, Any]]:
        """Lines of a kind that count for a node."""
        return [line for line in self._journal.of_kind(kind) if self.sole or line["node"] == node]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nobody else writes meanwhile, and what others wrote is read."""
        if self.path is None:
            yield
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            self._journal = Ledger(self.path)
            _check_lines(self._journal, self.path)
            yield
        finally:
            os.close(folder)


def _cost(multipliers: Sequence[float], participations: int | None) -> float:
    """Σ 1 / z² over the dearest rounds."""
    dearest = sorted(multipliers)[: participations if participations is not None else len(multipliers)]
    return sum(1.0 / z**2 for z in dearest)


def _check_lines(journal: Ledger, path: Path | None) -> None:
    for number, line in enumerate(journal.lines, 1):
        for key, kind in _FIELDS.get(line["kind"], {"kind": type(None)}).items():
            if not isinstance(line.get(key), kind) or (key == "noise_multiplier" and not line[key] > 0):
                raise DamagedError(f"budget {path}, line {number}: {key} is missing or wrong; restore the file")


def _limits(line: dict[str, Any], path: Path | None) -> Limits:
    try:
        return Limits(**{key: value for key, value in line.items() if key != "kind"})
    except (TypeError, OverflowError, InputError) as error:
        raise DamagedError(f"budget {path}: its limits are damaged ({error})") from None
