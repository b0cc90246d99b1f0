"""Which threads, memory and device of its machine a node may use."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field

from fedrec.errors import PlanError
from fedrec.models.base import Recommender
from fedrec.models.networks.device_names import DEVICE_NAMES

__all__ = ["ResourceLimits"]

_GIB = 2**30
_POOLS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


class ResourceLimits(BaseModel):
    """What a node may use of its machine. Limits of the operating system (cgroups, systemd) hold in addition.

    Args:
        threads: maximum number of threads that compute at once; `None` for all cores.
        memory_gb: maximum memory of the process in GiB, without mapped files; `None` for no limit.
        device: device on which networks run: `cpu`, `cuda` or `cuda:1`; `None` for the one that the environment
            variable `FEDREC_DEVICE` names, or else the processor.
        rounds: maximum number of rounds of a plan; disk space and time of a run grow with the rounds.

    Example:
        >>> ResourceLimits(threads=2).environment()["POLARS_MAX_THREADS"]
        '2'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threads: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, ge=0.5)
    device: str | None = Field(default=None, pattern=f"^({DEVICE_NAMES})$")
    rounds: int = Field(default=10_000, ge=1)

    def environment(self) -> dict[str, str]:
        """Environment variables for a new process, as some libraries read the number of threads only at their start."""
        return {} if self.threads is None else dict.fromkeys(_POOLS, str(self.threads))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Limit the threads of the calling thread inside the block, see `fedrec.threads.held_threads`."""
        from fedrec.threads import held_threads

        with held_threads(self.threads):
            yield

    def limit_memory(self) -> bool:
        """Limit the memory of this process; an allocation beyond the limit raises `MemoryError`.

        The limit is on data (`RLIMIT_DATA`), not on address space, so files mapped for reading do not count. Libraries
        that do not handle a failed allocation end the process instead.

        Returns:
            Whether a limit is in force; only Linux supports one.
        """
        if self.memory_gb is None or not sys.platform.startswith("linux"):
            return False
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = int(self.memory_gb * _GIB)
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
        return True

    def check_model(self, model: Recommender, n_items: int) -> None:
        """Check that a model for `n_items` items fits in the memory that the node may use.

        Raises:
            PlanError: if the model needs more memory.
        """
        needed = model.cost(n_items).memory
        if self.memory_gb is not None and needed > self.memory_gb * _GIB:
            raise PlanError(
                f"limits.memory_gb: {model.name} needs about {needed / _GIB:.1f} GiB for "
                f"{n_items:,} items, and the node may use {self.memory_gb:g} GiB. Use a model whose memory does not "
                "grow with items², or the owner raises limits.memory_gb"
            )
