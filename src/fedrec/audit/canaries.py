"""An empirical epsilon in one run (Andrew et al. 2024, "One-shot empirical privacy estimation for federated learning").

Canaries are clients that add a random vector of the largest norm that clipping allows. Afterwards each is compared with
what was released: cosines of those that took part lie around a positive mean, cosines of unseen ones around 0, both
with variance 1 / d. The epsilon that tells these normals apart at δ is the estimate. The attacker here knows everything
but the canaries, so the exact sum is taken off first: the worst case that the promise is about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from fedrec.aggregation.queries import Query, deviations
from fedrec.aggregation.sums import Sum
from fedrec.audit.findings import Finding
from fedrec.audit.observe import Observed, Seen
from fedrec.privacy.accounting import cohort_epsilon, epsilon_of
from fedrec.privacy.chance import Chance
from fedrec.privacy.noise import noised

__all__ = ["Mechanism", "canaries", "epsilon_between", "one_shot", "sparse_canary"]

Mechanism = Callable[[Sum, Sequence[Query], float, int, Chance], Sum]
"""What adds noise: `fedrec.privacy.noise.noised`, or a broken variant of it."""

_COUNT = 200
_LARGEST = 1 << 18
_MARGIN = 0.75


def epsilon_between(mean: float, delta: float) -> float:
    """ε at δ that tells N(mean, 1) from N(0, 1): of one Gaussian with noise 1 / mean; 0 where `mean` is not above 0.

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
    seed: int,
    mechanism: Mechanism = noised,
    count: int = _COUNT,
) -> float:
    """ε that `count` canaries measure of one release.

    Args:
        exact: the sum without canaries.
        queries, noise_multiplier: of the round.
        delta: δ.
        chance: where noise comes from.
        seed: of the canaries.
        mechanism: what releases the sum.
        count: canaries.
    """
    parts = [(query, name, metric) for query in queries for name, metric in query.metrics.items()]
    weights = {name: _weights(metric, exact, name) for _, name, metric in parts}
    total = replace(exact, arrays={name: array.copy() for name, array in exact.arrays.items()})
    for canary in range(count):
        for name, vector in _canary(queries, weights, seed, canary).items():
            step = np.trunc(vector / weights[name] * exact.spec[name].unit).astype(np.int64)
            total.arrays[name].reshape(-1)[: len(step)] += step.astype(total.arrays[name].dtype)
    released = mechanism(total, queries, noise_multiplier, 1, chance)
    change = {}
    for query, name, _ in parts:
        size = len(weights[name])
        left = released.arrays[name].reshape(-1)[:size] - exact.arrays[name].reshape(-1)[:size].astype(np.float64)
        scale = math.sqrt(query.share) / query.clip  # parts count by how little noise they have
        change[name] = left / exact.spec[name].unit * weights[name] * scale
    length = math.sqrt(sum(float(part @ part) for part in change.values()))
    cosines = np.array([
        sum(float(vector @ change[name]) * math.sqrt(_share(queries, name)) / _clip(queries, name)
            for name, vector in _canary(queries, weights, seed, canary).items()) / length
        for canary in range(count)
    ])  # fmt: skip
    deviation = 1.0 / math.sqrt(sum(len(weight) for weight in weights.values()))
    return epsilon_between(float(cosines.mean()) / deviation, delta)


def sparse_canary(
    exact: Sum, queries: Sequence[Query], noise_multiplier: float, chance: Chance, mechanism: Mechanism
) -> float:
    """Share of coordinates that come out exactly 0: noise on touched rows only leaves the others bare, and a client who
    touches one is seen at once. A sound release leaves as many as the grid gives."""
    released = mechanism(exact, queries, noise_multiplier, 1, chance)
    bare = [np.mean(released.arrays[name] == 0) for query in queries for name in query.metrics]
    return float(np.max(bare))


def canaries(observed: Observed, chance: Chance, seeds: Sequence[int] = (0, 1, 2)) -> Finding:
    """The empirical epsilon of a plan's last round, against what that round was charged."""
    terms = observed.plan.privacy
    if terms is None:
        return Finding(
            "canaries", "cohort", "empirical epsilon", math.inf, None, "fail",
            "sums are exact: one canary is told with certainty",
        )  # fmt: skip
    seen: Seen = observed.rounds[-1]
    node = observed.engine.nodes[0]
    assert node.guard is not None
    charge = node.guard.charges[seen.call.round]
    queries = node.model.queries(seen.call.shared, seen.call.round)
    found = [one_shot(seen.exact, queries, charge.noise_multiplier, terms.delta, chance, seed) for seed in seeds]
    promised = cohort_epsilon([charge], terms.delta)
    limit = promised + _MARGIN
    value = float(np.mean(found))
    return Finding(
        "canaries", "cohort", f"empirical epsilon of the last of {len(observed.rounds)} rounds", value, limit,
        "fail" if value > limit else "pass",
        f"{_COUNT} canaries measure epsilon {value:.2f} (from {min(found):.2f} to {max(found):.2f}); the round was "
        f"charged {promised:.2f}",
    )  # fmt: skip


def _weights(metric: object, exact: Sum, name: str) -> np.ndarray:
    """Weight per coordinate, of at most the first 2^18."""
    flat = np.empty(exact.spec[name].size)
    for part, sd in deviations(metric, exact.spec[name], 1.0):  # type: ignore[arg-type]
        flat[part] = 1.0 / sd
    return flat[:_LARGEST]


def _canary(queries: Sequence[Query], weights: dict[str, np.ndarray], seed: int, number: int) -> dict[str, np.ndarray]:
    """A random direction with norm C in every query's weighted space; the same for the same numbers."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))
    made: dict[str, np.ndarray] = {}
    for query in queries:
        drawn = {name: rng.normal(size=len(weights[name])) for name in query.metrics}
        length = math.sqrt(sum(float(vector @ vector) for vector in drawn.values()))
        made |= {name: vector * (query.clip / length) for name, vector in drawn.items()}
    return made


def _share(queries: Sequence[Query], name: str) -> float:
    return next(query.share for query in queries if name in query.metrics)


def _clip(queries: Sequence[Query], name: str) -> float:
    return next(query.clip for query in queries if name in query.metrics)
