"""The leading spectrum of an item Gram matrix from sums, never items × items: what `ease` and `spectral` share.

G = Σ_u a_u a_uᵀ with a_u = n_u^−α D x_u, where D is a public diagonal weight per item. A pass sums
Y = G Ω = D Σ_u n_u^−2α x_u ⊗ (Tᵀx_u) with the broadcast table T = DΩ. The first Ω is random signs, each further one an
orthonormal basis of the last Y (subspace iteration: Halko, Martinsson & Tropp 2011). From the last pass G ≈ Q Λ Qᵀ
(Nyström with a shift: Tropp, Yurtsever, Udell & Cevher 2017).

Everything tall is handled in row tiles of fixed height: a tile is one single-threaded BLAS call and tiles are added in
order, so the bits do not depend on the number of threads, and no tall matrix is ever held in float64. Tall QR and SVD
are replaced by pivoted Cholesky factors and an eigendecomposition of r × r matrices (a third of the arithmetic, all of
it matrix products), which is sound here: directions whose pivot is below 1e-10 of the largest, which squaring would
drown in rounding, are dropped, and the shift bounds the last factor away from zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
from scipy.linalg import eigh, lapack

from fedrec.aggregation.contributions import RankOne
from fedrec.aggregation.specs import ArraySpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.kernels.scoring import dot_items, dot_rows, gather_rows
from fedrec.kernels.threads import thread_count
from fedrec.models.base import Arrays
from fedrec.models.linear.gram import user_weights
from fedrec.models.served import COLUMNS
from fedrec.models.shapes import Form, Shape
from fedrec.threads import one_blas_thread

__all__ = [
    "Sketched",
    "Spectrum",
    "basis_table",
    "draw_signs",
    "leading_spectrum",
    "low_rank_arrays",
    "low_rank_column",
    "low_rank_form",
    "low_rank_scores",
    "low_rank_similarity",
    "mapped",
    "sketch_contribution",
    "sketch_memory",
    "sketch_spec",
]

Result = TypeVar("Result")

_TILE = 4096
_SIGN_BITS = 9
_BASIS_BITS = 15
_SLACK = 1.001
_DROP = 1e-10
_SHIFT = 1e-6


def draw_signs(rng: KeyedSource, n_items: int, rank: int) -> np.ndarray:
    """The first Ω: independent ±1, [items, min(rank, items)] int8.

    >>> signs = draw_signs(KeyedSource.from_seed(0), 100, 3)
    >>> signs.shape, np.unique(signs).tolist()
    ((100, 3), [-1, 1])
    """
    bits = rng.child("sketch").generator().integers(0, 2, (n_items, min(rank, n_items)), dtype=np.int8)
    return 2 * bits - np.int8(1)


def sketch_spec(table: np.ndarray, power: float, signs: bool, whole: bool, heaviest: float | None = None) -> ArraySpec:
    """Σ_u n_u^−power x_u ⊗ (Tᵀx_u), with a bound that no history can reach, whatever its length.

    |Tᵀx_u| is at most n_u where Ω is signs, and at most √n_u where its columns have length 1 (Cauchy–Schwarz), item
    weights being at most 1; n_u is at most the length of the catalog. Where interactions weigh up to c, both factors
    grow by max(1, c), and the power, ≤ 1, takes nothing off that could be relied on.

    Args:
        table: T [items, r].
        power: users weigh n_u^−power.
        signs: Ω is ±1; otherwise its columns are orthonormal.
        whole: what is summed are whole numbers: signs, and neither users, items nor interactions are weighted.
        heaviest: c, the largest weight of an interaction; `None` where all weigh 1.
    """
    most = float(len(table)) ** ((1.0 if signs else 0.5) - power)
    if heaviest is not None:
        most = float(len(table)) ** (1.0 if signs else 0.5) * max(1.0, heaviest) ** 2
    bits = 0 if whole else _SIGN_BITS if signs else _BASIS_BITS
    bound = max(1.0, most) * (1.0 if whole else _SLACK)
    return ArraySpec("sketch", "rank_one", table.shape, bound=bound, scale_bits=bits)


def sketch_contribution(clients: Clients, table: np.ndarray, power: float) -> RankOne:
    """n_u^−power x_u ⊗ (Tᵀx_u), the right factor added up in the order of the client's rows."""
    right = np.empty((len(clients), table.shape[1]))
    gather_rows(clients.indptr, clients.items, clients.weights, table, right)
    weights = user_weights(clients, power)
    return RankOne(clients.indptr, clients.items, weights, clients.n_items, right, clients.values)


def sketch_memory(n_items: int, rank: int) -> int:
    """Bytes at the coordinator: two sums in the wider ring, two float32 tables, r × r matrices and tiles of rows."""
    rank = min(rank, n_items)
    return 24 * n_items * rank + 80 * rank * rank + 128 * _TILE * rank


class Sketched(NamedTuple):
    """One pass at the coordinator: T and Σ, read in tiles of rows as Ω and Y = GΩ.

    Args:
        table: T = DΩ [items, r] float32.
        sums: [items, r] integers.
        unit: integer steps per 1.0.
        weights: the diagonal of D [items] float64, 0 for items that nobody has.
    """

    table: np.ndarray
    sums: np.ndarray
    unit: float
    weights: np.ndarray

    @classmethod
    def of(cls, table: np.ndarray, total: Sum, weights: np.ndarray | None = None) -> Sketched:
        """From the round's sum; without `weights` all items weigh 1."""
        weights = np.ones(len(table)) if weights is None else weights
        return cls(table, total.arrays["sketch"], total.spec["sketch"].unit, weights)

    def omega(self, rows: slice) -> np.ndarray:
        """Ω at some rows, float64."""
        weights = self.weights[rows]
        inverse = np.divide(1.0, weights, out=np.zeros_like(weights), where=weights > 0)
        omega: np.ndarray = self.table[rows] * inverse[:, None]
        return omega

    def product(self, rows: slice) -> np.ndarray:
        """Y at some rows, float64."""
        product: np.ndarray = self.sums[rows] * (self.weights[rows] / self.unit)[:, None]
        return product

    def tiles(self) -> list[slice]:
        """Rows in tiles of fixed height."""
        return [slice(low, min(low + _TILE, len(self.sums))) for low in range(0, len(self.sums), _TILE)]


def basis_table(sketched: Sketched) -> np.ndarray:
    """The next T = DΩ [items, k] float32: Ω is an orthonormal basis of the columns of Y, k ≤ r its numerical rank.

    Where Y is zero throughout, T is one column of zeros.
    """

    def gram(rows: slice) -> np.ndarray:
        product = sketched.product(rows)
        part: np.ndarray = product.T @ product
        return part

    total = _added(gram, sketched.tiles())
    turn = _inverse_factor(total, _DROP * float(np.diag(total).max(initial=0.0)))
    if turn.shape[1] == 0:
        return np.zeros((len(sketched.sums), 1), dtype=np.float32)
    out = np.empty((len(sketched.sums), turn.shape[1]), dtype=np.float32)

    def fill(rows: slice) -> None:
        np.multiply(sketched.product(rows) @ turn, sketched.weights[rows, None], out=out[rows], casting="same_kind")

    for _ in mapped(fill, sketched.tiles()):
        pass
    return out


@dataclass(frozen=True, eq=False)
class Spectrum:
    """G ≈ Q diag(values) Qᵀ with Q = (Y + shift Ω) turn.

    Args:
        sketched: Y and Ω.
        shift: ν.
        turn: [r, k] float64.
        values: Λ [k] float64, descending, > 0.
    """

    sketched: Sketched
    shift: float
    turn: np.ndarray
    values: np.ndarray

    def basis(self, rows: slice, factors: np.ndarray) -> np.ndarray:
        """Q diag(factors) at some rows, float64."""
        shifted = self.sketched.product(rows) + self.shift * self.sketched.omega(rows)
        basis: np.ndarray = shifted @ (self.turn * factors)
        return basis


def leading_spectrum(sketched: Sketched) -> Spectrum:
    """Nyström approximation of G from Y = GΩ: with ν = 1e-6 ‖Y‖, Y_ν = Y + νΩ and ΩᵀY_ν = LLᵀ, W = Y_ν L⁻ᵀ has left
    singular vectors Q, and Λ = max(s² − ν, 0). L and s come from r × r matrices; W is never formed."""
    squares = 0.0
    for rows in sketched.tiles():
        squares += float(np.sum(sketched.product(rows) ** 2))
    shift = _SHIFT * float(np.sqrt(squares))

    def products(rows: slice) -> np.ndarray:
        omega = sketched.omega(rows)
        shifted = sketched.product(rows) + shift * omega
        return np.stack([omega.T @ shifted, shifted.T @ shifted])

    core, gram = _added(products, sketched.tiles())
    turn = _inverse_factor((core + core.T) / 2, shift / 2)
    if turn.shape[1] == 0:
        return Spectrum(sketched, shift, turn, np.zeros(0))
    with one_blas_thread():
        inner = turn.T @ gram @ turn
        squared, vectors = eigh((inner + inner.T) / 2)
        kept = squared > max(shift, 0.0)
        squared, vectors = squared[kept][::-1], vectors[:, kept][:, ::-1]
        turn = turn @ (vectors / np.sqrt(squared))
    return Spectrum(sketched, shift, turn, squared - shift)


def low_rank_arrays(spectrum: Spectrum, reg: float | None) -> dict[str, np.ndarray]:
    """What nodes need to score: `factors` F [items, k], `gain` [items], `own` [items], all float32.

    score_j = gain_j (h · F_j − [j in the history] own_j) with h the sum of F over the history.

    With ridge λ = `reg`, λ (G + λI)⁻¹ = I − Q diag(Λ / (Λ + λ)) Qᵀ = I − F Fᵀ: B = −P / diag(P) has
    gain 1 / (1 − ‖F_j‖²), and `own` = ‖F_j‖² makes its diagonal zero. Without (`None`), B = Q Qᵀ, the low-pass filter,
    diagonal included. Item weights D stand on both sides: D B D⁻¹.
    """
    weights = spectrum.sketched.weights
    filtered = np.ones_like(spectrum.values) if reg is None else spectrum.values / (spectrum.values + reg)
    n_items = len(weights)
    factors = np.empty((n_items, len(filtered)), dtype=np.float32)
    gain = np.zeros(n_items, dtype=np.float32)
    own = np.zeros(n_items, dtype=np.float32)
    inverse = np.divide(1.0, weights**2, out=np.zeros(n_items), where=weights > 0)

    def fill(rows: slice) -> None:
        part = spectrum.basis(rows, np.sqrt(filtered))
        norms = np.einsum("ik,ik->i", part, part)
        factors[rows] = part * weights[rows, None]
        if reg is None:
            gain[rows] = inverse[rows]
        else:
            gain[rows] = inverse[rows] / np.maximum(1.0 - norms, 1e-9)
            own[rows] = norms * weights[rows] ** 2

    for _ in mapped(fill, spectrum.sketched.tiles()):
        pass
    return {"factors": factors, "gain": gain, "own": own}


def low_rank_form(n_items: int) -> Form:
    """What `low_rank_arrays` look like."""
    each = Shape((n_items,))
    return Form({"factors": Shape((n_items, "rank")), "gain": each, "own": each})


def low_rank_scores(shared: Arrays, clients: Clients) -> np.ndarray:
    """Scores [clients, items] float32 from `low_rank_arrays` and histories, each in an order of its own."""
    factors = shared["factors"]
    sums = np.empty((len(clients), factors.shape[1]))
    gather_rows(clients.indptr, clients.items, clients.weights, factors, sums)
    scores = np.empty((len(clients), len(factors)), dtype=np.float32)
    if COLUMNS in shared:
        dot_rows(sums.astype(np.float32), shared[COLUMNS], np.zeros(len(factors), np.float32), scores)
    else:
        dot_items(sums.astype(np.float32), factors, scores)
    holders = np.repeat(np.arange(len(clients)), clients.lengths)
    own = shared["own"][clients.items]
    scores[holders, clients.items] -= own if clients.values is None else own * clients.values
    scores *= shared["gain"]
    return scores


def low_rank_similarity(shared: Arrays, items: np.ndarray) -> np.ndarray:
    """What a history of one item adds to every item's score [n, items] float32."""
    factors = shared["factors"]
    out = np.empty((len(items), len(factors)), dtype=np.float32)
    dot_items(np.ascontiguousarray(factors[items]), factors, out)
    out[np.arange(len(items)), items] -= shared["own"][items]
    out *= shared["gain"]
    return out


def low_rank_column(shared: Arrays, item: int) -> np.ndarray:
    """What each item adds to the score of the item at a position [items] float32."""
    added: np.ndarray = shared["factors"] @ shared["factors"][item]
    added[item] -= shared["own"][item]
    return added * shared["gain"][item]


def _inverse_factor(matrix: np.ndarray, smallest: float) -> np.ndarray:
    """R [r, k] with Rᵀ M R = I for a positive semidefinite M [r, r], from a pivoted Cholesky factor; pivots below
    `smallest` are dropped."""
    with one_blas_thread():
        factor, pivots, rank, _ = lapack.dpstrf(matrix, tol=max(smallest, 1e-300), lower=1)
        kept = np.tril(factor[:rank, :rank])
        inverse = lapack.dtrtri(kept, lower=1)[0] if rank else kept
    out = np.zeros((len(matrix), rank))
    out[pivots[:rank] - 1] = np.tril(inverse).T
    return out


def _added(make: Callable[[slice], np.ndarray], tiles: list[slice]) -> np.ndarray:
    """Σ over tiles, in their order."""
    parts = mapped(make, tiles)
    total = next(parts)
    for part in parts:
        total += part
    return total


def mapped(make: Callable[[slice], Result], tiles: list[slice]) -> Iterator[Result]:
    """`make` of every tile in order, a few at a time, each under one BLAS thread."""
    workers = thread_count()
    with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(tiles), workers):
            yield from pool.map(make, tiles[start : start + workers])
