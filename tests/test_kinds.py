"""Kinds of events weigh: view, cart and purchase as values of rows, from every source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from fedrec.data.reading.readers import read_with_report
from fedrec.errors import InputError, NothingLeftError, PlanError
from fedrec.federation.plan import Plan
from fedrec.owner.config import NodeConfig

ROWS = [(1, "a", "view", 1), (1, "a", "cart", 2), (1, "b", "view", 3), (2, "a", "purchase", 4), (2, "b", "ping", 5)]
TABLE = pl.DataFrame(ROWS, schema=["user", "item", "event", "time"], orient="row")
KINDS: dict[str, Any] = {"column": "event", "weights": {"view": 1, "cart": 3, "purchase": 10, "ping": 0}}
VALUES = [(1, "a", 1.0), (1, "a", 3.0), (1, "b", 1.0), (2, "a", 10.0)]
NOTE = "rows are weighed by event: 2 view × 1, 1 cart × 3, 1 purchase × 10, 1 ping left out"
OPTION = "event: view=1, cart=3, purchase=10, ping=0"


def values_of(data: fr.Interactions) -> list[tuple[Any, ...]]:
    return data.to_frame().select("user_id", "item_id", "rating").rows()


def test_every_source_weighs_alike(tmp_path: Path, fedrec: Callable[..., Said]) -> None:
    TABLE.write_csv(tmp_path / "log.csv")
    TABLE.write_csv(tmp_path / "log.tsv", separator="\t")
    TABLE.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "folder").mkdir()
    for number in (0, 1):
        TABLE[number * 3 : number * 3 + 3].write_parquet(tmp_path / "folder" / f"{number}.parquet")
    TABLE.write_ndjson(tmp_path / "log.jsonl")
    for name in ("log.csv", "log.tsv", "log.parquet", "log.jsonl", "folder"):
        loaded = read_with_report(tmp_path / name, kinds=KINDS)
        assert values_of(loaded.interactions) == VALUES, name
        assert NOTE in loaded.report.notes
        assert loaded.report.unread == ()
        said = fedrec("data", "describe", tmp_path / name, "--kinds", OPTION, "--clean", "repeats=sum", "--json")
        facts = json.loads(said.out)
        assert (facts["interactions"], facts["ratings"]["max"], NOTE in facts["notes"]) == (3, 10.0, True)
    assert values_of(fr.interactions_from(TABLE, kinds=KINDS)) == VALUES
    assert values_of(fr.interactions_from(TABLE.to_pandas(), kinds=KINDS)) == VALUES


def test_kinds_within_fields_and_numbers_and_truth_values_are_kinds(tmp_path: Path) -> None:
    lines = [
        {"user": {"id": user}, "item": item, "event": {"type": kind}, "time": time} for user, item, kind, time in ROWS
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    kinds = {**KINDS, "column": "event.type"}
    assert values_of(fr.read_interactions(path, columns={"user_id": "user.id"}, kinds=kinds)) == VALUES
    coded = TABLE.with_columns(bought=pl.col("event") == "purchase", code=pl.col("event").str.len_chars())
    by_truth = fr.interactions_from(coded, kinds={"column": "bought", "weights": {True: 5, False: 1}})
    assert values_of(by_truth) == [(1, "a", 1), (1, "a", 1), (1, "b", 1), (2, "a", 5), (2, "b", 1)]
    by_number = fr.interactions_from(coded, kinds={"column": "code", "weights": {4: 1, 8: 7}}, on_error="raise")
    assert values_of(by_number)[3] == (2, "a", 7.0)


def test_the_weight_of_a_kind_is_times_the_value_of_the_row() -> None:
    table = TABLE.with_columns(quantity=pl.Series([1, 1, 1, 4, 1]))
    data = fr.interactions_from(table, columns={"weight": "quantity"}, kinds=KINDS)
    assert values_of(data) == [*VALUES[:3], (2, "a", 40.0)]
    with pytest.raises(InputError, match="row 4: weight is missing"):
        fr.interactions_from(table.with_columns(weight=pl.Series([1, 1, 1, None, 1])), kinds=KINDS)


def test_words_in_the_place_of_ratings_are_kinds_too() -> None:
    thumbs = {"user": [1, 1, 2], "item": ["a", "b", "a"], "rating": ["up", "down", "up"]}
    with pytest.raises(InputError, match="rating 'up' is not a number"):
        fr.interactions_from(thumbs)
    data = fr.interactions_from(thumbs, kinds={"column": "rating", "weights": {"up": 1, "down": 0}})
    assert values_of(data) == [(1, "a", 1.0), (2, "a", 1.0)]


def test_a_kind_without_a_weight_is_named_with_its_line_and_what_to_add(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,event\n1,a,view\n1,b,refund\n2,a,\n2,b,View\n")
    kinds = {"column": "event", "weights": {"view": 1}}
    with pytest.raises(InputError, match=r"line 3: event 'refund' has no weight. Add its weight to kinds.*"
                                         r"'refund': ….*--kinds 'event: …, refund=…'.*on_error='skip'"):  # fmt: skip
        fr.read_interactions(path, kinds=kinds)
    loaded = read_with_report(path, kinds=kinds, on_error="skip")
    assert values_of(loaded.interactions) == [(1, "a", 1.0)]
    assert loaded.report.counts == {"event has no weight": 2, "event is missing": 1}
    assert loaded.report.left_out.select("line", "field", "value", "user_id").rows() == [
        (3, "event", "refund", "1"), (4, "event", "", "2"), (5, "event", "View", "2"),
    ]  # fmt: skip


def test_kinds_that_cannot_be_are_refused_with_what_to_do(tmp_path: Path, fedrec: Callable[..., Said]) -> None:
    path = tmp_path / "log.csv"
    TABLE.write_csv(path)
    for kinds, words in (
        ({"column": "evnt", "weights": {"view": 1}}, "no column 'evnt' for kinds. Did you mean 'event'"),
        ({"column": "event", "weights": {"view": -1}}, "must not be negative"),
        ({"column": "event", "weights": {"view": float("inf")}}, "finite"),
        ({"column": "event", "weights": {"view": 1e39}}, "too large"),
        ({"column": "event", "weights": {"view": 1e-60}}, "too small"),
        ({"column": "event", "weights": {"view": 0}}, "no kind has a weight above 0"),
        ({"column": "event", "weights": {}}, "no kind has a weight above 0"),
        ({"event": {"view": 1}}, "kinds"),
        ("event", "kinds"),
    ):
        with pytest.raises(InputError, match=words):
            fr.read_interactions(path, kinds=kinds)  # type: ignore[arg-type]
        if isinstance(kinds, dict):
            settings = {"data": {"source": str(path), "kinds": kinds}, "model": {"name": "ease"}}
            if "evnt" not in words:
                with pytest.raises(PlanError):
                    Plan.make(settings)
    with pytest.raises(InputError, match="named in columns and in kinds"):
        fr.read_interactions(path, kinds=KINDS, columns={"rating": "event"})
    with pytest.raises(NothingLeftError, match="every row is of a kind with weight 0: 2 view left out"):
        fr.read_interactions(path, kinds={"column": "event", "weights": {"view": 0, "cart": 0, "purchase": 0, "ping": 0,
                                                                         "other": 1}})  # fmt: skip
    (tmp_path / "lists.txt").write_text("1 2 3\n2 3\n")
    with pytest.raises(InputError, match="kinds do not apply to lists"):
        fr.read_interactions(tmp_path / "lists.txt", kinds=KINDS)
    with pytest.raises(InputError, match=r"kinds does not apply to a database.*CASE kind WHEN"):
        fr.load_data(f"sqlite:///{tmp_path}/x.db?table=t", kinds=KINDS)
    for option, words in (
        ("view=1", "COLUMN: KIND=WEIGHT"), ("event", "COLUMN: KIND=WEIGHT"), ("event: view", "COLUMN: KIND=WEIGHT"),
        ("event: view=1, cart", "key=value"), ("event: view=1, view=2", "given twice"), ("event: view=x", "number"),
    ):  # fmt: skip
        said = fedrec("data", "describe", path, "--kinds", option)
        assert (said.code, words in said.err) == (2, True), (option, said.err)


def test_a_run_and_a_node_remember_what_kinds_weigh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: Callable[..., Said]
) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.chdir(tmp_path)
    steps = ((0, "view"), (1, "view"), (1, "cart"), (1, "buy"), (2, "cart"), (3, "view"), (5, "buy"))
    rows = [(user, (user + step) % 9, kind, step) for user in range(40) for step, kind in steps]
    pl.DataFrame(rows, schema=["user", "item", "event:token", "time"], orient="row").write_csv("log.csv")
    option = "event:token: view=1, cart=3, buy=10"
    train = ("train", "--data", "log.csv", "--kinds", option, "--clean", "repeats=sum", "--weights", "value",
             "--model", "popularity", "--split", "none", "--out", "run", "--json")  # fmt: skip
    said = fedrec(*train)
    assert said.code == 0, said.err
    assert "told apart" not in said.err
    plan = Plan.read(tmp_path / "run" / "plan.yaml")
    assert plan.data.kinds is not None
    assert plan.data.kinds.model_dump() == {"column": "event:token", "weights": {"view": 1, "cart": 3, "buy": 10}}
    assert fr.load_model("run").shared["counts"].sum() == 40 * (3 * 1 + 2 * 3 + 2 * 10)
    assert fedrec(*train, "--resume").code == 0
    other = fedrec(*train, "--resume", "--kinds", "event:token: view=1, cart=3, buy=11")
    assert (other.code, "--kinds" in other.err) == (2, True)
    assert fedrec("recommend", "run", "--history", "log.csv", "--kinds", option, "--user", "3", "--json").code == 0
    assert fedrec("node", "init", "a", "--data", "log.csv", "--kinds", option).code == 0
    assert NodeConfig.read(Path("node.toml")).data.kinds == plan.data.kinds


def test_plans_without_kinds_are_the_bytes_they_were() -> None:
    plan = Plan.make({"data": {"source": "x.csv"}, "model": {"name": "ease"}})
    assert "kinds" not in plan.to_yaml()
    assert "kinds" not in plan.model_dump(mode="json")["data"]
    wheres = Plan.make({"data": {"source": "x", "where": {"clicked": True, "n": 3}}, "model": {"name": "ease"}})
    assert wheres.data.where == {"clicked": ("true",), "n": ("3",)}


# Odd values


def test_words_numbers_and_lists_that_are_no_ratings_are_faults_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    for value, words in (
        ("5 stars", r"--kinds 'COLUMN: 5 stars=…"),
        ("true", r"--kinds 'COLUMN: true=…"),
        ("★★★", "Correct the row"),
        ("80%", "Correct the row"),
        ("4/5", "Correct the row"),
        ("(12.50)", "Correct the row"),
        ("inf", "is not finite. Correct the row"),
        ('"1,234"', "decimal="),
    ):
        path.write_text(f"user,item,rating\n1,a,{value}\n")
        with pytest.raises(InputError, match=f"line 2: rating .*{words}"):
            fr.read_interactions(path)
    path.write_text('user,item,rating\n1,a,+1\n1,b,-1\n1,c,"1,234"\n')
    assert [row[2] for row in values_of(fr.read_interactions(path, decimal="."))] == [1.0, -1.0, 1234.0]
    coded = {"user": [1], "item": [1], "rating": pl.Series(["4"], dtype=pl.Categorical)}
    assert values_of(fr.interactions_from(coded)) == [(1, 1, 4.0)]


def test_a_field_of_unlike_types_is_read_as_text_and_only_matters_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    lines = [
        {"user": 1, "item": "a", "event": "view", "note": 3.5},
        {"user": 2, "item": 7, "event": True, "note": True},
        {"user": 2, "item": "b", "event": 4, "note": {"deep": ["x"]}},
        {"user": 3, "item": "b", "event": None, "note": None},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert fr.read_interactions(path).to_frame().rows() == [(1, "a"), (2, "7"), (2, "b"), (3, "b")]
    kinds = {"column": "event", "weights": {"view": 1, "true": 2, 4: 3}}
    loaded = read_with_report(path, kinds=kinds, on_error="skip")
    assert values_of(loaded.interactions) == [(1, "a", 1.0), (2, "7", 2.0), (2, "b", 3.0)]
    assert loaded.report.counts == {"event is missing": 1}
    with pytest.raises(InputError, match="line 2: rating 'true' is not a number"):
        fr.read_interactions(path, columns={"rating": "note"})


def test_lists_are_no_kinds_and_choose_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": 1, "item": 2, "event": ["view"]}\n')
    with pytest.raises(InputError, match="column 'event' is of type List"):
        fr.read_interactions(path, kinds=KINDS)
    with pytest.raises(InputError, match="event is of type List"):
        fr.read_interactions(path, where={"event": "view"})


def test_columns_by_place_are_told_without_that_of_kinds(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("1,a,view,1000000000\n2,b,cart,1000000001\n")
    loaded = read_with_report(path, kinds={"column": "3", "weights": {"view": 1, "cart": 2}})
    assert loaded.interactions.to_frame().rows() == [(1, "a", 1.0, 1e9), (2, "b", 2.0, 1e9 + 1)]
    assert loaded.report.notes[0] == "no header: columns 1, 2, 4 were read as user_id, item_id, timestamp"


def test_whole_numbers_that_became_fractions_are_the_kinds_they_were() -> None:
    codes = pl.Series([1.0, None, 2.5])
    table = {"user": [1, 1, 1], "item": [1, 2, 3], "code": codes}
    with pytest.raises(InputError, match="row 2: code is missing"):
        fr.interactions_from(table, kinds={"column": "code", "weights": {1: 4, 2.5: 6}})
    table["code"] = codes.fill_null(1.0)
    data = fr.interactions_from(table, kinds={"column": "code", "weights": {1: 4, 2.5: 6}})
    assert values_of(data) == [(1, 1, 4.0), (1, 2, 4.0), (1, 3, 6.0)]
