"""Groups of users by one column: who belongs to which, and which groups are too small to be told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

from fedrec.errors import InputError
from fedrec.evaluation.metrics import Metric

__all__ = ["EVERYONE", "INTERACTIONS", "MOST_GROUPS", "OTHERS", "Groups", "check_grouped", "merges_of"]

EVERYONE = "everyone"
"""All users together."""
OTHERS = "others"
"""The group of users who belong to no named group, or to one that is too small."""
INTERACTIONS = "interactions"
"""The column that every user has: how many items the user's history holds."""
MOST_GROUPS = 64
"""Named groups, at most."""

_LONGEST_LABEL = 80
_FEW_VALUES = 10
_THIRDS = 3
_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)(?:(-)(-?\d+(?:\.\d+)?)?)?")


@dataclass(frozen=True)
class Groups:
    """Users grouped by one column. The names are public; who belongs to which group stays with the users.

    Args:
        column: a column of the users' table, or `interactions`.
        labels: names of the groups. Of a column of text, each is a value. Of a column of numbers, each is a number or a
            range: `18`, `18-24` (both ends included) or `65-`. Whoever is in none of them is among the `others`.

    Raises:
        InputError: no group or too many, a name that is empty, too long, listed twice, or `others`.

    Example:
        >>> Groups("age", ("0-17", "18-24", "25-")).places(pl.Series([3, 18, None, 70])).tolist()
        [0, 1, 3, 2]
    """

    column: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.labels:
            raise InputError(f"groups by {self.column}: name at least one group")
        if len(self.labels) > MOST_GROUPS:
            raise InputError(
                f"groups by {self.column}: {len(self.labels)} groups are more than {MOST_GROUPS}; name the largest "
                f"ones, and the rest are among the {OTHERS}"
            )
        for label in self.labels:
            if not 0 < len(label) <= _LONGEST_LABEL:
                raise InputError(
                    f"groups by {self.column}: the name {label[:20]!r} of a group must have 1 to {_LONGEST_LABEL} "
                    "characters"
                )
            if label in (EVERYONE, OTHERS):
                raise InputError(f"groups by {self.column}: {label!r} is no name for a group; leave it out")
            if self.labels.count(label) > 1:
                raise InputError(f"groups by {self.column}: the group {label!r} is listed twice; list it once")

    @property
    def named(self) -> tuple[str, ...]:
        """Names of all groups, the others last."""
        return (*self.labels, OTHERS)

    def places(self, values: pl.Series) -> np.ndarray:
        """The group of every user [users] int64, as a place in `named`.

        Args:
            values: of the column, one for each user; null where it is not known.

        Raises:
            InputError: for a column that is neither text nor numbers, or ranges that are wrong or overlap.
        """
        values = _comparable(self.column, values)
        places = np.full(len(values), len(self.labels), dtype=np.int64)
        if values.dtype == pl.String:
            for place, label in enumerate(self.labels):
                places[(values == label).fill_null(False).to_numpy()] = place
            return places
        numbers = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
        for place, (first, last) in enumerate(self._ranges()):
            places[(numbers >= first) & (numbers <= last)] = place
        return places

    def _ranges(self) -> list[tuple[float, float]]:
        """The first and last number of every group."""
        ranges = []
        for label in self.labels:
            match = _RANGE.fullmatch(label)
            if match is None:
                raise InputError(
                    f"groups by {self.column}: the column holds numbers, and the group {label!r} is no number or "
                    "range; write 18, 18-24 or 65-"
                )
            first = float(match[1])
            last = first if match[2] is None else float(match[3] or np.inf)
            if last < first:
                raise InputError(f"groups by {self.column}: the range {label} ends before it begins; write 18-24")
            ranges.append((first, last))
        order = sorted(range(len(ranges)), key=lambda place: ranges[place])
        for low, high in pairwise(order):
            if ranges[high][0] <= ranges[low][1]:
                raise InputError(
                    f"groups by {self.column}: {self.labels[low]} and {self.labels[high]} overlap; a user is in one "
                    "group only"
                )
        return ranges

    @classmethod
    def of_values(cls, column: str, values: pl.Series) -> Groups:
        """The groups that a column shows by itself: its values, or of more than ten whole numbers three ranges with as
        many users each, or nearly.

        Raises:
            InputError: if the column says nothing of any user, or has too many values to name them all.

        Example:
            >>> Groups.of_values("gender", pl.Series(["M", "F", None, "M"])).labels
            ('F', 'M')
            >>> Groups.of_values("interactions", pl.Series(range(12))).labels
            ('0-3', '4-7', '8-')
        """
        values = _comparable(column, values) if not isinstance(values.dtype, pl.Enum) else values
        known = _comparable(column, values.unique().sort()).drop_nulls()
        if not len(known):
            raise InputError(f"groups by {column}: the column says nothing of any user")
        if known.dtype.is_integer() and len(known) > _FEW_VALUES and int(known[0]) >= 0:
            ordered = values.drop_nulls().sort()
            ends = {int(ordered[len(ordered) * part // _THIRDS - 1]) for part in range(1, _THIRDS)}
            firsts = [
                0 if column == INTERACTIONS else int(known[0]),
                *(end + 1 for end in sorted(ends) if end < int(known[-1])),
            ]
            ranges = (f"{first}-{after - 1}" for first, after in pairwise(firsts))
            return cls(column, (*ranges, f"{firsts[-1]}-"))
        if len(known) > MOST_GROUPS:
            raise InputError(
                f"groups by {column}: the column has {len(known)} values; name the groups, at most {MOST_GROUPS}"
                + ("" if known.dtype == pl.String else ", as numbers or ranges such as 18-24")
            )
        return cls(column, tuple(map(str, known)))


def check_grouped(metrics: Sequence[Metric], column: str) -> None:
    """Check that some metric has figures of groups of users.

    Raises:
        InputError: if all are of the lists of everybody together.
    """
    if all(metric.of_lists for metric in metrics):
        raise InputError(
            f"groups by {column}: {metrics[0]} is of the lists of all users together, and has no figures of groups; "
            "name a metric that users have too, such as ndcg@10"
        )


def _comparable(column: str, values: pl.Series) -> pl.Series:
    """A column as text or numbers.

    Raises:
        InputError: for other types.
    """
    kind = values.dtype
    if kind == pl.Null or kind == pl.Boolean or isinstance(kind, pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    if kind == pl.String:
        return values.replace("", None)
    if not kind.is_numeric():
        raise InputError(f"groups by {column}: the column holds {kind}; users are grouped by text or numbers")
    return values


def merges_of(users: Iterable[int], least: int) -> list[int]:
    """Which groups are added to the last one, the others, so that every group that remains has enough users or none.

    Groups with too few users are added first. Where the others are then still too few, but not nobody, the smallest
    group that remains is added to hide them, and so on.

    Args:
        users: number of users of each group, the others last.
        least: fewest users of a group.

    Returns:
        Places of the groups that are added to the others, ascending.

    Example:
        >>> merges_of([50, 3, 90, 0], least=10)
        [0, 1]
        >>> merges_of([50, 3, 90, 12], least=10)
        [1]
    """
    *sizes, others = users
    merged = [place for place, size in enumerate(sizes) if 0 < size < least]
    others += sum(sizes[place] for place in merged)
    left = sorted((size, place) for place, size in enumerate(sizes) if size >= least and size > 0)
    while 0 < others < least and left:
        size, place = left.pop(0)
        merged.append(place)
        others += size
    return sorted(merged)
