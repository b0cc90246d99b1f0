"""An empirical epsilon in one run (Andrew et al. 2024, "One-shot empirical privacy estimation for federated learning").

Canaries are clients that add a random vector of the largest norm that clipping allows. Then each canary is compared
with the release: the cosines of canaries in the sum have a positive mean, those of other canaries mean 0, both with
variance 1 / d. The epsilon that separates these two normal distributions at δ is the estimate. The attacker knows
everything except the canaries, so the exact sum is subtracted first: the worst case of the promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from fedrec.aggregation.queries import Query, deviations
from fedrec.aggregation.sums import Sum
from fedrec.audit.findings import Finding
from fedrec.audit.observe import Observed
from fedrec.privacy.accounting import cohort_epsilon, epsilon_of
from fedrec.privacy.chance import Chance
from fedrec.privacy.noise import noised

__all__ = ["Mechanism", "canaries", "epsilon_between", "mean_cosine", "one_shot"]

Mechanism = Callable[[Sum, Sequence[Query], float, int, Chance], Sum]
"""A function that adds noise: `fedrec.privacy.noise.noised`, or a broken variant for tests."""

_COUNT = 1000
_TOTAL = 2000
_PER_CANARY = 20
_BLOCK = 32
_LARGEST = 1 << 18
_MARGIN = 0.75


def epsilon_between(mean: float, delta: float) -> float:
    """ε at δ that separates N(mean, 1) from N(0, 1), that of a Gaussian with noise 1 / mean; 0 if `mean` is not above
    0.

    >>> round(epsilon_between(1.0, 1e-5), 3)
    4.377
    """
    return epsilon_of(1.0 / mean, delta, 1) if mean > 0 else 0.0


def one_shot(
    exact: Sum,
    queries: Sequence[Query],
    noise_multiplier: float,
    delta: float,
    chance: Chance,
    seeds: Sequence[int],
    mechanism: Mechanism = noised,
) -> float:
    """ε of releases of a sum, measured with canaries.

    Args:
        exact: the sum without canaries.
        queries: queries of the round.
        noise_multiplier: noise multiplier of the round.
        delta: δ.
        chance: source of the noise.
        seeds: seeds of canaries, one for each release.
        mechanism: function that releases the sum.
    """
    means = [mean_cosine(exact, queries, noise_multiplier, chance, seed, mechanism) for seed in seeds]
    return epsilon_between(float(np.mean(means)), delta)


def mean_cosine(
    exact: Sum,
    queries: Sequence[Query],
    noise_multiplier: float,
    chance: Chance,
    seed: int,
    mechanism: Mechanism = noised,
) -> float:
    """Mean cosine of canaries with a release that contains them, in standard deviations of canaries outside of it.

    Canaries disturb each other: with k canaries in d coordinates the mean falls from 1 / z to 1 / √(z² + k / d). So
    there is one canary per 20 coordinates, and at most 1,000.
    """
    layout = [_Part.of(query, name, exact) for query in queries for name in query.metrics]
    size = sum(part.size for part in layout)
    count = _count(size)
    crowd = np.zeros(size, dtype=np.int64)
    for signs in _signs(seed, count, size):
        crowd += signs.sum(axis=0, dtype=np.int64)
    total = replace(exact, arrays={name: array.copy() for name, array in exact.arrays.items()})
    start = 0
    for part in layout:
        step = np.trunc(part.entry / part.weights * part.unit).astype(np.int64)
        flat = total.arrays[part.name].reshape(-1)
        flat[: part.size] += (step * crowd[start : start + part.size]).astype(flat.dtype)
        start += part.size
    released = mechanism(total, queries, noise_multiplier, 1, chance)
    changes = []
    for part in layout:
        after, before = (total.arrays[part.name].reshape(-1)[: part.size] for total in (released, exact))
        moved = (after - before.astype(np.float64)) / part.unit * part.weights
        changes.append(moved * part.entry * part.gain**2)
    length = math.sqrt(
        sum(
            float(np.square(change / (part.entry * part.gain)).sum())
            for part, change in zip(layout, changes, strict=True)
        )
    )
    change = np.concatenate(changes)
    cosines = np.concatenate([signs @ change for signs in _signs(seed, count, size)]) / length
    return float(cosines.mean()) * math.sqrt(size)


def canaries(observed: Observed, chance: Chance) -> Finding:
    """The empirical epsilon of a plan's last round, compared with the charge of the round."""
    terms = observed.plan.privacy
    if terms is None:
        return Finding(
            "canaries",
            "cohort",
            "empirical epsilon",
            math.inf,
            None,
            "fail",
            "sums are exact, so a single canary is detected with certainty",
        )
    last = observed.last_release()
    size = sum(min(last.exact.spec[name].size, _LARGEST) for query in last.queries for name in query.metrics)
    releases = max(3, -(-_TOTAL // _count(size)))
    value = one_shot(last.exact, last.queries, last.charge.noise_multiplier, terms.delta, chance, range(releases))
    promised = cohort_epsilon([last.charge], terms.delta)
    limit = promised + _MARGIN
    return Finding(
        "canaries",
        "cohort",
        f"empirical epsilon of the last of {len(observed.rounds)} rounds",
        value,
        limit,
        "fail" if value > limit else "pass",
        f"{releases * _count(size):,} canaries measure epsilon {value:.2f}; the charge of the round is {promised:.2f}",
    )


def _count(size: int) -> int:
    """Number of canaries for one release of `size` coordinates."""
    return min(_COUNT, max(size // _PER_CANARY, 1))


class _Part(NamedTuple):
    """The part of a query's canaries that lies in one array.

    Args:
        name: of the array.
        weights: the metric's, of at most the first 2^18 coordinates.
        entry: ± what a canary has at each coordinate of the weighted space; all of a query's add up to norm C.
        gain: √share / C, so that after multiplication all queries have the same noise.
        unit: integer steps per 1.0.
    """

    name: str
    weights: np.ndarray
    entry: float
    gain: float
    unit: float

    @property
    def size(self) -> int:
        return len(self.weights)

    @classmethod
    def of(cls, query: Query, name: str, exact: Sum) -> _Part:
        sizes = sum(min(exact.spec[each].size, _LARGEST) for each in query.metrics)
        flat = np.empty(exact.spec[name].size)
        for part, deviation in deviations(query.metrics[name], exact.spec[name], 1.0):
            flat[part] = 1.0 / deviation
        gain = math.sqrt(query.share) / query.clip
        return cls(name, flat[:_LARGEST], query.clip / math.sqrt(sizes), gain, exact.spec[name].unit)


def _signs(seed: int, count: int, size: int) -> Iterator[np.ndarray]:
    """Canaries as random signs, a few at a time: [n, size] int8; the same for the same numbers."""
    for first in range(0, count, _BLOCK):
        bits = np.random.Philox(key=np.array([seed, first], dtype=np.uint64))
        rows = min(_BLOCK, count - first)
        words = bits.random_raw(rows * (-(-size // 64))).reshape(rows, -1)
        yield 2 * np.unpackbits(words.view(np.uint8), axis=1, count=size).view(np.int8) - np.int8(1)
