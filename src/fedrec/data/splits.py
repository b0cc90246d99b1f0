"""Splits interactions into training, validation and test, inside a node and user by user.

No split looks at two users at once, except for the time at which `temporal` cuts, which is part of the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedrec.data.arguments import check_arguments, check_fields
from fedrec.data.cutting import (
    HISTORY,
    TEST,
    TRAIN,
    VALID,
    cold_item_draws,
    cross_domain_parts,
    given_parts,
    last_parts,
    nearest,
    new_user_parts,
    with_others,
)
from fedrec.data.interactions import PARTS, Interactions, RowOrder, rows_of
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.data.merging import Repeats, latest_rows, with_merged_values
from fedrec.data.ordering import check_order, how_to_order
from fedrec.data.showing import html_table
from fedrec.data.split_words import CROSS_DOMAIN, cuts_in, domain_in, positions_in, says_rows, share_in
from fedrec.errors import InputError, PlanError, suggestion
from fedrec.kernels import splitting

__all__ = ["HISTORY", "TEST", "TRAIN", "VALID", "Split", "SplitMethod", "cold_items", "cross_domain", "distinct",
           "given", "last", "leave_last_out", "new_users", "ratio", "temporal"]  # fmt: skip

_OF_ALL = {"new-users": "users", "cold-items": "items"}
"""Splits that hold out a share of all users or items whole."""


@dataclass(frozen=True, eq=False)
class Split:
    """Interactions, each with its part.

    Args:
        data: distinct (user, item) pairs of all users, including held-out pairs.
        part: [interactions] int8, positions in `fedrec.data.interactions.PARTS`.
        method: the method, as `SplitMethod` writes it.
        merged: number of repeats of (user, item) pairs that were merged before (the latest is kept).
        every: the interactions of the same users before repeats were merged; `None` if there were no repeats.
        positions: maximum number of held-out positions of a user in a part, if each held-out interaction is a position
            of its own, predicted from everything before it; 0 if all interactions of a part are predicted at once.
        drawn: the part of all interactions of an item [items] int8, if items are held out whole; `None` otherwise.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [1, 1, 1], "item_id": [5, 6, 7], "timestamp": [1, 2, 3]})
        >>> split = fr.leave_last_out(data)
        >>> split.test.to_frame()["item_id"].to_list()
        [7]
    """

    data: Interactions
    part: np.ndarray
    method: str
    merged: int = 0
    every: Interactions | None = None
    positions: int = 0
    drawn: np.ndarray | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.part.shape != self.data.items.shape:
            raise InputError(f"part has {len(self.part)} values, but there are {len(self.data)} interactions")
        if splitting.first_repeat(self.data.indptr, self.data.items, self.data.n_items) >= 0:
            raise InputError("a split needs distinct (user, item) pairs; call 'distinct' first to merge repeats")

    @cached_property
    def train(self) -> Interactions:
        """Interactions for training."""
        return self.data.where(self.part == TRAIN)

    @cached_property
    def valid(self) -> Interactions:
        """Interactions for validation."""
        return self.data.where(self.part == VALID)

    @cached_property
    def test(self) -> Interactions:
        """Interactions for test."""
        return self.data.where(self.part == TEST)

    def cold(self, part: str) -> np.ndarray:
        """The items that are held out whole for `part` [items] bool: nobody has them in training.

        Raises:
            InputError: if the split holds out no items whole.
        """
        if self.drawn is None:
            raise InputError(
                f"protocols cold and known tell items apart that nobody has in training, and split {self.method} holds "
                "out none; take split cold-items:0.1"
            )
        return self.drawn == PARTS.index(part)

    def no_candidates(self, part: str, cold: bool) -> np.ndarray:
        """Items that nobody is asked about when `part` is predicted [items] bool: those that are held out whole for the
        other part, and with `cold` all that training knows too.

        Raises:
            InputError: if the split holds out no items whole.
        """
        asked = self.cold(part)
        return ~asked if cold else ~asked & (self.drawn != TRAIN)

    def history(self, part: str) -> Interactions:
        """The history of each user when `part` is predicted: train, and for `test` also validation."""
        known = (self.part == TRAIN) | (self.part == HISTORY)
        return self.data.where(known | (self.part == VALID) if part == "test" else known)

    def steps(self, part: str, wanted: np.ndarray | None = None) -> Iterator[tuple[Interactions, np.ndarray]]:
        """What is known, and which rows are to be found [interactions] bool, position by position.

        The first pair is about each user's first position in `part`, the next one about the second, and so on. What is
        known grows along; of users who have no such position it means nothing.

        Args:
            part: `valid` or `test`.
            wanted: which rows of the part are positions [interactions] bool; all by default.

        Example:
            >>> import fedrec as fr
            >>> split = fr.last({"user_id": [1] * 6, "item_id": [4, 5, 6, 7, 8, 9], "timestamp": range(6)}, 2)
            >>> for known, now in split.steps("test"):
            ...     print(known.to_frame()["item_id"].to_list(), split.data.items[now] + 4)
            [4, 5, 6, 7] [8]
            [4, 5, 6, 7, 8] [9]
        """
        held = self.part == PARTS.index(part)
        found = held if wanted is None else held & wanted
        known = (self.part == TRAIN) | (self.part == HISTORY) | ((self.part == VALID) & (part == "test"))
        users, rows = self.data.rows_of_users(), np.arange(len(self.data))
        before = np.append(0, np.cumsum(found))
        places = before[:-1] - before[self.data.indptr[:-1]][users]
        for place in range(self.positions):
            now = found & (places == place)
            if not now.any():
                return
            next_row = np.zeros(self.data.n_users, dtype=np.int64)
            next_row[users[now]] = rows[now]
            yield self.data.where(known | (held & (rows < next_row[users]))), now

    def take_users(self, positions: np.ndarray) -> Split:
        """Only the users at `positions` (ascending), with their rows, parts and repeats."""
        every = None if self.every is None else self.every.take_users(positions)
        part = self.part[rows_of(self.data.indptr, positions)]
        return replace(self, data=self.data.take_users(positions), part=part, every=every)

    def repeated(self, chosen: Interactions) -> Interactions:
        """All rows of the pairs in `chosen`, a part of `data`, with repeats in their order, for models that read
        repeats.

        A pair belongs to one part, that of its latest row, so that no row of a held-out item is among those of train.

        Example:
            >>> import fedrec as fr
            >>> items = [5, 6, 5, 7, 8, 7]
            >>> split = fr.leave_last_out(fr.interactions_from({"user": [1] * 6, "item": items, "time": range(6)}))
            >>> split.repeated(split.train).to_frame()["item_id"].to_list()
            [5, 6, 5]
        """
        if self.every is None:
            return chosen
        keep = np.isin(_pairs(self.every), _pairs(chosen))
        return self.every.where(keep)

    def with_parts(self) -> Interactions:
        """All interactions, including repeats, each with the part of its pair."""
        if self.every is None:
            return replace(self.data, part=self.part)
        pairs = _pairs(self.data)
        order = np.argsort(pairs)
        places = order[np.searchsorted(pairs, _pairs(self.every), sorter=order)]
        return replace(self.every, part=self.part[places])

    def relevant(self, part: str) -> Interactions:
        """The held-out interactions of `part` (`valid` or `test`)."""
        return self.valid if part == "valid" else self.test

    def __repr__(self) -> str:
        parts = ", ".join(f"{count:,} {name}" for name, count in self.counts().items() if count)
        return f"Split({self.method}: {parts or 'nothing'}; {self.data.n_users:,} users, {self.data.n_items:,} items)"

    def _repr_html_(self) -> str:
        counts = {name: f"{count:,}" for name, count in self.counts().items() if count}
        return html_table(f"Split {self.method}", self.data.facts() | counts)

    def counts(self) -> dict[str, int]:
        """Interactions per part."""
        return {name: int(np.sum(self.part == code)) for code, name in enumerate(PARTS)}

    def hash(self, keys: np.ndarray) -> int:
        """A sum over users of hashes of user, items and parts: equal for any partition of the same users.

        Args:
            keys: [users] uint64, `client_keys`.
        """
        out = np.empty(self.data.n_users, dtype=np.uint64)
        splitting.content_hashes(self.data.indptr, self.data.items, self.part, keys, out)
        return int(out.sum(dtype=np.uint64))


@dataclass(frozen=True)
class SplitMethod:
    """A split by name and share, as plans and commands write it: `leave-last-out`, `last:5`, `temporal:0.8`,
    `temporal@T,T`, `ratio:0.8`, `given`, `given:0.9`, `new-users:0.1`, `cold-items:0.1`, `cold-items:0.1,0.2`,
    `cross-domain:books` or `none`; with `@rows` after `leave-last-out`, `last:5` or `none` where the rows of data
    without times are in order.

    Args:
        name: name of the split.
        share: share of train, of users, or of items.
        cuts: times at which `temporal` cuts.
        by_rows: whether rows without times are in order, oldest first.
        positions: number of interactions of each user that `last` holds out for test, and as many for validation.
        others: share of each user's interactions with all other items that `cold-items` holds out for test, and as much
            for validation; 0 for none.
        domain: domain that `cross-domain` holds out from.

    Example:
        >>> SplitMethod.parse("ratio:0.8")
        SplitMethod(name='ratio', share=0.8, cuts=None, by_rows=False, positions=0, others=0.0, domain=None)
    """

    name: str
    share: float | None = None
    cuts: tuple[float, float] | None = field(default=None)
    by_rows: bool = False
    positions: int = 0
    others: float = 0.0
    domain: str | None = None

    @classmethod
    def parse(cls, text: str) -> SplitMethod:
        """Read a split's name and share.

        Raises:
            InputError: if the name is unknown, the share is not between 0 and 1, or the positions are not from 1 to
                1000.
        """
        if text.strip().partition(":")[0] == CROSS_DOMAIN:
            return cls(CROSS_DOMAIN, domain=domain_in(text))
        match = re.fullmatch(r"([a-z-]+)(?::([^@]*))?(?:@(.+))?", text.strip())
        name = match[1] if match else text
        takes_share = {"leave-last-out": False, "temporal": True, "ratio": True, "given": None}
        takes_share |= dict.fromkeys(_OF_ALL, True)
        if match is None or name not in {*takes_share, "last", "none"}:
            raise InputError(
                f"split {text!r} is not known{suggestion(name, [*takes_share, CROSS_DOMAIN, 'last:5', 'none'])}"
            )
        if name == "last":
            return cls(name, by_rows=says_rows(text, match[3]), positions=positions_in(text, match[2]))
        if name in ("leave-last-out", "none") and match[3] == "rows" and match[2] is None:
            return cls(name, by_rows=True)
        if match[3] is not None:
            return cls(name, None, cuts_in(text, name, match[2], match[3]))
        if match[2] is None:
            if takes_share.get(name):
                raise InputError(f"split {name!r} needs a share, as in '{name}:{0.1 if name in _OF_ALL else 0.8}'")
            return cls(name)
        if takes_share.get(name) is False or name == "none":
            raise InputError(f"split {name!r} takes no share; write '{name}'")
        of_all, comma, of_others = match[2].partition(",")
        share, others = (share_in(text, number) for number in (of_all, of_others or of_all))
        if comma and (name != "cold-items" or not of_others):
            raise InputError(f"split {text!r}: write two shares for cold-items only, as in cold-items:0.1,0.1")
        for number, what in ((share, _OF_ALL.get(name)), (others, "other interactions" if comma else None)):
            if what is not None and number >= 0.5:
                raise InputError(
                    f"split {text!r}: the same share of {what} is held out again for validation, so the share must be "
                    "below 0.5"
                )
        return cls(name, share, others=others if comma else 0.0)

    @property
    def needs_order(self) -> bool:
        """Whether the split depends on the order of a user's interactions."""
        return self.name in ("leave-last-out", "last", "temporal")

    def __str__(self) -> str:
        if self.by_rows or self.positions:
            return f"{self.name}{f':{self.positions}' if self.positions else ''}{'@rows' if self.by_rows else ''}"
        if self.domain is not None:
            return f"{self.name}:{self.domain}"
        if self.cuts is not None:
            return f"{self.name}@{self.cuts[0]!r},{self.cuts[1]!r}"
        others = f",{self.others!r}" if self.others else ""
        return self.name if self.share is None else f"{self.name}:{self.share!r}{others}"

    def resolve(self, data: Interactions) -> SplitMethod:
        """Fix the times at which `temporal` cuts, which depend on all users."""
        if self.name != "temporal" or self.cuts is not None:
            return self
        if data.times is None:
            raise PlanError(
                f"split 'temporal' needs timestamps, and this data has no timestamps. {how_to_order(data.order)}"
            )
        assert self.share is not None
        if len(data) == 0:
            raise InputError("split 'temporal' needs interactions, but the data is empty")
        first, second = np.quantile(data.times, [self.share, (1 + self.share) / 2], method="higher")
        return SplitMethod("temporal", None, (float(first), float(second)))

    def apply(self, data: Any, source: KeyedSource) -> Split:
        """Split the users of one node; `source` keys the draws of `ratio`, `given:SHARE`, `new-users`,
        `cold-items` and `cross-domain`.

        The data may be any table that `fedrec.interactions_from` accepts.

        Raises:
            PlanError: if the split needs times or an order, and the data has none.
        """
        if not isinstance(data, Interactions):
            from fedrec.data.reading.frames import interactions_from  # readers, which nodes need not load

            data = interactions_from(data)
        if self.name == "temporal" and self.cuts is None:
            return self.resolve(data).apply(data, source)
        if self.name in ("leave-last-out", "last"):
            check_order(data, self.by_rows, f"split {self.name!r}")
        if self.by_rows and data.order.by == "rows":
            data = replace(data, order=RowOrder("sequence"))
        every = data
        data, merged = distinct(data)
        part, drawn = np.zeros(len(data), dtype=np.int8), None
        seeds = source.child("split").seeds(client_keys(source, data.users))
        if self.name in ("leave-last-out", "last"):
            part = last_parts(data, self.positions or 1)
        elif self.name == "temporal":
            if data.times is None:
                raise PlanError(
                    f"split 'temporal' needs timestamps, and this data has none. {how_to_order(data.order)}"
                )
            assert self.cuts is not None
            part[data.times >= self.cuts[0]] = VALID
            part[data.times >= self.cuts[1]] = TEST
        elif self.name == "ratio":
            assert self.share is not None
            held = nearest(data.lengths * (1 - self.share) / 2)
            held = np.minimum(held, np.maximum(data.lengths - 1, 0) // 2)
            splitting.draw_parts(data.indptr, seeds, held, held, VALID, TEST, part)
        elif self.name == "given":
            part = given_parts(data, self.share, seeds)
        elif self.name == "new-users":
            assert self.share is not None
            part = new_user_parts(data, self.share, seeds)
        elif self.name == "cold-items":
            assert self.share is not None
            drawn = cold_item_draws(data.catalog, self.share, source)
            part = with_others(data, drawn[data.items], self.others, seeds)
        elif self.domain is not None:
            part = cross_domain_parts(data, self.domain, seeds)
        return Split(data, part, str(self), merged, every if merged else None, self.positions, drawn)


def leave_last_out(data: Any, *, by_rows: bool = False) -> Split:
    """The last interaction of each user is test, the one before it validation; a user with two interactions keeps one
    in train.

    Interactions with equal times are in the order of the file. Users with a single interaction stay in train. Data
    without times is split only if its rows have an order by definition, such as lists, or if `by_rows` says that they
    are in order, oldest first.

    Raises:
        PlanError: if the data has no times, and the order of its rows is not declared.
    """
    check_arguments(leave_last_out, locals())
    return SplitMethod("leave-last-out", by_rows=by_rows).apply(data, KeyedSource.from_seed(0))


def last(data: Any, positions: int = 5, *, by_rows: bool = False) -> Split:
    """Each user's last interactions are test positions, the ones before them validation positions, `positions` of each.

    A held-out interaction is predicted from everything before it, so history grows along. Users with fewer interactions
    have all but the first held out, first for test, then for validation. With one position, this is `leave_last_out`.

    Raises:
        InputError: if positions are not a whole number from 1 to 1000.
        PlanError: the data has no times, and the order of its rows is not declared.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [1] * 7, "item_id": range(7), "timestamp": range(7)})
        >>> fr.last(data, 2).counts()
        {'train': 3, 'valid': 2, 'test': 2, 'history': 0}
    """
    check_arguments(last, locals())
    return SplitMethod.parse(f"last:{positions}{'@rows' if by_rows else ''}").apply(data, KeyedSource.from_seed(0))


def temporal(data: Any, share: float = 0.8) -> Split:
    """Train is the earliest `share` of all interactions; of the rest, the earlier half is validation, the later half
    test."""
    check_arguments(temporal, locals())
    return SplitMethod.parse(f"temporal:{share}").apply(data, KeyedSource.from_seed(0))


def ratio(data: Any, share: float = 0.8, seed: int = 0) -> Split:
    """A random draw within each user: `share` is train; half of the rest is validation, half is test."""
    check_arguments(ratio, locals())
    return SplitMethod.parse(f"ratio:{share}").apply(data, KeyedSource.from_seed(seed))


def given(data: Any, share: float | None = None, seed: int = 0) -> Split:
    """The parts that came with the data; with `share`, only this share of train is kept, and the rest becomes
    validation."""
    check_arguments(given, locals())
    return SplitMethod.parse("given" if share is None else f"given:{share}").apply(data, KeyedSource.from_seed(seed))


def new_users(data: Any, share: float = 0.1, seed: int = 0) -> Split:
    """Hold out a `share` of users for test and an equal share for validation; a fifth of the items of each is held out.

    The other four fifths are history at scoring time and never train anything (Liang et al. 2018).
    """
    check_arguments(new_users, locals())
    return SplitMethod.parse(f"new-users:{share}").apply(data, KeyedSource.from_seed(seed))


def cold_items(data: Any, share: float = 0.1, seed: int = 0, *, others: float = 0.0) -> Split:
    """Hold out a `share` of the items for test and an equal share for validation, with all their interactions: nobody
    has these items in training.

    The draw depends on the ids of the items and the seed alone. Protocol `cold` ranks the items that are held out for a
    part among themselves, `full` among all items. With `others`, this share of each user's interactions with all other
    items is held out for test too, and as much for validation: `full` then says how good lists are in which both kinds
    of items stand.

    Example:
        >>> import fedrec as fr
        >>> split = fr.cold_items(fr.synthetic(users=50, items=100, interactions_per_user=10))
        >>> bool(set(split.train.items) & set(split.test.items)), int(split.cold("test").sum())
        (False, 9)
    """
    check_arguments(cold_items, locals())
    shares = f"{share},{others}" if others else f"{share}"
    return SplitMethod.parse(f"cold-items:{shares}").apply(data, KeyedSource.from_seed(seed))


def cross_domain(data: Any, domain: str, seed: int = 0) -> Split:
    """Hold out items of one domain, a value of the catalog's column `domain`; those of other domains stay in train.

    Of the users who have items of both, a fifth is *cold*: all their items of the domain are test. Another fifth has
    *few*: five are left in train, and the others are test. Of all other users, a fifth of their items of the domain is
    test and a tenth validation.

    Raises:
        PlanError: if the catalog has no column `domain`, or no such domain.

    Example:
        >>> import fedrec as fr
        >>> split = fr.cross_domain(fr.synthetic(users=50, items=100, interactions_per_user=10, domains=2), "b")
        >>> split.data.catalog.features["domain"].gather(split.test.items).unique().to_list()
        ['b']
    """
    check_arguments(cross_domain, locals())
    return SplitMethod.parse(f"{CROSS_DOMAIN}:{domain}").apply(data, KeyedSource.from_seed(seed))


def unsplit(data: Interactions) -> Split:
    """All interactions are train."""
    return SplitMethod("none").apply(data, KeyedSource.from_seed(0))


def distinct(data: Interactions, repeats: Repeats = "latest") -> tuple[Interactions, int]:
    """The interactions after merging repeats of (user, item) pairs, of which the latest is kept; and the number of
    removed rows.

    `repeats` decides its value, see `merging.with_merged_values`.
    """
    data = with_merged_values(data, repeats)
    if splitting.first_repeat(data.indptr, data.items, data.n_items) < 0:
        return data, 0
    keep = latest_rows(data)
    return data.where(keep), int(len(keep) - keep.sum())


def _pairs(data: Interactions) -> np.ndarray:
    """A number for the (user, item) pair of each row [interactions] int64."""
    return data.rows_of_users() * data.n_items + data.items
