"""The item Gram matrix G = Σ_u w_u x_u x_uᵀ as one sum: what ease and itemknn share."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.errors import FedrecError, PlanError

__all__ = [
    "check_alpha",
    "gram_contributions",
    "gram_matrix",
    "gram_spec",
    "ridge_inverse",
    "unpack_triangle",
    "user_weights",
]

_WEIGHT_BITS = 24


def gram_spec(n_items: int, alpha: float, heaviest: float | None = None) -> SumSpec:
    """The upper triangle by rows; whole numbers where neither users (alpha = 0) nor interactions are weighted.

    With weights x_ui and alpha ≤ 1, x_ui x_uj ‖x_u‖^−2alpha is at most ‖x_u‖^(2 − 2 alpha) ≤ 1 where ‖x_u‖ ≤ 1, and at
    most x_ui x_uj otherwise.
    """
    bits = 0 if alpha == 0 and heaviest is None else _WEIGHT_BITS
    bound = 1.0 if heaviest is None else max(1.0, heaviest**2)
    size, counts = (triangle_size(n_items),), bits == 0
    return SumSpec((ArraySpec("gram", "rank_one", size, bound=bound, scale_bits=bits, role="count", of_pairs=counts),))


def gram_contributions(clients: Clients, alpha: float) -> Contributions:
    """x_u x_uᵀ with weight w_u = ‖x_u‖^−2alpha, which is n_u^−alpha where all interactions weigh 1."""
    weights = user_weights(clients, alpha)
    triangle = RankOne(clients.indptr, clients.items, weights, clients.n_items, None, clients.values)
    return Contributions({"gram": triangle})


def user_weights(clients: Clients, alpha: float) -> np.ndarray:
    """w_u = ‖x_u‖^−2alpha [clients] float64; 1 for clients without interactions.

    >>> import fedrec as fr
    >>> from fedrec.data.clients import Clients
    >>> data = fr.interactions_from({"user_id": [1, 1], "item_id": ["a", "b"], "weight": [3.0, 4.0]})
    >>> clients = Clients.of(data, np.zeros(1, dtype=np.uint64))
    >>> user_weights(clients, 1.0).tolist(), user_weights(clients, 0.5).tolist()
    ([0.04], [0.2])
    """
    squares = clients.squares()
    return np.where(squares > 0, squares, 1.0) ** -alpha


def check_alpha(name: str, alpha: float) -> None:
    """Check that users of unlike weights stay within the bound of a sum.

    Raises:
        PlanError: if alpha is above 1.
    """
    if alpha > 1.0:
        raise PlanError(
            f"model {name}: with weights, alpha must not exceed 1: a user of tiny weights would count without limit"
        )


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


def ridge_inverse(gram: np.ndarray, reg: float, advice: str) -> np.ndarray:
    """The lower triangle of (G + reg I)⁻¹ [items, items] float64, in place of G; what is above it has no meaning.

    Args:
        gram: G [items, items] float64, overwritten.
        reg: strength of the ridge.
        advice: what to do where that is too little, for the error.

    Raises:
        FedrecError: if the matrix is not positive definite.

    >>> float(ridge_inverse(np.eye(2) * 3.0, 1.0, "raise reg")[1, 1])
    0.25
    """
    gram[np.diag_indices(len(gram))] += reg
    factor, info = lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    if info != 0:
        raise FedrecError(f"ease: the Gram matrix is not positive definite at item {info}; {advice}")
    inverse: np.ndarray = lapack.dpotri(factor, lower=1, overwrite_c=1)[0]
    return inverse
