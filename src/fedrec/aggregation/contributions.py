"""What clients add in a round, kept apart so that the release can weight and clip them.

Contributions have no wire format: they leave a node only as part of a `Sum`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fedrec.aggregation.queries import PLAIN, Metric
from fedrec.aggregation.specs import ArraySpec, triangle_size
from fedrec.kernels import item_columns as columns
from fedrec.kernels import sums as kernels
from fedrec.kernels import weighted_sums
from fedrec.kernels.threads import thread_count

__all__ = ["Contribution", "Contributions", "Dense", "RankOne", "RowUpdates"]


class Contribution(ABC):
    """One named array's contributions of all clients of a chunk."""

    @property
    @abstractmethod
    def n_clients(self) -> int:
        """Clients in the chunk."""

    @abstractmethod
    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """Squared L2 norm of each client's contribution in the released layout [clients] float64.

        Args:
            metric: weights of the coordinates.
        """

    @abstractmethod
    def clip_rows(self, limit: float) -> Contribution:
        """The same with no row of a client's contribution longer than `limit`."""

    @abstractmethod
    def scale(self, factors: np.ndarray) -> Contribution:
        """Each client's contribution times `factors` [clients] float64."""

    @abstractmethod
    def finite(self) -> np.ndarray:
        """Which clients' contributions are finite throughout [clients] bool."""

    @abstractmethod
    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Round, saturate and add the clients in `keep` [clients] bool to `out`, signed ring integers of `spec.shape`.

        Returns:
            How many coordinates saturated.

        Raises:
            ValueError: if the contributions do not have the shape of the array.
        """


@dataclass(frozen=True, eq=False)
class RowUpdates(Contribution):
    """Updates of the rows of a shared table that each client touched.

    Args:
        indptr: [clients + 1] int64.
        rows: [touched] int32, distinct within a client.
        values: [touched, d] float32.
        factors: [clients] float64 weights, applied before rounding.
    """

    indptr: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    factors: np.ndarray

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return len(self.indptr) - 1

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """Squared norms; untouched rows are zero."""
        out = np.zeros(self.n_clients)
        values = self.values
        if metric.rows is not None:
            values = (values * metric.rows[self.rows, None]).astype(np.float32)
        kernels.squared_norms(self.indptr, values, out)
        return out * (metric.weight * self.factors) ** 2

    def clip_rows(self, limit: float) -> RowUpdates:
        """Shorten the rows that are too long."""
        norms = np.linalg.norm(self.values.astype(np.float64), axis=1) * np.repeat(self.factors, np.diff(self.indptr))
        return replace(self, values=(self.values * _shrunk(norms, limit)[:, None]).astype(np.float32))

    def scale(self, factors: np.ndarray) -> RowUpdates:
        """Weight each client."""
        return replace(self, factors=self.factors * factors)

    def finite(self) -> np.ndarray:
        """Clients without NaN or infinity."""
        out = np.isfinite(self.factors)
        kernels.finite_rows(self.indptr, self.values, out)
        return out

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Scatter-add the touched rows."""
        _check(spec, self.n_clients, len(self.factors), self.rows, out.shape[0])
        if self.values.shape != (len(self.rows), spec.size // out.shape[0]):
            raise ValueError(f"array {spec.name!r} {spec.shape}: {len(self.rows)} rows, values {self.values.shape}")
        over = np.zeros(thread_count(), dtype=np.int64)
        factors = np.where(keep, self.factors, 0.0)
        table = out.reshape(out.shape[0], -1)
        kernels.add_rows[spec.word](table, self.indptr, self.rows, self.values, factors, spec.bound, spec.unit, over)
        return int(over.sum())


@dataclass(frozen=True, eq=False)
class RankOne(Contribution):
    """w · x ⊗ s, where x has a client's items: counts, sketches, and the item Gram matrix as an upper triangle.

    Where x only marks items, rounding is of factors, never of products: w · 2^scale_bits for the triangle,
    (w · s) · 2^scale_bits otherwise. Where interactions have `values`, each client's product is rounded at each
    coordinate.

    Args:
        indptr: [clients + 1] int64.
        items: [rows] int32, distinct within a client.
        weights: [clients] float64.
        n_items: length of the catalog.
        right: s, [clients, r] float64; `None` for the upper triangle of w · x xᵀ by rows.
        values: x at the client's items [rows] float32; `None` for 1 everywhere.
    """

    indptr: np.ndarray
    items: np.ndarray
    weights: np.ndarray
    n_items: int
    right: np.ndarray | None = None
    values: np.ndarray | None = None

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return len(self.indptr) - 1

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.diff(self.indptr).astype(np.float64)

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """w² n (n + 1) / 2 for a triangle, w² n ‖s‖² otherwise; with (d x)² instead of 1 for an item that weighs d."""
        squares = self._powers(metric.rows, 2)
        scale = (metric.weight * self.weights) ** 2
        if self.right is not None:
            return scale * squares * np.einsum("cr,cr->c", self.right, self.right)
        fourths = self._powers(metric.rows, 4)
        return scale * ((squares**2 - fourths) / 2 + metric.diagonal**2 * fourths)

    def clip_rows(self, limit: float) -> RankOne:
        """Scale clients whose rows may be too long: rows of a client are s times one of its values, and no row of a
        triangle is longer than all values times the largest."""
        longest = np.sqrt(self._powers(None, 2)) if self.right is None else np.linalg.norm(self.right, axis=1)
        if self.values is not None:
            largest = np.zeros(self.n_clients)
            np.maximum.at(largest, self._owners, np.abs(self.values))
            longest *= largest
        return self.scale(_shrunk(longest * self.weights, limit))

    @cached_property
    def _owners(self) -> np.ndarray:
        """The client of each row."""
        return np.repeat(np.arange(self.n_clients), np.diff(self.indptr))

    def _powers(self, weights: np.ndarray | None, power: int) -> np.ndarray:
        """Σ of (weight · x)^power over each client's items [clients] float64, in the order of its rows."""
        if weights is None and self.values is None:
            return self._lengths
        parts = np.ones(1) if weights is None else weights[self.items] ** power
        if self.values is not None:
            parts = parts * self.values.astype(np.float64) ** power
        return np.bincount(self._owners, weights=parts, minlength=self.n_clients)

    def scale(self, factors: np.ndarray) -> RankOne:
        """Weight each client."""
        return replace(self, weights=self.weights * factors)

    def finite(self) -> np.ndarray:
        """Clients whose factors are finite."""
        out = np.isfinite(self.weights)
        if self.right is not None:
            out &= np.isfinite(self.right).all(axis=1)
        if self.values is not None:
            kernels.finite_rows(self.indptr, self.values[:, None], out)
        return out

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Add by item: a thread owns whole rows of the sum."""
        _check(spec, self.n_clients, len(self.weights), self.items, self.n_items)
        size = triangle_size(self.n_items) if self.right is None else self.n_items * self.right.shape[1]
        if size != spec.size or (self.right is not None and len(self.right) != self.n_clients):
            raise ValueError(f"array {spec.name!r} {spec.shape}: {size} coordinates of {self.n_clients} clients")
        if self.values is not None and self.values.shape != self.items.shape:
            raise ValueError(f"array {spec.name!r}: values {self.values.shape} of {len(self.items)} rows")
        if self.right is None:
            return self._add_triangle(out, spec, keep)
        table = out.reshape(self.n_items, -1)
        if self.values is None:
            right = np.empty((self.n_clients, table.shape[1]), dtype=out.dtype)
            over = np.empty(self.n_clients, dtype=np.int64)
            values = np.ascontiguousarray(self.right, dtype=np.float64)
            factors = np.where(keep, self.weights, 0.0)
            kernels.fixed_rows[spec.word](right, values, factors, spec.bound, spec.unit, over)
            if table.shape[1] == 1:
                columns.add_marks[spec.word](table, self.indptr, self.items, right)
            else:
                item_indptr, holder, _ = self._columns()
                kernels.add_rank_one[spec.word](table, item_indptr, holder, right)
            return int((over * self._lengths).sum())
        return self._add_weighted_rows(table, spec, keep)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets [n_items + 1] of the items' columns, and the client and the row of each of their entries."""
        item_indptr = np.empty(self.n_items + 1, dtype=np.int64)
        holder, source = np.empty((2, len(self.items)), dtype=np.int64)
        columns.item_columns(self.indptr, self.items, item_indptr, np.empty_like(item_indptr), holder, source)
        return item_indptr, holder, source

    def _add_triangle(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Add w · x xᵀ; returns how many coordinates saturated."""
        item_indptr = np.empty(self.n_items + 1, dtype=np.int64)
        holder, source, place = np.empty((3, len(self.items)), dtype=np.int64)
        ordered = np.empty(len(self.items), dtype=np.int32)
        cursor = np.empty(max(self.n_items, self.n_clients), dtype=np.int64)
        kernels.by_item(self.indptr, self.items, item_indptr, cursor, holder, source, place, ordered)
        if self.values is None:
            weights, over = _fixed(self.weights, keep, spec)
            saturated = int((over * self._lengths * (self._lengths + 1) / 2).sum())
            kernels.add_triangle[spec.word](out, self.indptr, ordered, item_indptr, holder, place, weights)
            return saturated
        values = self._kept_values(keep)
        sorted_values = np.empty_like(values)
        sorted_values[place] = values[source]
        beyond = np.empty(self.n_items, dtype=np.int64)
        grid = (np.where(keep, self.weights, 0.0), spec.bound, spec.unit, beyond)
        add = weighted_sums.add_weighted_triangle[spec.word]
        add(out, self.indptr, ordered, sorted_values, item_indptr, holder, place, *grid)
        return int(beyond.sum())

    def _add_weighted_rows(self, table: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Add w · x ⊗ s of what has values; returns how many coordinates saturated."""
        values, factors = self._kept_values(keep), np.where(keep, self.weights, 0.0)
        right = np.ascontiguousarray(self.right, dtype=np.float64)
        item_indptr, holder, source = self._columns()
        if keep.all() and self._is_exact(values, right, spec):
            add = columns.add_exact_rank_one[spec.word]
            add(table, values, item_indptr, holder, source, right, factors, spec.unit)
            return 0
        over = np.empty(self.n_items, dtype=np.int64)
        add_rows = weighted_sums.add_weighted_rank_one[spec.word]
        add_rows(table, values, item_indptr, holder, source, right, factors, spec.bound, spec.unit, over)
        return int(over.sum())

    def _kept_values(self, keep: np.ndarray) -> np.ndarray:
        """Values [rows] float32; 0 for those that are not finite, as no kernel turns such numbers into integers."""
        assert self.values is not None
        return self.values if keep.all() else np.where(np.isfinite(self.values), self.values, np.float32(0.0))

    def _is_exact(self, values: np.ndarray, right: np.ndarray, spec: ArraySpec) -> bool:
        """Whether no product exceeds the bound, and floats hold any sum of them on the grid."""
        largest = np.abs(right).max(axis=1, initial=0.0) * (
            np.abs(self.weights) * float(np.abs(values).max(initial=0.0))
        )
        most = float(largest.max(initial=0.0))
        return most <= spec.bound and (most * spec.unit + 1.0) * self.n_clients < 2.0**53


@dataclass(frozen=True, eq=False)
class Dense(Contribution):
    """A full vector per client.

    Args:
        values: [clients, n] float32.
        factors: [clients] float64 weights, applied before rounding.
    """

    values: np.ndarray
    factors: np.ndarray

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return len(self.values)

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """Squared norms."""
        out = np.zeros(self.n_clients)
        values = self.values if metric.rows is None else (self.values * metric.rows).astype(np.float32)
        kernels.squared_norms(np.arange(self.n_clients + 1), values, out)
        return out * (metric.weight * self.factors) ** 2

    def clip_rows(self, limit: float) -> Dense:
        """A vector is one row."""
        return self.scale(_shrunk(np.sqrt(self.sq_norms()), limit))

    def scale(self, factors: np.ndarray) -> Dense:
        """Weight each client."""
        return replace(self, factors=self.factors * factors)

    def finite(self) -> np.ndarray:
        """Clients without NaN or infinity."""
        return np.isfinite(self.factors) & np.isfinite(self.values).all(axis=1)

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Add every coordinate."""
        if self.values.shape != (len(self.factors), spec.size):
            raise ValueError(f"array {spec.name!r} {spec.shape}: {len(self.factors)} clients, {self.values.shape}")
        over = np.zeros(thread_count(), dtype=np.int64)
        factors = np.where(keep, self.factors, 0.0)
        kernels.add_dense[spec.word](out.reshape(-1), self.values, factors, spec.bound, spec.unit, over)
        return int(over.sum())


def _check(spec: ArraySpec, clients: int, factors: int, positions: np.ndarray, limit: int) -> None:
    """Kernels check no positions of their own, so a model's mistake must stop here."""
    if clients != factors:
        raise ValueError(f"array {spec.name!r}: {factors} factors for {clients} clients")
    if len(positions) and not 0 <= positions.min() <= positions.max() < limit:
        raise ValueError(f"array {spec.name!r}: positions {positions.min()} … {positions.max()} of {limit} rows")


def _shrunk(norms: np.ndarray, limit: float) -> np.ndarray:
    """Factors that bring norms down to `limit`; 1 for those below, and for what is not finite, which a sum leaves
    out."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return np.where(norms > limit, limit / norms, 1.0)


def _fixed(values: np.ndarray, keep: np.ndarray, spec: ArraySpec) -> tuple[np.ndarray, np.ndarray]:
    kept = np.where(keep, values, 0.0)
    over = np.abs(kept) > spec.bound
    return np.rint(np.clip(kept, -spec.bound, spec.bound) * spec.unit).astype(np.int64), over


@dataclass(frozen=True, eq=False)
class Contributions:
    """All arrays that the clients of one chunk contribute, by name.

    Args:
        arrays: one `Contribution` per array of the round's `SumSpec`, all of the same clients.
        adding: the clients that add anything but zeros [clients] bool, where a model draws some of its own; `None` for
            all. Floors on what leaves a node go by their number.
    """

    arrays: Mapping[str, Contribution]
    adding: np.ndarray | None = None

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return next(iter(self.arrays.values())).n_clients

    def scale(self, factors: np.ndarray) -> Contributions:
        """Weight each client in every array by `factors` [clients] float64."""
        return replace(self, arrays={name: array.scale(factors) for name, array in self.arrays.items()})

    def clip(self, metrics: Mapping[str, Metric], limit: float) -> Contributions:
        """Scale down the arrays in `metrics` of each client whose joint norm over them exceeds `limit`."""
        norms = np.sqrt(np.sum([self.arrays[name].sq_norms(metric) for name, metric in metrics.items()], axis=0))
        factors = _shrunk(norms, limit)
        clipped = {name: self.arrays[name].scale(factors) for name in metrics}
        return replace(self, arrays={**self.arrays, **clipped})

    def clip_rows(self, limit: float) -> Contributions:
        """Shorten rows of every array that are longer than `limit`."""
        return replace(self, arrays={name: array.clip_rows(limit) for name, array in self.arrays.items()})

    def sq_norms(self) -> np.ndarray:
        """Squared norm of each client over all arrays together [clients] float64."""
        return np.sum([array.sq_norms() for array in self.arrays.values()], axis=0)

    def finite(self) -> np.ndarray:
        """Which clients are finite in every array [clients] bool."""
        return np.logical_and.reduce([array.finite() for array in self.arrays.values()])
