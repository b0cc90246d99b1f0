"""Contributions that move the rows of a table along a few vectors of each client: Σ over pieces of x ⊗ s, x sparse."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedrec.aggregation.contributions import Contribution
from fedrec.aggregation.queries import PLAIN, Metric
from fedrec.aggregation.specs import ArraySpec
from fedrec.kernels import products as kernels
from fedrec.kernels.threads import thread_count

__all__ = ["Products"]

_PARTS_BYTES = 1 << 27


@dataclass(frozen=True, eq=False)
class Products(Contribution):
    """Σ over a client's pieces p of x_p ⊗ s_p, where x_p holds weights of rows; what an SGD step along s_p changes.

    Rounding is of factors, never of products: weights to `weight_bits`, vectors to what is left of the array's grid. A
    client's |weights| on one row add up to at most `weight_bound` and entries of its vectors are at most the array's
    bound / `weight_bound`; beyond that they saturate, so that no coordinate exceeds the bound.

    Args:
        client_indptr: [clients + 1] int64 ranges of pieces.
        indptr: [pieces + 1] int64 ranges of entries.
        rows: [entries] int32; may repeat.
        weights: [entries] float32.
        vectors: [pieces, d] float32.
        factors: [clients] float64, applied to the weights before rounding.
        weight_bits, weight_bound: see above.
    """

    client_indptr: np.ndarray
    indptr: np.ndarray
    rows: np.ndarray
    weights: np.ndarray
    vectors: np.ndarray
    factors: np.ndarray
    weight_bits: int
    weight_bound: float

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return len(self.client_indptr) - 1

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """Squared norm of each client's sum over its pieces; rows weigh alike."""
        if metric.rows is not None:
            raise ValueError("products with weights per row have no norm")
        out = np.zeros(self.n_clients)
        n_rows = int(self.rows.max(initial=0)) + 1
        kernels.product_norms(self.client_indptr, self.indptr, self.rows, self.weights, self.vectors, n_rows, out)
        return out * (metric.weight * self.factors) ** 2

    def clip_rows(self, limit: float) -> Products:
        """Scale clients whose whole sum is longer than `limit`, and so all of its rows."""
        norms = np.sqrt(self.sq_norms())
        return self.scale(np.minimum(1.0, limit / np.maximum(norms, limit)))

    def scale(self, factors: np.ndarray) -> Products:
        """Weight each client."""
        return replace(self, factors=self.factors * factors)

    def finite(self) -> np.ndarray:
        """Clients without NaN or infinity."""
        out = np.isfinite(self.factors)
        kernels.finite_products(self.client_indptr, self.indptr, self.weights, self.vectors, out)
        return out

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Scatter-add; a thread has a sum of its own for some of the clients, while those fit in memory."""
        n_rows = out.shape[0]
        if len(self.factors) != self.n_clients or len(self.indptr) != len(self.vectors) + 1:
            raise ValueError(f"array {spec.name!r}: {len(self.vectors)} vectors, {len(self.indptr) - 1} pieces")
        if self.vectors.shape[1] * n_rows != spec.size or spec.scale_bits <= self.weight_bits:
            raise ValueError(f"array {spec.name!r} {spec.shape}: vectors {self.vectors.shape}, {spec.scale_bits} bits")
        if len(self.rows) and not 0 <= self.rows.min() <= self.rows.max() < n_rows:
            raise ValueError(f"array {spec.name!r}: rows {self.rows.min()} … {self.rows.max()} of {n_rows}")
        most, unit = spec.bound / self.weight_bound, float(2 ** (spec.scale_bits - self.weight_bits))
        kept = np.repeat(keep, np.diff(self.client_indptr))[:, None]
        bounded = np.clip(np.where(kept, self.vectors, np.float32(0.0)), -most, most)
        pieces = np.count_nonzero(kept & (np.abs(self.vectors) > most), axis=1)
        saturated = int((pieces * np.diff(self.indptr)).sum())
        entries = self.indptr[self.client_indptr]
        workers = max(1, min(thread_count(), _PARTS_BYTES // out.nbytes))
        bounds = np.searchsorted(entries, np.linspace(0, entries[-1], workers + 1)).astype(np.int64)
        bounds[0], bounds[-1] = 0, self.n_clients
        parts = np.zeros((workers, n_rows, self.vectors.shape[1]), dtype=out.dtype)
        over = np.zeros(workers, dtype=np.int64)
        kernels.add_products[spec.word](
            parts,
            self.client_indptr,
            self.indptr,
            self.rows,
            self.weights,
            np.where(keep, self.factors, 0.0),
            float(2**self.weight_bits),
            int(self.weight_bound * 2**self.weight_bits),
            np.rint(bounded * np.float64(unit)).astype(np.int32),
            bounds,
            over,
        )
        for part in parts:
            out += part.reshape(out.shape)
        return saturated + int(over.sum())
