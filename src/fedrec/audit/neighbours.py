"""Two data sets that differ by one client, chosen to reveal a wrong mechanism.

A row that no client touched must have as much noise as any other. And a mean must be over a public number: with the
actual number of clients as its denominator, a client that opposes all others changes the mean twice as much as the
noise of a sum covers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.stats import nct

from fedrec.aggregation.queries import Query, deviations
from fedrec.aggregation.sums import Sum
from fedrec.audit.canaries import Mechanism, epsilon_between
from fedrec.audit.findings import Finding
from fedrec.audit.observe import Observed
from fedrec.privacy.accounting import cohort_epsilon
from fedrec.privacy.chance import Chance
from fedrec.privacy.noise import noised

__all__ = ["bare_share", "denominator", "largest_by_chance", "untouched", "worst_neighbours"]

_DRAWS = 1600
_CLIENTS = 50
_LARGEST = 4096
_MOST_BARE = 0.01
_ERROR_RATE = 1e-5
"""Probability that the audit fails a mechanism whose noise is exactly as promised."""


def bare_share(
    exact: Sum, queries: Sequence[Query], noise_multiplier: float, chance: Chance, mechanism: Mechanism = noised
) -> float:
    """Largest share, over arrays, of zero coordinates that are exactly 0 after the release.

    If noise is added to touched rows only, all of them stay 0, which reveals each client that touches one. With at
    least 2^8 steps of the grid per deviation, correct noise leaves 1 in 600 at 0.
    """
    empty = Sum.zeros(exact.spec, exact.round)
    released = mechanism(empty, queries, noise_multiplier, 1, chance)
    return max(float(np.mean(released.arrays[name] == 0)) for query in queries for name in query.metrics)


def worst_neighbours(
    exact: Sum,
    queries: Sequence[Query],
    noise_multiplier: float,
    delta: float,
    chance: Chance,
    mechanism: Mechanism = noised,
    clients: int = _CLIENTS,
) -> float:
    """ε that separates means of `clients` that all add +C from means with one more client that adds −C.

    Args:
        exact: sum with the spec and round; one array of at most 4,096 coordinates of the first query is used.
        queries: queries of the round.
        noise_multiplier: noise multiplier of the round.
        delta: δ.
        chance: source of the noise.
        mechanism: function that releases the sum; the mean divides by the `clients` of its result.
        clients: number of clients.
    """
    query = queries[0]
    name = next(iter(query.metrics))
    spec = exact.spec[name]
    sds = np.empty(spec.size)
    for part, deviation in deviations(query.metrics[name], spec, 1.0):
        sds[part] = deviation
    size = min(spec.size, _LARGEST)
    one = np.trunc(query.clip / math.sqrt(size) * sds[:size] * spec.unit).astype(np.int64)
    places = np.empty((2, _DRAWS))
    for draw in range(_DRAWS):
        for side, (present, multiple) in enumerate([(clients, clients), (clients + 1, clients - 1)]):
            total = replace(Sum.zeros(exact.spec, 2 * draw + side), clients=present)
            total.arrays[name].reshape(-1)[:size] += (one * multiple).astype(total.arrays[name].dtype)
            released = mechanism(total, queries, noise_multiplier, clients, chance)
            mean = released.arrays[name].reshape(-1)[:size] / (spec.unit * released.clients)
            places[side, draw] = float((mean / sds[:size]).mean()) * math.sqrt(size)
    spread = math.sqrt(float(places.var(axis=1, ddof=1).mean()))
    return epsilon_between(float(places[0].mean() - places[1].mean()) / spread, delta)


def largest_by_chance(noise_multiplier: float, delta: float) -> float:
    """The ε that `worst_neighbours` exceeds with a probability of 1 in 100,000 if the noise is as promised.

    The measured distance is the difference of two means of normal draws, divided by their pooled standard deviation:
    √(draws / 2) times this distance has a noncentral t distribution, which gives the critical value of a one-sided
    test.

    Args:
        noise_multiplier: promised noise multiplier of the round.
        delta: δ.

    Example:
        >>> round(largest_by_chance(1.0, 1e-5), 2)
        5.22
    """
    scale = math.sqrt(_DRAWS / 2)
    critical = float(nct.isf(_ERROR_RATE, 2 * _DRAWS - 2, scale / noise_multiplier))
    return epsilon_between(critical / scale, delta)


def untouched(observed: Observed, chance: Chance) -> Finding | None:
    """Whether coordinates that no client touched have noise too."""
    if observed.plan.privacy is None:
        return None
    last = observed.last_release()
    bare = bare_share(last.exact, last.queries, last.charge.noise_multiplier, chance)
    return Finding(
        "untouched",
        "cohort",
        "share of untouched coordinates without noise",
        bare,
        _MOST_BARE,
        "fail" if bare > _MOST_BARE else "pass",
        f"{bare:.2%} of the coordinates that no client touched are exactly 0 in the release",
    )


def denominator(observed: Observed, chance: Chance) -> Finding | None:
    """Whether the noise covers a client that opposes all others."""
    terms = observed.plan.privacy
    if terms is None:
        return None
    last = observed.last_release()
    promised = cohort_epsilon([last.charge], terms.delta)
    measured = worst_neighbours(last.exact, last.queries, last.charge.noise_multiplier, terms.delta, chance)
    limit = largest_by_chance(last.charge.noise_multiplier, terms.delta)
    return Finding(
        "denominator",
        "cohort",
        "empirical epsilon of one client against all others",
        measured,
        limit,
        "fail" if measured > limit else "pass",
        f"means with and without a client that opposes all others differ by epsilon {measured:.2f}. The charge of the "
        f"round is {promised:.2f}; correct noise exceeds {limit:.2f} once in {1 / _ERROR_RATE:,.0f} audits",
    )
