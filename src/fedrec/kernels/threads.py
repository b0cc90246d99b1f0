"""Compiling kernels, and running them on several threads.

A parallel kernel is compiled as a sequential function of a range of iterations. Python threads run the ranges side by
side, since a kernel releases the global interpreter lock, and the calling thread runs the first one. Numba's own
parallel loops would do the same, but the compiler optimises each of those four times.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
from numba.core import config, sigutils, types

from fedrec.kernels.cache import cache_folder, found_by_content

__all__ = ["kernel", "limit_threads", "parallel_kernel", "set_thread_count", "thread_count"]

P = ParamSpec("P")
R = TypeVar("R")


class _Limit(threading.local):
    threads = int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]


_limit = _Limit()


def kernel(signature: Any, *, inline: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Compile a function for exactly one `signature`, kept on disk (`fedrec.kernels.cache`).

    Args:
        signature: in Numba's words, or of `fedrec.kernels.records.takes`.
        inline: is taken into the kernels that call it, too.
    """

    def compile_(function: Callable[P, R]) -> Callable[P, R]:
        options: dict[str, Any] = {"cache": cache_folder() is not None, "nogil": True, "error_model": "numpy"}
        with found_by_content():
            compiled: Callable[P, R] = numba.njit(signature, inline="always" if inline else "never", **options)(
                function
            )
        return compiled

    return compile_


def parallel_kernel(
    signature: Any, over: Callable[..., int | np.ndarray]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Compile a function of a range of iterations, and run it on `thread_count` threads, a range on each.

    Args:
        signature: of the arguments after `begin` and `end`, as for `kernel`; nothing is given back.
        over: of the same arguments, the number of iterations, or offsets [iterations + 1] of the work of each, which
            ranges then share evenly.

    The function is called as f(begin, end, *arguments) and does the iterations from `begin` to `end`; what is given
    back is called with the arguments alone. No iteration may write where another one reads or writes. An error in a
    range is raised when all ranges are done.
    """
    arguments, _ = sigutils.normalize_signature(signature)  # type: ignore[no-untyped-call]
    whole = numba.void(types.int64, types.int64, *arguments)

    def compile_(function: Callable[..., None]) -> Callable[..., None]:
        compiled = kernel(whole)(function)

        @functools.wraps(function)
        def run(*arguments: Any) -> None:
            ranges = _ranges(over(*arguments), thread_count())
            if len(ranges) == 1:
                compiled(*ranges[0], *arguments)
            elif ranges:
                _run(compiled, ranges, arguments)

        return run

    return compile_


def _ranges(work: int | np.ndarray, threads: int) -> list[tuple[int, int]]:
    """At most `threads` ranges of iterations that are not empty.

    >>> _ranges(5, 2), _ranges(np.array([0, 6, 7, 8, 9]), 2), _ranges(0, 2)
    ([(0, 2), (2, 5)], [(0, 1), (1, 4)], [])
    """
    if isinstance(work, int):
        bounds = [work * place // threads for place in range(threads + 1)]
    elif threads == 1:
        bounds = [0, len(work) - 1]
    else:
        shares = np.linspace(work[0], work[-1], threads + 1)
        bounds = [0, *np.searchsorted(work, shares[1:-1]).tolist(), len(work) - 1]
    return [(begin, end) for begin, end in pairwise(bounds) if begin < end]


def _run(compiled: Callable[..., None], ranges: list[tuple[int, int]], arguments: tuple[Any, ...]) -> None:
    """Run the first range here and the others in the pool, or here where the pool has not begun with them."""
    pool = _pool(os.getpid())
    others = [(pool.submit(compiled, *part, *arguments), part) for part in ranges[1:]]
    errors: list[Exception] = []
    try:
        compiled(*ranges[0], *arguments)
    except Exception as error:
        errors.append(error)
    for future, part in others:
        try:
            if future.cancel():
                compiled(*part, *arguments)
            else:
                future.result()
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


@functools.cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of a process; those of its parent do not run in a forked child."""
    return ThreadPoolExecutor(max(1, config.NUMBA_NUM_THREADS - 1), "fedrec-kernels")  # type: ignore[attr-defined]


def thread_count() -> int:
    """Threads that kernels use now when this thread calls them."""
    return _limit.threads


def set_thread_count(threads: int | None) -> None:
    """Let kernels use `threads` threads when this thread calls them; `None` stands for as many as Numba has."""
    most = int(config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    _limit.threads = most if threads is None else min(max(1, threads), most)


@contextmanager
def limit_threads(threads: int | None) -> Iterator[None]:
    """Let kernels use `threads` threads inside the block; `None` leaves things as they are."""
    if threads is None:
        yield
        return
    before = thread_count()
    set_thread_count(threads)
    try:
        yield
    finally:
        set_thread_count(before)
