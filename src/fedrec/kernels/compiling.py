"""Compiling every kernel at once, in several processes: the first run of a command need not wait for its own."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from numba.core import config

from fedrec.kernels.cache import imported_kernels

__all__ = ["compile_kernels", "kernel_modules"]

_HERE = Path(__file__).parent
_SLOWEST_FIRST = ("factor_batches", "gpfedrec", "pfedrec", "ratings", "fedrap", "synthetic")
_NO_KERNELS = ("__init__", "cache", "compiling", "lanes", "records", "threads")


def kernel_modules() -> list[str]:
    """Names of the modules that hold kernels, those that take longest first."""
    names = {path.stem for path in _HERE.glob("*.py")} - set(_NO_KERNELS)
    first = [name for name in _SLOWEST_FIRST if name in names]
    return [f"fedrec.kernels.{name}" for name in [*first, *sorted(names - set(first))]]


def compile_kernels(processes: int | None = None, done: Callable[[str], None] = lambda _: None) -> None:
    """Compile all kernels that are not kept yet, in several processes.

    A module is compiled together with those that it imports, in one process, so that no two compile the same.

    Args:
        processes: at a time; by default as many as kernels have threads, one for each core.
        done: called with the name of each module that no other one imports.
    """
    spawning = multiprocessing.get_context("spawn")
    workers = processes or config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    with ProcessPoolExecutor(workers, mp_context=spawning) as pool:
        waiting = {pool.submit(_import, name): name for name in _imported_by_none()}
        for finished in as_completed(waiting):
            finished.result()
            done(waiting[finished])


def _imported_by_none() -> list[str]:
    names = kernel_modules()
    imported = {other for name in names for other in imported_kernels(_HERE / f"{name.rpartition('.')[2]}.py")}
    return [name for name in names if _HERE / f"{name.rpartition('.')[2]}.py" not in imported]


def _import(name: str) -> None:
    importlib.import_module(name)
