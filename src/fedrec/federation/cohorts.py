"""Who takes part in a round: drawn at the node, by each client's own coin."""

from __future__ import annotations

import numpy as np

from fedrec.data.keys import KeyedSource
from fedrec.privacy.terms import Privacy

__all__ = ["cohort"]


def cohort(
    source: KeyedSource,
    keys: np.ndarray,
    active: np.ndarray,
    round: int,
    share: float,
    terms: Privacy | None = None,
) -> np.ndarray:
    """Positions of the clients of a round, ascending.

    Membership is a function of (secret, round, client), so what earlier rounds drew is known without being kept.

    Args:
        source: the node's secret.
        keys: of all clients [n] uint64.
        active: positions of clients that have something to contribute.
        round: its number.
        share: probability of a client to be drawn.
        terms: of a private run: nobody is drawn for more than `participations` rounds, and of more than `max_cohort`
            drawn clients those with the smallest draws are kept.
    """
    drawn = _drawn(source, keys, active, round, share, terms)
    if terms is None or terms.participations is None:
        return drawn
    before = np.zeros(len(keys), dtype=np.int64)
    for earlier in range(round):
        before[_drawn(source, keys, active, earlier, share, terms)] += 1
    return drawn[before[drawn] < terms.participations]


def _drawn(
    source: KeyedSource, keys: np.ndarray, active: np.ndarray, round: int, share: float, terms: Privacy | None
) -> np.ndarray:
    if share >= 1:
        return active
    draws = source.child("cohort", round).seeds(keys[active])
    chosen = np.flatnonzero(draws < np.uint64(int(share * 2**64)))
    if terms is not None and terms.max_cohort is not None and len(chosen) > terms.max_cohort:
        chosen = np.sort(chosen[np.argsort(draws[chosen], kind="stable")[: terms.max_cohort]])
    return active[chosen]
