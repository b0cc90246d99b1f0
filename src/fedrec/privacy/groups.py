"""What a promise to one user is worth to several users together."""

from __future__ import annotations

import math

__all__ = ["group_promise"]


def group_promise(epsilon: float, delta: float, users: int) -> tuple[float, float]:
    """ε and δ for a group of users, given those for one user: kε and k·δ·e^((k − 1)ε).

    Source: Vadhan, The Complexity of Differential Privacy (2017), lemma 2.2. A δ of 1 or more promises nothing.

    Example:
        >>> epsilon, delta = group_promise(1.0, 1e-6, 3)
        >>> epsilon, f"{delta:.3g}"
        (3.0, '2.22e-05')
    """
    exponent = (users - 1) * epsilon
    return users * epsilon, math.inf if exponent > 700 else users * delta * math.exp(exponent)
