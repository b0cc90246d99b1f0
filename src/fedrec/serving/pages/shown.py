"""What a log of events says of all users together: clicks by rank, and how much of the catalog was shown."""

from __future__ import annotations

from dataclasses import dataclass

from fedrec.data.databases.logs import count_events
from fedrec.pictures.vector import bars

__all__ = ["RankRate", "Shown"]

_CLICK, _IMPRESSION = "click", "impression"
_RANKS = 20


@dataclass(frozen=True)
class RankRate:
    """Clicks on what was shown at a rank, and the standard error of their rate."""

    rank: int
    shown: int
    clicks: int

    @property
    def rate(self) -> float:
        """Clicks per impression; events of an incomplete log may have more clicks than impressions."""
        return self.clicks / self.shown

    @property
    def error(self) -> float:
        """Standard error of the rate, if impressions are independent."""
        rate = min(self.rate, 1.0)
        return float((rate * (1.0 - rate) / self.shown) ** 0.5)


@dataclass(frozen=True)
class Shown:
    """A log of events in numbers.

    Args:
        kinds: number of events of each kind.
        ranks: the first 20 ranks that were shown.
        items: number of items that were shown.
        users: number of users with events.
        model: digest of the model that showed the last item; empty if the log does not say.
    """

    kinds: dict[str, int]
    ranks: tuple[RankRate, ...]
    items: int
    users: int
    model: str

    @classmethod
    def of(cls, log: str) -> Shown:
        """Read a log, which may be written meanwhile.

        Args:
            log: a path or URL.

        Raises:
            InputError: if it cannot be read, or is no log.
        """
        counts = count_events(log)
        kinds: dict[str, int] = {}
        by_rank: dict[tuple[str, int], int] = {}
        for kind, rank, events in counts.by_rank.iter_rows():
            kinds[kind] = kinds.get(kind, 0) + events
            if rank is not None:
                by_rank[kind, rank] = events
        shown = sorted(rank for kind, rank in by_rank if kind == _IMPRESSION)[:_RANKS]
        rates = [RankRate(rank, by_rank[_IMPRESSION, rank], by_rank.get((_CLICK, rank), 0)) for rank in shown]
        return cls(dict(sorted(kinds.items())), tuple(rates), counts.items, counts.users, counts.model)

    @property
    def rate(self) -> float | None:
        """Clicks per impression over the ranks; `None` if nothing was shown."""
        shown = sum(rank.shown for rank in self.ranks)
        return sum(rank.clicks for rank in self.ranks) / shown if shown else None

    def drawing(self) -> str:
        """Click rate by rank, with 95 % intervals, as SVG."""
        return bars(
            "Click rate by rank, with 95 % intervals",
            "rank",
            "clicks per item shown",
            [str(rank.rank) for rank in self.ranks],
            [rank.rate for rank in self.ranks],
            [1.96 * rank.error for rank in self.ranks],
        )
