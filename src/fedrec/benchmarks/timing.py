"""Seconds of repeated work, their spread, and the machine that they were measured on."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Timing", "machine", "repeat"]


@dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of repeated work, after a warm-up that is not counted.

    Args:
        seconds: seconds of each repetition, in order.
        warmup: number of repetitions before the first of these.

    Example:
        >>> Timing((3.0, 1.0, 2.0), warmup=1).facts()
        {'median': 2.0, 'min': 1.0, 'q25': 1.5, 'q75': 2.5, 'max': 3.0, 'timed': 3, 'warmup': 1}
    """

    seconds: tuple[float, ...]
    warmup: int

    @property
    def median(self) -> float:
        """Median seconds of a repetition."""
        return float(np.median(self.seconds))

    def facts(self) -> dict[str, Any]:
        """Median and spread, in seconds."""
        low, q25, q75, high = np.quantile(self.seconds, [0.0, 0.25, 0.75, 1.0])
        spread = {"median": self.median, "min": low, "q25": q25, "q75": q75, "max": high}
        return {
            **{name: round(float(value), 6) for name, value in spread.items()},
            "timed": len(self.seconds),
            "warmup": self.warmup,
        }


def repeat(work: Callable[[], object], warmup: int, repeats: int) -> Timing:
    """Time `work` for `repeats` repetitions, after `warmup` repetitions that are not counted.

    Example:
        >>> repeat(lambda: None, warmup=1, repeats=3).facts()["timed"]
        3
    """
    seconds = []
    for number in range(warmup + repeats):
        began = time.perf_counter()
        work()
        if number >= warmup:
            seconds.append(time.perf_counter() - began)
    return Timing(tuple(seconds), warmup)


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions, and how busy the machine is now (`load`: mean of the last minute)."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("fedrec", "numpy", "numba", "polars")},
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
