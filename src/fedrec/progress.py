"""Where time goes, and how far work is: measured and told beside the work, which neither reads it nor depends on it.

A `Stopwatch` counts seconds by part. `stage` says which part begins; `doing` and `followed` say how far it is, to those
who are `following`. They meet in context variables: models, nodes and engines are handed no watcher, and where nobody
watches, nothing is told. Work in other threads than the watched one is not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

from fedrec.errors import InputError

__all__ = ["Step", "Stopwatch", "counting", "doing", "followed", "following", "is_followed", "stage"]

Part = TypeVar("Part")

RUN = ("read", "prepare", "train", "evaluate", "write")
"""Parts of a run's seconds."""


@dataclass(frozen=True)
class Step:
    """What is being done.

    Args:
        says: in words.
        share: how much of it is done, from 0 to 1; `None` where that is not known.
        count: what is there so far, such as `2 of 3 nodes have answered`; empty without.
    """

    says: str
    share: float | None = None
    count: str = ""


class Stopwatch:
    """Seconds of a block by part; all time inside counts, once.

    Args:
        parts: that are listed even where no time went to them.
        base: the part of whatever no stage claims.

    Raises:
        InputError: if a name is not text.

    Example:
        >>> import fedrec as fr
        >>> with fr.Stopwatch() as clock:
        ...     split = fr.leave_last_out(fr.synthetic(users=300, items=120, interactions_per_user=12))
        ...     figures = fr.evaluate(fr.EASE().fit(split.train), split)
        >>> sorted(clock.seconds_of)
        ['evaluate', 'other', 'prepare', 'read', 'train']
        >>> abs(clock.seconds - sum(clock.seconds_of.values())) < 1e-9
        True
    """

    def __init__(self, *parts: str, base: str = "other") -> None:
        for part in (*parts, base):
            if not isinstance(part, str):
                raise InputError(f"Stopwatch: the name of a part must be text, not {part!r}")
        self._spent = dict.fromkeys((*parts, base), 0.0)
        self._part = base
        self._since = time.perf_counter()
        self._runs = True
        self._token: Token[tuple[Stopwatch, ...]] | None = None

    def __enter__(self) -> Self:
        self._token = _stopwatches.set((*_stopwatches.get(), self))
        return self

    def __exit__(self, *_: object) -> None:
        self._to(self._part)
        self._runs = False
        if self._token is not None:
            _stopwatches.reset(self._token)

    @property
    def seconds_of(self) -> dict[str, float]:
        """Seconds by part, to the millisecond; so far, inside the block."""
        if self._runs:
            self._to(self._part)
        return {part: round(spent, 3) for part, spent in self._spent.items()}

    @property
    def seconds(self) -> float:
        """The sum of `seconds_of`."""
        return round(sum(self.seconds_of.values()), 3)

    def figures(self) -> dict[str, Any]:
        """Both, as reports have them."""
        seconds_of = self.seconds_of
        return {"seconds": round(sum(seconds_of.values()), 3), "seconds_of": seconds_of}

    def _to(self, part: str) -> str:
        """Count what follows as another part; returns the part before."""
        now, before = time.perf_counter(), self._part
        self._spent[before] += now - self._since
        self._part, self._since = part, now
        self._spent.setdefault(part, 0.0)
        return before


@contextmanager
def stage(part: str, says: str = "") -> Iterator[None]:
    """Count the time of a block as `part`, but for stages within it; where `says` is given, whoever follows is told.

    Example:
        >>> with Stopwatch() as clock, stage("train"), stage("evaluate"):
        ...     pass
        >>> sorted(clock.seconds_of)
        ['evaluate', 'other', 'train']
    """
    stopwatches = _stopwatches.get()
    before = [stopwatch._to(part) for stopwatch in stopwatches]
    watched = _watched.get() if says else None
    kept = None if watched is None else watched.begin(says)
    try:
        yield
    finally:
        for stopwatch, earlier in zip(stopwatches, before, strict=True):
            stopwatch._to(earlier)
        if watched is not None and kept is not None:
            watched.end(kept)


def doing(says: str, low: float | None = None, width: float = 0.0) -> None:
    """Tell what begins now, which is from `low` to `low + width` of the stage; `None` where that is not known."""
    watched = _watched.get()
    if watched is not None:
        watched.says, watched.low, watched.width = says, low, width
        watched.tell()


def followed(
    parts: Iterable[Part], total: float | None = None, size: Callable[[Part], float] | None = None
) -> Iterator[Part]:
    """The parts of a piece of work as they are; whoever follows is told how much of it is done after each.

    Args:
        parts: in order.
        total: of the sizes; the number of parts where `None`.
        size: of a part; its length where there is a `total`, else 1.

    Example:
        >>> told = []
        >>> with following(told.append), stage("train", "adding"):
        ...     total = sum(followed([1, 2, 3, 4]))
        >>> [step.share for step in told][:5]
        [None, 0.25, 0.5, 0.75, 1.0]
    """
    watched = _watched.get()
    if watched is None:
        yield from parts
        return
    whole = float(len(cast(Sized, parts)) if total is None else total)
    size = size or ((lambda _: 1.0) if total is None else (lambda part: float(len(cast(Sized, part)))))
    low, width, done = watched.low, watched.width, 0.0
    try:
        for part in parts:
            of_all = size(part) / whole if whole else 0.0
            if low is not None:
                watched.low, watched.width = low + width * done, width * of_all
            yield part
            done += of_all
            if low is not None:
                watched.low = low + width * done
            watched.tell()
    finally:
        watched.low, watched.width = low, width


@contextmanager
def counting(of: int, words: str) -> Iterator[Callable[[int], None]]:
    """Tell how many of `of` are there, in words, such as `nodes have answered`."""
    watched = _watched.get()
    if watched is None:
        yield lambda _: None
        return
    low, width, count = watched.low, watched.width, watched.count

    def reached(number: int) -> None:
        watched.count = f"{number:,} of {of:,} {words}"
        if low is not None:
            watched.low, watched.width = low + width * number / max(of, 1), width / max(of, 1)
        watched.tell()

    try:
        reached(0)
        yield reached
    finally:
        watched.low, watched.width, watched.count = low, width, count


@contextmanager
def following(tell: Callable[[Step], None]) -> Iterator[None]:
    """Be told of every step of what is done inside the block."""
    token = _watched.set(_Watched(tell))
    try:
        yield
    finally:
        _watched.reset(token)


def is_followed() -> bool:
    """Whether somebody is told already."""
    return _watched.get() is not None


class _Watched:
    """Where the work is that somebody follows; within one `says` the share never falls."""

    def __init__(self, tell: Callable[[Step], None]) -> None:
        self.says = ""
        self.low: float | None = None
        self.width = 0.0
        self.count = ""
        self._tell = tell
        self._last: tuple[str, float] = "", 0.0

    def begin(self, says: str) -> tuple[str, float | None, float]:
        kept = self.says, self.low, self.width
        self.says, self.low, self.width = says, 0.0, 1.0
        self._tell(Step(says))
        return kept

    def end(self, kept: tuple[str, float | None, float]) -> None:
        self.says, self.low, self.width = kept
        self._tell(Step(self.says, self.low, self.count))

    def tell(self) -> None:
        share = self.low
        if share is not None:
            share = min(max(share, self._last[1]) if self._last[0] == self.says else share, 1.0)
            self._last = self.says, share
        self._tell(Step(self.says, share, self.count))


_stopwatches: ContextVar[tuple[Stopwatch, ...]] = ContextVar("stopwatches", default=())
_watched: ContextVar[_Watched | None] = ContextVar("watched", default=None)
