"""Sums of what comes after what, on several scales: the arrays that `slit` sums, and the ridge solution of them."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.item_pairs import ItemPairs
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.errors import FedrecError
from fedrec.kernels.item_pairs import fades_of_days
from fedrec.models.linear.sketch import mapped

__all__ = ["Scales", "next_name", "past_name", "solve", "user_factors"]

_GRID_BITS = 12
_SECONDS = 86400.0
_COLUMNS = 256


class Scales(NamedTuple):
    """How fast a history fades.

    Args:
        decays: γ of every scale, what is left of an item's weight after one step.
        future: δ, what the weight of something that comes next loses with every step that it is further ahead.
        days: whether a step is as long as the days that it took, and one at least; otherwise every step is one long.
    """

    decays: tuple[float, ...]
    future: float
    days: bool

    def fades(self, clients: Clients, decay: float) -> np.ndarray:
        """decay^length of the step to every row from the row before it [rows] float64."""
        if not self.days or clients.times is None:
            return np.full(len(clients.items), decay)
        out = np.empty(len(clients.items))
        fades_of_days(clients.indptr, clients.times / _SECONDS, decay, out)
        return out

    def spec(self, n_items: int) -> SumSpec:
        """Σ_u w_u Σ_t p_t^a p_t^bᵀ for each two scales a ≤ b, and Σ_u w_u Σ_t p_t^a f_tᵀ for each scale.

        Where a user's items are distinct, a pair adds Σ_n (γ_a γ_b)^n at most, and Σ_n min(γ, δ)^n; where items come
        again, more is cut to that.
        """
        arrays = []
        for a, b in self._pairs():
            shape = (triangle_size(n_items),) if a == b else (n_items, n_items)
            arrays.append(_array(past_name(a, b), shape, 1.0 / (1.0 - self.decays[a] * self.decays[b])))
        for a, decay in enumerate(self.decays):
            arrays.append(_array(next_name(a), (n_items, n_items), 1.0 / (1.0 - min(decay, self.future))))
        return SumSpec(tuple(arrays))

    def contributions(self, clients: Clients, alpha: float) -> Contributions:
        """What clients add, with w_u = (T − 1)^−alpha."""
        every = clients.indptr, clients.items
        rest = user_factors(clients, alpha), clients.n_items
        fades = [self.fades(clients, decay) for decay in self.decays]
        onwards = self.fades(clients, self.future)
        arrays = {}
        for a, b in self._pairs():
            arrays[past_name(a, b)] = ItemPairs.past(*every, fades[a], None if a == b else fades[b], *rest)
        for a, fade in enumerate(fades):
            arrays[next_name(a)] = ItemPairs.following(*every, fade, onwards, *rest)
        return Contributions(arrays)

    def _pairs(self) -> list[tuple[int, int]]:
        return list(combinations_with_replacement(range(len(self.decays)), 2))


def past_name(a: int, b: int) -> str:
    """Name of the array of two scales' pasts.

    >>> past_name(0, 1)
    'past_0_1'
    """
    return f"past_{a}_{b}"


def next_name(a: int) -> str:
    """Name of the array of a scale's past and what comes next."""
    return f"next_{a}"


def user_factors(clients: Clients, alpha: float) -> np.ndarray:
    """(T − 1)^−alpha for clients of T rows [clients] float64; a client of one row has nothing that comes next."""
    return np.maximum(clients.lengths - 1, 1).astype(np.float64) ** -alpha


def solve(total: Sum, n_items: int, scales: int, reg: float) -> np.ndarray:
    """B = (C + diag(λ))⁻¹ D [scales · items, items] float32, by Cholesky in float32.

    λ of a scale is `reg` times the mean of C's diagonal there.

    Raises:
        FedrecError: if C + diag(λ) is not positive definite.
    """
    size = scales * n_items
    matrix = np.zeros((size, size), dtype=np.float32)
    for a in range(scales):
        for b in range(a, scales):
            block = matrix[a * n_items : (a + 1) * n_items, b * n_items : (b + 1) * n_items]
            _unpack(block, total.arrays[past_name(a, b)], 1.0 / total.spec[past_name(a, b)].unit)
        diagonal = np.arange(a * n_items, (a + 1) * n_items)
        ridge = reg * max(float(matrix[diagonal, diagonal].mean(dtype=np.float64)), 1e-12)
        matrix[diagonal, diagonal] += np.float32(ridge)
    factor, info = lapack.spotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
    if info != 0:
        raise FedrecError(f"slit: the sum of pasts is not positive definite at row {info}; raise reg (now {reg:g})")
    weights = np.empty((size, n_items), dtype=np.float32)

    def fill(columns: slice) -> None:
        part = np.empty((size, columns.stop - columns.start), dtype=np.float32, order="F")
        for a in range(scales):
            unit = total.spec[next_name(a)].unit
            part[a * n_items : (a + 1) * n_items] = total.arrays[next_name(a)][:, columns] / unit
        weights[:, columns] = lapack.spotrs(factor, part, lower=1, overwrite_b=1)[0]

    tiles = [slice(low, min(low + _COLUMNS, n_items)) for low in range(0, n_items, _COLUMNS)]
    for _ in mapped(fill, tiles):
        pass
    return weights


def _unpack(block: np.ndarray, packed: np.ndarray, factor: float) -> None:
    """Write a square, or the upper triangle of a square, times `factor` to a block [items, items] float32."""
    if packed.ndim > 1:
        np.multiply(packed, factor, out=block, casting="same_kind")
        return
    start = 0
    for row in range(len(block)):
        stop = start + len(block) - row
        np.multiply(packed[start:stop], factor, out=block[row, row:], casting="same_kind")
        start = stop


def _array(name: str, shape: tuple[int, ...], bound: float) -> ArraySpec:
    return ArraySpec(name, "pairs", shape, bound=bound, scale_bits=_GRID_BITS, role="count")
