"""Runs one of NVFlare's programs, and ends when its parent process ends.

python -m fedrec.network.nvflare.supervised MODULE ARGUMENTS…
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

__all__ = ["PARENT"]

PARENT = "FEDREC_PARENT"
"""Name of the environment variable with the number of the parent process, with which a process ends."""
_GLANCE = 0.5


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_GLANCE)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    os.environ[PARENT] = str(os.getpid())
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
