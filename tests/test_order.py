"""Order that nobody gave is asked for: splits by time or order refuse rows that may stand anyhow."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest
import torch
import yaml
from torch import Tensor, nn

import fedrec as fr
from conftest import Said
from federation_in_test import DATA, Federation
from fedrec.data.digests import digest_of
from fedrec.data.keys import KeyedSource
from fedrec.data.splits import SplitMethod
from fedrec.deploy.demo import owners_table
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.models.networks.batch import Batch
from fedrec.models.networks.neumf import NeuMF
from fedrec.models.networks.two_tower import TwoTower
from fedrec.models.outline import read_in_order
from fedrec.models.traits import Traits
from fedrec.network.post import LocalPost

ROWS = [(user, item) for user in range(40) for item in range(user % 5, user % 5 + 6)]
BARE = pl.DataFrame(ROWS, schema=["user_id", "item_id"], orient="row")
TIMED = BARE.with_columns(pl.int_range(pl.len()).alias("when") + 1_600_000_000, pl.lit("x").alias("mood"))


class Shares(nn.Module):
    """Scores are shares of one softmax, whatever the history."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(n_items))

    def scores(self, batch: Batch) -> Tensor:
        return torch.log_softmax(self.logits, 0).expand(len(batch), -1)

    def loss(self, batch: Batch) -> Tensor:
        return -(self.scores(batch) * batch.has).sum(1)


class Windowed(fr.Network):
    """A module that says nothing of the order of its window."""

    name: ClassVar[str] = "windowed"

    def module(self, n_items: int) -> nn.Module:
        return Shares(n_items)


class Alike(Windowed):
    """A module that says that it takes all interactions alike."""

    name: ClassVar[str] = "alike"
    traits: ClassVar[Traits] = Traits(bits="node", iterative=True)


def source(folder: Path, kind: str, table: pl.DataFrame) -> Path:
    path = folder / f"log.{kind}"
    if kind == "csv":
        table.write_csv(path)
    elif kind == "tsv":
        table.write_csv(path, separator="\t")
    elif kind == "jsonl":
        table.write_ndjson(path)
    elif kind == "parquet":
        table.write_parquet(path)
    elif kind == "folder":
        path.mkdir()
        table.write_parquet(path / "a.parquet")
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "folder"])
def test_leave_last_out_of_rows_without_times_is_refused_and_names_columns_that_were_not_read(
    tmp_path: Path, kind: str
) -> None:
    data = fr.load_data(source(tmp_path, kind, TIMED))
    with pytest.raises(PlanError, match=r"not read: 'when', 'mood'. 'when' looks like times.*--columns timestamp=when"):
        fr.leave_last_out(data)
    with pytest.raises(PlanError, match=r"needs timestamps.*'when' looks like times"):
        fr.temporal(data)
    assert fr.leave_last_out(data, by_rows=True).counts() == {"train": 160, "valid": 40, "test": 40, "history": 0}
    named = fr.read_interactions(tmp_path / f"log.{kind}", columns={"timestamp": "when"})
    assert fr.leave_last_out(named).counts()["test"] == 40


@pytest.mark.parametrize("form", ["polars", "pandas", "arrow", "mapping"])
def test_tables_are_asked_too(form: str) -> None:
    tables = {"polars": TIMED, "pandas": TIMED.to_pandas(), "arrow": TIMED.to_arrow(), "mapping": TIMED.to_dict()}
    data = fr.interactions_from(tables[form])
    with pytest.raises(PlanError, match="'when' looks like times"):
        fr.leave_last_out(data)
    with pytest.raises(PlanError, match="name it: columns="):
        fr.leave_last_out(fr.interactions_from(BARE))
    with pytest.raises(PlanError, match="'when' looks like times"):
        fr.leave_last_out(data.take_users([0, 1]))  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="leave-last-out"):
        fr.EASE(plan={"split": "leave-last-out"}).fit(TIMED)


def test_columns_that_look_like_times_are_told_by_name_or_content(tmp_path: Path) -> None:
    table = BARE.with_columns(
        pl.lit("2024-05-01 12:30").alias("a"), pl.lit("31/12/2024").alias("b"), pl.lit(1_700_000_000_000).alias("c"),
        pl.lit(7).alias("bought_on"), pl.lit(7).alias("d"), pl.lit("word").alias("e"),
    )  # fmt: skip
    for kind in ("csv", "parquet"):
        data = fr.read_interactions(source(tmp_path, kind, table))
        assert data.order.like_times == ("a", "b", "c", "bought_on")
        assert data.order.unread == ("a", "b", "c", "bought_on", "d", "e")
    path = tmp_path / "u.data"
    path.write_text("196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    bare = fr.read_interactions(path, columns={"user_id": "1", "item_id": "2"})
    with pytest.raises(PlanError, match=r"not read: '3', '4'. '4' looks like times"):
        fr.leave_last_out(bare)


def test_sequences_and_synthetic_data_are_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 5 6 7\n2 5 6\n")
    assert fr.leave_last_out(fr.read_interactions(tmp_path / "a.txt")).test.to_frame()["item_id"].to_list() == [7, 6]
    data = fr.synthetic(users=40, items=60, interactions_per_user=9)
    assert fr.leave_last_out(data).counts()["test"] == 40
    assert fr.leave_last_out(data.without_times()).counts()["test"] == 40


def test_splits_that_need_no_order_take_rows_as_they_are() -> None:
    data = fr.interactions_from(BARE)
    for split in (fr.ratio(data), fr.new_users(data)):
        assert split.counts()["test"] > 0
    marked = fr.interactions_from(BARE.with_columns(pl.Series("part", ["train", "test"] * (BARE.height // 2))))
    assert fr.given(marked).counts()["test"] == BARE.height // 2


def test_rows_of_a_database_without_times_have_no_order(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as shop:
        shop.execute("CREATE TABLE clicks (user_id INTEGER, item_id INTEGER)")
        shop.executemany("INSERT INTO clicks VALUES (?, ?)", ROWS)
        shop.commit()
    data = fr.load_data(f"sqlite:///{tmp_path}/shop.db?table=clicks")
    for by_rows in (False, True):
        with pytest.raises(PlanError, match="rows of a database have no order unless they have times"):
            fr.leave_last_out(data, by_rows=by_rows)


def test_the_split_by_rows_is_written_as_it_is_read() -> None:
    method = SplitMethod.parse("leave-last-out@rows")
    assert (str(method), method.by_rows, method.name) == ("leave-last-out@rows", True, "leave-last-out")
    assert not SplitMethod.parse("leave-last-out").by_rows
    for wrong in ("leave-last-out@row", "leave-last-out@1,2", "ratio:0.8@rows", "temporal@rows"):
        with pytest.raises(fr.InputError):
            SplitMethod.parse(wrong)
    data = fr.synthetic(users=40, items=60, interactions_per_user=9)
    same = [SplitMethod.parse(text).apply(data, KeyedSource.from_seed(0)) for text in (str(method), "leave-last-out")]
    assert same[0].part.tolist() == same[1].part.tolist()


def test_training_refuses_and_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: object) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path, "csv", TIMED)

    def said(*words: str) -> Said:
        return fedrec(*words)  # type: ignore[operator, no-any-return]

    for command in (
        "train --data log.csv --model popularity --out run",
        "compare --data log.csv --models popularity",
        "data describe log.csv --split leave-last-out",
        "data describe log.csv --split temporal:0.8",
    ):
        refused = said(*command.split())
        assert refused.code == 2
        assert "'when' looks like times" in refused.err
        assert not Path("run").exists()
    train = ("train", "--data", "log.csv", "--model", "popularity", "--json", "--out")
    assert said(*train, "timed", "--columns", "timestamp=when").code == 0
    rows = json.loads(said(*train, "rows", "--split", "leave-last-out@rows").out)
    assert rows["split"]["method"] == "leave-last-out@rows"
    assert rows["data"]["columns"] == {"user_id": "user_id", "item_id": "item_id"}
    assert rows["data"]["not_read"] == ["when", "mood"]
    assert yaml.safe_load(Path("rows/plan.yaml").read_text())["split"] == "leave-last-out@rows"
    assert said("evaluate", "rows", "--json").code == 0
    model = fr.EASE().fit(BARE)
    model.save("saved")
    assert said("recommend", "saved", "--user", "3").code == 0


def test_an_owner_hears_beforehand_and_no_error_of_agreed_data_names_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fedrec: object
) -> None:
    monkeypatch.chdir(tmp_path)
    source(tmp_path, "csv", TIMED)
    catalog = fr.interactions_from(BARE).catalog
    data = fr.read_interactions("log.csv", catalog=catalog)
    with pytest.raises(PlanError) as told:
        fr.leave_last_out(data)
    assert "mood" not in str(told.value)
    assert fedrec("node", "init", "a", "--data", "log.csv").code == 0  # type: ignore[operator]
    Path("plan.yaml").write_text("data: {source: x.csv}\nmodel: {name: ease}\n")
    checked = fedrec("node", "check", "--plan", "plan.yaml", "--plain", "--json")  # type: ignore[operator]
    refusals = json.loads(checked.out)["plan"]["refusals"]
    assert any("leave-last-out needs the time of each interaction" in reason for reason in refusals)
    Path("plan.yaml").write_text("data: {source: x.csv}\nsplit: ratio:0.8\nmodel: {name: ease, decay: 0.8}\n")
    checked = fedrec("node", "check", "--plan", "plan.yaml", "--plain", "--json")  # type: ignore[operator]
    refusals = json.loads(checked.out)["plan"]["refusals"]
    assert any("decay=0.8 needs the time of each interaction" in reason for reason in refusals)
    assert any("agree on decay: 1" in reason for reason in refusals)
    assert not any(reason.startswith("split") for reason in refusals)
    Path("plan.yaml").write_text("data: {source: x.csv}\nsplit: ratio:0.8\nmodel: {name: slit}\n")
    checked = fedrec("node", "check", "--plan", "plan.yaml", "--plain", "--json")  # type: ignore[operator]
    refusals = json.loads(checked.out)["plan"]["refusals"]
    assert any("'slit' needs the time of each interaction" in reason for reason in refusals)
    assert any(reason.endswith("agree on another model, such as ease") for reason in refusals)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        ("slit", {}, "model 'slit' needs the order .* use another model, such as ease, which needs no order$"),
        ("sasrec", {"rounds": 6}, "model 'sasrec' needs the order .* use another model, such as ease"),
        ("itemknn", {"decay": 0.8}, "model 'itemknn' with decay=0.8 needs the order .* use decay: 1, which needs"),
        ("blend", {"models": ["popularity", "slit"]}, "model 'slit' needs the order .* use another model, such as"),
        ("blend", {"models": ["popularity", {"name": "ease", "decay": 0.8}]}, "'ease' with decay=0.8 .* use decay: 1,"),
        ("windowed", {}, "'windowed' needs the order .* If windowed takes all interactions alike, leave 'order' out"),
    ],
)
def test_models_that_read_the_order_refuse_data_without_one(model: str, settings: dict[str, Any], words: str) -> None:
    kind = fr.estimator(Windowed) if model == "windowed" else fr.estimator(model)
    with pytest.raises(PlanError, match=words):
        kind(**settings).fit(BARE)


def test_models_that_take_all_interactions_alike_take_data_without_order() -> None:
    blend = {"models": ["popularity", "ease"], "shares": [1, 1]}
    fitted = [fr.Blend(**blend).fit(BARE), fr.ItemKNN().fit(BARE), fr.estimator(Alike)(rounds=1).fit(BARE)]
    assert [model.recommend([3], n=3).height for model in fitted] == [3, 3, 3]
    for kind in (NeuMF, TwoTower):
        assert read_in_order(kind()) is None


def test_rows_that_are_declared_in_order_train_a_model_that_reads_the_order() -> None:
    timed = fr.interactions_from(TIMED, columns={"timestamp": "when"})
    declared = fr.SLIT(plan={"split": "none@rows"}).fit(BARE)
    assert declared.recommend([3]).equals(fr.SLIT().fit(timed).recommend([3]))


def test_a_node_whose_data_has_no_order_refuses_a_model_that_reads_it(tmp_path: Path) -> None:
    plan = Plan.make({"data": {"source": DATA}, "model": {"name": "slit"}, "split": "ratio:0.8"})
    federation = Federation(tmp_path, plan, nodes=2)
    federation.data["node-1"].to_frame().drop("timestamp").write_parquet(tmp_path / "node-1.parquet")
    with pytest.raises(PlanError, match=r"node-1: .*model 'slit' needs the order of each user's interactions"):
        raise federation.train(LocalPost(federation.hosts())).error or AssertionError("no node refused")


def test_plans_that_say_nothing_new_keep_their_digest_and_text() -> None:
    plan = Plan.make({"data": {"source": "a.csv"}, "model": {"name": "ease"}})
    assert plan.digest == "e52c27ad5299d607f6546dee0e855cdb349769174bd1f80edd0137ea4e3baca6"
    assert set(yaml.safe_load(plan.to_yaml())["data"]) == {
        "source", "table", "query", "format", "columns", "encoding", "on_error", "cleaning", "digest",
    }  # fmt: skip
    where = Plan.make(
        {"data": {"source": "a.csv", "where": {"kind": "click"}, "header": False}, "model": {"name": "ease"}}
    )
    assert where.digest != plan.digest
    assert Plan.make(yaml.safe_load(where.to_yaml())) == where
    assert where.data.reading() == {"where": {"kind": ["click"]}, "header": False}
    data = fr.synthetic(users=40, items=60, interactions_per_user=9)
    assert plan.resolve(data, digest_of(data)).split == "leave-last-out"


def test_lists_that_are_handed_to_owners_as_tables_keep_their_order(tmp_path: Path) -> None:
    (tmp_path / "lists.txt").write_text("1 5 3 9\n2 4 8\n3 7 5 2 6\n")
    lists = fr.load_data(tmp_path / "lists.txt", format="lists")
    table = fr.interactions_from(owners_table(lists))
    for split in (fr.leave_last_out(lists), fr.leave_last_out(table)):
        held_out = split.test.to_frame()
        assert dict(held_out.select("user_id", "item_id").iter_rows()) == {1: 9, 2: 8, 3: 6}
