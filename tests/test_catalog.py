"""The digest of a catalog: of its items, and of all that is said of them."""

from __future__ import annotations

import datetime

import hypothesis.strategies as st
import polars as pl
from hypothesis import given, settings

from fedrec.data.catalog import Catalog

TABLE = {
    "item_id": ["a", "b", "c"],
    "title": ["One", None, "Thrée"],
    "genres": [["drama", "war"], [], None],
    "year": [1994, 2001, None],
    "price": [0.1, None, 1e-7],
    "since": [datetime.date(2020, 1, 31), None, datetime.date(1999, 12, 1)],
    "seen": [datetime.datetime(2020, 1, 31, 12), None, datetime.datetime(1999, 12, 1)],
    "adult": [True, False, None],
}


def test_features_that_travelled_have_the_same_digest() -> None:
    """Types that JSON does not have, such as dates and categories, come back as others; what they say is the same."""
    table = pl.DataFrame(TABLE).with_columns(pl.col("title").cast(pl.Categorical), pl.col("price").cast(pl.Float32))
    catalog = Catalog.of(table)
    back = Catalog.from_json_lines(catalog.to_json_lines(), "the catalog")
    assert back.features_digest == catalog.features_digest
    shuffled = Catalog.of(table.select(reversed(table.columns)).reverse())
    assert shuffled.features_digest == catalog.features_digest


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=5))
def test_numbers_that_travelled_have_the_same_digest(numbers: list[float]) -> None:
    catalog = Catalog.of(pl.DataFrame({"item_id": range(len(numbers)), "price": numbers}))
    back = Catalog.from_json_lines(catalog.to_json_lines(), "the catalog")
    assert back.features_digest == catalog.features_digest


def test_other_features_are_another_catalog_for_who_learns_from_them() -> None:
    catalog = Catalog.of(pl.DataFrame(TABLE))
    for name, other in (("title", "Two"), ("genres", ["drama"]), ("year", 2002), ("price", 0.2), ("adult", True)):
        changed = Catalog.of(pl.DataFrame(TABLE | {name: [TABLE[name][0], other, TABLE[name][2]]}))
        assert changed.digest == catalog.digest
        assert changed.features_digest != catalog.features_digest
    without = Catalog.of(pl.DataFrame(TABLE).drop("year"))
    renamed = Catalog.of(pl.DataFrame(TABLE).rename({"year": "era"}))
    bare = Catalog.of(pl.DataFrame(TABLE).select("item_id"))
    assert len({one.features_digest for one in (catalog, without, renamed, bare)}) == 4
    others = Catalog.of(pl.DataFrame(TABLE | {"item_id": ["a", "b", "d"]}))
    assert others.features_digest != catalog.features_digest
