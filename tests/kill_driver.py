"""A training run that kills its own process at one of its writes: `kill_driver.py FOLDER MODEL WRITE [HALF]`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any


def die_at_write(number: int, half: bool, die: Any) -> None:
    """Make the write of this number (from 0) the last thing that happens: not begun, or half done."""
    import fedrec.record.durable as durable

    written = iter(range(1 << 30))
    sync = os.fsync

    def fsync(handle: int) -> None:
        if next(written) == number:
            if half and os.path.isfile(f"/proc/self/fd/{handle}"):
                os.ftruncate(handle, max(0, os.fstat(handle).st_size - 7))
            die()
        sync(handle)

    durable.os = type("os", (), {**vars(os), "fsync": staticmethod(fsync)})  # type: ignore[attr-defined]


if __name__ == "__main__":
    from fedrec.engines.training import Placement, train_run
    from runs_in_test import small_plan

    folder, model, write, *rest = sys.argv[1:]
    die_at_write(int(write), bool(rest), lambda: os.kill(os.getpid(), signal.SIGKILL))
    train_run(small_plan(model), Path(folder), Placement(2))
