"""The device that a command or a node names for its networks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from fedrec.errors import InputError

__all__ = ["on_device"]


def on_device(name: str | None, said: str) -> AbstractContextManager[None]:
    """Run networks on a device inside the block; `None` leaves things as they are.

    Args:
        name: `cpu`, `cuda` or `cuda:1`.
        said: what stands before the name in errors, such as `--device `.

    Raises:
        InputError: if this machine has no such device, or torch is not installed.
    """
    if name is None:
        return nullcontext()
    try:
        from fedrec.models.networks.devices import held_device
    except ImportError:
        raise InputError(f"{said}{name}: networks need PyTorch; pip install 'fedrec[torch]'") from None
    return held_device(name, said)
