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

    Membership is a function of (secret, round, client), so what earlier rounds drew is known without being kept. In
    each round, in this order:

    1. Each client's own coin draws the client, or does not.
    2. A drawn client that earlier coins drew `participations` times already stays out. It counts how often the coins
       drew it, not how often it was in a sum.
    3. Of more than `max_cohort` clients that are left, those with the smallest draws are in the sum.

    What one client u changes by being there. Steps 1 and 2 look at one client's coins alone, so for every other client
    they give the same with u and without u. Step 3 differs only in rounds for which u is left by step 2, of which there
    are at most `participations`. In such a round all clients left by step 2 are in the sum, or the `max_cohort` of the
    smallest draws. Where u is among them and is taken away, at most one other client enters, the next one in order, and
    no client leaves; where u is not among them, nothing changes. So u's absence changes at most `participations`
    rounds, each by u and at most one other client: by the clip without `max_cohort`, by twice the clip with it. That is
    what `accounting.Charge.effective` and `participations` charge. It takes clients whose contributions do not depend
    on the rounds that they were in before, so plans of models that keep private rows take `max_cohort` for one round a
    client only. Nobody is in more than `participations` sums.

    Counting how often a client was in a sum, after truncating, would not do: a client that u pushed out once would come
    in later, push out another one then, and so on through all rounds.

    Args:
        source: the node's secret.
        keys: of all clients [n] uint64.
        active: positions of clients that have something to contribute.
        round: its number.
        share: probability of a client to be drawn.
        terms: of a private run.
    """
    drawn, draws = _drawn(source, keys, active, round, share)
    if terms is None:
        return drawn
    if terms.participations is not None:
        before = np.zeros(len(keys), dtype=np.int64)
        for earlier in range(round):
            before[_drawn(source, keys, active, earlier, share)[0]] += 1
        left = before[drawn] < terms.participations
        drawn, draws = drawn[left], draws[left]
    if terms.max_cohort is not None and len(drawn) > terms.max_cohort:
        drawn = drawn[np.sort(np.argsort(draws, kind="stable")[: terms.max_cohort])]
    return drawn


def _drawn(
    source: KeyedSource, keys: np.ndarray, active: np.ndarray, round: int, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the clients whose coins draw them [drawn], ascending, and their draws [drawn] uint64."""
    if share >= 1:
        return active, np.zeros(len(active), dtype=np.uint64)
    draws = source.child("cohort", round).seeds(keys[active])
    chosen = np.flatnonzero(draws < np.uint64(int(share * 2**64)))
    return active[chosen], draws[chosen]
