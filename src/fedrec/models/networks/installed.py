"""Whether PyTorch is there."""

from __future__ import annotations

from fedrec.errors import InputError

__all__ = ["check_torch"]


def check_torch(name: str) -> None:
    """Check that torch is installed.

    Raises:
        InputError: naming the model that needs it.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError(f"model {name!r} is a network and needs PyTorch; pip install 'fedrec[torch]'") from None
