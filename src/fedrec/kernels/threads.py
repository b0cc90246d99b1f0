"""One threading layer for every kernel, one lock round parallel kernels, and the number of threads.

Numba's workqueue layer is always there but must not be entered by two threads at once: a parallel kernel takes a lock.
Processes are spawned, never forked: a forked child has no worker threads, so it gets an error instead of a hang.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import numba
from numba.core import config

from fedrec.kernels.cache import cache_folder, found_by_content

__all__ = ["kernel", "limit_threads", "thread_count"]

P = ParamSpec("P")
R = TypeVar("R")

LAYER = "workqueue"
config.THREADING_LAYER = LAYER  # type: ignore[attr-defined]
_lock = threading.RLock()
_home = os.getpid()


def kernel(
    signature: Any, *, parallel: bool = False, inline: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function for exactly one `signature`, kept on disk (`fedrec.kernels.cache`).

    Args:
        signature: in Numba's words, or of `fedrec.kernels.records.takes`.
        parallel: runs on several threads, under the lock.
        inline: is taken into the kernels that call it, too.
    """

    def compile_(function: Callable[P, R]) -> Callable[P, R]:
        options: dict[str, Any] = {"cache": cache_folder() is not None, "nogil": True, "error_model": "numpy"}
        options |= {"parallel": parallel, "inline": "always" if inline else "never"}
        with found_by_content():
            compiled: Callable[P, R] = numba.njit(signature, **options)(function)
        if not parallel:
            return compiled

        @functools.wraps(function)
        def locked(*args: P.args, **kwargs: P.kwargs) -> R:
            if os.getpid() != _home:
                raise RuntimeError("fedrec kernels cannot run in a forked process; start workers with 'spawn'")
            with _lock:
                return compiled(*args, **kwargs)

        return locked

    return compile_


def thread_count() -> int:
    """Threads that parallel kernels use now."""
    return int(numba.get_num_threads())


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Let parallel kernels use `threads` threads inside the block; `None` leaves things as they are."""
    if threads is None:
        yield
        return
    before = thread_count()
    numba.set_num_threads(min(max(1, threads), config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        yield
    finally:
        numba.set_num_threads(before)
