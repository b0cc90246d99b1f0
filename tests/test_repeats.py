"""What becomes of repeated (user, item) pairs: the latest row stays, with the value that was asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fedrec as fr
from conftest import Said
from federation_in_test import Federation, small_plan
from fedrec.data.cleaning import Cleaning, clean
from fedrec.data.merging import Repeats
from fedrec.data.reading.frames import table_with_report
from fedrec.data.splits import distinct
from fedrec.errors import InputError, PlanError
from fedrec.federation.plan import Plan
from fedrec.network.post import LocalPost
from fedrec.owner.policy import refusals
from fedrec.runs.training import train_run
from owners_in_test import KEYS, owned, planned

Row = tuple[int, int, float, int]
logs = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([-2.0, 0.5, 1.0, 3.0]), st.integers(0, 5)),
    min_size=1, max_size=40,
)  # fmt: skip
NAMES = ("user_id", "item_id", "rating", "timestamp")
TWINS: dict[Repeats, Callable[[list[float]], float]] = {
    "latest": lambda values: values[-1],
    "keep": lambda values: values[-1],
    "sum": sum,
    "count": lambda values: float(len(values)),
    "max": max,
}


def table_of(rows: list[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=list(NAMES), orient="row")


@given(logs, st.sampled_from(sorted(TWINS)))
@settings(max_examples=150, deadline=None)
def test_the_latest_row_stays_with_the_value_of_all(rows: list[Row], rule: Repeats) -> None:
    data = fr.interactions_from(table_of(rows))
    pairs: dict[tuple[int, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[3]):
        pairs.setdefault(row[:2], []).append(row)
    expected = sorted((*pair, TWINS[rule]([row[2] for row in of]), of[-1][3]) for pair, of in pairs.items())
    split, merged = distinct(data, rule)
    assert sorted(split.to_frame().rows()) == expected
    assert merged == len(rows) - len(pairs)
    if rule != "keep":
        cleaned, report = clean(data, repeats=rule)
        assert sorted(cleaned.to_frame().rows()) == expected
        assert report.left_out.height == merged
        left_out = report.left_out.select(pl.col(*NAMES).cast(pl.Float64)).rows()
        kept = [of[-1] for of in pairs.values()]
        assert sorted([*left_out, *kept]) == sorted(rows), "what is left out is as it was read"


def test_rows_are_counted_where_there_are_no_values_and_added_up_nowhere() -> None:
    bare = fr.interactions_from({"user": [1, 1, 1, 2], "item": ["x", "y", "x", "x"]})
    counted, report = clean(bare, repeats="count")
    assert counted.to_frame().rows() == [(1, "y", 1.0), (1, "x", 2.0), (2, "x", 1.0)]
    assert report.counts == {"repeated, counted with the latest": 1}
    assert clean(bare, repeats="count", rating_at_least=2)[0].to_frame().rows() == [(1, "x", 2.0)]
    for rule in ("sum", "max"):
        with pytest.raises(InputError, match=rf"repeats = {rule} needs ratings or weights.*repeats = count"):
            clean(bare, repeats=rule)


def test_missing_values_are_missing_still_and_sums_beyond_a_value_are_named() -> None:
    table = {"user": [1, 1, 2], "item": [1, 1, 1], "rating": [None, 2.0, 3.0]}
    data = table_with_report(table, keep_missing=True).interactions
    with pytest.raises(InputError, match="1 interactions have no rating or no time, the first of user 1 with item 1"):
        clean(data, repeats="sum")
    kept, _ = clean(data, repeats="sum", drop_missing=True)
    assert kept.to_frame()["rating"].to_list() == [2.0, 3.0]
    large = fr.interactions_from({"user": [1, 7, 7], "item": ["a", "b", "b"], "rating": [3e38, 3e38, 3e38]})
    with pytest.raises(InputError, match=r"user 7 with item 'b' add up to 6e\+38, which is too large"):
        clean(large, repeats="sum")
    assert clean(large, repeats="max")[0].to_frame()["rating"].max() == pytest.approx(3e38, rel=1e-6)


def test_what_came_back_is_left_out_by_a_threshold_on_the_sum() -> None:
    orders = {"user": [1, 1, 1, 2], "item": ["x", "y", "x", "x"], "quantity": [3, 1, -3, 2]}
    data = fr.interactions_from(orders, columns={"rating": "quantity"})
    kept, _ = clean(data, repeats="sum", rating_at_least=1)
    assert kept.to_frame().rows() == [(1, "y", 1.0), (2, "x", 2.0)]
    with pytest.raises(InputError, match=r"row 3: weight '-3' is negative.*--columns rating=….*repeats=sum"):
        fr.interactions_from(orders, columns={"weight": "quantity"})


def test_plans_without_the_new_key_are_the_bytes_they_were() -> None:
    """The digest is that of a version before `repeats`."""
    plan = Plan.make({"data": {"source": "x.csv"}, "model": {"name": "ease"}})
    text = plan.to_yaml()
    assert "    drop_missing: false\n    merge_repeats: true\n    rating_at_least: null\n" in text
    assert "repeats: latest" not in text
    old = Plan.make({"data": {"source": "x.csv", "cleaning": {"merge_repeats": False}}, "model": {"name": "ease"}})
    assert old.data.cleaning.repeats == "keep"
    assert "merge_repeats: false" in old.to_yaml()
    new = Plan.make({"data": {"source": "x.csv", "cleaning": {"repeats": "sum"}}, "model": {"name": "ease"}})
    assert "    drop_missing: false\n    repeats: sum\n    rating_at_least: null\n" in new.to_yaml()
    for one in (plan, old, new):
        assert Plan.make(one.model_dump(mode="json")) == one
    assert len({plan.digest, old.digest, new.digest}) == 3
    assert plan.data.model_dump(mode="json") == {
        "source": "x.csv", "table": None, "query": None, "format": None, "columns": None, "encoding": "utf-8",
        "on_error": "raise", "digest": None,
        "cleaning": {"drop_missing": False, "merge_repeats": True, "rating_at_least": None, "rating_at_most": None,
                     "min_user_interactions": None, "min_item_interactions": None, "k_core": None,
                     "shrink_catalog": True},
    }  # fmt: skip


def test_what_merge_repeats_meant_is_said_once_and_rightly() -> None:
    data = fr.interactions_from({"user": [1, 1], "item": [1, 1]})
    assert len(clean(data, merge_repeats=False)[0]) == 2
    for wrong, words in (
        ({"merge_repeats": False, "repeats": "sum"}, "remove merge_repeats"),
        ({"merge_repeats": 3}, "true or false"),
        ({"repeats": "total"}, "'latest', 'sum', 'count', 'max' or 'keep'"),
    ):
        with pytest.raises(InputError, match=words):
            clean(data, **wrong)
        with pytest.raises(PlanError, match=words):
            Plan.make({"data": {"source": "x", "cleaning": wrong}, "model": {"name": "ease"}})


def plays(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    rows = [(user, int(item), int(rng.integers(1, 9)), time) for user in range(80)
            for time, item in enumerate(rng.integers(0, 15, 14))]  # fmt: skip
    pl.DataFrame(rows, schema=["user_id", "item_id", "plays", "timestamp"], orient="row").write_csv(
        folder / "plays.csv"
    )
    return folder / "plays.csv"


def test_the_command_line_the_plan_and_the_library_merge_alike(tmp_path: Path, fedrec: Callable[..., Said]) -> None:
    path = plays(tmp_path)
    base = (
        "--data",
        path,
        "--split",
        "none",
        "--model",
        "popularity",
        "--weights",
        "value",
        "--set",
        "weights.most=1000",
    )
    assert fedrec("train", *base, "--clean", "repeats=sum", "--out", tmp_path / "run").code == 0
    table = pl.read_csv(path).group_by("item_id").agg(pl.col("plays").sum()).sort("item_id")
    shared = fr.load_model(tmp_path / "run").shared["counts"]
    assert shared.tolist() == table["plays"].to_list()
    own = fr.Popularity(weights={"form": "value", "most": 1000}).fit(fr.clean(fr.load_data(path), repeats="sum")[0])
    assert own.shared["counts"].tolist() == shared.tolist()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    rows = pl.read_csv(path).height
    assert report["data"]["left_out"] == {"repeated, added to the latest": rows - report["data"]["interactions"]}
    again = fedrec("train", *base, "--clean", "repeats=sum", "--out", tmp_path / "run", "--resume")
    assert again.code == 0, again.err
    other = fedrec("train", *base, "--clean", "repeats=count", "--out", tmp_path / "run", "--resume")
    assert (other.code, "--clean" in other.err) == (2, True)


def test_a_history_is_merged_as_the_trained_users_were(tmp_path: Path, fedrec: Callable[..., Said]) -> None:
    path = plays(tmp_path)
    history = pl.DataFrame(
        [("v", 3, 1, 1), ("v", 4, 2, 2), ("v", 3, 5, 3), ("v", 4, 9, 4)],
        schema=["user_id", "item_id", "plays", "timestamp"], orient="row",
    )  # fmt: skip
    history.write_csv(tmp_path / "often.csv")
    for rule, merged in (("sum", [6, 11]), ("count", [2, 2]), ("max", [5, 9]), ("latest", [5, 9])):
        train = ("train", "--data", path, "--split", "none", "--model", "ials", "--weights", "linear", "--clean",
                 f"repeats={rule}", "--set", "rounds=2", "--out", tmp_path / rule)  # fmt: skip
        assert fedrec(*train).code == 0
        once = pl.DataFrame({"user_id": "v", "item_id": [3, 4], "timestamp": [3, 4]})
        if rule == "count":  # rows of one pair cannot be counted twice: repeat it as often
            once = pl.concat([once, once])
        once.with_columns(plays=pl.Series(merged * (once.height // 2))).write_csv(tmp_path / "once.csv")
        often, once = (
            json.loads(fedrec("recommend", tmp_path / rule, "--history", tmp_path / f"{name}.csv", "--json").out)
            for name in ("often", "once")
        )
        assert often["recommendations"] == once["recommendations"] != []


def test_a_federation_merges_as_one_process_does_and_only_once(tmp_path: Path) -> None:
    source = plays(tmp_path)
    data: dict[str, Any] = {"source": str(source), "cleaning": {"repeats": "sum", "shrink_catalog": False}}
    plan = small_plan(
        {"name": "popularity"}, data=data, weights={"form": "value", "most": 1000}, cohort=1.0, min_clients=2
    )
    report = train_run(plan, tmp_path / "alone")
    federation = Federation(tmp_path / "apart", plan, 3, policy={"secure": False, "min_clients": 2})
    outcome = federation.train(LocalPost(federation.hosts()))
    assert outcome.error is None
    assert outcome.trained is not None
    alone = fr.load_model(tmp_path / "alone").shared["counts"]
    assert np.array_equal(outcome.trained.state.shared["counts"], alone)
    assert outcome.metric == pytest.approx(report["metrics"]["test"]["ndcg@10"], abs=1e-5)


def test_an_owner_and_a_plan_that_merge_by_unlike_rules_do_not_go_together() -> None:
    def heads(own: str, asked: str) -> list[str]:
        plan = planned(data={"source": "x", "cleaning": {"repeats": asked}})
        config = owned(data={"source": "x.csv", "cleaning": {"repeats": own}})
        found = refusals(config, plan, coordinator=KEYS["coordinator"], secure=False, budget=None)
        return [text.partition(":")[0] for text in found if "merged only once" in text]

    assert heads("sum", "count") == ["data.cleaning"]
    assert heads("sum", "sum") == heads("latest", "sum") == heads("sum", "latest") == heads("keep", "max") == []


def test_what_looks_at_one_user_alone_is_allowed_under_privacy() -> None:
    assert Cleaning(repeats="sum").across_users == ()
