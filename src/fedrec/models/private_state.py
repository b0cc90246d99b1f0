"""Rows of items that each client owns, in ranges: what a personal item table holds besides the shared one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.data.interactions import offsets
from fedrec.errors import DamagedError

__all__ = ["OwnRows", "blank", "finite_clients", "flattened", "joined", "parts_of", "placed", "restored"]


@dataclass(frozen=True, eq=False)
class OwnRows:
    """Each client's own rows of an item table. Indexing by clients copies no row.

    Rows once written are never changed; clients get new ranges instead.

    Args:
        starts: [clients] int64; client `c` owns `items[starts[c]:starts[c] + lengths[c]]`, with their values.
        lengths: [clients] int64.
        items: [room] int32, distinct within a client.
        values: [room, d] float32.
        used: rows of the room that are taken, from its beginning; what lies behind may be written.

    Example:
        >>> rows = OwnRows.of(np.array([0, 2, 3]), np.array([4, 1, 4]), np.array([[0.5], [1.0], [2.0]]))
        >>> len(rows), rows.lengths.tolist(), rows[[1]].packed().items.tolist()
        (2, [2, 1], [4])
    """

    starts: np.ndarray
    lengths: np.ndarray
    items: np.ndarray
    values: np.ndarray
    used: int

    @classmethod
    def of(
        cls, indptr: np.ndarray, items: np.ndarray, values: np.ndarray, lengths: np.ndarray | None = None
    ) -> OwnRows:
        """Rows in CSR order; `lengths` where ranges are not full."""
        bounds = np.ascontiguousarray(indptr, dtype=np.int64)
        return cls(
            bounds[:-1],
            np.diff(bounds) if lengths is None else lengths,
            np.ascontiguousarray(items, dtype=np.int32),
            np.ascontiguousarray(values, dtype=np.float32),
            len(items),
        )

    @classmethod
    def none(cls, clients: int, width: int) -> OwnRows:
        """Clients that own no row of `width` values."""
        indptr = np.zeros(clients + 1, dtype=np.int64)
        return cls.of(indptr, np.empty(0, dtype=np.int32), np.empty((0, width), dtype=np.float32))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, clients: Any) -> OwnRows:
        # Nothing may be written behind rows that two hold: whoever adds to these makes room of its own.
        return OwnRows(self.starts[clients], self.lengths[clients], self.items, self.values, len(self.items))

    @property
    def width(self) -> int:
        """Values per row."""
        return self.values.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows that clients own."""
        return int(self.lengths.sum()) * 4 * (1 + self.width)

    def packed(self) -> OwnRows:
        """The same rows without gaps, client by client."""
        indptr = offsets(self.lengths)
        if indptr[-1] == len(self.items) and np.array_equal(self.starts, indptr[:-1]):
            return self
        rows = np.arange(indptr[-1]) + np.repeat(self.starts - indptr[:-1], self.lengths)
        return OwnRows.of(indptr, self.items[rows], self.values[rows])

    def copy(self) -> OwnRows:
        """Rows that share nothing with these."""
        packed = self.packed()
        return OwnRows(
            packed.starts.copy(), packed.lengths.copy(), packed.items.copy(), packed.values.copy(), packed.used
        )

    def tobytes(self) -> bytes:
        """The bytes of all rows, client by client."""
        packed = self.packed()
        return packed.lengths.tobytes() + packed.items.tobytes() + packed.values.tobytes()

    def replaced(self, clients: np.ndarray, rows: OwnRows) -> OwnRows:
        """These rows, but those of `clients` [n], which are `rows`. Costs what `rows` holds, over many calls."""
        starts, lengths = self.starts.copy(), self.lengths.copy()
        lengths[clients] = rows.lengths
        if len(rows) == len(self):
            starts[clients] = rows.starts
            return OwnRows(starts, lengths, rows.items, rows.values, rows.used)
        added = rows.packed()
        stop = self.used + int(added.lengths.sum())
        items, values = self.items, self.values
        if stop > len(items):
            room = max(stop, 2 * int(lengths.sum()))
            kept = self[np.setdiff1d(np.arange(len(self)), clients)].packed()
            items, values = np.empty(room, dtype=np.int32), np.empty((room, self.width), dtype=np.float32)
            used = int(kept.lengths.sum())
            items[:used], values[:used] = kept.items[:used], kept.values[:used]
            starts[np.setdiff1d(np.arange(len(self)), clients)] = kept.starts
            stop = used + int(added.lengths.sum())
        else:
            used = self.used
        items[used:stop], values[used:stop] = added.items[: stop - used], added.values[: stop - used]
        starts[clients] = added.starts + used
        return OwnRows(starts, lengths, items, values, stop)


def placed(array: Any, clients: np.ndarray, rows: Any) -> Any:
    """An array [clients, …] or `OwnRows` with the rows of some clients put in; an array is changed in place."""
    if isinstance(array, OwnRows):
        return array.replaced(clients, rows)
    array[clients] = rows
    return array


def joined(parts: Sequence[Any]) -> Any:
    """Private arrays of one name, of clients one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not isinstance(parts[0], OwnRows):
        return np.concatenate(parts)
    packed = [part.packed() for part in parts]
    lengths = np.concatenate([part.lengths for part in packed])
    return OwnRows.of(
        offsets(lengths),
        np.concatenate([part.items for part in packed]),
        np.concatenate([part.values for part in packed]),
    )


def blank(array: Any, clients: int) -> Any:
    """Zeros, or no rows at all, for `clients` like those of `array`."""
    if isinstance(array, OwnRows):
        return OwnRows.none(clients, array.width)
    return np.zeros((clients, *array.shape[1:]), array.dtype)


def finite_clients(private: Mapping[str, Any], clients: int) -> np.ndarray:
    """Which clients have only finite numbers in their private arrays [clients] bool."""
    out = np.ones(clients, dtype=np.bool_)
    for array in private.values():
        if isinstance(array, OwnRows):
            packed = array.packed()
            broken = ~np.isfinite(packed.values).reshape(len(packed.values), -1).all(axis=1)
            out[np.repeat(np.arange(clients), packed.lengths)[broken]] = False
        else:
            out &= np.isfinite(array).reshape(clients, -1).all(axis=1)
    return out


def flattened(private: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Plain arrays to save: `OwnRows` become `name.lengths`, `name.items` and `name.values`; other names stay."""
    out: dict[str, np.ndarray] = {}
    for name, array in private.items():
        if isinstance(array, OwnRows):
            packed = array.packed()
            out |= {part: getattr(packed, part.rpartition(".")[2]) for part in parts_of(name)}
        else:
            out[name] = array
    return out


def parts_of(name: str) -> tuple[str, str, str]:
    """Names of the plain arrays that `OwnRows` of this name are saved as: lengths, items and values.

    >>> parts_of("table")
    ('table.lengths', 'table.items', 'table.values')
    """
    return f"{name}.lengths", f"{name}.items", f"{name}.values"


def restored(arrays: Mapping[str, np.ndarray], own: Iterable[str]) -> dict[str, Any]:
    """What `flattened` was given.

    Args:
        arrays: plain arrays by name; a name may hold dots, as those of torch do.
        own: names that are `OwnRows`.

    Raises:
        DamagedError: if parts of `OwnRows` are missing, their ranges do not fit the rows, or their types are others.
    """
    out: dict[str, Any] = dict(arrays)
    for name in own:
        try:
            lengths, items, values = (out.pop(part) for part in parts_of(name))
        except KeyError as error:
            raise DamagedError(f"private rows {name!r} lack {error}") from None
        kinds = [(lengths, np.int64, 1), (items, np.int32, 1), (values, np.float32, 2)]
        if any(array.dtype != kind or array.ndim != axes for array, kind, axes in kinds):
            raise DamagedError(f"private rows {name!r} must be int64 lengths, int32 items and float32 [rows, width]")
        whole = lengths.min(initial=0) >= 0 and lengths.max(initial=0) <= len(items)
        if not whole or not lengths.sum() == len(items) == len(values):
            raise DamagedError(f"private rows {name!r}: ranges of {lengths.sum()} rows, but the file has {len(items)}")
        out[name] = OwnRows.of(offsets(lengths), items, values)
    return out
