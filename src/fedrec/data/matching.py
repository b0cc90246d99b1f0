"""Items of two catalogs that are the same: by id, by title and year, or by a table of pairs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.errors import InputError

__all__ = ["MATCHED", "Matching", "match_items", "title_key"]

MATCHED = ("source_item", "target_item")
"""Columns of a table of pairs; further columns are for people."""

_YEAR = re.compile(r"\((\d{4})\)")
_ARTICLE = re.compile(r"^(.*), (the|a|an|le|la|les|l'|il|lo|i|el|los|las|der|die|das|un|une|uno)$")
_FIRST = re.compile(r"^(the|a|an|le|la|les|il|lo|el|los|las|der|die|das|un|une|uno) (?=\S)")


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of items, in ascending order of the target's positions; no item is in two pairs.

    Args:
        source: positions [pairs] int64 in the source's catalog.
        target: positions [pairs] int64 in the target's catalog.
        ambiguous: titles of several items in one of the catalogs, which were therefore not matched.
    """

    source: np.ndarray
    target: np.ndarray
    ambiguous: int = 0

    def __len__(self) -> int:
        return len(self.target)

    def table(self, source: Catalog, target: Catalog) -> pl.DataFrame:
        """Pairs as ids and titles: what a person edits and gives back as a file."""
        pairs = {MATCHED[0]: source.items.take(self.source), MATCHED[1]: target.items.take(self.target)}
        titles = {}
        if source.has_titles and target.has_titles:
            titles = {
                "source_title": [source.title(place) for place in self.source],
                "target_title": [target.title(place) for place in self.target],
            }
        return pl.DataFrame(pairs | titles)


def match_items(source: Catalog, target: Catalog, by: str) -> Matching:
    """Match two catalogs.

    Args:
        source, target: the catalogs.
        by: `id`, `title` (title and year, see `title_key`), or a CSV file with the columns of `MATCHED`.

    Raises:
        InputError: if nothing matches, a catalog has no titles, or the file cannot be read, names unknown items or
            names an item twice.

    >>> import polars as pl
    >>> old = Catalog.of(pl.DataFrame({"item_id": [1, 2], "title": ["Matrix, The (1999)", "Heat (1995)"]}))
    >>> new = Catalog.of(pl.DataFrame({"item_id": ["h", "m"], "title": ["Heat (1986)", "The Matrix (1999)"]}))
    >>> match_items(old, new, "title").table(old, new).rows()
    [(1, 'm', 'Matrix, The (1999)', 'The Matrix (1999)')]
    """
    if by == "id":
        found = _by_id(source, target)
    elif by == "title":
        found = _by_title(source, target)
    else:
        found = _by_file(source, target, Path(by))
    if not len(found):
        types = ["text" if catalog.items.is_text else "whole numbers" for catalog in (source, target)]
        kinds = f" (ids are {types[0]} in the source, {types[1]} here)" if by == "id" and types[0] != types[1] else ""
        raise InputError(
            f"no item of the source matches one of this data by {by}{kinds}. Match by id, by title, or give a CSV file "
            f"with the columns {' and '.join(MATCHED)}"
        )
    return found


def title_key(title: str, year: object = None) -> tuple[str, str]:
    """What two titles of one item have in common: words and year.

    Case, accents, punctuation and articles at either end do not matter. The last year in parentheses is that of the
    item, otherwise `year`. Other names in parentheses are left out.

    >>> title_key("Shawshank Redemption, The (1994)") == title_key("the SHAWSHANK redemption", 1994)
    True
    >>> title_key("Misérables, Les (Wretched, The) (1995)"), title_key("Heat (1986)") == title_key("Heat (1995)")
    (('miserables', '1995'), False)
    """
    plain = unicodedata.normalize("NFKD", title.casefold().replace("’", "'"))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    years = _YEAR.findall(plain)
    words = re.sub(r"\([^()]*\)", " ", plain).strip() or plain.strip()
    words = _ARTICLE.sub(r"\2 \1", words).replace("&", " and ")
    words = " ".join(re.findall(r"\w+", words.replace("'", "")))
    return _FIRST.sub("", words), years[-1] if years else "" if year is None else str(year)


def _by_id(source: Catalog, target: Catalog) -> Matching:
    places = source.items.find(target.items.series)
    there = np.flatnonzero(places >= 0)
    return Matching(places[there], there)


def _by_title(source: Catalog, target: Catalog) -> Matching:
    for catalog, name in ((source, "the source"), (target, "this data")):
        if not catalog.has_titles:
            raise InputError(f"the items of {name} have no titles; match by id or by a CSV file of pairs")
    keys = [_keys(catalog) for catalog in (source, target)]
    (once, several), (mine, mine_several) = (_unique(each) for each in keys)
    both = sorted((place, once[key]) for key, place in mine.items() if key in once)
    unclear = (several | mine_several) & set(keys[0]) & set(keys[1])
    pairs = np.array(both, dtype=np.int64).reshape(-1, 2)
    return Matching(pairs[:, 1].copy(), pairs[:, 0].copy(), len(unclear))


def _keys(catalog: Catalog) -> list[Hashable]:
    """The key of every title, in the order of the items; `None` for items without one."""
    assert catalog.features is not None
    titles = catalog.features["title"].to_list()
    has_years = "year" in catalog.features.columns
    years = catalog.features["year"].to_list() if has_years else [None] * len(titles)
    keys = [None if title is None else title_key(str(title), year) for title, year in zip(titles, years, strict=True)]
    return [key if key and key[0] else None for key in keys]


def _unique(keys: Sequence[Hashable]) -> tuple[dict[Hashable, int], set[Hashable]]:
    """Place of every key that stands once, and the keys that stand several times."""
    places: dict[Hashable, int] = {}
    several: set[Hashable] = set()
    for place, key in enumerate(keys):
        if key is None:
            continue
        if key in places:
            several.add(key)
        places[key] = place
    return {key: place for key, place in places.items() if key not in several}, several


def _by_file(source: Catalog, target: Catalog, path: Path) -> Matching:
    try:
        table = pl.read_csv(path, infer_schema=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; match by id, by title, or by a CSV file of pairs") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read as a CSV file: {str(error).splitlines()[0]}") from None
    if missing := [name for name in MATCHED if name not in table.columns]:
        raise InputError(f"{path} has no column {missing[0]}; its columns must be {' and '.join(MATCHED)}")
    places = [
        _found(table[name], items, path) for name, items in zip(MATCHED, (source.items, target.items), strict=True)
    ]
    order = np.argsort(places[1])
    return Matching(places[0][order], places[1][order])


def _found(ids: pl.Series, items: Identifiers, path: Path) -> np.ndarray:
    """Positions of the ids of a column.

    Raises:
        InputError: with the line of an id that is unknown or stands twice.
    """
    typed = ids if items.is_text else ids.cast(pl.Int64, strict=False)
    places = np.full(len(ids), -1, dtype=np.int64)
    there = typed.is_not_null().to_numpy()
    places[there] = items.find(typed.drop_nulls())
    if (unknown := np.flatnonzero(places < 0)).size:
        line = int(unknown[0])
        raise InputError(f"{path}, line {line + 2}: {ids.name} {ids[line]!r} is not in its catalog")
    _, first = np.unique(places, return_index=True)
    if len(first) < len(places):
        line = int(np.setdiff1d(np.arange(len(places)), first)[0])
        raise InputError(
            f"{path}, line {line + 2}: {ids.name} {ids[line]!r} stands in two pairs; leave one of them out"
        )
    return places
