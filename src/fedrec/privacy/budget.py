"""An owner's privacy budget: the maximum privacy loss of a node's users over all runs, and a journal of charges."""

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
    """An owner's limits over all runs.

    Args:
        epsilon: maximum privacy loss of a user over all runs, for an observer of all cohorts and sums with noise.
        delta: probability of a larger loss.
        min_noise_multiplier: minimum noise of a round, as a multiple of the clip.
        max_clip: maximum clip of a plan.
    """

    epsilon: float
    delta: float
    min_noise_multiplier: float | None = None
    max_clip: float | None = None

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and math.isfinite(self.epsilon)) or not 0 < self.delta < 1:
            raise InputError(
                f"a budget needs epsilon above 0 and delta between 0 and 1, not {self.epsilon} and {self.delta}"
            )


class Budget:
    """A journal of charges with the owner's limits in its first line; kept in memory only if there is no file.

    A run reserves its whole cost when it begins, so that interrupted and resumed runs together cannot exceed the
    limits. A charge is written before its sum leaves the node. Users of different nodes are different clients, so the
    charges of each node add up separately. Several processes may use one journal; they take turns.

    Args:
        path: file of the journal; `None` for a journal in memory.
        limits: limits of a new journal; `None` for no limit.
        sole: the journal belongs to one node, so that every line counts, whatever name or key the node had when the
            line was written; renaming a node does not reset its budget.

    Raises:
        PlanError: if the journal has other limits than `limits`.
        DamagedError: if the journal was changed.
    """

    def __init__(self, path: Path | None = None, limits: Limits | None = None, sole: bool = False) -> None:
        if path is not None and path.exists() and not path.is_file():
            raise InputError(f"budget {path} is not a file; name another path")
        self.path = path
        self.sole = sole
        self._journal = Ledger(path)
        _check_lines(self._journal, path)
        lines = self._journal.of_kind("limits")
        if not lines and limits is not None:
            self._journal.append("limits", **vars(limits))
            lines = self._journal.of_kind("limits")
        self.limits = _limits(lines[0], path) if lines else None
        if limits is not None and limits != self.limits:
            raise PlanError(
                f"budget {path} has other limits ({self.limits}); only its owner may change them, in the first line of "
                "the file"
            )

    @classmethod
    def open(cls, path: Path) -> Budget:
        """Open an owner's budget.

        Raises:
            InputError: if there is no such file.
        """
        if not path.is_file():
            raise InputError(
                f"budget {path} does not exist; 'fedrec privacy budget {path} --epsilon 8 --delta 1e-6' makes a budget"
            )
        budget = cls(path)
        if budget.limits is None:
            raise DamagedError(
                f"budget {path} has no limits: its first line must be of kind 'limits'; restore the file"
            )
        return budget

    def nodes(self) -> list[str]:
        """Names of the nodes that took part in a run, sorted."""
        return sorted({line["node"] for line in self._journal.of_kind("open")})

    def runs(self, node: str) -> int:
        """Number of runs that a node took part in."""
        return len(self._lines("open", node))

    def reserved(self, run: str, node: str) -> bool:
        """Whether a run has begun at a node, so that its cost is reserved."""
        return any(line["run"] == run for line in self._lines("open", node))

    def spent(self, node: str) -> float:
        """Σ 1 / z² reserved by the runs at a node, over the most costly rounds that one client may have."""
        return sum(line["reserved"] for line in self._lines("open", node))

    def epsilon(self, node: str, further: float = 0.0) -> float:
        """ε of all runs at a node plus `further` Σ 1 / z², at the δ of the limits."""
        square = self.spent(node) + further
        if square == 0.0 or self.limits is None:
            return 0.0
        return epsilon_of(1.0 / math.sqrt(square), self.limits.delta, 1)

    def admit(self, node: str, multipliers: Sequence[float], participations: int | None, clip: float | None) -> None:
        """Check that a further run with these noise multipliers keeps the limits.

        Raises:
            PlanError: if the run exceeds a limit; the text names the limit.
        """
        limits = self.limits
        if limits is None:
            return
        smallest = min(multipliers)
        if limits.min_noise_multiplier is not None and smallest < limits.min_noise_multiplier:
            raise PlanError(
                f"node {node}: noise multiplier {smallest:.4g} is less than the owner's minimum of "
                f"{limits.min_noise_multiplier:g}. Lower the plan's epsilon, or use fewer rounds"
            )
        if clip is not None:
            self.check_clip(node, clip)
        epsilon = self.epsilon(node, _cost(multipliers, participations))
        if epsilon > limits.epsilon * _SLACK:
            raise PlanError(
                f"node {node}: with this run all runs cost epsilon {epsilon:.4g} at delta {limits.delta:g}. The "
                f"owner's budget over all runs is {limits.epsilon:g}, of which {self.epsilon(node):.4g} is spent. Use "
                "a smaller epsilon, or the owner raises the budget"
            )

    def check_clip(self, node: str, clip: float) -> None:
        """Check the clip of a plan or of a round.

        Raises:
            PlanError: if the clip is above the owner's maximum.
        """
        if self.limits is not None and self.limits.max_clip is not None and clip > self.limits.max_clip:
            raise PlanError(
                f"node {node}: clip {clip:g} is above the owner's maximum of {self.limits.max_clip:g}; lower it"
            )

    def begin(
        self,
        run: str,
        node: str,
        terms: dict[str, Any],
        multipliers: Sequence[float],
        participations: int | None,
        clip: float | None,
    ) -> None:
        """Record the terms of a run and reserve its cost, once for each run.

        Raises:
            PlanError: if the run began with other terms, or exceeds a limit.
        """
        with self._turn():
            for line in self._lines("open", node):
                if line["run"] == run:
                    changed = [key for key in terms if line["terms"].get(key) != terms[key]]
                    if changed:
                        key = changed[0]
                        raise PlanError(
                            f"node {node}: run {run[:8]} began with {key} = {line['terms'].get(key)} and cannot change "
                            f"to {terms[key]}; start a new run"
                        )
                    return
            self.admit(node, multipliers, participations, clip)
            reserved = _cost(multipliers, participations)
            self._journal.append("open", run=run, node=node, reserved=reserved, terms=terms)

    def charge(self, run: str, node: str, round: int, noise_multiplier: float, call: str) -> None:
        """Charge a round before its sum is computed. Repeating the same call does not charge again.

        Raises:
            PlanError: if the round was charged for another call, or a later round was charged.
        """
        with self._turn():
            self._charge(run, node, round, noise_multiplier, call)

    def _charge(self, run: str, node: str, round: int, noise_multiplier: float, call: str) -> None:
        lines = [line for line in self._lines("charge", node) if line["run"] == run]
        for line in lines:
            if line["round"] == round and line["call"] != call:
                raise PlanError(
                    f"node {node}: round {round} of run {run[:8]} was answered already for another request; the "
                    "difference of two answers would reveal too much"
                )
        if lines and max(line["round"] for line in lines) > round:
            raise PlanError(
                f"node {node}: round {round} of run {run[:8]} is over, as a later round was answered already"
            )
        if any(line["round"] == round for line in lines):
            return
        self._journal.append("charge", run=run, node=node, round=round, noise_multiplier=noise_multiplier, call=call)

    def _lines(self, kind: str, node: str) -> list[dict[str, Any]]:
        """The lines of one kind that count for a node."""
        return [line for line in self._journal.of_kind(kind) if self.sole or line["node"] == node]

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Lock the journal against other processes, and read what they wrote."""
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
    """Σ 1 / z² over the most costly rounds."""
    smallest = sorted(multipliers)[: participations if participations is not None else len(multipliers)]
    return sum(1.0 / z**2 for z in smallest)


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
