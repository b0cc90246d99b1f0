"""What noised sums say about a Gram matrix, as factors of its items: the post-processing of private spectral models.

With a_u = x_u / √n_u, every user's a_u a_uᵀ has norm 1 and G = Σ_u a_u a_uᵀ ≈ F Fᵀ + diag(ψ). Item j's factor F_j has
the prior N(s_j μ, s_j² Σ), where s_j grows with the item's popularity, and μ and Σ are learnt from the sums (empirical
Bayes, by expectation maximisation), so directions for which there is no evidence shrink to nothing, and items of the
tail fall back to their popularity. Every noised number is a linear observation of one factor given the others: G_ij of
F_i · F_j, and a pass (Σ_u a_u ⊗ Tᵀa_u)_j of F_j · (Fᵀ T). All items are renewed at once, half-way, for F and Fᵀ are
both unknown (mean field: Lim & Teh 2007, "Variational Bayesian approach to movie rating prediction").

Nothing here sees a user, so nothing here costs privacy: rank, weights and clips that follow from it are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

__all__ = [
    "Factors",
    "Pass",
    "denoised",
    "from_gram",
    "from_sketch",
    "next_table",
    "ridge_arrays",
    "spectrum",
    "unclipped",
]

_RANK = 128
_POWER = 0.75
_SWEEPS = 25
_SUBSPACE_SWEEPS = 16
_CUT = 1 / 8
_LEAST_EDGE = 0.1
_LEAST_SCALE = 1e-3
_TINY = 1e-9


class Pass(NamedTuple):
    """Noised sums Σ_u a_u ⊗ Tᵀa_u.

    Args:
        sums: [items, q] float64.
        table: T [items, q] float64.
        deviation: of the noise, per number.
    """

    sums: np.ndarray
    table: np.ndarray
    deviation: float


class Factors(NamedTuple):
    """Items' factors and what is expected of them before the sums are read.

    Args:
        factors: F [items, rank] float64.
        scales: s [items] float64, of mean about 1.
    """

    factors: np.ndarray
    scales: np.ndarray


def from_gram(gram: np.ndarray, deviation: float) -> Factors:
    """First factors of a noised Gram matrix: leading eigenvectors, eigenvalues shrunk to √(λ² − edge²).

    The edge of the noise's own spectrum is 2 σ √items (Gavish & Donoho 2017, "Optimal shrinkage of singular values").

    Args:
        gram: G with noise [items, items] float32, symmetric.
        deviation: σ of the noise off the diagonal.
    """
    values, vectors = _leading(gram, min(_RANK, max(len(gram) // 2, 1)))
    edge = 2 * deviation * np.sqrt(len(gram))
    shrunk = np.sqrt(np.maximum(values**2 - edge**2, 0.0) * (values > 0))
    first = vectors[:, 0] * (np.sign(vectors[:, 0].sum()) or 1.0)
    popularity = _positive((gram @ first.astype(np.float32)).astype(np.float64), deviation)
    return Factors(vectors * np.sqrt(np.maximum(shrunk, _LEAST_EDGE * edge)), _scales(popularity))


def from_sketch(sketch: Pass) -> Factors:
    """First factors of a sketch GΩ of random signs over √rank, by its singular values."""
    items, rank = sketch.sums.shape
    left, values, _ = np.linalg.svd(sketch.sums, full_matrices=False)
    edge = sketch.deviation * (np.sqrt(items) + np.sqrt(rank))
    shrunk = np.maximum(np.sqrt(np.maximum(values**2 - edge**2, 0.0)), _LEAST_EDGE * edge)
    first = left[:, 0] * (np.sign(left[:, 0].sum()) or 1.0)
    kept = min(_RANK, len(values))
    factors = left[:, :kept] * np.sqrt(shrunk[:kept])
    return Factors(factors, _scales(_positive(first * values[0], sketch.deviation)))


def denoised(
    start: Factors, passes: Sequence[Pass] = (), gram: np.ndarray | None = None, deviation: float = 0.0
) -> Factors:
    """Posterior mean factors.

    Args:
        start: where to begin.
        passes: noised passes.
        gram: noised Gram matrix [items, items] float32, if there is one; there must be it or a pass.
        deviation: of the Gram matrix's noise off the diagonal.
    """
    factors, scales = start.factors.copy(), start.scales
    items, rank = factors.shape
    squares = scales**2
    mean = (factors / scales[:, None]).mean(axis=0)
    centred = factors - scales[:, None] * mean
    covariance = centred.T @ centred / squares.sum()
    doubt = np.zeros((rank, rank))
    for _ in range(_SWEEPS):
        precision, evidence = np.zeros((rank, rank)), np.zeros((items, rank))
        if gram is not None:
            # An item's own entry holds its ψ too, so it says nothing of the factor.
            own = np.diag(gram) - np.einsum("ik,ik->i", factors, factors)
            product = (gram @ factors.astype(np.float32)).astype(np.float64)
            evidence += (product - own[:, None] * factors) / deviation**2
            precision += (factors.T @ factors + doubt) / deviation**2
        else:
            own = _own_parts(factors, passes)
        for part in passes:
            seen = factors.T @ part.table
            evidence += (part.sums - own[:, None] * part.table) @ seen.T / part.deviation**2
            precision += seen @ seen.T / part.deviation**2
        covariance += np.eye(rank) * (_TINY * np.trace(covariance) / rank + 1e-12)
        lower = np.linalg.cholesky(covariance)
        strengths, turn = np.linalg.eigh(lower.T @ precision @ lower)
        both = lower @ turn  # turns the prior into the identity and the precision into a diagonal
        variances = 1.0 / (np.maximum(strengths, 0.0)[None, :] + 1.0 / squares[:, None])
        prior = np.outer(1.0 / scales, np.linalg.solve(covariance, mean))
        renewed = (((evidence + prior) @ both) * variances) @ both.T
        doubt = (both * variances.sum(axis=0)) @ both.T
        factors = (factors + renewed) / 2
        scaled = factors / scales[:, None]
        mean = scaled.mean(axis=0)
        centred = scaled - mean
        covariance = centred.T @ centred / items + (both * (variances / squares[:, None]).mean(axis=0)) @ both.T
    return Factors(factors, scales)


def spectrum(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues of F Fᵀ, descending, and its eigenvectors [items, rank]."""
    values, turn = np.linalg.eigh(factors.T @ factors)
    values = np.maximum(values[::-1], 1e-12)
    return values, (factors @ turn[:, ::-1]) / np.sqrt(values)


def next_table(factors: np.ndarray, deviation: float, users: int) -> np.ndarray:
    """T [items, q] for a pass over the q ≥ 2 directions that stand out of noise of `deviation`, V Λ^−½ √(users / q):
    each direction gets the same say, and |Tᵀa_u| is 1 in root mean square over the users."""
    values, vectors = spectrum(factors)
    enough = int(np.count_nonzero(values > _CUT * deviation * np.sqrt(len(factors))))
    kept = min(max(enough, 2), len(values))
    table: np.ndarray = vectors[:, :kept] * np.sqrt(users / kept / values[:kept])
    return table


def unclipped(factors: np.ndarray, noised: Pass) -> Pass:
    """The pass with the mean effect of clipping undone: over the scale that fits it to what F says, in [0.2, 1]."""
    said = factors @ (factors.T @ noised.table)
    scale = float(np.clip((noised.sums * said).sum() / max((said**2).sum(), 1e-300), 0.2, 1.0))
    return Pass(noised.sums / scale, noised.table, noised.deviation / scale)


def ridge_arrays(factors: np.ndarray, reg: float) -> dict[str, np.ndarray]:
    """What nodes need to score all items with EASE's weights of G = F Fᵀ, by `low_rank_scores`.

    (F Fᵀ + λI)⁻¹ = I / λ − E Eᵀ, so B = −P / diag(P) has the factors E, and gains 1 / (1 / λ − ‖E_j‖²).
    """
    values, vectors = spectrum(factors)
    table = vectors * np.sqrt(values / (reg * (values + reg)))
    own = np.einsum("ik,ik->i", table, table)
    gain = 1.0 / (1.0 / reg - own)
    return {name: array.astype(np.float32) for name, array in (("factors", table), ("gain", gain), ("own", own))}


def _own_parts(factors: np.ndarray, passes: Sequence[Pass]) -> np.ndarray:
    """ψ [items] ≥ 0 by regression of what F leaves over of the passes on their own rows of T."""
    left, weight = np.zeros(len(factors)), np.zeros(len(factors))
    for part in passes:
        rest = part.sums - factors @ (factors.T @ part.table)
        left += np.einsum("ik,ik->i", rest, part.table) / part.deviation**2
        weight += (part.table**2).sum(axis=1) / part.deviation**2
    return np.maximum(left / np.maximum(weight, 1e-300), 0.0)


def _leading(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues, descending, and vectors of a symmetric float32 matrix by subspace iteration, in float64."""
    rng = np.random.Generator(np.random.Philox(0))
    basis = rng.standard_normal((len(matrix), rank)).astype(np.float32)
    for _ in range(_SUBSPACE_SWEEPS):
        basis = np.linalg.qr(matrix @ basis)[0]
    core = (basis.T @ (matrix @ basis)).astype(np.float64)
    values, turn = np.linalg.eigh((core + core.T) / 2)
    return values[::-1], basis.astype(np.float64) @ turn[:, ::-1]


def _positive(values: np.ndarray, deviation: float) -> np.ndarray:
    """Posterior means of numbers ≥ 0 seen in Gaussian noise, with an exponential prior of their mean."""
    mean = max(float(values.mean()), deviation / 10)
    place = (values - deviation**2 / mean) / deviation
    ratio = np.exp(-(place**2) / 2 - 0.5 * np.log(2 * np.pi) - log_ndtr(place))
    return np.maximum(deviation * (place + ratio), _TINY)


def _scales(popularity: np.ndarray) -> np.ndarray:
    return np.maximum((popularity / popularity.mean()) ** _POWER, _LEAST_SCALE)
