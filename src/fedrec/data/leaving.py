"""Takes users out of cleaned data, with what is there because of them only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.data.cleaning import Cleaning, clean, item_counts, without_items
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions

__all__ = ["Left", "without_users"]


@dataclass(frozen=True, eq=False)
class Left:
    """What is left of data without some users.

    Args:
        data: the interactions of the other users.
        users: number of other users who left with them, as too few interactions of theirs are left.
        interactions: number of interactions of other users that left with them.
        items: number of items that left the catalog.
    """

    data: Interactions
    users: int
    interactions: int
    items: int


def without_users(
    data: Interactions, leaving: np.ndarray, cleaning: Cleaning, declared: Identifiers | None = None
) -> Left:
    """The data as it would be had some users never been in it.

    Cleaning steps across users, `min_item_interactions` and `k_core`, are held to again. An item that nobody has any
    more leaves the catalog, unless the catalog is declared or does not shrink.

    Args:
        data: cleaned interactions.
        leaving: [users] bool.
        cleaning: how the data was cleaned.
        declared: items that are in the catalog whether anybody has them or not.

    Raises:
        NothingLeftError: if cleaning leaves no interaction of other users.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [1, 1, 2], "item_id": ["a", "b", "a"]})
        >>> left = without_users(data, np.array([True, False]), Cleaning())
        >>> left.data.to_frame().rows(), left.items
        ([(2, 'a')], 1)
    """
    others = rest = data.take_users(np.flatnonzero(~leaving))
    if cleaning.across_users and len(rest):
        floors = {name: getattr(cleaning, name) for name in cleaning.across_users}
        rest, _ = clean(rest, Cleaning(repeats="keep", shrink_catalog=False, **floors))
    left = rest
    if cleaning.shrink_catalog:
        gone = (item_counts(data) > 0) & (item_counts(rest) == 0)
        if declared is not None:
            gone &= declared.find(data.catalog.items.series) < 0
        left = without_items(rest, gone) if gone.any() else rest
    return Left(left, others.n_users - rest.n_users, len(others) - len(rest), data.n_items - left.n_items)
