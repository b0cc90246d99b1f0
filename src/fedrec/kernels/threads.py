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
from threadpoolctl import ThreadpoolController, threadpool_limits

from fedrec.errors import InputError
from fedrec.kernels.cache import cache_folder, found_by_content

__all__ = ["blas_threads", "check_threads", "kernel", "limit_threads", "set_threads", "thread_count"]

P = ParamSpec("P")
R = TypeVar("R")

LAYER = "workqueue"
config.THREADING_LAYER = LAYER  # type: ignore[attr-defined]
_lock = threading.RLock()
_home = os.getpid()
_set: list[threadpool_limits] = []
"""What `set_threads` changed of linear algebra, the first first."""


def kernel(
    signature: str, *, parallel: bool = False, inline: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function for exactly one `signature`, kept on disk (`fedrec.kernels.cache`); a parallel one runs under
    the lock, an `inline` one is also taken into the kernels that call it."""

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


def blas_threads(libraries: ThreadpoolController) -> int:
    """Threads that linear algebra may use now: as many as kernels, and no more than its own variables allow."""
    found = [library["num_threads"] for library in libraries.info() if library["user_api"] == "blas"]
    return min(thread_count(), max(found, default=1))


def check_threads(threads: object, name: str = "threads") -> int:
    """The number of threads that somebody asked for.

    Raises:
        InputError: if it is not from 1 to the number of cores that this process may use.

    Example:
        >>> check_threads(1)
        1
    """
    most = int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= most:
        return threads
    why = "as NUMBA_NUM_THREADS says" if "NUMBA_NUM_THREADS" in os.environ else "one for each core"
    raise InputError(f"{name} {threads!r}: give a whole number from 1 to {most}; this process has {most}, {why}")


def set_threads(threads: int | None = None) -> None:
    """Let kernels and linear algebra use so many threads from now on.

    Kernels keep the number for the calling thread, linear algebra for the whole process. Without this, kernels use all
    cores, or as many as `NUMBA_NUM_THREADS` says; linear algebra goes by `OMP_NUM_THREADS` and the like. No number
    changes a model, but for plans with `reproducible: false`, whose models it may change by rounding.

    Args:
        threads: from 1 to the number of cores; `None` for what it was in the beginning.

    Raises:
        InputError: for any other number.

    Example:
        >>> import fedrec as fr
        >>> fr.set_threads(1)
        >>> thread_count()
        1
        >>> fr.set_threads()
    """
    if threads is None:
        numba.set_num_threads(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        while _set:
            _set.pop().restore_original_limits()
        return
    numba.set_num_threads(check_threads(threads))
    _load_blas()
    _set.append(threadpool_limits(threads))


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Let kernels and linear algebra use `threads` threads inside the block, or all cores if there are fewer.

    Numba keeps the number by thread, so every thread that runs kernels enters a block of its own. `None` leaves things
    as they are.
    """
    if threads is None:
        yield
        return
    before = thread_count()
    numba.set_num_threads(min(max(1, threads), config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    _load_blas()
    try:
        with threadpool_limits(max(1, threads)):
            yield
    finally:
        numba.set_num_threads(before)


def _load_blas() -> None:
    """Load the libraries of linear algebra: only those that are there can be held to a number of threads."""
    import scipy.linalg  # noqa: F401
