"""Contributions that move all rows of a table along one vector of each client: l ⊗ r, both dense. The gradient of a
linear layer is such a product: the error at its outputs by its input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedrec.aggregation.contributions import Contribution
from fedrec.aggregation.queries import PLAIN, Metric
from fedrec.aggregation.specs import ArraySpec
from fedrec.kernels.sums import squared_norms

__all__ = ["DenseProducts"]

_EXACT = 2**53
"""Whole numbers below it are exact in float64."""
_BLOCK = 128
"""Products that are added in one matrix product, at most."""


@dataclass(frozen=True, eq=False)
class DenseProducts(Contribution):
    """l ⊗ r of some of the clients; the others add nothing.

    Rounding is of factors, never of products: l to `left_bits`, r to what is left of the array's grid. Entries of l
    saturate at `left_bound`, those of r at the array's bound / `left_bound`, so that no coordinate exceeds the bound.
    The rounded factors are whole numbers, and matrix products of whole numbers in float64 are exact while no sum
    reaches 2^53: blocks of clients are as short as that takes, and their sum has the same bits in any order.

    Args:
        owners: [products] int64, the client of each product, ascending: at most one for a client.
        left: l [products, rows of the table] float32.
        right: r [products, d] float32.
        factors: [clients] float64, applied to l before rounding.
        left_bits, left_bound: see above.

    Example:
        >>> from fedrec.aggregation.contributions import Contributions
        >>> from fedrec.aggregation.specs import SumSpec
        >>> from fedrec.aggregation.sums import Sum
        >>> left, right = np.array([[1.0, -2.0]], np.float32), np.array([[0.5, 3.0]], np.float32)
        >>> products = DenseProducts(np.array([1]), left, right, np.ones(3), left_bits=4, left_bound=8.0)
        >>> total = Sum.zeros(SumSpec((ArraySpec("table", "dense", (2, 2), bound=64.0, scale_bits=8),)).fit(10))
        >>> _ = total.add(Contributions({"table": products}))
        >>> total.value("table").tolist(), total.clients
        ([[0.5, 3.0], [-1.0, -6.0]], 3)
    """

    owners: np.ndarray
    left: np.ndarray
    right: np.ndarray
    factors: np.ndarray
    left_bits: int
    left_bound: float

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return len(self.factors)

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """‖l‖² ‖r‖², with rows weighed where the metric weighs them."""
        left = self.left if metric.rows is None else (self.left * metric.rows).astype(np.float32)
        return (self._of_clients(_squares(left) * _squares(self.right))) * (metric.weight * self.factors) ** 2

    def clip_rows(self, limit: float) -> DenseProducts:
        """Scale clients whose longest row, |l| at most times ‖r‖, is too long."""
        largest = np.abs(self.left).max(axis=1, initial=0.0).astype(np.float64)
        norms = self._of_clients(largest * np.sqrt(_squares(self.right))) * self.factors
        with np.errstate(invalid="ignore"):
            return self.scale(np.where(norms > limit, limit / np.maximum(norms, limit), 1.0))

    def scale(self, factors: np.ndarray) -> DenseProducts:
        """Weight each client."""
        return replace(self, factors=self.factors * factors)

    def finite(self) -> np.ndarray:
        """Clients without NaN or infinity."""
        out = np.isfinite(self.factors)
        out[self.owners] &= np.isfinite(self.left).all(axis=1) & np.isfinite(self.right).all(axis=1)
        return out

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Add block by block of clients."""
        (products, rows), width = self.left.shape, self.right.shape[1]
        if len(self.owners) != products or len(self.right) != products or rows * width != spec.size:
            raise ValueError(
                f"array {spec.name!r} {spec.shape}: left factors {self.left.shape} and right factors "
                f"{self.right.shape} of {len(self.owners)} clients"
            )
        if products and not (self.owners[0] >= 0 and (np.diff(self.owners) > 0).all() and self.owners[-1] < len(keep)):
            raise ValueError(f"array {spec.name!r}: owners must ascend from 0 to {len(keep) - 1}")
        if spec.scale_bits < self.left_bits:
            raise ValueError(
                f"array {spec.name!r}: {spec.scale_bits} bits of the grid, {self.left_bits} of left factors"
            )
        left_grid = self.left_bound, float(2**self.left_bits)
        right_grid = spec.bound / self.left_bound, float(2 ** (spec.scale_bits - self.left_bits))
        largest = (left_grid[0] * left_grid[1] + 1) * (right_grid[0] * right_grid[1] + 1)
        block = min(_BLOCK, int((_EXACT - 1) // largest))
        if block < 1:
            raise ValueError(
                f"array {spec.name!r}: products of {spec.scale_bits} bits up to {spec.bound} are not exact"
            )
        chosen = np.flatnonzero(keep[self.owners] & (self.factors[self.owners] != 0.0))
        table, saturated = out.reshape(rows, width), 0
        for start in range(0, len(chosen), block):
            places = chosen[start : start + block]
            left, over = _whole(self.left[places], self.factors[self.owners[places]], left_grid)
            right, beyond = _whole(self.right[places], np.ones(len(places)), right_grid)
            table += (left.T @ right).astype(out.dtype)
            saturated += int((over * width + beyond * rows - over * beyond).sum())
        return saturated

    def _of_clients(self, values: np.ndarray) -> np.ndarray:
        """Values [products] at their clients [clients] float64; 0 at the others."""
        out = np.zeros(len(self.factors))
        out[self.owners] = values
        return out


def _squares(rows: np.ndarray) -> np.ndarray:
    """Squared length of each row [n] float64, added up in its order."""
    out = np.zeros(len(rows))
    squared_norms(np.arange(len(rows) + 1), np.ascontiguousarray(rows, dtype=np.float32), out)
    return out


def _whole(rows: np.ndarray, factors: np.ndarray, grid: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Rows times factors as whole numbers of grid steps [n, columns] float64, and how many saturated in each row."""
    bound, unit = grid
    scaled = rows * factors[:, None]
    over = np.count_nonzero(np.abs(scaled) > bound, axis=1)
    return np.rint(np.clip(scaled, -bound, bound) * unit), over
