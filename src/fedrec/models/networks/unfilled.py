"""Modules whose parameters have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["unfilled"]

_DRAWS = (torch.rand, torch.randn)
_FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.exponential_, torch.Tensor.random_)


def unfilled() -> ExitStack:
    """A block in which tensors have no numbers: they take no memory, and nothing is drawn.

    Example:
        >>> with unfilled():
        ...     layer = torch.nn.Linear(10**6, 10**6)
        >>> layer.weight.shape, layer.weight.device.type
        (torch.Size([1000000, 1000000]), 'meta')
    """
    stack = ExitStack()
    stack.enter_context(torch.device("meta"))
    stack.enter_context(_NothingDrawn())
    return stack


class _NothingDrawn(TorchFunctionMode):
    """Passes over first values. On the device `meta` PyTorch decomposes each draw, and loads its compiler to do so,
    which takes seconds."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        if function in _FILLS or getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else named["tensor"]
        if function in _DRAWS:
            return torch.empty(*args, **{name: value for name, value in named.items() if name != "generator"})
        return function(*args, **named)
