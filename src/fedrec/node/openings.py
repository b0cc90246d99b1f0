"""How often a node lets a coordinator open a run: a journal that is written before anything is answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from fedrec.errors import DamagedError, PlanError
from fedrec.record.keys import PublicKey
from fedrec.record.ledger import Ledger

__all__ = ["Openings"]

_DAY = 24 * 60 * 60


class Openings:
    """Runs that coordinators opened, refused ones too: each opening tells something, be it why a plan is refused.

    Args:
        path: the journal, in the owner's home.
        most: runs that one coordinator may open within 24 hours.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, most: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._most = most
        self._clock = clock

    def admit(self, run: str, coordinator: PublicKey) -> None:
        """Note that a coordinator opens a run. A run that was noted before may be opened again, by whoever opened it.

        A time that lies ahead of the clock counts as now: who sets a clock back gains no openings.

        Raises:
            PlanError: if the coordinator has opened as many runs as the owner allows.
            DamagedError: if the journal was changed.
        """
        key, now = coordinator.key.hex(), int(self._clock())
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = Ledger(self._path)
        opened: dict[str, int] = {}
        for number, line in enumerate(journal.of_kind("opening"), 1):
            if not isinstance(line.get("run"), str) or type(line.get("time")) is not int:
                raise DamagedError(f"{self._path}, line {number}: run or time is missing or wrong; restore the file")
            if line.get("coordinator") == key:
                opened[line["run"]] = line["time"]
        if run in opened:
            return
        if sum(at > now - _DAY for at in opened.values()) >= self._most:
            raise PlanError(
                f"policy.openings_per_day: {coordinator.name} has opened {self._most} runs here within a day, the most "
                "that the owner allows. Ask tomorrow, or the owner raises policy.openings_per_day"
            )
        journal.append("opening", run=run, coordinator=key, time=now)
