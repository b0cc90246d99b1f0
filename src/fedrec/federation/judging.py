"""Events that judge a policy, as fixed-point sums: federated and pooled estimates are equal, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import InputError
from fedrec.evaluation.off_policy import BOUNDS, LARGEST_WEIGHT

__all__ = ["judging_spec", "judging_sum", "judging_values"]

_RING_BITS, _MOST_BITS = 62, 42


def judging_spec(n_max: int, largest: float = LARGEST_WEIGHT) -> SumSpec:
    """One number for each term of `fedrec.evaluation.off_policy.event_terms`, on the finest grid that `n_max` events
    leave room for.

    Raises:
        PlanError: if there is no room for so many events.
    """
    arrays = []
    for name, power in BOUNDS.items():
        bound = (largest + 1.0) ** power
        room = _RING_BITS - n_max.bit_length() - int(np.ceil(np.log2(bound)))
        bits = 0 if power == 0 else max(0, min(_MOST_BITS, room))
        arrays.append(ArraySpec(name, "dense", (1,), bound=bound, scale_bits=bits, ring=64, role="count", pooled=True))
    return SumSpec(tuple(arrays)).fit(n_max)


def judging_sum(spec: SumSpec, terms: Mapping[str, np.ndarray]) -> Sum:
    """The sum of a node's events.

    Raises:
        InputError: for more events than the spec has room for.
    """
    events = len(terms["events"])
    if events > spec.n_max:
        raise InputError(f"{events} events are more than the {spec.n_max} that the sum has room for")
    total = Sum.zeros(spec)
    for array in spec.arrays:
        rounded = np.rint(np.asarray(terms[array.name], dtype=np.float64) * array.unit).astype(np.int64)
        total.arrays[array.name][0] = rounded.sum()
    total.clients = events
    return total


def judging_values(total: Sum) -> dict[str, float]:
    """The sums by name, for `fedrec.evaluation.off_policy.estimates`."""
    return {name: float(total.value(name)[0]) for name in total.spec.names}
