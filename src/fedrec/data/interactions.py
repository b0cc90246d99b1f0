"""Interactions in CSR arrays: a client is a row range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import polars as pl

from fedrec.data.arguments import check_fields
from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.data.showing import day, html_table
from fedrec.errors import InputError
from fedrec.kernels.splitting import kept_offsets

__all__ = ["PARTS", "Interactions", "RowOrder"]

PARTS = ("train", "valid", "test", "history")
"""Names of the codes 0, 1, 2, 3 in `Interactions.part`; `history` is given at scoring time only (held-out users)."""


@dataclass(frozen=True)
class RowOrder:
    """What decides the order of a user's rows.

    Args:
        by: `time`; `sequence` if the source has an order by definition, such as lists; `rows` for a file or table
            without times, whose order may mean nothing; `chance` for a database without times, whose rows have no
            order.
        unread: columns of the source that were not read.
        like_times: unread columns that look like times.
    """

    by: Literal["time", "sequence", "rows", "chance"] = "sequence"
    unread: tuple[str, ...] = ()
    like_times: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Interactions:
    """What users did, one row range per user, oldest first.

    Rows of one user are in order of time; rows with equal times keep the order of the file. Without times, `order` says
    what the order means. (user, item) pairs may repeat until cleaning merges them.

    Args:
        users: user ids, ascending; user `u` owns rows `indptr[u]:indptr[u + 1]`.
        catalog: the items; `items` holds positions in it.
        indptr: [users + 1] int64.
        items: [interactions] int32.
        values: [interactions] float32, ratings or weights; `None` means 1 everywhere.
        times: [interactions] float64, seconds since 1970; `None` if they are unknown.
        part: [interactions] int8, a given split (see `PARTS`); `None` without a given split.
        user_features: one row per user in the same order, without an id column; stays with the users.
        order: what decides the order of the rows.
        judged: whether the user said which values count, see `Cleaning.judges`.
        pandas: whether the data came as a pandas table, so that results are pandas tables.
    """

    users: Identifiers
    catalog: Catalog
    indptr: np.ndarray
    items: np.ndarray
    values: np.ndarray | None = None
    times: np.ndarray | None = None
    part: np.ndarray | None = None
    user_features: pl.DataFrame | None = None
    order: RowOrder = RowOrder()
    judged: bool = False
    pandas: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        rows = len(self.items)
        if self.indptr.shape != (len(self.users) + 1,) or self.indptr[0] != 0 or self.indptr[-1] != rows:
            raise InputError(f"row ranges do not cover {rows} interactions of {len(self.users)} users")
        if (np.diff(self.indptr) < 0).any():
            raise InputError("row ranges must come one after the other")
        if rows and not 0 <= int(self.items.min()) <= int(self.items.max()) < len(self.catalog):
            raise InputError(f"items must be positions in the catalog, from 0 to {len(self.catalog) - 1}")
        for name in ("values", "times", "part"):
            column = getattr(self, name)
            if column is not None and column.shape != (rows,):
                raise InputError(f"{name} has shape {column.shape}, expected ({rows},)")
        if self.user_features is not None and self.user_features.height != len(self.users):
            raise InputError(
                f"user_features has {self.user_features.height} rows, but there are {len(self.users)} users"
            )

    @classmethod
    def nobody(cls, catalog: Catalog) -> Interactions:
        """No users and no interactions with these items."""
        users = Identifiers(pl.Series("user_id", [], dtype=pl.Int64))
        return cls(users, catalog, np.zeros(1, dtype=np.int64), np.zeros(0, dtype=np.int32), None, np.zeros(0))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_users(self) -> int:
        """Number of users, including those without interactions."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items in the catalog."""
        return len(self.catalog)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Interactions per user [users] int64."""
        return np.diff(self.indptr)

    def rows_of_users(self) -> np.ndarray:
        """The user position of every interaction [interactions] int64."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    def where(self, keep: np.ndarray) -> Interactions:
        """Only the interactions where `keep` [interactions] is true; users and catalog stay as they are."""
        indptr = np.empty_like(self.indptr)
        kept_offsets(self.indptr, keep, indptr)
        return replace(
            self,
            indptr=indptr,
            items=self.items[keep],
            values=None if self.values is None else self.values[keep],
            times=None if self.times is None else self.times[keep],
            part=None if self.part is None else self.part[keep],
        )

    def named(self, row: int) -> str:
        """User and item of a row, as messages name them.

        >>> import fedrec as fr
        >>> fr.interactions_from({"user_id": [2, 1], "item_id": ["x", "y"]}).named(1)
        "user 2 with item 'x'"
        """
        user = self.users[int(np.searchsorted(self.indptr, row, side="right")) - 1]
        return f"user {user!r} with item {self.catalog.items[int(self.items[row])]!r}"

    def without_times(self) -> Interactions:
        """The same interactions without times; their order stays."""
        return self if self.times is None else replace(self, times=None)

    def without_values(self) -> Interactions:
        """The same interactions without values, so that each counts once."""
        return self if self.values is None else replace(self, values=None)

    def without_user_features(self) -> Interactions:
        """The same interactions without features of users."""
        return self if self.user_features is None else replace(self, user_features=None)

    def take_users(self, positions: np.ndarray) -> Interactions:
        """Only the users at `positions` (ascending), with their rows; the catalog stays as it is."""
        positions = np.asarray(positions, dtype=np.int64)
        rows = rows_of(self.indptr, positions)
        return Interactions(
            users=Identifiers(self.users.take(positions)),
            catalog=self.catalog,
            indptr=offsets(self.lengths[positions]),
            items=self.items[rows],
            values=None if self.values is None else self.values[rows],
            times=None if self.times is None else self.times[rows],
            part=None if self.part is None else self.part[rows],
            user_features=None if self.user_features is None else self.user_features[positions.tolist()],
            order=self.order,
            judged=self.judged,
            pandas=self.pandas,
        )

    def facts(self) -> dict[str, str]:
        """Facts about the data, for people."""
        facts = {"users": f"{self.n_users:,}", "items": f"{self.n_items:,}", "interactions": f"{len(self):,}"}
        if self.values is not None:
            facts["ratings"] = "yes"
        if self.times is not None and len(self):
            facts["times"] = f"{day(float(self.times.min()))} to {day(float(self.times.max()))}"
        return facts

    def __repr__(self) -> str:
        facts = self.facts()
        counts = ", ".join(f"{facts.pop(name)} {name}" for name in ("users", "items", "interactions"))
        more = "".join(f", {name}" if value == "yes" else f", {name} {value}" for name, value in facts.items())
        return f"Interactions({counts}{more})"

    def _repr_html_(self) -> str:
        return html_table("Interactions", self.facts())

    def to_frame(self) -> pl.DataFrame:
        """One row per interaction: `user_id`, `item_id` and, if the data has them, `rating`, `timestamp`, `part`.

        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [2, 1], "item_id": ["x", "y"]})
        >>> data.to_frame().rows()
        [(1, 'y'), (2, 'x')]
        """
        columns: dict[str, pl.Series] = {
            "user_id": self.users.take(self.rows_of_users()),
            "item_id": self.catalog.items.take(self.items),
        }
        if self.values is not None:
            columns["rating"] = pl.Series(self.values)
        if self.times is not None:
            columns["timestamp"] = pl.Series(self.times)
        if self.part is not None:
            columns["part"] = pl.Series(np.asarray(PARTS)[self.part])
        return pl.DataFrame(columns)


def offsets(lengths: np.ndarray) -> np.ndarray:
    """Bounds [n + 1] int64 of consecutive ranges with these lengths [n].

    >>> offsets(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    indptr = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr


def rows_of(indptr: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Row numbers of the given users, user by user.

    >>> rows_of(np.array([0, 2, 5]), np.array([1, 0])).tolist()
    [2, 3, 4, 0, 1]
    """
    starts, stops = indptr[positions], indptr[positions + 1]
    lengths = stops - starts
    return np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
