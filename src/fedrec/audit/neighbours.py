"""Two data sets that differ by one client, chosen so that a wrong mechanism gives itself away.

A row that nobody touched must come out as noisy as any other. And a mean must be over a public number: with the
realised number of clients as its denominator, a client that goes against all the others moves the mean twice as far as
one that joins nobody, which noise for a sum does not cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedrec.aggregation.queries import Query, deviations
from fedrec.aggregation.sums import Sum
from fedrec.audit.canaries import Mechanism, epsilon_between
from fedrec.audit.findings import Finding
from fedrec.audit.observe import Observed
from fedrec.privacy.accounting import cohort_epsilon
from fedrec.privacy.chance import Chance
from fedrec.privacy.noise import noised

__all__ = ["bare_share", "denominator", "untouched", "worst_neighbours"]

_DRAWS = 800
_CLIENTS = 50
_LARGEST = 4096
_MOST_BARE = 0.01
_MARGIN = 0.75


def bare_share(
    exact: Sum, queries: Sequence[Query], noise_multiplier: float, chance: Chance, mechanism: Mechanism = noised
) -> float:
    """Largest share, over arrays, of coordinates at 0 before that are exactly 0 afterwards.

    Noise on touched rows only leaves all of them so, and a client who touches one is seen at once; with at least 2^8
    steps of the grid per deviation chance leaves 1 in 600.
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
    """ε that tells means of `clients` who all add +C from means of one more who adds −C, along that direction.

    Args:
        exact: gives spec and round; one array of at most 4,096 coordinates of the first query is used.
        queries, noise_multiplier: of the round.
        delta: δ.
        chance: where noise comes from.
        mechanism: what releases the sum; its `clients` are divided by.
        clients: how many.
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


def untouched(observed: Observed, chance: Chance) -> Finding | None:
    """Whether what nobody touched is noisy too."""
    if observed.plan.privacy is None:
        return None
    last = observed.last_release()
    found = bare_share(last.exact, last.queries, last.charge.noise_multiplier, chance)
    return Finding(
        "untouched", "cohort", "share of untouched coordinates without noise", found, _MOST_BARE,
        "fail" if found > _MOST_BARE else "pass",
        f"of coordinates that nobody touched, {found:.2%} come out as exactly 0",
    )  # fmt: skip


def denominator(observed: Observed, chance: Chance) -> Finding | None:
    """Whether a client that goes against all others is covered by the noise."""
    terms = observed.plan.privacy
    if terms is None:
        return None
    last = observed.last_release()
    promised = cohort_epsilon([last.charge], terms.delta)
    found = worst_neighbours(last.exact, last.queries, last.charge.noise_multiplier, terms.delta, chance)
    return Finding(
        "denominator", "cohort", "empirical epsilon of one client against all others", found, promised + _MARGIN,
        "fail" if found > promised + _MARGIN else "pass",
        f"means with a client against all others and without it differ by epsilon {found:.2f}; the round was charged "
        f"{promised:.2f}",
    )  # fmt: skip
