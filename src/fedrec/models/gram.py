"""The item Gram matrix G = Σ_u w_u x_u x_uᵀ as one sum: what ease and itemknn share."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients

__all__ = ["gram_contributions", "gram_matrix", "gram_spec", "unpack_triangle"]

_WEIGHT_BITS = 24


def gram_spec(n_items: int, alpha: float) -> SumSpec:
    """The upper triangle by rows; whole numbers where users are not weighted (alpha = 0)."""
    bits = 0 if alpha == 0 else _WEIGHT_BITS
    return SumSpec((ArraySpec("gram", "rank_one", (triangle_size(n_items),), bound=1.0, scale_bits=bits),))


def gram_contributions(clients: Clients, alpha: float) -> Contributions:
    """x_u x_uᵀ with weight w_u = n_u^−alpha."""
    weights = np.maximum(clients.lengths, 1).astype(np.float64) ** -alpha
    return Contributions({"gram": RankOne(clients.indptr, clients.items, weights, clients.n_items)})


def gram_matrix(total: Sum, n_items: int) -> np.ndarray:
    """The full symmetric matrix [items, items] float64."""
    return unpack_triangle(total.arrays["gram"], n_items, 1.0 / total.spec["gram"].unit)


def unpack_triangle(packed: np.ndarray, n: int, factor: float = 1.0) -> np.ndarray:
    """A symmetric matrix [n, n] float64 from its upper triangle by rows, times `factor`.

    >>> unpack_triangle(np.array([1, 2, 3]), 2).tolist()
    [[1.0, 2.0], [2.0, 3.0]]
    """
    matrix = np.empty((n, n))
    start = 0
    for row in range(n):
        stop = start + n - row
        np.multiply(packed[start:stop], factor, out=matrix[row, row:])
        start = stop
    for low in range(0, n, 512):
        high = min(low + 512, n)
        matrix[high:, low:high] = matrix[low:high, high:].T
        block = matrix[low:high, low:high]
        matrix[low:high, low:high] = np.triu(block) + np.triu(block, 1).T
    return matrix
