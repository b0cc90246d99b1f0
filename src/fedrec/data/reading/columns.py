"""Finds the columns of a table by standard names, aliases and overrides."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fedrec.errors import InputError, suggestion

__all__ = ["ALIASES", "FIELDS", "is_known", "resolve"]

FIELDS = ("user_id", "item_id", "rating", "weight", "timestamp", "part")
"""Standard columns of interactions. `rating` and `weight` are two words for the value; a weight is not negative."""

ALIASES: dict[str, tuple[str, ...]] = {
    "user_id": ("user", "userid", "uid", "customer", "customerid", "member", "memberid", "visitorid", "reviewerid"),
    "item_id": (
        *("item", "itemid", "iid", "movie", "movieid", "product", "productid", "article", "articleid"),
        *("book", "bookid", "track", "trackid", "song", "songid", "news", "newsid", "asin", "isbn", "sku"),
        *("business", "businessid", "locationid"),
    ),
    "rating": ("rating", "score", "stars", "overall", "bookrating", "starrating"),
    "weight": ("weight", "count", "playcount", "plays", "confidence"),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "date", "unixtime", "unixreviewtime", "createdat", "eventtime"),
    ),
    "part": ("part", "split", "subset"),
    "title": ("title", "name", "movietitle", "producttitle", "itemtitle", "itemname"),
    "genres": ("genres", "genre", "class", "categories", "category"),
}
"""Other names of the standard columns, in lower case without `_`, `-`, `.` and blanks."""

_FIELD_OF = {alias: field for field, names in ALIASES.items() for alias in names}


def _plain(name: str) -> str:
    return re.sub(r"[\s_.\-]", "", name.split(":")[0]).lower()


def is_known(name: str) -> bool:
    """Whether a column name is a standard name or an alias.

    >>> is_known("userId"), is_known("item_id:token"), is_known("196")
    (True, True, False)
    """
    return _plain(name) in _FIELD_OF


def resolve(
    found: Sequence[str],
    columns: Mapping[str, str] | None,
    where: str,
    *,
    fields: Sequence[str] = FIELDS,
    required: Sequence[str] = ("user_id", "item_id"),
) -> dict[str, str]:
    """Map standard names to the names in `found`.

    A name in `columns` comes first; then the column with exactly the standard name; then the only column that is an
    alias of it, in upper or lower case, with or without `_`, `-` and a RecBole type such as `:token`.

    Args:
        found: column names of the table, in order.
        columns: maps standard names to names in the table.
        where: name of the file or table in errors.
        fields: standard names to look for.
        required: standard names that the table must have.

    Raises:
        InputError: if the table lacks a name, has two columns for one standard name, or lacks a required column.

    >>> resolve(["userId", "movieId", "rating", "genre"], None, "ratings.csv")
    {'user_id': 'userId', 'item_id': 'movieId', 'rating': 'rating'}
    >>> resolve(["customer", "item", "thing"], {"item_id": "thing"}, "log.csv")
    {'user_id': 'customer', 'item_id': 'thing'}
    """
    names = [str(name) for name in found]
    chosen: dict[str, str] = {}
    for ours, theirs in (columns or {}).items():
        if ours not in fields:
            raise InputError(f"columns: {ours!r} is not a column of fedrec{suggestion(ours, fields)}")
        if theirs not in names:
            raise InputError(
                f"{where}: there is no column {theirs!r} to read {ours} from{suggestion(theirs, names)}"
                if names
                else f"{where}: the source has no columns"
            )
        if theirs in chosen.values():
            raise InputError(f"columns: column {theirs!r} is assigned to two fields; assign it to one")
        chosen[ours] = theirs
    for field in fields:
        rival = {"rating": "weight", "weight": "rating"}.get(field)
        if field in chosen or (rival is not None and columns and rival in columns):
            continue
        free = [name for name in names if name not in chosen.values()]
        exact = [name for name in free if name.split(":")[0] == field]
        near = exact or [name for name in free if _FIELD_OF.get(_plain(name)) == field]
        if len(near) > 1:
            raise InputError(
                f"{where}: columns {', '.join(map(repr, near))} could each be {field}. "
                f"Choose one with columns={{{field!r}: {near[0]!r}}} (--columns {field}={near[0]})"
            )
        if near:
            chosen[field] = near[0]
    if "rating" in chosen and "weight" in chosen:
        raise InputError(
            f"{where}: columns {chosen['rating']!r} and {chosen['weight']!r} could each be the value. "
            f"Choose one with columns={{'rating': {chosen['rating']!r}}} or columns={{'weight': {chosen['weight']!r}}}"
        )
    for field in required:
        if field not in chosen:
            shown = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
            raise InputError(
                f"{where}: no column for {field} among {shown}. Name it with columns={{{field!r}: '…'}} "
                f"(--columns {field}=…)"
            )
    return {field: chosen[field] for field in fields if field in chosen}
