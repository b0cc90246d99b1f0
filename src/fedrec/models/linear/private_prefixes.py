"""Transitions under differential privacy: directions that stand out of the noise, then the regression in them.

Every prefix is scaled to length 1 and users of T items weigh 1 / (T − 1), so that a user's Σ_t p̂_t p̂_tᵀ / (T − 1) has a
norm of at most 1, whatever the history. Passes of it on a scale that hardly fades, on which few directions hold most,
are read as in `fedrec.models.linear.private_sketch`, and give a table T of those that stand out of the noise. One round
sums, in these directions, Σ_t z_t z_tᵀ and Σ_t z_t g_tᵀ with z_t the stacked Tᵀp̂_t^a and g_t = Tᵀf_t √(1 − δ²): what is
summed does not grow with the catalog.
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.kernels import prefixes as kernels
from fedrec.models.linear.denoising import next_table
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.linear.prefixes import rows_of_items
from fedrec.models.linear.transitions import Scales, user_factors
from fedrec.threads import one_blas_thread

__all__ = ["directions", "joint", "joint_query", "joint_spec", "solved", "unit_sketch", "unit_sketch_spec"]

_JOINT_CLIP = 0.8
_SLOW = 0.99
_WIDEST = 16.0


def unit_sketch_spec(table: np.ndarray) -> SumSpec:
    """A row per item and a column per direction; no entry is above the clip."""
    return SumSpec((ArraySpec("sketch", "rows", table.shape, bound=float(len(table)) + 1.0),))


def unit_sketch(scales: Scales, clients: Clients, table: np.ndarray) -> Contributions:
    """Σ_t p̂_t (Tᵀp̂_t)ᵀ / (T − 1) on a scale that hardly fades."""
    fades = scales.fades(clients, _SLOW)
    prefixes = np.empty((len(clients.items), table.shape[1]), dtype=np.float32)
    kernels.project_prefixes(clients.indptr, clients.items, fades, table, 0, prefixes)
    lengths = np.empty(len(clients.items))
    kernels.prefix_lengths(clients.indptr, fades, lengths)
    prefixes /= (lengths**2)[:, None].astype(np.float32)
    values = np.empty_like(prefixes)
    kernels.backward_rows(clients.indptr, fades, prefixes, values)
    return Contributions({"sketch": rows_of_items(clients, values, user_factors(clients, 1.0))})


def directions(factors: np.ndarray, deviation: float, users: int) -> np.ndarray:
    """T [items, q] for the regression: as for a pass, without directions on which so little lies that, each having the
    same say, they alone would fill the clip.

    >>> directions(np.diag([3.0, 2.0, 1e-4]), 1e-9, 60).shape
    (3, 2)
    """
    table = next_table(factors, deviation, users)
    lengths = np.linalg.norm(table, axis=0)
    return np.ascontiguousarray(table[:, lengths <= _WIDEST * lengths.min()])


def joint_spec(table: np.ndarray, scales: int) -> SumSpec:
    """The upper triangle of Σ z zᵀ, each row with that of Σ z gᵀ behind it; no entry is above the clip."""
    return SumSpec((ArraySpec("joint", "dense", (_size(table.shape[1], scales),), bound=float(len(table)) + 1.0),))


def joint_query(clip: float) -> Query:
    """Pasts and what comes next, clipped together."""
    return Query({"joint": PLAIN}, _JOINT_CLIP * clip)


def joint(scales: Scales, clients: Clients, table: np.ndarray) -> Contributions:
    """Σ_t z_t z_tᵀ / (T − 1) and Σ_t z_t g_tᵀ / (T − 1)."""
    rank, n_scales = table.shape[1], len(scales.decays)
    both = np.empty((len(clients.items), rank * (n_scales + 1)), dtype=np.float32)
    lengths = np.empty(len(clients.items))
    for scale, decay in enumerate(scales.decays):
        fades = scales.fades(clients, decay)
        kernels.project_prefixes(clients.indptr, clients.items, fades, table, scale * rank, both)
        kernels.prefix_lengths(clients.indptr, fades, lengths)
        both[:, scale * rank : (scale + 1) * rank] /= lengths[:, None].astype(np.float32)
    onwards = scales.fades(clients, scales.future)
    kernels.project_following(clients.indptr, clients.items, onwards, table, n_scales * rank, both)
    both[:, n_scales * rank :] *= np.float32((1.0 - scales.future**2) ** 0.5)
    gram = np.empty((len(clients), triangle_size(both.shape[1])), dtype=np.float32)
    kernels.prefix_gram(clients.indptr, both, gram)
    kept = np.ascontiguousarray(gram[:, : _size(rank, n_scales)])
    return Contributions({"joint": Dense(kept, user_factors(clients, 1.0))})


def solved(scales: Scales, table: np.ndarray, total: Sum, reg: float) -> dict[str, np.ndarray]:
    """What nodes need to score, as `fedrec.models.linear.prefixes.Reduced.solve` gives it.

    Directions of Σ z zᵀ that noise has made negative are 0, and singular values of Σ z gᵀ shrink to √(s² − edge²) with
    the edge of the noise's own spectrum (Gavish & Donoho 2017). λ of a scale is `reg` times its mean diagonal entry.
    """
    rank, n_scales = table.shape[1], len(scales.decays)
    width, noise = rank * n_scales, total.noise["joint"]
    packed = np.concatenate([total.value("joint"), np.zeros(triangle_size(rank))])
    whole = unpack_triangle(packed, width + rank)
    with one_blas_thread():
        values, vectors = np.linalg.eigh(whole[:width, :width])
        pasts = (vectors * np.maximum(values, 0.0)) @ vectors.T
        left, strengths, right = np.linalg.svd(whole[:width, width:], full_matrices=False)
        edge = noise * (np.sqrt(width) + np.sqrt(rank))
        following = (left * np.sqrt(np.maximum(strengths**2 - edge**2, 0.0))) @ right
        means = np.diag(pasts).reshape(n_scales, rank).mean(axis=1)
        pasts[np.diag_indices(width)] += np.repeat(reg * np.maximum(means, 1e-12), rank)
        # Histories are scored as they are, not scaled to length 1: long ones are (1 − γ²)^−½ long.
        lengths = np.repeat([(1.0 - decay**2) ** 0.5 for decay in scales.decays], rank)
        inner = np.linalg.solve(pasts, following) * lengths[:, None]
        columns = (table.astype(np.float64) ** 2).sum(axis=0)
        weights = (table / np.maximum(columns, 1e-300)) @ inner.T
    return {"projection": table, "weights": np.ascontiguousarray(weights, dtype=np.float32)}


def _size(rank: int, scales: int) -> int:
    """Entries of the triangle over pasts and what comes next, without that of what comes next alone."""
    return triangle_size(rank * (scales + 1)) - triangle_size(rank)
