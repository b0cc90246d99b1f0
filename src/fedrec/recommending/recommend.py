"""Makes lists of items from scores, with seen, allowed and blocked items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import Interactions
from fedrec.data.listing import listed_ids, whole_number
from fedrec.errors import InputError
from fedrec.recommending.tables import recommendation_table
from fedrec.recommending.topk import top_items

__all__ = ["allowed_items", "item_positions", "list_length", "recommend_batches", "similar_table"]


def list_length(n: object, n_items: int) -> int:
    """The length `n` of a list, at most the number of items.

    Raises:
        InputError: if `n` is not a whole number, or is below 1.
    """
    return max(1, min(whole_number(n, "n"), n_items))


def allowed_items(catalog: Catalog, only: object = None, block: object = None) -> np.ndarray | None:
    """A mask [items] bool of the items that may be recommended; `None` if all items may.

    Ids may be numbers or text, for catalogs of either type.

    Raises:
        InputError: if an id is not in the catalog.
    """
    if only is None and block is None:
        return None
    mask = np.ones(len(catalog), dtype=np.bool_)
    if only is not None:
        mask[:] = False
        mask[item_positions(catalog, only, "only")] = True
    if block is not None:
        mask[item_positions(catalog, block, "block")] = False
    return mask


def recommend_batches(
    scored: Iterable[tuple[np.ndarray, Clients, np.ndarray]],
    users: Identifiers,
    catalog: Catalog,
    n: int,
    seen: Interactions | None,
    allowed: np.ndarray | None,
) -> Iterator[pl.DataFrame]:
    """Tables of the `n` best items of each user, batch by batch.

    Args:
        scored: positions [c] of users, the clients, and their scores [c, items] float32.
        users, catalog: the ids of the positions.
        n: length of a list; a list is shorter if fewer items are left.
        seen: interactions of `users` whose items are left out; `None` leaves out no items.
        allowed: mask [items] of items that may appear.
    """
    for positions, _, scores in scored:
        known = None if seen is None else seen.take_users(positions)
        exclude = None if known is None else (known.indptr, known.items)
        items, best = top_items(scores, n, exclude=exclude, allowed=allowed)
        yield recommendation_table(users, positions, items, best, catalog)


def similar_table(catalog: Catalog, position: int, scores: np.ndarray, n: int) -> pl.DataFrame:
    """The `n` items most similar to the item at `position`, by `scores` [items], without that item.

    Columns: item_id, title if the catalog has titles, score, rank.
    """
    itself = (np.array([0, 1]), np.array([position], dtype=np.int32))
    items, best = top_items(np.ascontiguousarray(scores[None], dtype=np.float32), n, exclude=itself)
    kept = items[0] >= 0
    found = items[0][kept]
    columns: dict[str, object] = {"item_id": catalog.items.take(found)}
    if catalog.has_titles:
        columns["title"] = [catalog.title(int(item)) for item in found]
    return pl.DataFrame(columns | {"score": best[0][kept], "rank": np.arange(1, len(found) + 1, dtype=np.int32)})


def item_positions(catalog: Catalog, ids: object, name: str = "") -> np.ndarray:
    """Positions [n] of one or several items.

    Raises:
        InputError: naming the argument, if an id is not in the catalog.
    """
    wanted = listed_ids(ids, name or "items")
    if len(wanted) == 0 and not name:
        raise InputError("items: the list is empty; name at least one item")
    positions = catalog.items.look_up(wanted)
    if np.any(positions < 0):
        missing = wanted[int(np.argmin(positions))]
        raise InputError(
            f"{name}{': ' * bool(name)}item {missing!r} is not in the catalog{catalog.items.explain_unknown(missing)}"
        )
    return positions
