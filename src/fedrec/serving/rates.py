"""How many requests per second somebody may send."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["Rates"]

_MOST = 10_000


class Rates:
    """A bucket for each name, which fills at a rate and holds a second's worth of requests.

    Args:
        clock: seconds that only grow.

    Example:
        >>> now = [0.0]
        >>> rates = Rates(lambda: now[0])
        >>> [rates.wait("shop", 2.0) for _ in range(3)]
        [0.0, 0.0, 0.5]
        >>> now[0] = 0.5
        >>> rates.wait("shop", 2.0)
        0.0
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str, rate: float) -> float:
        """Take one request out of a bucket: 0, or the seconds until there is one."""
        now, most = self._clock(), max(1.0, rate)
        left, filled = self._buckets.get(name, (most, now))
        left = min(most, left + (now - filled) * rate)
        waiting = 0.0 if left >= 1.0 else (1.0 - left) / rate
        self._buckets[name] = (left if waiting else left - 1.0, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
        return waiting
