"""Whether a model fits in the memory that this process may use."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from fedrec.errors import PlanError
from fedrec.models.base import Recommender

__all__ = ["check_memory", "usable_memory"]


def check_memory(model: Recommender, n_items: int, besides: int = 0) -> None:
    """Check that a model of so many items fits in memory.

    Args:
        model: what is trained.
        n_items: length of the catalog.
        besides: bytes that the plan needs beyond those of the model.

    Raises:
        PlanError: if it does not.
    """
    needed, (there, whose) = model.cost(n_items).memory + besides, usable_memory()
    if needed > there:
        raise PlanError(
            f"model {model.name!r} needs about {needed / 2**30:.1f} GiB for {n_items} items, but {whose} "
            f"{there / 2**30:.1f} GiB. Use a model whose memory does not grow with items², use a smaller "
            "embedding_size or rank, or drop rare items with cleaning: min_item_interactions"
        )


def usable_memory(root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that this process may use, and what says so: the machine, its container or group, or `ulimit -v`.

    Args:
        root: where `proc` and `sys` are.
    """
    found = [(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), "this machine has")]
    address_space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if address_space != resource.RLIM_INFINITY:
        found.append((address_space, "the limit of this process (ulimit -v) is"))
    found += [(limit, "the limit of this container (cgroup) is") for limit in _group_limits(root)]
    return min(found)


def _group_limits(root: Path) -> list[int]:
    """Limits of the process's control groups and all groups above them; Linux only, none elsewhere."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits: list[int] = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers == "":  # version 2
            base, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):  # version 1
            base, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            try:
                text = base.joinpath(*parts[:depth], name).read_text().strip()
            except OSError:
                continue
            if text.isdecimal():
                limits.append(int(text))
    return limits
