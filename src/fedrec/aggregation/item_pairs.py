"""Contributions that are pairs of items near each other in a client's history, weighed by how near they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fedrec.aggregation.contributions import Contribution
from fedrec.aggregation.queries import PLAIN, Metric
from fedrec.aggregation.specs import ArraySpec, triangle_size
from fedrec.kernels import item_pairs as kernels
from fedrec.kernels.splitting import first_repeat
from fedrec.kernels.sums import by_item
from fedrec.kernels.threads import thread_count

__all__ = ["ItemPairs"]

_NONE = np.empty(0)


@dataclass(frozen=True, eq=False)
class ItemPairs(Contribution):
    """Sums over the prefixes of each client's history, as pairs of its items; nobody forms a prefix.

    A history s_1 … s_T has the prefixes t = 1 … T − 1, each with something that comes next. In p_t every item of the
    prefix has a weight of 1 that fades with every row behind it. `past` makes Σ_t p_t q_tᵀ of two such vectors, with
    unlike fades or the same; `following` makes Σ_t p_t f_tᵀ, where f_t holds what comes after the prefix, 1 for the
    next item and less for every further one. Pairs whose weight has faded below 1e-4 are left out.

    What a client adds at a coordinate, all pairs of two items together, is rounded once.

    Args:
        indptr: [clients + 1] int64.
        items: [rows] int32, oldest first; an item may come again.
        ahead, behind, later, onwards: see `fedrec.kernels.item_pairs.Fades`.
        factors: [clients] float64 weights, applied before rounding.
        n_items: length of the catalog.
        triangle: whether the upper triangle of a symmetric sum is meant, by rows, instead of items × items.
    """

    indptr: np.ndarray
    items: np.ndarray
    ahead: np.ndarray
    behind: np.ndarray
    later: np.ndarray
    onwards: np.ndarray
    factors: np.ndarray
    n_items: int
    triangle: bool = False

    @classmethod
    def past(
        cls,
        indptr: np.ndarray,
        items: np.ndarray,
        fades: np.ndarray,
        others: np.ndarray | None,
        factors: np.ndarray,
        n_items: int,
    ) -> ItemPairs:
        """Σ_t p_t q_tᵀ, items × items; the upper triangle of Σ_t p_t p_tᵀ without `others`.

        Args:
            indptr, items, factors, n_items: as above.
            fades: [rows] float64, what is left of p's weights when a history goes on to a row.
            others: the same for q; `None` for p itself.

        Example:
            >>> indptr, items = np.array([0, 3]), np.array([0, 1, 2], dtype=np.int32)
            >>> half, whole = np.full(3, 0.5), np.ones(1)
            >>> pairs = ItemPairs.past(indptr, items, half, None, whole, 3)
            >>> out = np.zeros(6, dtype=np.int64)
            >>> spec = ArraySpec("past", "pairs", (6,), bound=2.0, scale_bits=2, ring=64)
            >>> pairs.add_to(out, spec, np.ones(1, dtype=bool)), (out / 4).tolist()
            (0, [1.25, 0.5, 0.0, 1.0, 0.0, 0.0])
        """
        behind = fades if others is None else others
        later = np.empty(len(items))
        kernels.later_prefixes(indptr, fades, behind, later)
        return cls(indptr, items, fades, behind, later, _NONE, factors, n_items, others is None)

    @classmethod
    def following(
        cls,
        indptr: np.ndarray,
        items: np.ndarray,
        fades: np.ndarray,
        onwards: np.ndarray,
        factors: np.ndarray,
        n_items: int,
    ) -> ItemPairs:
        """Σ_t p_t f_tᵀ, items × items.

        Args:
            indptr, items, factors, n_items: as above.
            fades: [rows] float64, what is left of p's weights when a history goes on to a row.
            onwards: [rows] float64, how much less a row weighs in f than the row before it.

        Example:
            >>> indptr, items = np.array([0, 3]), np.array([0, 1, 2], dtype=np.int32)
            >>> half, whole = np.full(3, 0.5), np.ones(1)
            >>> pairs = ItemPairs.following(indptr, items, half, half, whole, 3)
            >>> out = np.zeros((3, 3), dtype=np.int64)
            >>> spec = ArraySpec("next", "pairs", (3, 3), bound=2.0, scale_bits=2, ring=64)
            >>> pairs.add_to(out, spec, np.ones(1, dtype=bool)), (out / 4).tolist()
            (0, [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
        """
        return cls(indptr, items, fades, fades, _NONE, onwards, factors, n_items)

    @property
    def n_clients(self) -> int:
        """Clients in the chunk."""
        return len(self.indptr) - 1

    def sq_norms(self, metric: Metric = PLAIN) -> np.ndarray:
        """Squared norm of each client's pairs; all coordinates weigh alike."""
        if metric.rows is not None or metric.diagonal != 1.0:
            raise ValueError("pairs of items with weights per item have no norm")
        out = np.zeros(self.n_clients)
        kernels.pair_norms(self.triangle, self._fades(), *self._columns(), self._longest, out)
        return out * (metric.weight * self.factors) ** 2

    def clip_rows(self, limit: float) -> ItemPairs:
        """Scale clients whose whole contribution is longer than `limit`, and so all of its rows."""
        norms = np.sqrt(self.sq_norms())
        return self.scale(np.minimum(1.0, limit / np.maximum(norms, limit)))

    def scale(self, factors: np.ndarray) -> ItemPairs:
        """Weight each client."""
        return replace(self, factors=self.factors * factors)

    def finite(self) -> np.ndarray:
        """Clients whose factor is finite and whose weights fade: factors of fading are from 0 to 1."""
        out = np.isfinite(self.factors)
        owners = np.repeat(np.arange(self.n_clients), np.diff(self.indptr))
        for fades in (self.ahead, self.behind, self.onwards):
            if len(fades):
                out[owners[~((fades >= 0.0) & (fades <= 1.0))]] = False
        return out

    def add_to(self, out: np.ndarray, spec: ArraySpec, keep: np.ndarray) -> int:
        """Add by item: a thread owns whole rows of the sum."""
        if self.n_clients != len(self.factors):
            raise ValueError(f"array {spec.name!r}: {len(self.factors)} factors for {self.n_clients} clients")
        if spec.shape != ((triangle_size(self.n_items),) if self.triangle else (self.n_items, self.n_items)):
            raise ValueError(f"array {spec.name!r} {spec.shape}: pairs of {self.n_items} items")
        rows = [len(array) for array in (self.ahead, self.behind, self.later, self.onwards) if len(array)]
        if any(length != len(self.items) for length in rows):
            raise ValueError(f"array {spec.name!r}: fades {rows} of {len(self.items)} rows")
        if len(self.items) and not 0 <= self.items.min() <= self.items.max() < self.n_items:
            raise ValueError(f"array {spec.name!r}: items {self.items.min()} … {self.items.max()} of {self.n_items}")
        over = np.zeros(thread_count(), dtype=np.int64)
        factors = np.where(keep, self.factors, 0.0)
        kernels.add_pairs[spec.word](
            out.reshape(-1),
            self.triangle,
            bool(first_repeat(self.indptr, self.items, self.n_items) >= 0),
            self._fades(),
            *self._columns(),
            factors,
            spec.bound,
            spec.unit,
            over,
            self._longest,
        )
        return int(over.sum())

    @property
    def _longest(self) -> int:
        return int(np.diff(self.indptr).max(initial=0))

    def _fades(self) -> kernels.Fades:
        return kernels.Fades(self.indptr, self.items, self.ahead, self.behind, self.later, self.onwards)

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The rows by item: ranges of items, and the client and the row of every entry."""
        item_indptr = np.empty(self.n_items + 1, dtype=np.int64)
        holder, source, place = np.empty((3, len(self.items)), dtype=np.int64)
        cursor = np.empty(max(self.n_items, self.n_clients), dtype=np.int64)
        ordered = np.empty(len(self.items), dtype=np.int32)
        by_item(self.indptr, self.items, item_indptr, cursor, holder, source, place, ordered)
        return item_indptr, holder, source
