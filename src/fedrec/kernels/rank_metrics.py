"""Loops that turn the places of held-out items into metrics, as exact expectations.

The places come from `kernels.ranking`. Every order of tied candidates and every draw of sampled ones count alike; both
expectations are closed forms. Every user is computed alone and in a fixed order.
"""

from __future__ import annotations

import math

import numpy as np

from fedrec.kernels.threads import kernel, parallel_kernel

__all__ = ["KINDS", "full_metrics", "rank_law", "sampled_metrics"]

KINDS = ("recall", "recall_capped", "precision", "ndcg", "hr", "f1", "mrr", "map")
"""Per-user metrics; the position of a name is its code in the kernels."""

RECALL, RECALL_CAPPED, PRECISION, NDCG, HR, F1, MRR, MAP = range(8)


@kernel("float64(int64[::1], int64[::1], int64[::1], int64, int64)")
def _any_hit(above: np.ndarray, tied: np.ndarray, hits: np.ndarray, n_levels: int, k: int) -> float:
    """Probability that at least one relevant item is among the first k: 1 − Π C(T−a, s) / C(T, s)."""
    miss = 1.0
    for j in range(n_levels):
        block, some = tied[j], hits[j]
        slots = min(block, max(0, k - above[j]))
        for i in range(min(some, slots)):
            miss *= (block - max(some, slots) - i) / (block - i)
    return 1.0 - miss


@kernel("float64(int64, int64, int64, int64)")
def _first_hit(above: int, block: int, some: int, k: int) -> float:
    """Expected 1 / rank of the first of `some` relevant items in a tie block of `block`; 0 beyond k."""
    total, chance = 0.0, some / block
    for p in range(1, min(k - above, block - some + 1) + 1):
        total += chance / (above + p)
        if p < block:
            chance *= (block - p - some + 1) / (block - p)
    return total


@kernel("float64(int64[::1], int64[::1], int64[::1], int64, int64)")
def _precision_sum(above: np.ndarray, tied: np.ndarray, hits: np.ndarray, n_levels: int, k: int) -> float:
    """Expected sum of precision@rank over the relevant items among the first k."""
    total, before = 0.0, 0
    for j in range(n_levels):
        block, some = tied[j], hits[j]
        step = (some - 1) / (block - 1) if block > 1 else 0.0
        for p in range(1, min(block, k - above[j]) + 1):
            total += some / block * (before + 1 + step * (p - 1)) / (above[j] + p)
        before += some
    return total


@parallel_kernel(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], float64[::1], float64[:, ::1])",
    over=lambda relevant_indptr, *_: len(relevant_indptr) - 1,
)
def full_metrics(
    begin: int,
    end: int,
    relevant_indptr: np.ndarray,
    above: np.ndarray,
    tied: np.ndarray,
    hits: np.ndarray,
    kinds: np.ndarray,
    cutoffs: np.ndarray,
    discount_sums: np.ndarray,
    values: np.ndarray,
) -> None:
    """Expected metrics of each user over a uniformly random order of tied candidates.

    Args:
        relevant_indptr: [users + 1] int64, ranges of slots.
        above: [slots] int64, from `count_levels` with relevant items kept.
        tied: [slots] int64.
        hits: [slots] int64.
        kinds: [metrics] int64, codes (see `KINDS`).
        cutoffs: [metrics] int64, k ≥ 1.
        discount_sums: [longest k + 1] float64, Σ_{r ≤ i} 1 / log2(r + 1).
        values: [users, metrics] float64, out; zeros for users without relevant items.
    """
    for u in range(begin, end):
        start, stop = relevant_indptr[u], relevant_indptr[u + 1]
        up, at, some = above[start:stop], tied[start:stop], hits[start:stop]
        n_levels, size = 0, 0
        while n_levels < stop - start and some[n_levels] > 0:
            size += some[n_levels]
            n_levels += 1
        for m in range(kinds.size):
            kind, k = kinds[m], cutoffs[m]
            value = 0.0
            if n_levels == 0:
                pass
            elif kind == HR:
                value = _any_hit(up, at, some, n_levels, k)
            elif kind == MRR:
                value = _first_hit(up[0], at[0], some[0], k)
            elif kind == MAP:
                value = _precision_sum(up, at, some, n_levels, k) / min(k, size)
            elif kind == NDCG:
                for j in range(n_levels):
                    if up[j] < k:
                        gain = discount_sums[min(k, up[j] + at[j])] - discount_sums[up[j]]
                        value += some[j] / at[j] * gain
                value /= discount_sums[min(k, size)]
            else:
                for j in range(n_levels):
                    value += some[j] * min(at[j], max(0, k - up[j])) / at[j]
                if kind == RECALL:
                    value /= size
                elif kind == RECALL_CAPPED:
                    value /= min(k, size)
                elif kind == PRECISION:
                    value /= k
                else:
                    value = 2.0 * value / (k + size)
            values[u, m] = min(1.0, max(0.0, value))


@kernel("void(int64, int64, int64, int64, float64[::1], float64, float64[::1])")
def rank_law(
    pool: int, above: int, tied: int, drawn: int, log_factorials: np.ndarray, weight: float, law: np.ndarray
) -> None:
    """Add `weight` × P(rank = r + 1) to `law[r]`, for an item among `drawn` of `pool` items drawn without replacement.

    `above` of the pool score higher than the item and `tied` the same. With x drawn above and y drawn tied, which has a
    bivariate hypergeometric law, the rank is uniform on x + 1 … x + y + 1.
    """
    below = pool - above - tied
    lf = log_factorials
    whole = lf[pool] - lf[drawn] - lf[pool - drawn]
    for x in range(min(above, drawn, law.size - 1) + 1):
        tail = 0.0
        first = lf[above] - lf[x] - lf[above - x] - whole
        for y in range(min(tied, drawn - x), -1, -1):
            rest = drawn - x - y
            if rest <= below:
                ways = first + lf[tied] - lf[y] - lf[tied - y] + lf[below] - lf[rest] - lf[below - rest]
                tail += weight * math.exp(ways) / (y + 1)
            if x + y < law.size:
                law[x + y] += tail


@parallel_kernel(
    "void(int64[::1], int64[::1], int64[::1], int64[::1], int64[::1], int64, int64[::1], int64[::1], float64[::1],"
    " float64[:, ::1])",
    over=lambda relevant_indptr, *_: len(relevant_indptr) - 1,
)
def sampled_metrics(
    begin: int,
    end: int,
    relevant_indptr: np.ndarray,
    above: np.ndarray,
    tied: np.ndarray,
    hits: np.ndarray,
    pools: np.ndarray,
    negatives: int,
    kinds: np.ndarray,
    cutoffs: np.ndarray,
    log_factorials: np.ndarray,
    values: np.ndarray,
) -> None:
    """Expected metrics of each user when every relevant item is ranked alone among `negatives` drawn items.

    Args:
        relevant_indptr: [users + 1] int64, ranges of slots.
        above: [slots] int64, from `count_levels` without the relevant items.
        tied: [slots] int64.
        hits: [slots] int64.
        pools: [users] int64, items to draw from; all are drawn where there are fewer than `negatives`.
        negatives: number of items drawn.
        kinds: [metrics] int64, codes (see `KINDS`).
        cutoffs: [metrics] int64, k ≥ 1.
        log_factorials: [largest pool + 1] float64, log(i!).
        values: [users, metrics] float64, out; zeros for users without relevant items.
    """
    for u in range(begin, end):
        size = 0
        for j in range(relevant_indptr[u], relevant_indptr[u + 1]):
            size += hits[j]
        drawn = min(negatives, pools[u])
        law = np.zeros(min(cutoffs.max(), drawn + 1))
        for j in range(relevant_indptr[u], relevant_indptr[u + 1]):
            if hits[j] > 0:
                rank_law(pools[u], above[j], tied[j], drawn, log_factorials, hits[j] / size, law)
        for m in range(kinds.size):
            kind, k = kinds[m], cutoffs[m]
            value = 0.0
            for r in range(min(k, law.size)):
                if kind == NDCG:
                    value += law[r] / math.log2(r + 2.0)
                elif kind in (MRR, MAP):
                    value += law[r] / (r + 1)
                else:
                    value += law[r]
            if kind == PRECISION:
                value /= k
            elif kind == F1:
                value *= 2.0 / (k + 1)
            values[u, m] = min(1.0, value)
