"""Set the number of threads of kernels and linear algebra."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import scipy.linalg  # noqa: F401  only libraries that are there can be held to a number of threads
from numba.core import config
from threadpoolctl import ThreadpoolController

from fedrec.errors import InputError
from fedrec.kernels.threads import limit_threads, set_thread_count, thread_count

__all__ = ["blas_threads", "check_threads", "held_threads", "linear_algebra", "one_blas_thread", "set_threads"]

_set: list[Any] = []
"""What `set_threads` changed of linear algebra, the first first."""


def check_threads(threads: object, name: str = "threads") -> int:
    """Check a number of threads.

    Raises:
        InputError: if the number is not from 1 to the number of cores that this process may use.

    Example:
        >>> check_threads(1)
        1
    """
    most = int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    if isinstance(threads, int) and not isinstance(threads, bool) and 1 <= threads <= most:
        return threads
    why = "set by NUMBA_NUM_THREADS" if "NUMBA_NUM_THREADS" in os.environ else "one per core"
    raise InputError(
        f"{name} {threads!r}: give a whole number from 1 to {most}, the number of threads of this process ({why})"
    )


def set_threads(threads: int | None = None) -> None:
    """Set the number of threads that kernels and linear algebra use from now on.

    Kernels keep the number for the calling thread, linear algebra for the whole process. Without this, kernels use all
    cores, or as many as `NUMBA_NUM_THREADS` says; linear algebra goes by `OMP_NUM_THREADS` and the like. No number
    changes a model, but for plans with `reproducible: false`, whose models it may change by rounding.

    Args:
        threads: from 1 to the number of cores; `None` restores the initial number.

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
        set_thread_count(None)
        while _set:
            _set.pop().restore_original_limits()
        return
    set_thread_count(check_threads(threads))
    _set.append(linear_algebra().limit(limits=threads))


@contextmanager
def held_threads(threads: int | None) -> Iterator[None]:
    """Let kernels and linear algebra use `threads` threads inside the block, or all cores if there are fewer.

    Kernels keep the number by thread, so every thread that runs kernels enters a block of its own. `None` leaves things
    as they are.
    """
    if threads is None:
        yield
        return
    with limit_threads(threads), linear_algebra().limit(limits=threads):
        yield


def linear_algebra() -> ThreadpoolController:
    """The libraries with threads of their own that this process has loaded.

    They are looked for again when modules have been imported since: looking takes a millisecond.
    """
    return _libraries(len(sys.modules))


@lru_cache(maxsize=1)
def _libraries(modules: int) -> ThreadpoolController:
    return ThreadpoolController()


def one_blas_thread() -> AbstractContextManager[object]:
    """Let linear algebra use one thread inside the block, for equal bits with any number of threads.

    Example:
        >>> import numpy as np
        >>> with one_blas_thread():
        ...     float((np.ones((2, 2)) @ np.ones(2))[0])
        2.0
    """
    limit: AbstractContextManager[object] = linear_algebra().limit(limits=1, user_api="blas")
    return limit


def blas_threads(libraries: ThreadpoolController) -> int:
    """Threads that linear algebra may use now: as many as kernels, and no more than its own variables allow."""
    limits = [library["num_threads"] for library in libraries.info() if library["user_api"] == "blas"]
    return min(thread_count(), max(limits, default=1))
