"""What a node may take of its machine: threads and memory."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field

from fedrec.errors import PlanError
from fedrec.models.base import Recommender

__all__ = ["ResourceLimits"]

_GIB = 2**30
_POOLS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


class ResourceLimits(BaseModel):
    """What the owner lets a node take of the machine; the system's own limits (cgroups, systemd) hold besides.

    Args:
        threads: most threads that compute at once; `None` for all cores.
        memory_gb: most memory of the process in GiB, without files that are mapped; `None` for no limit.
        rounds: most rounds of a plan: what a node keeps of a run and works out for it grows with them.

    Example:
        >>> ResourceLimits(threads=2).environment()["POLARS_MAX_THREADS"]
        '2'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    threads: int | None = Field(default=None, ge=1)
    memory_gb: float | None = Field(default=None, ge=0.5)
    rounds: int = Field(default=10_000, ge=1)

    def environment(self) -> dict[str, str]:
        """Variables for a process that is about to be started: some libraries count their threads only once."""
        return {} if self.threads is None else dict.fromkeys(_POOLS, str(self.threads))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the calling thread to the number of threads inside the block, see `fedrec.threads.held_threads`."""
        from fedrec.threads import held_threads

        with held_threads(self.threads):
            yield

    def limit_memory(self) -> bool:
        """Let this process have no more memory than the limit: what asks for more gets a `MemoryError`.

        The limit is on data (`RLIMIT_DATA`), not on address space: files that are mapped for reading do not count.
        Libraries that cannot bear a failed allocation end the process instead.

        Returns:
            Whether there is a limit now; systems other than Linux do not hold a process to one.
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
        """Check that a model of so many items fits in the memory that the node may have.

        Raises:
            PlanError: if it does not.
        """
        needed = model.cost(n_items).memory
        if self.memory_gb is not None and needed > self.memory_gb * _GIB:
            raise PlanError(
                f"limits.memory_gb: {model.name} needs about {needed / _GIB:.1f} GiB for "
                f"{n_items:,} items, and the node may have {self.memory_gb:g}. Ask for a model whose memory does not "
                "grow with items², or the owner raises limits.memory_gb"
            )
