"""Where tensors live: the processor, or an accelerator that the machine's owner names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from fedrec.errors import InputError
from fedrec.kernels.threads import thread_count
from fedrec.models.networks.device_names import DEVICE_NAMES, VARIABLE

_MANY = 1024
_memory: Any = torch.utils.deterministic  # a module that computes this attribute

__all__ = ["device", "held_device", "steady"]


def device() -> torch.device:
    """The device on which modules run: the one of `held_device`, else that of the variable, else the processor.

    Raises:
        InputError: if there is no such device on this machine.
    """
    return _found(os.environ.get(VARIABLE, "cpu"), f"{VARIABLE}=")


@contextmanager
def held_device(name: str, said: str = "device ") -> Iterator[None]:
    """Run modules on a device inside the block, in this process and in those that it starts.

    Args:
        name: `cpu`, `cuda` or `cuda:1`.
        said: what stands before the name in errors.

    Raises:
        InputError: if there is no such device on this machine.

    Example:
        >>> with held_device("cpu"):
        ...     device()
        device(type='cpu')
    """
    _found(name, said)
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _found(name: str, said: str) -> torch.device:
    if re.fullmatch(DEVICE_NAMES, name) is None:
        raise InputError(f"{said}{name}: this is not the name of a device; use cpu, cuda or cuda:1")
    found = torch.device(name)
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"{said}{name}: torch finds {torch.cuda.device_count()} CUDA devices on this machine; use cpu, or "
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
