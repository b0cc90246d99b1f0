"""Decides which columns of a source are read and which rows are kept, and remembers columns that are not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from fedrec.data.reading.columns import resolve
from fedrec.data.reading.headers import by_place
from fedrec.data.reading.kinds import KIND, Kinds
from fedrec.data.reading.rows import texts_in
from fedrec.data.reading.times import named_like_time, times_in
from fedrec.errors import InputError, NothingLeftError, suggestion

__all__ = ["Picking"]

_KEPT = "\0where "


@dataclass(eq=False)
class Picking:
    """The columns that the user asked for, and the columns that were picked.

    Args:
        source: name of the file or table in errors.
        columns: maps standard names to names in the source.
        user_columns: columns that become features of users.
        where: maps names in the source to the values, as text, of the rows that are kept.
        kinds: the column of kinds, which has no other meaning, and the weights.
        picked: maps standard names to the names that are read.
        unread: columns that are not read.
        like_times: unread columns that look like times.
        notes: decisions, for the report.
    """

    source: str
    columns: Mapping[str, str] | None = None
    user_columns: Sequence[str] = ()
    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kinds: Kinds | None = None
    picked: dict[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    like_times: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    _seen: dict[str, set[str]] = field(default_factory=dict)
    _of_kind: dict[str, int] = field(default_factory=dict)
    _weighing: int = 0
    _rows: int = 0
    _kept: int = 0

    @property
    def named(self) -> set[str]:
        """Names of columns that the caller gave, except column numbers."""
        said = (*(self.columns or {}).values(), *self.user_columns, *self.where, *self._kind_columns)
        return {name for name in said if not name.isdigit()}

    def by_place(self, sample: pl.DataFrame) -> dict[str, str]:
        """Columns of a source without names, by their position, without the column of kinds; adds a note."""
        placed = by_place(sample, self.source)
        placed = {ours: name for ours, name in placed.items() if name not in self._kind_columns}
        self.notes.append(f"no header: columns {', '.join(placed.values())} were read as {', '.join(placed)}")
        return placed

    @property
    def _kind_columns(self) -> tuple[str, ...]:
        return () if self.kinds is None else (self.kinds.column,)

    def pick(self, names: Sequence[str], sample: pl.DataFrame, by_place: Mapping[str, str] | None = None) -> None:
        """Pick columns of a source by their `names`, or `by_place` if it has no names; `sample` has the first rows.

        Raises:
            InputError: if a column is missing, or if two standard names claim one column.
        """
        for name in self._kind_columns:
            if name not in names:
                raise InputError(f"{self.source}: there is no column {name!r} for kinds{suggestion(name, names)}")
            if name in (self.columns or {}).values():
                raise InputError(
                    f"{self.source}: column {name!r} is named in columns and in kinds; remove it from one of them"
                )
        others = [name for name in names if name not in self._kind_columns]
        self.picked.update(resolve(others, by_place or self.columns, self.source))
        for name in self.user_columns:
            if name not in names:
                raise InputError(
                    f"{self.source}: there is no column {name!r} for user_columns among {', '.join(names)}"
                )
            if name in self.picked.values():
                raise InputError(f"{self.source}: column {name!r} is already read; remove it from user_columns")
        for name in self.where:
            if name not in names:
                raise InputError(f"{self.source}: there is no column {name!r} for where{suggestion(name, names)}")
        read = {*self.picked.values(), *self.user_columns, *self.where, *self._kind_columns}
        self.unread = tuple(name for name in names if name not in read)
        self.like_times = tuple(name for name in self.unread if named_like_time(name) or times_in(sample[name]))

    @property
    def wanted(self) -> dict[str, str]:
        """Every column to read: our names, or names of its own for one that only keeps rows, to theirs."""
        return (
            self.picked
            | {name: name for name in self.user_columns}
            | {f"{_KEPT}{number}": name for number, name in enumerate(self.where)}
            | ({} if self.kinds is None else {KIND: self.kinds.column})
        )

    def kept(self, table: pl.DataFrame) -> pl.DataFrame:
        """The rows that `where` and `kinds` keep, without the columns that only `where` needs."""
        table = self._where(table) if self.where else table
        if self.kinds is None:
            return table
        texts = self.kinds.texts(table[KIND])
        for kind, count in texts.value_counts().rows():
            if kind in self.kinds.weights:
                self._of_kind[kind] = self._of_kind.get(kind, 0) + count
        weighing = table.filter(~texts.is_in(self.kinds.none).fill_null(False))
        self._weighing += weighing.height
        return weighing

    def _where(self, table: pl.DataFrame) -> pl.DataFrame:
        keep = pl.repeat(True, table.height, eager=True)
        for number, (name, values) in enumerate(self.where.items()):
            texts = texts_in(table[f"{_KEPT}{number}"], name, self.source)
            keep &= texts.is_in(list(values)).fill_null(False)
            seen = self._seen.setdefault(name, set())
            if len(seen) < 20:
                seen.update(texts.drop_nulls().unique(maintain_order=True).head(20).to_list())
        self._rows, self._kept = self._rows + table.height, self._kept + int(keep.sum())
        return table.filter(keep).drop(f"{_KEPT}{number}" for number in range(len(self.where)))

    def close(self) -> None:
        """Note how many rows `where` kept, and how many there are of each kind.

        Raises:
            NothingLeftError: if no row was kept; the message names the values in the data.
        """
        if self.kinds is not None:
            parts = [
                f"{self._of_kind.get(kind, 0):,} {kind} " + (f"× {weight:g}" if weight else "left out")
                for kind, weight in self.kinds.weights.items()
            ]
            if self._of_kind and not self._weighing:
                raise NothingLeftError(f"{self.source}: every row is of a kind with weight 0: {', '.join(parts)}")
            self.notes.append(f"rows are weighed by {self.kinds.column}: {', '.join(parts)}")
        if not self.where:
            return
        conditions = " and ".join(f"{name} = {' or '.join(values)}" for name, values in self.where.items())
        if self._rows and not self._kept:
            values_read = "; ".join(f"{name}: {', '.join(sorted(seen)[:20])}" for name, seen in self._seen.items())
            raise NothingLeftError(f"{self.source}: no row has {conditions}. Values in the source: {values_read}")
        self.notes.append(f"{self._kept:,} of {self._rows:,} rows have {conditions}")
