"""Counts of items before a masked sum of pairs of items, which then takes fewer bits.

A masked number takes as many bits as the largest total that is possible, and no node sees what the total will be. Where
the first round sums how many clients have both items of each pair, one small sum comes before it: how many clients have
each item. No pair exceeds these counts, so most pairs need few bits, and the total stays the same.

The counts are the diagonal of the sum that follows. They tell nothing that the sum does not tell, as long as both are
over the same clients; so both are opened among the same nodes.
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.federation.agreement import Agreement
from fedrec.federation.item_floor import floor_spec
from fedrec.federation.transcript import COUNTS, sum_of_round
from fedrec.models.base import PrivateRecommender
from fedrec.models.linear.counts import count_spec
from fedrec.models.outline import first_sum

__all__ = ["counted_with", "counting_spec", "counts_first", "counts_of", "fit_counts"]


def counts_first(agreement: Agreement) -> bool:
    """Whether the first round of a plan, where it is masked, comes after a sum of counts of items.

    Only where these are the diagonal of the round's sum: all clients take part, with all of their items.
    """
    plan, model = agreement.plan, agreement.model
    everybody = agreement.share >= 1 and plan.rows == 1 and not plan.release and plan.items is None
    added = plan.robust is None and plan.asynchronous is None and not isinstance(model, PrivateRecommender)
    if plan.compress == "none" or not (everybody and added):
        return False
    return any(array.of_pairs for array in first_sum(model, len(agreement.catalog)).arrays)


def counting_spec(agreement: Agreement) -> SumSpec:
    """What a sum of counts of items adds: for the plan's floor, with room for noise; or before a sum of pairs."""
    n_items, floor = len(agreement.catalog), agreement.plan.items
    if floor is not None:
        return floor_spec(n_items, floor, agreement.n_max)
    return SumSpec((count_spec(n_items),)).fit(agreement.n_max)


def counts_of(total: Sum) -> np.ndarray:
    """How many clients have each item [items] int64, from a sum of counts."""
    return total.arrays["counts"][:, 0].astype(np.int64)


def fit_counts(agreement: Agreement, counts: np.ndarray) -> bool:
    """Whether counts could be those of the items of a plan [items] int64."""
    return counts.shape == (len(agreement.catalog),) and 0 <= counts.min() <= counts.max() <= agreement.n_max


def counted_with(agreement: Agreement, sum_of: str) -> str | None:
    """The other one of two sums of a masked run that are opened among the same nodes; `None` for any other sum.

    Counts of items less the diagonal of a sum over fewer nodes would be the counts of the nodes that are missing.
    """
    both = (COUNTS, sum_of_round(0))
    return both[1 - both.index(sum_of)] if sum_of in both and counts_first(agreement) else None
