"""iALS with `solver=cg` under differential privacy: one preconditioned step a sweep, from noisy residuals.

Round 0 releases item counts. In every further round, which is a sweep, a client solves for its factor u, brings it to
length 1 at most, and adds w (1 − ⟨u, y⟩) u to the row of each of its items y: d numbers an item, where the normal
equations are d (d + 3) / 2, so that noise has no matrix of each item to spoil. Σ u uᵀ of everyone, of which each client
is a small part, is released beside it, and stands for every item's own in the step. Further steps along directions
would tell how long each should be; under noise they cost more than they bring.
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.models.factors.conjugate_gradients import Pulls
from fedrec.models.factors.noisy_equations import item_weights, semidefinite
from fedrec.models.linear.gram import unpack_triangle

__all__ = ["improved", "largest_error"]


def largest_error(clip: float, n_items: int) -> float:
    """What the clip leaves of a client at one item at most: clip / d_j, and (ñ_j / mean)^⅓ is at most items^⅓."""
    return max(1.0, clip) * float(np.cbrt(n_items))


def improved(table: np.ndarray, total: Sum, counts: np.ndarray, pulls: Pulls) -> np.ndarray:
    """Item factors [items, d] float32 after a step from those of a `table` [items, d], with noisy sums.

    The ridge grows by twice the expected norm of the noise on an item's row, 2 σ √d, where noise outweighs data.
    """
    items, d = table.astype(np.float64), table.shape[1]
    gram = semidefinite(unpack_triangle(total.value("everyone"), d)[None])[0]
    deviation = total.noise["errors"] / item_weights(counts)
    pull = (pulls.of(counts, total.clients) + 2.0 * deviation * np.sqrt(d))[:, None]
    residual = total.value("errors") - pulls.unobserved_weight * (items @ gram) - pull * items
    values, vectors = np.linalg.eigh(gram)
    share = pulls.unobserved_weight + counts / max(total.clients, 1)
    change = (residual @ vectors / (share[:, None] * np.maximum(values, 0.0) + pull)) @ vectors.T
    return (items + change).astype(np.float32)
