"""The item Gram matrix under differential privacy, and its leading spectrum: what `ease` and `itemknn` share.

Round 0 releases item counts. Round 1 releases the Gram matrix Σ x xᵀ / n of the head: of items whose noisy count is so
large that their entries can stand out of the noise; histories are cut to the head first, so its entries get all of the
norm, and the noise of a matrix falls with the root of its size. (Gaussian noise on a Gram matrix: Dwork et al. 2014,
"Analyze Gauss".) What the noise did to the spectrum is undone as for any symmetric matrix plus noise of deviation σ:
eigenvalues below the edge of the noise's own, 2 σ √items, go, and the others shrink to √(λ² − edge²) (Gavish & Donoho
2017, "Optimal shrinkage of singular values"). The tail is scored by counts, on the scale of the head.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.models.base import Arrays, State
from fedrec.models.counts import count_spec, counted
from fedrec.models.gram import gram_contributions, gram_matrix, gram_spec

__all__ = [
    "COUNTS",
    "DEFAULT_CLIP",
    "SHARES",
    "Denoised",
    "contribute",
    "denoised",
    "extended",
    "head_of",
    "queries",
    "restricted",
    "spec",
    "start",
]

SHARES = (0.1, 0.9)
"""Of the budget: for counts and Gram matrix."""
DEFAULT_CLIP = 0.72
"""Norm of x xᵀ / n as a triangle, √((n + 1) / 2n), for 27 items; above that it falls to 0.7071."""
COUNTS = Query({"counts": PLAIN}, 20.0**0.5)
"""A client counts 20 items in full, more of them less each."""
_KAPPA = 1.3
_FEWEST = 200
_DENSE = 4096
_COLUMNS = 320
_PASSES = 6


class Denoised(NamedTuple):
    """The leading spectrum of the head's Gram matrix.

    Args:
        head: positions of the head's items in the catalog [M] int64.
        vectors: [M, k] float64.
        values: shrunk eigenvalues [k] float64, above 0.
        mean: of the noisy diagonal.
    """

    head: np.ndarray
    vectors: np.ndarray
    values: np.ndarray
    mean: float


def start(n_items: int) -> State:
    """Nothing known yet."""
    return State({"counts": np.zeros(n_items), "head": np.zeros(0, dtype=np.int64)})


def spec(shared: Arrays, round: int) -> SumSpec | None:
    """Counts of all items, then the triangle of the head."""
    if round == 0:
        return SumSpec((count_spec(len(shared["counts"])),))
    return gram_spec(len(shared["head"]), 1.0) if round == 1 else None


def queries(round: int, clip: float) -> tuple[Query, ...]:
    """Counts; then a Gram matrix to which a client adds a norm of `clip` at most."""
    return (COUNTS,) if round == 0 else (Query({"gram": PLAIN}, clip),)


def contribute(shared: Arrays, clients: Clients, round: int) -> Contributions:
    """One for every item; then x xᵀ / n, of the items in the head."""
    if round == 0:
        return Contributions({"counts": counted(clients)})
    return gram_contributions(restricted(clients, shared["head"]), 1.0)


def restricted(clients: Clients, head: np.ndarray) -> Clients:
    """The clients with their items of the head alone, numbered by their places in it."""
    place = np.full(clients.n_items, -1, dtype=np.int32)
    place[head] = np.arange(len(head), dtype=np.int32)
    inside = clients.where(place[clients.items] >= 0)
    return replace(inside, items=place[inside.items], n_items=len(head))


def head_of(total: Sum, clip: float, shares: tuple[float, float] = SHARES) -> State:
    """After round 0: noisy counts, none below 0, and the head.

    An item is in the head if its diagonal entry of the Gram matrix, Σ 1 / n over its clients, is expected to be 1.3
    times the deviation of the noise to come. With counts scaled to a norm of √20 by client, a client of n items adds
    √(20 / n) to each, so counts over √(20 n̄) estimate that entry, n̄ being (Σ counts / (√20 · clients))².
    """
    counts = np.maximum(total.value("counts")[:, 0], 0.0)
    noise = total.noise["counts"] / COUNTS.clip * np.sqrt(shares[0] / shares[1]) * clip
    typical = max(float(total.value("counts").sum()) / (COUNTS.clip * total.clients), 1.0)
    enough = int(np.count_nonzero(counts / (COUNTS.clip * typical) > _KAPPA * noise))
    size = min(max(enough, _FEWEST), len(counts))
    head = np.sort(np.argsort(-counts, kind="stable")[:size])
    return State({"counts": counts, "head": head.astype(np.int64)})


def denoised(shared: Arrays, total: Sum) -> Denoised:
    """After round 1: the spectrum above the edge of the noise."""
    matrix = gram_matrix(total, len(shared["head"]))
    mean = max(float(np.trace(matrix)) / len(matrix), 1e-12)
    edge = 2.0 * total.noise["gram"] * np.sqrt(len(matrix))
    values, vectors = _above(matrix, edge)
    return Denoised(shared["head"], vectors, np.sqrt(values**2 - edge**2), mean)


def extended(
    found: Denoised, counts: np.ndarray, reg: float | None, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What nodes need to score all items, see `fedrec.models.sketch.low_rank_arrays`: ridge λ = `reg` on the head, or a
    low-pass filter with `None`; an item of the tail gets the head's mean factor per count times its own count.
    `weights` [M] are the diagonal of D where the spectrum is of D G D."""
    weights = np.ones(len(found.head)) if weights is None else weights
    filtered = np.ones_like(found.values) if reg is None else found.values / (found.values + reg)
    part = found.vectors * np.sqrt(filtered)
    norms = np.einsum("ik,ik->i", part, part) if reg is not None else np.zeros(len(part))
    gains = weights**-2 / np.maximum(1.0 - norms, 1e-9)
    part, norms = part * weights[:, None], norms * weights**2
    mean = (part * gains[:, None]).sum(axis=0) / max(float(counts[found.head].sum()), 1e-12)
    factors, gain, own = np.outer(counts, mean), np.ones(len(counts)), np.zeros(len(counts))
    factors[found.head], gain[found.head], own[found.head] = part, gains, norms
    # Where nothing stands out of the noise, counts alone rank.
    if not len(found.values):
        factors = counts[:, None]
    return {name: array.astype(np.float32) for name, array in (("factors", factors), ("gain", gain), ("own", own))}


def _above(matrix: np.ndarray, edge: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues above `edge`, descending, and their vectors; of a large matrix at most 256 of them."""
    if len(matrix) <= _DENSE:
        values, vectors = eigh(matrix, subset_by_value=(edge, np.inf))
    else:
        basis = np.random.Generator(np.random.Philox(0)).normal(size=(len(matrix), _COLUMNS))
        for _ in range(_PASSES):
            basis = np.linalg.qr(matrix @ basis)[0]
        core = basis.T @ matrix @ basis
        values, turn = eigh((core + core.T) / 2)
        kept = values > edge
        kept[: _COLUMNS - 256] = False
        values, vectors = values[kept], basis @ turn[:, kept]
    return values[::-1], vectors[:, ::-1]
