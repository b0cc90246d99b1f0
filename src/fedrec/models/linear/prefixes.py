"""Transitions of reduced rank: pasts of all scales in a basis of few columns, for catalogs whose items² is too much.

A basis Q [items, k] comes from passes over the past of the longest scale (subspace iteration, as in
`fedrec.models.linear.sketch`): a pass sums Σ_u w_u Σ_t p_t (Qᵀp_t)ᵀ. Then, with z_t the stacked Qᵀp_t^a of all scales,
one round sums Z = Σ_u w_u Σ_t z_t z_tᵀ and Y = Σ_u w_u Σ_t f_t z_tᵀ, and what comes next is z (Z + λ)⁻¹ Yᵀ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from fedrec.aggregation.contributions import Contributions, Dense, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.kernels import prefixes as kernels
from fedrec.kernels.scoring import dot_items
from fedrec.kernels.splitting import first_repeat
from fedrec.models.base import Arrays
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.linear.transitions import Scales, user_factors
from fedrec.models.shapes import Form, Shape
from fedrec.threads import one_blas_thread

__all__ = ["Reduced", "reduced_form", "reduced_memory", "reduced_scores", "reduced_similarity", "rows_of_items"]

_SIGN_BITS = 6
_GRID_BITS = 12
_SLACK = 1.001


class Reduced(NamedTuple):
    """What reduced transitions sum.

    Args:
        scales: how histories fade.
        alpha: users of T items weigh (T − 1)^−alpha.
    """

    scales: Scales
    alpha: float

    def sketch_spec(self, table: np.ndarray, signs: bool) -> SumSpec:
        """A row per item. No entry of p_t Ω is above Σ_n γ^n where Ω is signs, and above (Σ_n γ^2n)^½ where its columns
        have length 1; an item adds it with every later prefix, faded."""
        decay = self.scales.decays[-1]
        most = 1.0 / (1.0 - decay) if signs else _longest(decay)
        bits, bound = (_SIGN_BITS if signs else _GRID_BITS), _SLACK * most / (1.0 - decay)
        return SumSpec((ArraySpec("sketch", "rows", table.shape, bound=bound, scale_bits=bits),))

    def sketch(self, clients: Clients, table: np.ndarray) -> Contributions:
        """w_u Σ_t p_t (Ωᵀp_t)ᵀ of the longest scale."""
        fades = self.scales.fades(clients, self.scales.decays[-1])
        prefixes = np.empty((len(clients.items), table.shape[1]), dtype=np.float32)
        kernels.project_prefixes(clients.indptr, clients.items, fades, table, 0, prefixes)
        values = np.empty_like(prefixes)
        kernels.backward_rows(clients.indptr, fades, prefixes, values)
        return Contributions({"sketch": rows_of_items(clients, values, user_factors(clients, self.alpha))})

    def spec(self, table: np.ndarray) -> SumSpec:
        """Z as an upper triangle, Y, and the squared lengths of prefixes, by which λ is measured."""
        n_items, width = len(table), table.shape[1] * len(self.scales.decays)
        longest = _longest(self.scales.decays[-1])
        steps = float(n_items) ** max(1.0 - self.alpha, 0.0)
        square = _SLACK * steps * longest**2
        following = _SLACK * longest / (1.0 - self.scales.future)
        return SumSpec(
            (
                ArraySpec("pasts", "dense", (triangle_size(width),), bound=square, scale_bits=_GRID_BITS),
                ArraySpec("next", "rows", (n_items, width), bound=following, scale_bits=_GRID_BITS),
                ArraySpec("squares", "dense", (len(self.scales.decays),), bound=square, scale_bits=_GRID_BITS),
            )
        )

    def contributions(self, clients: Clients, table: np.ndarray) -> Contributions:
        """w_u Σ_t z_t z_tᵀ, w_u Σ_t f_t z_tᵀ and w_u Σ_t ‖p_t^a‖²."""
        rank, factors = table.shape[1], user_factors(clients, self.alpha)
        prefixes = np.empty((len(clients.items), rank * len(self.scales.decays)), dtype=np.float32)
        squares = np.empty((len(clients), len(self.scales.decays)), dtype=np.float32)
        for scale, decay in enumerate(self.scales.decays):
            fades = self.scales.fades(clients, decay)
            kernels.project_prefixes(clients.indptr, clients.items, fades, table, scale * rank, prefixes)
            kernels.prefix_squares(clients.indptr, fades, squares, scale)
        gram = np.empty((len(clients), triangle_size(prefixes.shape[1])), dtype=np.float32)
        kernels.prefix_gram(clients.indptr, prefixes, gram)
        following = np.empty_like(prefixes)
        onwards = self.scales.fades(clients, self.scales.future)
        kernels.forward_rows(clients.indptr, onwards, prefixes, following)
        rows = rows_of_items(clients, following, factors)
        return Contributions({"pasts": Dense(gram, factors), "next": rows, "squares": Dense(squares, factors)})

    def solve(self, table: np.ndarray, total: Sum, reg: float) -> dict[str, np.ndarray]:
        """What nodes need to score: `projection` Q [items, k] and `weights` Y (Z + λ)⁻¹ [items, scales · k], float32.

        λ of a scale is `reg` times the mean over items of squared lengths there."""
        n_items, rank = table.shape
        pasts = unpack_triangle(total.arrays["pasts"], rank * len(self.scales.decays), 1.0 / total.spec["pasts"].unit)
        ridge = reg * np.maximum(total.value("squares") / n_items, 1e-12)
        pasts[np.diag_indices(len(pasts))] += np.repeat(ridge, rank)
        with one_blas_thread():
            weights = cho_solve(cho_factor(pasts), total.value("next").T).T
        return {"projection": table, "weights": np.ascontiguousarray(weights, dtype=np.float32)}


def rows_of_items(clients: Clients, values: np.ndarray, factors: np.ndarray) -> RowUpdates:
    """Values [rows, k] of clients as rows of their items, those of an item that comes again added up."""
    if first_repeat(clients.indptr, clients.items, clients.n_items) < 0:
        return RowUpdates(clients.indptr, clients.items, values, factors)
    owners = np.repeat(np.arange(len(clients)), clients.lengths)
    pairs, places = np.unique(owners * clients.n_items + clients.items, return_inverse=True)
    together = np.zeros((len(pairs), values.shape[1]), dtype=np.float32)
    np.add.at(together, places, values)
    indptr = offsets(np.bincount(pairs // clients.n_items, minlength=len(clients)))
    return RowUpdates(indptr, (pairs % clients.n_items).astype(np.int32), together, factors)


def reduced_form(n_items: int) -> Form:
    """What `Reduced.solve` gives."""
    return Form({"projection": Shape((n_items, "rank")), "weights": Shape((n_items, "columns"))})


def reduced_memory(n_items: int, rank: int, scales: int) -> int:
    """Bytes at the coordinator: sums and tables of the sketch, then of what comes next, and the pasts."""
    width = min(rank, n_items) * scales
    return 24 * n_items * width + 40 * width * width


def reduced_scores(shared: Arrays, scales: Scales, clients: Clients) -> np.ndarray:
    """Scores [clients, items] float32 of histories, each in an order of its own."""
    basis, weights = shared["projection"], shared["weights"]
    rank = basis.shape[1]
    ends = clients.indptr[1:][clients.lengths > 0] - 1
    left = np.zeros((len(clients), weights.shape[1]), dtype=np.float32)
    for scale, decay in enumerate(scales.decays):
        prefixes = np.empty((len(clients.items), rank), dtype=np.float32)
        kernels.project_prefixes(clients.indptr, clients.items, scales.fades(clients, decay), basis, 0, prefixes)
        left[clients.lengths > 0, scale * rank : (scale + 1) * rank] = prefixes[ends]
    scores = np.empty((len(clients), len(weights)), dtype=np.float32)
    dot_items(left, weights, scores)
    return scores


def reduced_similarity(shared: Arrays, items: np.ndarray) -> np.ndarray:
    """Scores of histories of one item each [n, items] float32."""
    basis, weights = shared["projection"], shared["weights"]
    left = np.ascontiguousarray(np.tile(basis[items], (1, weights.shape[1] // basis.shape[1])))
    scores = np.empty((len(items), len(weights)), dtype=np.float32)
    dot_items(left, weights, scores)
    return scores


def _longest(decay: float) -> float:
    """Length of an endless history of distinct items, (Σ_n γ^2n)^½."""
    return float(1.0 - decay**2) ** -0.5
