"""Work that ends at one of its writes; as a program, a training that kills its own process there:
`kill_driver.py FOLDER MODEL WRITE [HALF]`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import fedrec.record.durable as durable


class Killed(BaseException):
    """Stands for the end of a process."""


def die_at_write(number: int, half: bool, die: Callable[[], object]) -> None:
    """Make the write of this number (from 0) the last thing that happens: not begun, or half done."""
    written = iter(range(1 << 30))
    sync = os.fsync

    def fsync(handle: int) -> None:
        if next(written) == number:
            if half and os.path.isfile(f"/proc/self/fd/{handle}"):
                os.ftruncate(handle, max(0, os.fstat(handle).st_size - 7))
            die()
        sync(handle)

    durable.os = type("os", (), {**vars(os), "fsync": staticmethod(fsync)})  # type: ignore[attr-defined]


def is_killed(work: Callable[[], object], write: int | None = None, half: bool = False) -> bool:
    """Do something, and say whether it was killed: at this write, unless it has fewer, or by what it calls itself."""
    before = durable.os  # type: ignore[attr-defined]
    if write is not None:
        die_at_write(write, half, die)
    try:
        work()
    except Killed:
        return True
    finally:
        durable.os = before  # type: ignore[attr-defined]
    return False


def die() -> None:
    """End what runs, as if its process ended."""
    raise Killed


if __name__ == "__main__":
    from fedrec.runs.training import Placement, train_run
    from runs_in_test import small_plan

    folder, model, write, *rest = sys.argv[1:]
    die_at_write(int(write), bool(rest), lambda: os.kill(os.getpid(), signal.SIGKILL))
    train_run(small_plan(model), Path(folder), Placement(2))
