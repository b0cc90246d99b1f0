"""iALS under differential privacy: noisy normal equations (DPALS: Chien et al. 2021, "Private alternating least
squares"; adaptive weights: Krichene et al. 2023, "Multi-task differential privacy under distribution skew").

Round 0 releases item counts ñ. In every further round a client solves for its factor u, brings it to length 1 at most,
and adds [vech(u uᵀ), u] to each of its items. An item weighs d_j = (ñ_j / mean)^−μ in the norm that is clipped, so rare
items get less noise and frequent ones, which can bear it, more: the same as weighting clients' examples by d_j.
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.models.linear.gram import unpack_triangle

__all__ = ["bounded", "item_weights", "noisy_counts", "noisy_factors", "semidefinite"]

_MU = 1.0 / 3.0


def noisy_counts(total: Sum) -> np.ndarray:
    """Counts [items] float64 after round 0, none below half a deviation of their noise."""
    return np.maximum(total.value("counts")[:, 0], max(total.noise["counts"] / 2.0, 0.5))


def item_weights(counts: np.ndarray) -> np.ndarray:
    """d [items] float64."""
    return (counts / counts.mean()) ** -_MU


def bounded(users: np.ndarray) -> np.ndarray:
    """User factors [clients, d] no longer than 1."""
    lengths = np.sqrt(np.einsum("cd,cd->c", users, users))[:, None]
    return users / np.maximum(lengths, 1.0)


def noisy_factors(total: Sum, counts: np.ndarray, clients: int, weight: float, reg: float, nu: float) -> np.ndarray:
    """Item factors [items, d] float32 from noisy equations.

    Σ u uᵀ of every item and of everyone is brought to the nearest positive semidefinite matrix, and the ridge grows by
    the expected norm of the noise on it, 2 σ √d, where noise outweighs data.
    """
    equations = total.value("equations")
    n_items, width = equations.shape
    d = int((np.sqrt(8 * width + 9) - 3) / 2)
    everyone = semidefinite(unpack_triangle(total.value("everyone"), d)[None])[0]
    upper = np.triu_indices(d)
    grams = np.empty((n_items, d, d))
    grams[:, upper[0], upper[1]] = equations[:, : width - d]
    grams[:, upper[1], upper[0]] = equations[:, : width - d]
    deviation = total.noise["equations"] / item_weights(counts)
    ridge = reg * (counts + weight * clients) ** nu + 2.0 * deviation * np.sqrt(d)
    left = semidefinite(grams) + weight * everyone + ridge[:, None, None] * np.eye(d)
    return np.linalg.solve(left, equations[:, width - d :, None])[:, :, 0].astype(np.float32)


def semidefinite(matrices: np.ndarray) -> np.ndarray:
    """The nearest positive semidefinite matrices [n, d, d]."""
    values, vectors = np.linalg.eigh(matrices)
    return np.einsum("nij,nj,nkj->nik", vectors, np.maximum(values, 0.0), vectors)
