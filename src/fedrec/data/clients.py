"""The clients that a model sees: ranges of rows, with training interactions only."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from fedrec.data.interactions import Interactions, offsets, rows_of
from fedrec.errors import InputError
from fedrec.kernels.records import Histories
from fedrec.kernels.splitting import kept_offsets

__all__ = ["Clients"]


@dataclass(frozen=True, eq=False)
class Clients:
    """Some clients of one node, as a model sees them.

    Args:
        indptr: [clients + 1] int64; client `c` owns rows `indptr[c]:indptr[c + 1]`, oldest first.
        items: [rows] int32 positions in the catalog, distinct within a client unless the model reads repeats.
        values: [rows] float32: weights of the interactions if the plan has `weights`; `None` means 1 everywhere.
        times: [rows] float64 seconds, or `None` if only the order is known.
        keys: [clients] uint64, keyed hash of the user id.
        n_items: length of the catalog.
        excluded_indptr: [clients + 1] int64 and
        excluded_items: [excluded] int32: items that negatives must avoid besides the history. Empty unless a cap left
            out a part of the history, or the plan says `negatives: paper-leaky`.
        features: one row per client with the features of the user, without the id; `None` if the model does not read
            them.
    """

    indptr: np.ndarray
    items: np.ndarray
    values: np.ndarray | None
    times: np.ndarray | None
    keys: np.ndarray
    n_items: int
    excluded_indptr: np.ndarray
    excluded_items: np.ndarray
    features: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        if self.features is not None and self.features.height != len(self.keys):
            raise InputError(f"{self.features.height} rows of features for {len(self.keys)} clients")
        for indptr, items in ((self.indptr, self.items), (self.excluded_indptr, self.excluded_items)):
            bounds = indptr.shape == (len(self.keys) + 1,) and indptr[0] >= 0 and indptr[-1] <= len(items)
            if not bounds or (np.diff(indptr) < 0).any():
                raise InputError(f"row ranges of {len(self.keys)} clients do not lie within the {len(items)} items")
            if len(items) and not 0 <= int(items.min()) <= int(items.max()) < self.n_items:
                raise InputError(f"clients' items must be positions in the catalog, from 0 to {self.n_items - 1}")

    @classmethod
    def of(cls, data: Interactions, keys: np.ndarray, excluded: Interactions | None = None) -> Clients:
        """All users of `data` as clients; `excluded` holds items of the same users."""
        if excluded is None:
            excluded_indptr = np.zeros(data.n_users + 1, dtype=np.int64)
            excluded_items = np.empty(0, dtype=np.int32)
        else:
            excluded_indptr, excluded_items = excluded.indptr, excluded.items
        return cls(
            data.indptr,
            data.items,
            data.values,
            data.times,
            keys,
            data.n_items,
            excluded_indptr,
            excluded_items,
            data.user_features,
        )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def lengths(self) -> np.ndarray:
        """Interactions per client [clients] int64."""
        return np.diff(self.indptr)

    @property
    def weights(self) -> np.ndarray:
        """Weights of the interactions for kernels: [rows] float32, empty if all weights are 1."""
        return np.empty(0, dtype=np.float32) if self.values is None else self.values

    def histories(self, seeds: np.ndarray) -> Histories:
        """The clients for kernels that draw negatives with `seeds` [clients] uint64."""
        return Histories(self.indptr, self.items, self.excluded_indptr, self.excluded_items, seeds)

    def squares(self) -> np.ndarray:
        """Squared norm of each client's row of the interaction matrix [clients] float64: the number of interactions if
        all weights are 1."""
        if self.values is None:
            return self.lengths.astype(np.float64)
        owners = np.repeat(np.arange(len(self)), self.lengths)
        return np.bincount(owners, weights=self.values.astype(np.float64) ** 2, minlength=len(self))

    def take(self, positions: np.ndarray) -> Clients:
        """The clients at `positions` [n], in that order."""
        rows = rows_of(self.indptr, positions)
        excluded = rows_of(self.excluded_indptr, positions)
        return replace(
            self,
            indptr=offsets(self.indptr[positions + 1] - self.indptr[positions]),
            items=self.items[rows],
            values=None if self.values is None else self.values[rows],
            times=None if self.times is None else self.times[rows],
            keys=self.keys[positions],
            excluded_indptr=offsets(self.excluded_indptr[positions + 1] - self.excluded_indptr[positions]),
            excluded_items=self.excluded_items[excluded],
            features=None if self.features is None else self.features[np.asarray(positions).tolist()],
        )

    def where(self, keep: np.ndarray) -> Clients:
        """The same clients with only the interactions where `keep` [rows] is true."""
        indptr = np.empty_like(self.indptr)
        kept_offsets(self.indptr, keep, indptr)
        return replace(
            self,
            indptr=indptr,
            items=self.items[keep],
            values=None if self.values is None else self.values[keep],
            times=None if self.times is None else self.times[keep],
        )

    def avoiding(self, other: Clients) -> Clients:
        """The same clients, whose negatives also avoid the interactions of `other`, which are the same clients too."""
        everyone = np.arange(len(self))
        owners = [np.repeat(everyone, np.diff(self.excluded_indptr)), np.repeat(everyone, other.lengths)]
        order = np.argsort(np.concatenate(owners), kind="stable")
        return replace(
            self,
            excluded_indptr=self.excluded_indptr + other.indptr,
            excluded_items=np.concatenate([self.excluded_items, other.items])[order],
        )
