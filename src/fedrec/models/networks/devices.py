"""Where tensors live: the processor, or an accelerator that the machine's owner names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from fedrec.errors import InputError
from fedrec.kernels.threads import thread_count

_MANY = 1024
_memory: Any = torch.utils.deterministic  # a module that computes this attribute

__all__ = ["VARIABLE", "device", "steady"]

VARIABLE = "FEDREC_DEVICE"
"""Environment variable that names the device: `cpu`, `cuda`, `cuda:1`. It belongs to a machine and not to a plan."""


def device() -> torch.device:
    """The device on which modules run.

    Raises:
        InputError: if there is no such device on this machine.
    """
    name = os.environ.get(VARIABLE, "cpu")
    try:
        found = torch.device(name)
    except RuntimeError:
        raise InputError(f"{VARIABLE}={name} is not the name of a device; use cpu, cuda or cuda:1") from None
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"{VARIABLE}={name}: torch finds {torch.cuda.device_count()} CUDA devices on this machine; use cpu, or "
            "install a torch that is built for the device"
        )
    return found


@contextmanager
def steady(seed: int, places: int = 0) -> Iterator[None]:
    """Run a block with kernels that give the same bits every time; what was set before is set again afterwards.

    Args:
        seed: of torch's own draws.
        places: of the batches, clients times their window. Few are worked on by one thread, as starting others takes
            longer than the work; many by as many threads as fedrec may use.
    """
    threads, strict = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    filled = _memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    devices = [device()] if device().type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        torch.set_num_threads(thread_count() if places >= _MANY else 1)
        torch.set_deterministic_debug_mode("error")  # as use_deterministic_algorithms, which loads a compiler too
        _memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(strict)
            _memory.fill_uninitialized_memory = filled
            torch.set_num_threads(threads)
