"""Cleaning agrees with a plain row-by-row twin, accounts for every row, and reaches the k-core."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fedrec.data.cleaning import Cleaning, clean
from fedrec.data.interactions import Interactions
from fedrec.data.reading.frames import interactions_from, table_with_report
from fedrec.errors import InputError

Row = tuple[int, int, float, int]
logs = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.sampled_from([1.0, 2.0, 3.0, 4.0]), st.integers(0, 5)),
    min_size=1,
    max_size=60,
)


def made_of(rows: list[Row]) -> Interactions:
    names = ("user_id", "item_id", "rating", "timestamp")
    return interactions_from({name: [row[k] for row in rows] for k, name in enumerate(names)})


def rows_of(data: Interactions) -> list[Row]:
    return [(u, i, r, int(t)) for u, i, r, t in data.to_frame().rows()]


def core_of(rows: list[Row], k: int) -> list[Row]:
    while True:
        kept = [
            row
            for row in rows
            if sum(other[0] == row[0] for other in rows) >= k and sum(other[1] == row[1] for other in rows) >= k
        ]
        if kept == rows:
            return rows
        rows = kept


@given(logs)
@settings(max_examples=100, deadline=None)
def test_merging_keeps_the_latest_of_each_pair_and_the_later_line_of_equal_times(rows: list[Row]) -> None:
    data = made_of(rows)
    latest: dict[tuple[int, int], tuple[int, int]] = {}
    for place, row in enumerate(rows):
        latest[row[:2]] = max(latest.get(row[:2], (-1, -1)), (row[3], place))
    cleaned, report = clean(data)
    expected = [rows[place] for _, place in latest.values()]
    assert sorted(rows_of(cleaned)) == sorted(expected)
    assert report.left_out.height == len(rows) - len(expected)


@given(logs, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_k_core_is_the_fixed_point(rows: list[Row], k: int) -> None:
    data = made_of(rows)
    expected = core_of(rows_of(data), k)
    if not expected:
        with pytest.raises(InputError, match="no interaction is left after the step 'k_core'"):
            clean(data, Cleaning(repeats="keep", k_core=k))
        return
    cleaned, _ = clean(data, Cleaning(repeats="keep", k_core=k))
    assert rows_of(cleaned) == expected
    assert min(cleaned.lengths) >= k
    assert min(np.bincount(cleaned.items)) >= k


@given(logs, st.booleans())
@settings(max_examples=60, deadline=None)
def test_kept_and_left_out_are_all_there_was(rows: list[Row], shrink: bool) -> None:
    data = made_of(rows)
    cleaning = Cleaning(rating_at_least=2, rating_at_most=3, min_user_interactions=2, shrink_catalog=shrink)
    try:
        cleaned, report = clean(data, cleaning)
    except InputError:
        return
    out = report.left_out.select(
        pl.col("user_id").cast(int),
        pl.col("item_id").cast(int),
        pl.col("rating").cast(float),
        pl.col("timestamp").cast(float),
    )
    assert sorted(rows_of(cleaned) + [(u, i, r, int(t)) for u, i, r, t in out.rows()]) == sorted(rows)
    for before, after in zip(report.steps, report.steps[1:], strict=False):
        assert before.interactions_after == after.interactions_before
    last = report.steps[-1]
    assert (last.users_after, last.interactions_after) == (cleaned.n_users, len(cleaned))
    items = {row[1] for row in rows_of(cleaned)} if shrink else {row[1] for row in rows}
    assert set(cleaned.catalog.items) == items


def test_repeats_are_merged_before_ratings_are_looked_at() -> None:
    data = made_of([(1, 1, 5.0, 1), (1, 1, 1.0, 2), (1, 2, 5.0, 3)])
    cleaned, report = clean(data, rating_at_least=4)
    assert rows_of(cleaned) == [(1, 2, 5.0, 3)]
    assert [step.name for step in report.steps] == ["merge_repeats", "rating_at_least"]


def test_items_never_seen_and_users_without_rows_stay() -> None:
    data = interactions_from(
        {"user": [1, 2], "item": [1, 2]}, catalog=made_of([(0, k, 1.0, 0) for k in range(4)]).catalog
    )
    data = data.where(np.array([False, True]))
    more = replace(data, values=np.array([1.0], dtype=np.float32))
    cleaned, _ = clean(more, rating_at_least=1)
    assert (cleaned.n_users, cleaned.n_items) == (2, 4)


def test_one_pass_thresholds_are_one_pass() -> None:
    rows = [(1, 1, 1.0, 0), (1, 2, 1.0, 1), (2, 2, 1.0, 0)]
    cleaned, report = clean(made_of(rows), min_user_interactions=2, min_item_interactions=1)
    assert rows_of(cleaned) == rows[:2]
    assert report.counts == {"user has fewer than 2": 1}


def test_missing_ratings_are_an_error_or_a_step() -> None:
    table = {"user": [1, 1, 2], "item": [1, 2, 1], "rating": [None, 2.0, 3.0]}
    data = table_with_report(table, keep_missing=True).interactions
    with pytest.raises(InputError, match=r"1 interactions have no rating.*user 1 with item 1.*drop_missing=True"):
        clean(data)
    cleaned, report = clean(data, drop_missing=True)
    assert len(cleaned) == 2
    assert report.counts == {"rating or time is missing": 1}


def test_settings_that_do_not_fit_are_named() -> None:
    data = interactions_from({"user": [1], "item": [1]})
    with pytest.raises(InputError, match=r"'kcore' is not a setting. Did you mean 'k_core'"):
        clean(data, kcore=3)
    with pytest.raises(InputError, match="k_core = 0: Input should be greater than or equal to 1"):
        clean(data, k_core=0)
    with pytest.raises(InputError, match="rating_at_least needs ratings"):
        clean(data, rating_at_least=3)
    with pytest.raises(InputError, match="not both"):
        clean(data, Cleaning(), k_core=1)


def test_report_prints_and_writes(tmp_path: Path) -> None:
    _, report = clean(made_of([(1, 1, 5.0, 1), (1, 1, 4.0, 2), (2, 1, 1.0, 3)]), rating_at_least=3)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["merge_repeats", "2", "1", "2", "1"],
        ["rating_at_least", "1", "1", "1", "1"],
    ]
    report.write_left_out(tmp_path / "left_out.csv")
    assert pl.read_csv(tmp_path / "left_out.csv")["step"].to_list() == ["merge_repeats", "rating_at_least"]
