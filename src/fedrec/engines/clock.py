"""A virtual clock: how long nodes take and when they are there, in a run that is played in one process.

It never waits, and says when a node would be done. Time goes by in interactions: a node of speed s has trained on the n
interactions of its clients n / s seconds after it began, counting the seconds that it is there.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace

from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError, suggestion

__all__ = ["SPEED", "Clock"]

SPEED = 1000.0
"""Interactions a second of a node that nothing is said about."""

_WORDS = "write speeds of all nodes (1000,1000,100), slow:SHARExFACTOR, latency:SECONDS or there:SECONDS/AWAY"


@dataclass(frozen=True)
class Clock:
    """When nodes are done.

    Args:
        speeds: of each node, in interactions a second.
        latency: seconds that a message takes, to a node and back again.
        there, away: mean seconds for which a node is there and away in turn, drawn for each node from an exponential
            distribution; a node that is away goes on later where it stopped. Always there where `away` is 0.
        source: of those draws.
        text: what it was made from.

    Example:
        >>> clock = Clock.parse("slow:0.5x10,latency:0.5", nodes=4)
        >>> clock.speeds, clock.done(0, 0.0, 2000), clock.done(3, 0.0, 2000)
        ((1000.0, 1000.0, 100.0, 100.0), 3.0, 21.0)
    """

    speeds: tuple[float, ...]
    latency: float = 0.0
    there: float = 0.0
    away: float = 0.0
    source: KeyedSource = field(default_factory=lambda: KeyedSource.from_seed(0), repr=False)
    text: str = ""
    _turns: dict[int, _Turns] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def parse(cls, text: str, nodes: int, seed: int = 0) -> Clock:
        """A clock from words, parted by commas.

        Args:
            text: speeds, one for each node; `slow:SHARExFACTOR`, the last nodes are that much slower;
                `latency:SECONDS`; `there:SECONDS/AWAY`. Empty: all nodes are equally fast.
            nodes: how many.
            seed: of when nodes are there.

        Raises:
            InputError: for anything else.
        """
        clock = cls((SPEED,) * nodes, source=KeyedSource.from_seed(seed).child("clock"), text=text)
        speeds = []
        slow = 0, 1.0
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, colon, value = part.partition(":")
            if not colon:
                speeds.append(_number(part, part))
            elif name == "slow":
                share, _, factor = value.partition("x")
                if not 0 <= _number(share, part, zero=True) <= 1:
                    raise InputError(f"clock {part!r}: the share of slow nodes is from 0 to 1")
                slow = round(float(share) * nodes), _number(factor, part)
            elif name == "latency":
                clock = replace(clock, latency=_number(value, part, zero=True))
            elif name == "there":
                there, _, away = value.partition("/")
                clock = replace(clock, there=_number(there, part), away=_number(away, part, zero=True))
            else:
                raise InputError(
                    f"clock {part!r} is not known{suggestion(name, ['slow', 'latency', 'there'])}; {_WORDS}"
                )
        if speeds and len(speeds) != nodes:
            raise InputError(f"clock {text!r}: {len(speeds)} speeds for {nodes} nodes that have users")
        fast = nodes - slow[0]
        speeds = speeds or list(clock.speeds)
        return replace(clock, speeds=(*speeds[:fast], *(speed / slow[1] for speed in speeds[fast:])))

    def done(self, node: int, since: float, work: int) -> float:
        """When the sum of a node is back.

        Args:
            node: its place.
            since: when it was asked.
            work: interactions of the clients that it trains, counted as one where there are none.
        """
        begun, needed = since + self.latency, max(work, 1) / self.speeds[node]
        if self.away == 0:
            return begun + needed + self.latency
        if node not in self._turns:
            self._turns[node] = _Turns(self.source.child(node), self.there, self.away)
        return self._turns[node].done(begun, needed) + self.latency


class _Turns:
    """When a node is there: ends of the turns in which it is there and away, drawn one after the other."""

    def __init__(self, source: KeyedSource, there: float, away: float) -> None:
        self._draws = source.generator()
        self._means = there, away
        self._first = int(self._draws.random() >= there / (there + away))  # 0 where it begins by being there
        self._ends: list[float] = []

    def done(self, begun: float, needed: float) -> float:
        """When `needed` seconds of being there are over, from `begun` on."""
        turn, now = bisect_right(self._ends, begun), begun
        while True:
            if turn == len(self._ends):
                mean = self._means[(self._first + turn) % 2]
                self._ends.append((self._ends[-1] if self._ends else 0.0) + float(self._draws.exponential(mean)))
            end = self._ends[turn]
            if end > now:
                is_there = (self._first + turn) % 2 == 0
                if is_there and now + needed <= end:
                    return now + needed
                needed -= (end - now) * is_there
                now = end
            turn += 1


def _number(text: str, part: str, zero: bool = False) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 or (zero and value == 0)) or not math.isfinite(value):
        raise InputError(f"clock {part!r}: {text!r} is not a number above 0; {_WORDS}")
    return value
