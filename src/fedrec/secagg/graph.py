"""Who masks with whom, and how many shares open a secret.

Up to 50 parties everybody is everybody's neighbour, and t = ⌊2n/3⌋ + 1. Above, parties stand on a circle in an order
that is drawn anew for each sum, and a party's neighbours are the k/2 before and the k/2 after it (a Harary graph), so
that masks and shares cost O(log n) instead of O(n). The smallest k and its t follow from Bell et al., "Secure
Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS 2020. A party checks an offer in exact integers.

The order follows from the manifest and everybody's fresh keys. A coordinator alone cannot choose it; one that colludes
with a party can have that party try keys until the order suits it, and each trial costs a little of the 2^-40.
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
"""Share of parties that may work with the coordinator, where nobody says otherwise."""
_COMPLETE_UP_TO = 50
_SECURITY_BITS = 40
_FAILURE_BITS = 20


@dataclass(frozen=True)
class Topology:
    """The shape of a secure sum.

    Args:
        parties: n.
        neighbours: k of each party; n - 1 is the complete graph.
        threshold: t, shares that open a secret. In the complete graph a party holds one share of its own secrets too.
        colluders: parties that may work with the coordinator without seeing more than the sum.
    """

    parties: int
    neighbours: int
    threshold: int
    colluders: int

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.neighbours == self.parties - 1

    def __str__(self) -> str:
        shape = "complete graph" if self.complete else f"{self.neighbours} neighbours each"
        return (
            f"{self.parties} parties, {shape}, {self.threshold} shares open a secret, "
            f"{self.colluders} colluders tolerated"
        )


def topology(parties: int, colluding: float = COLLUDING, dropping: float = 0.1) -> Topology:
    """Choose the graph and the threshold of `parties`.

    Args:
        parties: n, at least 3.
        colluding, dropping: largest shares of parties that collude with the coordinator, and that drop out. They matter
            above 50 parties; where no sparse graph can bear them, the complete one is taken.

    Raises:
        PlanError: for fewer than 3 parties, more than 10,000, or shares that have no meaning.

    Example:
        >>> print(topology(3))
        3 parties, complete graph, 3 shares open a secret, 1 colluders tolerated
        >>> print(topology(1000))
        1000 parties, 96 neighbours each, 67 shares open a secret, 100 colluders tolerated
    """
    _check(parties, colluding, dropping)
    found = None if parties <= _COMPLETE_UP_TO else degree_and_threshold(parties, colluding, dropping)
    if found is None:
        threshold = complete_threshold(parties, colluding)
        return Topology(parties, parties - 1, threshold, min(2 * threshold - parties - 1, parties - 2))
    return Topology(parties, *found, floor_of(colluding, parties))


def complete_threshold(parties: int, colluding: float) -> int:
    """The smallest that the complete graph may have: ⌊2n/3⌋ + 1, and 2t > n + colluders if there are many of them."""
    return max(2 * parties // 3, (parties + min(floor_of(colluding, parties), parties - 2)) // 2) + 1


@functools.lru_cache(maxsize=256)
def degree_and_threshold(
    parties: int, colluding: float, dropping: float, semi_malicious: bool = True
) -> tuple[int, int] | None:
    """Smallest even number of neighbours k of a Harary graph, and its threshold t; `None` if there is no such graph.

    The surviving honest parties are connected, and no party's colluding neighbours can open its secrets, up to 2^-40;
    every party keeps t neighbours, up to 2^-20. Against a `semi_malicious` coordinator, which may tell parties unlike
    things about who dropped out, 2t exceeds k plus the colluding neighbours, so that no secret opens twice.

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
    """Minus the chance of more than `count` marked ones among `degree` of the parties."""
    return -float(law.sf(count, parties, marked, degree))


def is_safe(shape: Topology, colluding: float, dropping: float) -> bool:
    """Whether degree and threshold protect against a semi-malicious coordinator with this share of colluders.

    Whether enough parties would survive is the coordinator's worry, not the party's.
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
    """The order on the circle, and everybody's place in it."""
    drawn = sorted(range(parties), key=lambda index: hashlib.sha256(seed + index.to_bytes(4, "little")).digest())
    places = [0] * parties
    for place, index in enumerate(drawn):
        places[index] = place
    return tuple(drawn), tuple(places)


def neighbours(shape: Topology, seed: bytes, index: int) -> tuple[int, ...]:
    """Neighbours of a party, ascending, without itself.

    Args:
        shape: the graph.
        seed: 32 bytes that fix the order on the circle; the complete graph needs none.
        index: of the party, from 0.
    """
    if shape.complete:
        return (*range(index), *range(index + 1, shape.parties))
    order, places = _circle(seed, shape.parties)
    steps = range(1, shape.neighbours // 2 + 1)
    place = places[index]
    return tuple(sorted(order[(place + sign * step) % shape.parties] for step in steps for sign in (-1, 1)))


def holders(shape: Topology, near: Sequence[int], index: int) -> tuple[int, ...]:
    """Who holds shares of a party's secrets: its neighbours, and in the complete graph itself."""
    return tuple(sorted((*near, index))) if shape.complete else tuple(near)


def _check(parties: int, colluding: float, dropping: float) -> None:
    if not 3 <= parties <= MAX_PARTIES:
        raise PlanError(f"a secure sum is among 3 to {MAX_PARTIES} parties, not {parties}")
    for name, share in (("colluding", colluding), ("dropping", dropping)):
        if not 0 <= share < 1:
            raise PlanError(f"the share of {name} parties must be at least 0 and below 1, not {share}")


def _exceeded(chance: float, law: Any, most: int) -> int:
    """The smallest number that is exceeded with no more than this chance."""
    if 1.0 - chance < 1.0:
        return int(law.isf(chance))
    return bisect.bisect_left(range(most), -chance, key=lambda count: -float(law.sf(count)))  # isf goes by 1 - chance


def floor_of(share: float, parties: int) -> int:
    """The whole number of parties in a share of them."""
    return math.floor(Fraction(share).limit_denominator(10**9) * parties)


def share_among(parties: int, known: int, colluding: float = COLLUDING) -> float:
    """The share of `parties` that collude if a share `colluding` of all `known` ones does, and all of these are here.

    >>> floor_of(share_among(14, known=50), 14)
    5
    """
    return max(colluding, (floor_of(colluding, known) + 0.5) / parties) if known > parties else colluding


def _connected(n: int, k: int, colluding: float, dropping: float) -> bool:
    """Two gaps of k/2 bad parties each cut the circle: a union bound over pairs of gaps stays below 2^-41."""
    bad = floor_of(colluding, n) + floor_of(dropping, n)
    if k > bad:
        return True
    pairs = n * (n - k - 1)
    return pairs * math.perm(bad, k) << (_SECURITY_BITS + 1) < 2 * math.perm(n, k)
