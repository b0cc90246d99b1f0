"""Which parties mask with each other, and how many shares recover a secret.

Up to 50 parties all are neighbours of each other, and t = ⌊2n/3⌋ + 1. With more, parties stand on a circle in an order
that is drawn anew for each sum, and a party's neighbours are the k/2 before and the k/2 after it (a Harary graph), so
that masks and shares cost O(log n) instead of O(n). The smallest k and its t follow from Bell et al., "Secure
Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020. A party checks an offer in exact integers.

The order follows from the manifest and the fresh keys of all parties. A coordinator alone cannot choose the order. With
a colluding party it can try keys until the order suits it, and each trial uses up a little of the 2^-40.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fedrec.errors import PlanError

__all__ = [
    "COLLUDING",
    "MAX_PARTIES",
    "Topology",
    "degree_and_threshold",
    "floor_of",
    "is_safe",
    "neighbours",
    "share_among",
    "topology",
]

MAX_PARTIES = 10_000
COLLUDING = 0.1
"""Default share of parties that may collude with the coordinator."""
_COMPLETE_UP_TO = 50
_SECURITY_BITS = 40
_FAILURE_BITS = 20


@dataclass(frozen=True)
class Topology:
    """Graph and threshold of secure aggregation.

    Args:
        parties: number of parties n.
        neighbours: number of neighbours k of each party; n - 1 in the complete graph.
        threshold: number of shares t that recover a secret. In the complete graph a party also has one share of its own
            secrets.
        colluders: number of parties that may collude with the coordinator and still learn the sum only.
    """

    parties: int
    neighbours: int
    threshold: int
    colluders: int

    @property
    def complete(self) -> bool:
        """Whether all parties are neighbours of each other."""
        return self.neighbours == self.parties - 1

    def __str__(self) -> str:
        shape = "complete graph" if self.complete else f"{self.neighbours} neighbours each"
        return (
            f"{self.parties} parties, {shape}, {self.threshold} shares recover a secret, "
            f"{self.colluders} colluders tolerated"
        )


def topology(parties: int, colluding: float = COLLUDING, dropping: float = 0.1) -> Topology:
    """Choose the graph and the threshold for a number of parties.

    Args:
        parties: number of parties, at least 3.
        colluding: maximum share of parties that collude with the coordinator.
        dropping: maximum share of parties that drop out. If no sparse graph tolerates both shares, the complete graph
            is used.

    Raises:
        PlanError: for fewer than 3 or more than 10,000 parties, or shares that are not in [0, 1).

    Example:
        >>> print(topology(3))
        3 parties, complete graph, 3 shares recover a secret, 1 colluders tolerated
        >>> print(topology(1000))
        1000 parties, 96 neighbours each, 67 shares recover a secret, 100 colluders tolerated
    """
    _check(parties, colluding, dropping)
    sparse = None if parties <= _COMPLETE_UP_TO else degree_and_threshold(parties, colluding, dropping)
    if sparse is None:
        threshold = complete_threshold(parties, colluding)
        return Topology(parties, parties - 1, threshold, min(2 * threshold - parties - 1, parties - 2))
    return Topology(parties, *sparse, floor_of(colluding, parties))


def complete_threshold(parties: int, colluding: float) -> int:
    """The minimum threshold in the complete graph: ⌊2n/3⌋ + 1, and 2t > n + colluders if there are many colluders."""
    return max(2 * parties // 3, (parties + min(floor_of(colluding, parties), parties - 2)) // 2) + 1


@functools.lru_cache(maxsize=256)
def degree_and_threshold(
    parties: int, colluding: float, dropping: float, semi_malicious: bool = True
) -> tuple[int, int] | None:
    """Smallest even number of neighbours k of a Harary graph, and its threshold t; `None` if there is no such graph.

    The surviving honest parties are connected, and no party's colluding neighbours can open its secrets, up to 2^-40;
    every party keeps t neighbours, up to 2^-20. Against a `semi_malicious` coordinator, which may give parties
    different lists of dropped parties, 2t exceeds k plus the colluding neighbours, so that no secret is recovered
    twice.

    >>> degree_and_threshold(100, 0.1, 0.1), degree_and_threshold(100, 0.1, 0.1, semi_malicious=False)
    ((32, 22), (22, 11))
    """
    _check(parties, colluding, dropping)
    from scipy.stats import hypergeom

    marked, alive = floor_of(colluding, parties), parties - floor_of(dropping, parties)
    for degree in range(2, parties - 1, 2):
        if not _connected(parties, degree, colluding, dropping):
            continue
        near = _exceeded(2.0 ** -(_SECURITY_BITS + 1) / parties, hypergeom(parties, marked, degree), degree)
        threshold = max(2, (near + degree) // 2 + 1 if semi_malicious else near + 1)
        if parties * hypergeom.cdf(threshold - 1, parties, alive, degree) < 2.0**-_FAILURE_BITS:
            return degree, threshold
    return None


def _minus_tail(law: Any, parties: int, marked: int, degree: int, count: int) -> float:
    """Minus the probability of more than `count` marked parties among `degree` of the parties."""
    return -float(law.sf(count, parties, marked, degree))


def is_safe(shape: Topology, colluding: float, dropping: float) -> bool:
    """Whether degree and threshold protect against a semi-malicious coordinator with this share of colluders.

    Whether enough parties would survive matters to the coordinator, not to a party.
    """
    n, k, t = shape.parties, shape.neighbours, shape.threshold
    if k == n - 1:
        return complete_threshold(n, colluding) <= t <= n
    if n <= _COMPLETE_UP_TO or k % 2 or not 2 <= k < n - 1 or not 2 <= t <= k:
        return False
    marked, bearable = floor_of(colluding, n), 2 * t - k - 1
    tail = sum(
        math.comb(marked, near) * math.comb(n - marked, k - near)
        for near in range(max(0, bearable + 1), min(k, marked) + 1)
    )
    return bearable >= 0 and _connected(n, k, colluding, dropping) and n * tail << _SECURITY_BITS <= math.comb(n, k)


@functools.lru_cache(maxsize=8)
def _circle(seed: bytes, parties: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order on the circle, and the place of each party in it."""
    drawn = sorted(range(parties), key=lambda index: hashlib.sha256(seed + index.to_bytes(4, "little")).digest())
    places = [0] * parties
    for place, index in enumerate(drawn):
        places[index] = place
    return tuple(drawn), tuple(places)


def neighbours(shape: Topology, seed: bytes, index: int) -> tuple[int, ...]:
    """Neighbours of a party in ascending order.

    Args:
        shape: the graph.
        seed: 32 bytes that determine the order on the circle; not used for the complete graph.
        index: index of the party, from 0.
    """
    if shape.complete:
        return (*range(index), *range(index + 1, shape.parties))
    order, places = _circle(seed, shape.parties)
    steps = range(1, shape.neighbours // 2 + 1)
    place = places[index]
    return tuple(sorted(order[(place + sign * step) % shape.parties] for step in steps for sign in (-1, 1)))


def holders(shape: Topology, near: Sequence[int], index: int) -> tuple[int, ...]:
    """Parties that have shares of a party's secrets: its neighbours and, in the complete graph, itself."""
    return tuple(sorted((*near, index))) if shape.complete else tuple(near)


def _check(parties: int, colluding: float, dropping: float) -> None:
    if not 3 <= parties <= MAX_PARTIES:
        raise PlanError(f"secure aggregation needs 3 to {MAX_PARTIES} parties, not {parties}")
    for name, share in (("colluding", colluding), ("dropping", dropping)):
        if not 0 <= share < 1:
            raise PlanError(f"the share of {name} parties must be at least 0 and below 1, not {share}")


def _exceeded(chance: float, law: Any, most: int) -> int:
    """The smallest number that is exceeded with at most this probability."""
    if 1.0 - chance < 1.0:
        return int(law.isf(chance))
    return bisect.bisect_left(
        range(most), -chance, key=lambda count: -float(law.sf(count))
    )  # isf computes with 1 - chance


def floor_of(share: float, parties: int) -> int:
    """The number of parties in a share of all parties, rounded down."""
    return math.floor(Fraction(share).limit_denominator(10**9) * parties)


def share_among(parties: int, pinned: int, colluding: float = COLLUDING) -> float:
    """The share of `parties` that collude if a share `colluding` of all `pinned` parties colludes and is among them.

    >>> floor_of(share_among(14, pinned=50), 14)
    5
    """
    return max(colluding, (floor_of(colluding, pinned) + 0.5) / parties) if pinned > parties else colluding


def _connected(n: int, k: int, colluding: float, dropping: float) -> bool:
    """Whether the honest survivors stay connected: only two gaps of k/2 bad parties cut the circle, and a union bound
    over pairs of gaps stays below 2^-41."""
    bad = floor_of(colluding, n) + floor_of(dropping, n)
    if k > bad:
        return True
    pairs = n * (n - k - 1)
    return pairs * math.perm(bad, k) << (_SECURITY_BITS + 1) < 2 * math.perm(n, k)
