"""What the catalog says of items, as numbers."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from fedrec.data.catalog import Catalog
from fedrec.data.features import feature_blocks, feature_matrix
from fedrec.errors import InputError, PlanError
from fedrec.models.registry import build_model

ITEMS = pl.DataFrame(
    {
        "item_id": [1, 2, 3, 4],
        "title": ["Heat (1995)", "The heat of war", None, "War of war (2001)"],
        "genres": [["Crime"], ["War", "Drama"], [], ["War"]],
        "shelf": ["a|b", "b", None, ""],
        "price": [1.0, 2.0, None, 6.0],
        "bought": [date(1990, 1, 1), None, date(1999, 12, 31), date(2000, 1, 1)],
        "cover": [[1.0, 0.0], [3.0, 4.0], None, [2.0, 2.0]],
    }
)


def block(column: str, kind: Any, table: pl.DataFrame = ITEMS) -> tuple[tuple[str, ...], np.ndarray]:
    (one,) = feature_blocks(Catalog.of(table), {column: {kind: 1.0}})
    return one.names, one.rows


def test_categories_are_marks_of_lists_or_of_texts_divided_at_bars() -> None:
    names, rows = block("genres", "categories")
    assert names == ("Crime", "Drama", "War")
    np.testing.assert_allclose(rows, [[1, 0, 0], [0, 0.5**0.5, 0.5**0.5], [0, 0, 0], [0, 0, 1]])
    names, rows = block("shelf", "categories")
    assert (names, (rows > 0).tolist()) == (("a", "b"), [[True, True], [False, True], [False] * 2, [False] * 2])


def test_words_weigh_by_how_few_items_have_them() -> None:
    names, rows = block("title", "text")
    assert names == ("heat", "of", "war"), "words of one item alone are left out"
    idf = np.log(5 / (1 + np.array([2, 2, 2]))) + 1
    raw = np.array([[1, 0, 0], [1, 1, 1], [0, 0, 0], [0, 1, 2]]) * idf
    np.testing.assert_allclose(rows, raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12))


def test_numbers_are_bumps_along_the_standardised_axis_and_missing_ones_say_nothing() -> None:
    _, rows = block("price", "numbers")
    z = (np.array([1.0, 2.0, 6.0]) - 3) / np.std([1.0, 2.0, 6.0])
    raw = np.exp(-((z[:, None] - np.arange(-2, 3)) ** 2) / 2)
    np.testing.assert_allclose(rows[[0, 1, 3]], raw / np.linalg.norm(raw, axis=1, keepdims=True))
    assert not rows[2].any()


def test_years_come_from_dates_and_from_titles_where_they_are_asked_for() -> None:
    names, rows = block("title", "year")
    assert names == ("1995", "2000", "2005")
    raw = np.exp(-(((2001 - np.array([1995, 2000, 2005])) / 5) ** 2) / 2)
    np.testing.assert_allclose(rows[3], raw / np.linalg.norm(raw))
    assert not rows[1:3].any()
    _, rows = block("bought", "year")
    assert rows[2] @ rows[3] > 0.9999, "the last day of a year is beside the first of the next"
    dates = ITEMS.with_columns(bought=pl.Series(["1990-01-01", None, "31-Dec-1999", "2000"]))
    assert np.argmax(block("bought", "year", dates)[1], axis=1).tolist() == [0, 0, 2, 2]


def test_vectors_are_taken_less_their_mean() -> None:
    _, rows = block("cover", "vectors")
    raw = np.array([[-1.0, -2.0], [1.0, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(rows[[0, 1, 3]], raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12))


def test_blocks_stand_side_by_side_with_their_weights_on_a_grid_that_sums_exactly() -> None:
    catalog = Catalog.of(ITEMS)
    chosen = {"genres": {"categories": 3.0}, "title": {"year": 1.0, "text": 1.0}}
    features = feature_matrix(catalog, chosen)
    squares = (features[3].astype(float) ** 2).cumsum()
    assert squares[[2, 5, 8]] == pytest.approx([0.6, 0.8, 1.0], abs=1e-4)
    assert np.array_equal(features * 2.0**16, np.rint(features * 2.0**16))
    shuffled = Catalog.of(ITEMS.sample(fraction=1.0, shuffle=True, seed=3))
    assert feature_matrix(shuffled, chosen).tobytes() == features.tobytes()


def test_auto_takes_columns_whose_type_says_how_to_read_them() -> None:
    found = [(one.column, one.kind, one.missing) for one in feature_blocks(Catalog.of(ITEMS), "auto")]
    assert found == [("genres", "categories", 1), ("bought", "year", 1), ("cover", "vectors", 2)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"genre": {"text": 1.0}}, r"no column 'genre'\. Did you mean 'genres'\?"),
        ({"price": {"text": 1.0}}, r"column 'price' of the catalog holds Float64, which cannot be read as text"),
        ({"price": {"categories": 1.0}}, "cannot be read as categories: that takes text, whole numbers, or lists"),
        ({"title": {"numbers": 1.0}}, "cannot be read as numbers"),
        ({"genres": {"year": 1.0}}, "cannot be read as year: that takes dates"),
        ({"genres": {"vectors": 1.0}}, "cannot be read as vectors: that takes lists of numbers"),
        ({"shelf": {"year": 1.0}}, "'shelf' of the catalog says nothing of any item when it is read as year"),
    ],
)
def test_columns_that_cannot_be_read_so_say_what_it_takes(columns: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        feature_blocks(Catalog.of(ITEMS), columns)


def test_values_that_are_no_features_say_where_they_are() -> None:
    for column, values, kind, message in (
        ("price", [1.0, float("nan"), 2.0, 3.0], "numbers", "item 2 has a number that is not finite; leave the cell"),
        ("price", [2.0, 2.0, None, 2.0], "numbers", "the same number for all items"),
        ("cover", [[1.0], [2.0, 3.0], None, None], "vectors", "vectors of 1 and of 2 numbers"),
        ("cover", [[1.0], [float("inf")], None, None], "vectors", "item 2 has a number that is not finite"),
        ("price", [1.0, 1900.0, 2000.0, 3.0], "year", "years from 1 to 2000; correct them"),
        ("cover", [[0.5] * 5000, [1.5] * 5000, None, None], "vectors", "5,000 numbers per item; 4,096 are the most"),
    ):
        table = ITEMS.with_columns(pl.Series(column, values))
        with pytest.raises(InputError, match=message):
            feature_blocks(Catalog.of(table), {column: {kind: 1.0}})  # type: ignore[dict-item]
    with pytest.raises(InputError, match=r"the catalog says nothing of its items; give a file .*--catalog"):
        feature_matrix(Catalog.of(ITEMS.select("item_id")), "auto")
    with pytest.raises(InputError, match=r"no column of the catalog shows by its type .* title \(String\)"):
        feature_matrix(Catalog.of(ITEMS.select("item_id", "title")), "auto")


def test_a_column_may_be_read_in_one_way_in_several_or_with_weights() -> None:
    with pytest.raises(
        PlanError, match=r"item_features: column 'title' cannot be read as 'txt'\. Did you mean 'text'\?"
    ):
        build_model("content", {"item_features": {"title": "txt"}})
    with pytest.raises(PlanError, match="column 'title', read as text, needs a weight above 0, not -1"):
        build_model("content", {"item_features": {"title": {"text": -1}}})
    asked = {"genres": "categories", "title": ["year", "text"], "price": {"numbers": 0.5}}
    chosen = build_model("content", {"item_features": asked}).model_dump()["item_features"]
    expected = {"genres": {"categories": 1.0}, "title": {"year": 1.0, "text": 1.0}, "price": {"numbers": 0.5}}
    assert chosen == expected
    assert build_model("content", {"item_features": chosen}).model_dump()["item_features"] == expected
