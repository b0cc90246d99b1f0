"""Which part each interaction of a user is in, for splits that go by place, by draw, or by parts that came along."""

from __future__ import annotations

import numpy as np

from fedrec.data.catalog import Catalog
from fedrec.data.domains import items_of_domain
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.errors import InputError
from fedrec.kernels import splitting

__all__ = [
    "HISTORY",
    "TEST",
    "TRAIN",
    "VALID",
    "cold_item_draws",
    "cross_domain_parts",
    "given_parts",
    "last_parts",
    "nearest",
    "new_user_parts",
    "with_others",
]

TRAIN, VALID, TEST, HISTORY = np.arange(4, dtype=np.int8)
"""Positions in `fedrec.data.interactions.PARTS`."""
_FEW = 5


def last_parts(data: Interactions, positions: int) -> np.ndarray:
    """The last interactions of each user for test, those before them for validation; the first one is for training."""
    lengths = data.lengths
    test = np.minimum(positions, np.maximum(lengths - 1, 0))
    valid = np.minimum(positions, np.maximum(lengths - 1 - test, 0))
    owners = data.rows_of_users()
    left = data.indptr[1:][owners] - np.arange(len(data))  # 1 for the last interaction of a user
    part = np.zeros(len(data), dtype=np.int8)
    part[left <= (test + valid)[owners]] = VALID
    part[left <= test[owners]] = TEST
    return part


def nearest(counts: np.ndarray) -> np.ndarray:
    """The nearest whole numbers, halves upwards even where 1 − 0.8 is a little less than 0.2."""
    return np.floor(counts + (0.5 + 1e-9)).astype(np.int64)


def given_parts(data: Interactions, share: float | None, seeds: np.ndarray) -> np.ndarray:
    """The parts that came with the data; with a `share`, only that much of train, and validation instead of the rest.

    Raises:
        InputError: if no parts came with the data.
    """
    if data.part is None:
        raise InputError(
            "split 'given' needs a part for each interaction (a column part, or files train.txt and test.txt), "
            "and this data has no such parts"
        )
    part = data.part.astype(np.int8)
    if share is not None:
        train = data.where(part == TRAIN)
        held = nearest(train.lengths * (1 - share))
        drawn = np.zeros(len(train), dtype=np.int8)
        splitting.draw_parts(
            train.indptr,
            seeds,
            np.minimum(held, np.maximum(train.lengths - 1, 0)),
            np.zeros_like(held),
            VALID,
            VALID,
            drawn,
        )
        part[part == TRAIN] = drawn
    return part


def cold_item_draws(catalog: Catalog, share: float, source: KeyedSource) -> np.ndarray:
    """Which items are drawn for a part [items] int8: a `share` for test, as many for validation, the others for train.

    An item's draw depends on its id and the source alone: whoever has the catalog and the seed draws the same items.
    """
    own = source.child("cold items")
    place = own.seeds(client_keys(own, catalog.items)).astype(np.float64) / 2.0**64
    part = np.full(len(catalog), TRAIN, dtype=np.int8)
    part[place < 2 * share] = VALID
    part[place < share] = TEST
    return part


def with_others(data: Interactions, part: np.ndarray, share: float, seeds: np.ndarray) -> np.ndarray:
    """Parts [interactions] int8, with a `share` of what each user has in train held out for test and as much for
    validation; a user keeps one interaction in train at least."""
    kept = data.where(part == TRAIN)
    held = np.minimum(nearest(kept.lengths * share), np.maximum(kept.lengths - 1, 0) // 2)
    drawn = np.zeros(len(kept), dtype=np.int8)
    splitting.draw_parts(kept.indptr, seeds, held, held, VALID, TEST, drawn)
    part = part.copy()
    part[part == TRAIN] = drawn
    return part


def new_user_parts(data: Interactions, share: float, seeds: np.ndarray) -> np.ndarray:
    """A `share` of the users for test and as many for validation: a fifth of their interactions, all else history."""
    place = seeds.astype(np.float64) / 2.0**64
    held = nearest(data.lengths * 0.2)
    held = np.minimum(held, np.maximum(data.lengths - 1, 0))
    part = np.zeros(len(data), dtype=np.int8)
    none = np.zeros_like(held)
    for low, code in ((0.0, TEST), (share, VALID)):
        chosen = (place >= low) & (place < low + share)
        part[np.repeat(chosen, data.lengths)] = HISTORY
        splitting.draw_parts(data.indptr, seeds, np.where(chosen, held, 0), none, code, code, part)
    return part


def cross_domain_parts(data: Interactions, domain: str, seeds: np.ndarray) -> np.ndarray:
    """What is held out of one domain: all items of a fifth of the users who have others too, all but five of another
    fifth, and a fifth for test and a tenth for validation of everybody else's.

    Raises:
        PlanError: if the catalog has no column `domain`, or no such domain.
    """
    rows = items_of_domain(data.catalog, domain)[data.items]
    inside = data.where(rows)
    linked = (inside.lengths > 0) & (inside.lengths < data.lengths)
    place = seeds.astype(np.float64) / 2.0**64
    cold, few = linked & (place < 0.2), linked & (place >= 0.2) & (place < 0.4)
    tested = nearest(inside.lengths * 0.2)
    tested[few] = np.maximum(inside.lengths[few] - _FEW, 0)
    tested = np.minimum(tested, np.maximum(inside.lengths - 1, 0))
    tested[cold] = inside.lengths[cold]
    checked = np.where(cold | few, 0, np.minimum(nearest(inside.lengths * 0.1), inside.lengths - tested))
    drawn = np.zeros(len(inside), dtype=np.int8)
    splitting.draw_parts(inside.indptr, seeds, tested, checked, TEST, VALID, drawn)
    part = np.zeros(len(data), dtype=np.int8)
    part[rows] = drawn
    return part
