"""Figures of groups of users: those of the users alone, over any nodes, and never of too few."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import fedrec as fr
from federation_in_test import Federation
from fedrec.cli.main import app
from fedrec.engines.local import LocalEngine
from fedrec.engines.secure import SecureEngine
from fedrec.errors import InputError, PlanError
from fedrec.evaluation.groups import Groups, merges_of
from fedrec.federation.agreed import check_call
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import EvaluationCall
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.grouping import grouping_column
from fedrec.federation.measuring import Measured
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.network.post import LocalPost
from fedrec.node.founding import found_node
from fedrec.node.node import Floors
from fedrec.runs.reports import measured_parts
from fedrec.runs.training import train_here

DATA = "synthetic:users=240,items=60,interactions_per_user=12,seed=3"
METRICS = ("ndcg@10", "hr@5", "coverage@10")
HALVES = Groups("interactions", ("0-7", "8-"))


def plan_of(**changes: Any) -> Plan:
    settings = {"data": {"source": DATA}, "model": {"name": "popularity"}, "evaluation": {"metrics": METRICS}}
    return Plan.make(settings | {"min_clients": 20} | changes)


def measured(
    plan: Plan, groups: Groups, nodes: int = 1, kind: type[LocalEngine] = LocalEngine, who: np.ndarray | None = None
) -> Measured:
    """What a trained model is worth to everybody, or to the users at `who`, by group."""
    data = fr.load_data(plan.data.source)
    resolved = plan.resolve(data, "0" * 64)
    engine = kind.build(data, resolved, nodes)
    coordinator, trained = train_here(engine, data, Run(resolved, None))
    if who is not None:
        engine = LocalEngine.build(data.take_users(who), resolved)
        coordinator = Coordinator(coordinator.agreement, engine, Run(resolved, None), True)
    return coordinator.measure(trained.state, trained.round, "test", resolved.evaluation.metrics, "full", groups)


def of_group(groups: Groups, plan: Plan, place: int) -> np.ndarray:
    """Positions of the users of a group."""
    data = fr.load_data(plan.data.source)
    split = Agreement.of(plan.resolve(data, "0" * 64), data.catalog).divided(data)
    return np.flatnonzero(groups.places(grouping_column(data, groups.column, split.history("test"))) == place)


@given(st.lists(st.integers(0, 60), min_size=2, max_size=9), st.integers(1, 40))
def test_after_merging_no_group_is_of_few_users_but_nobody_is_lost(users: list[int], least: int) -> None:
    merged = merges_of(users, least)
    left = [0 if place in merged else size for place, size in enumerate(users[:-1])]
    others = users[-1] + sum(users[place] for place in merged)
    assert sum(left) + others == sum(users)
    assert all(size == 0 or size >= least for size in left)
    assert others == 0 or others >= least or not any(left)
    assert not merged or min(users[place] for place in merged) < least or users[-1] < least


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        ({}, HALVES),
        ({}, Groups("region", ("north", "coast"))),
        ({"split": "last:2"}, HALVES),
    ],
    ids=["interactions", "region", "positions"],
)
def test_figures_of_a_group_are_those_of_its_users_alone(changes: dict[str, Any], groups: Groups) -> None:
    plan = plan_of(**changes)
    found = measured(plan, groups)
    assert list(found.groups) == [name for name in groups.named if name in found.groups]
    assert sum(group["hr@5"].users for group in found.groups.values()) == found.everyone["hr@5"].users
    for place, name in enumerate(groups.named[: len(found.groups)]):
        alone = measured(plan, groups, who=of_group(groups, plan, place)).everyone
        assert found.groups[name] == {metric: alone[metric] for metric in found.groups[name]}
        assert "coverage@10" not in found.groups[name]


def test_squared_errors_of_groups_are_those_of_everybody() -> None:
    data = fr.load_data(DATA)
    split = fr.leave_last_out(replace(data, values=(data.items % 5 + 1).astype(np.float32)))
    model = fr.BiasedMF(rounds=2, embedding_size=2, lowest=1, highest=5).fit(split.train)
    table = fr.evaluate(model, split, by="interactions", groups=HALVES.labels).filter(pl.col("metric") == "rmse")
    everyone, *groups = zip(table["users"], table["value"], strict=True)
    assert table["group"].to_list() == ["everyone", *HALVES.labels]
    assert sum(users for users, _ in groups) == everyone[0]
    assert sum(users * value**2 for users, value in groups) == pytest.approx(everyone[0] * everyone[1] ** 2, rel=1e-6)


def test_groups_change_no_figure_of_everybody_and_nodes_change_none_of_groups() -> None:
    plan = plan_of()
    found = measured(plan, HALVES)
    assert found.merged == ()
    data = fr.load_data(DATA)
    split = fr.leave_last_out(data)
    table = fr.evaluate(fr.Popularity().fit(split.train), split, METRICS)
    assert table["value"].to_list() == [summary.value for summary in found.everyone.values()]
    assert found == measured(plan, HALVES, 7) == measured(plan, HALVES, 3, SecureEngine)


def test_a_group_with_too_few_users_is_among_the_others_and_hides_behind_another() -> None:
    four = Groups("interactions", ("0-4", "5-6", "7-9", "10-"))
    found = measured(plan_of(min_clients=36), four)
    assert {name: group["hr@5"].users for name, group in measured(plan_of(), four).groups.items()} == {
        "0-4": 77, "5-6": 37, "7-9": 35, "10-": 91,
    }  # fmt: skip
    assert found.merged == ("5-6", "7-9")
    assert {name: group["hr@5"].users for name, group in found.groups.items()} == {"0-4": 77, "10-": 91, "others": 72}


@pytest.mark.parametrize("masked", [False, True])
def test_a_node_lets_no_sum_of_a_small_group_out_masked_or_not(masked: bool) -> None:
    data = fr.load_data(DATA)
    plan = plan_of().resolve(data, "0" * 64)
    agreement = Agreement.of(plan, data.catalog)
    alone = Groups("interactions", tuple(str(number) for number in range(30)))
    shared = {"counts": np.arange(len(data.catalog), dtype=np.float32)}
    call = EvaluationCall(-1, shared, "test", agreement.protocol, agreement.metrics, agreement.n_max, groups=alone)
    node = found_node("shop", [agreement.divided(data)], agreement, None, Floors(25, masked=masked))
    found = Measured.of(agreement.metrics, node.evaluate(call), groups=alone)
    sizes = [group["hr@5"].users for group in found.groups.values()]
    assert sizes == [77, 163]
    assert found.everyone["hr@5"].users == data.n_users


@pytest.mark.parametrize("secure", [False, True])
def test_a_federation_measures_groups_as_one_process_does(tmp_path: Path, secure: bool) -> None:
    evaluation = {"metrics": ("ndcg@10",), "by": "interactions", "groups": HALVES.labels}
    federation = Federation(tmp_path, plan_of(evaluation=evaluation, seed=5), 3, secure)
    run = Run(federation.plan, None)
    engine = federation.engine(LocalPost(federation.hosts()), run)
    engine.open()
    coordinator = Coordinator(federation.agreement, engine, run, engine.has_valid)
    found = measured_parts(coordinator, coordinator.train(), ["test"])["test"]
    assert found == measured(plan_of(evaluation=evaluation, seed=5), HALVES, 3)
    assert list(found.groups) == list(HALVES.labels)


def test_a_node_is_asked_for_the_groups_of_the_plan_and_no_others() -> None:
    data = fr.load_data(DATA)
    plan = plan_of(evaluation={"metrics": METRICS, "by": "region"}).resolve(data, "0" * 64)
    agreed = Agreement.of(plan, data.catalog)
    call = EvaluationCall(-1, {}, "test", agreed.protocol, agreed.metrics, agreed.n_max, groups=agreed.groups)
    check_call(agreed, call, None)
    for groups, says in [(None, "asked for without groups"), (HALVES, "by interactions in groups 0-7, 8-; agreed was")]:
        with pytest.raises(PlanError, match=says):
            check_call(agreed, replace(call, groups=groups), None)


def test_a_node_whose_users_lack_the_column_refuses_the_run_before_it_trains(tmp_path: Path) -> None:
    evaluation = {"metrics": ("ndcg@10",), "by": "region", "groups": ["north"]}
    federation = Federation(tmp_path, plan_of(evaluation=evaluation), 3)
    outcome = federation.train(LocalPost(federation.hosts()))
    assert "the users of this node cannot be grouped by 'region'" in str(outcome.error)
    assert not outcome.rounds


def test_a_plan_is_filled_in_with_groups_and_says_nothing_of_them_where_there_are_none() -> None:
    data = fr.load_data(DATA)
    assert "by:" not in plan_of().to_yaml()
    assert plan_of(evaluation={"by": "age", "groups": [18, "25-34"]}).evaluation.groups == ("18", "25-34")
    assert plan_of(evaluation={"by": "age", "groups": 18}).evaluation.groups == ("18",)
    evaluation = plan_of(evaluation={"by": "age_group"}).resolve(data, "0" * 64).evaluation
    assert evaluation.grouping == Groups("age_group", evaluation.groups)
    assert evaluation.groups == ("under-18", "18-24", "25-34", "35-49", "50-64", "65-plus")
    for wrong, says in [
        ({"groups": ["F"]}, "groups are of a column"),
        ({"by": ""}, "by is empty"),
        ({"by": "age_group", "metrics": ["coverage@5"]}, "coverage@5 is of the lists of all users together"),
        ({"by": "age_group", "groups": ["a", "a"]}, "'a' is listed twice"),
    ]:
        with pytest.raises(PlanError, match=says):
            plan_of(evaluation=wrong)
    for wrong, says in [
        ({"by": "agegroup"}, "no column 'agegroup'. Did you mean 'age_group'"),
        ({"by": "interactions", "groups": ["few"]}, "'few' is no number or range"),
    ]:
        with pytest.raises(PlanError, match=says):
            plan_of(evaluation=wrong).resolve(data, "0" * 64)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ((), "name at least one group"),
        (tuple(map(str, range(65))), "65 groups are more than 64"),
        (("a", ""), "must have 1 to 80 characters"),
        (("others",), "'others' is no name for a group"),
        (("3-1",), "ends before it begins"),
        (("1-5", "5-9"), "1-5 and 5-9 overlap"),
        (("old",), "no number or range"),
    ],
)
def test_names_that_are_no_groups_of_numbers_are_refused(labels: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Groups("age", labels).places(pl.Series([1, 2]))


def test_groups_that_a_column_shows_hold_everybody_who_has_a_value() -> None:
    ages = pl.Series([*range(18, 60), None])
    for values in (ages, ages.cast(pl.String), ages.cast(pl.Float64), pl.Series([True, False])):
        groups = Groups.of_values("age", values)
        assert (groups.places(values) == len(groups.labels)).sum() == values.null_count()
    assert Groups.of_values("age", ages).labels == ("18-31", "32-45", "46-")
    with pytest.raises(InputError, match="says nothing of any user"):
        Groups.of_values("age", pl.Series([None, None]))
    with pytest.raises(InputError, match="100 values; name the groups"):
        Groups.of_values("city", pl.Series(map(str, range(100))))
    with pytest.raises(InputError, match="grouped by text or numbers"):
        Groups("born", ("1990",)).places(pl.Series(["1990-01-01"]).str.to_date())


def test_a_finished_run_is_measured_by_a_table_of_its_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = fr.load_data(DATA)
    assert data.user_features is not None
    users = data.user_features.select("region").with_columns(user_id=data.users.series)
    users[10:].write_csv("users.csv")

    def fedrec(*words: str) -> Any:
        return CliRunner().invoke(app, [*words, "--json"])

    settings = ("--set", "min_clients=20", "--metrics", "hr@10")
    trained = fedrec("train", "--data", DATA, "--model", "popularity", *settings, "--set", "evaluation.by=region",
                     "--out", "run")  # fmt: skip
    groups = json.loads(trained.stdout)["groups"]["test"]
    again = json.loads(fedrec("evaluate", "run", "--by", "region", "--data", DATA).stdout)["groups"]
    assert again["metrics"] == groups["metrics"]
    report = Path("run/report.json").read_text()
    assert fedrec("train", "--out", "run", "--resume").exit_code == 0
    assert json.loads(Path("run/report.json").read_text())["groups"] == json.loads(report)["groups"]
    fr.load_model("run").save("saved")
    assert fr.load_model("saved").plan.evaluation.by is None
    assert fedrec("forget", "run", "--user", "1", "--out", "forgotten").exit_code == 0
    partly = fedrec("evaluate", "run", "--by", "region", "--users", "users.csv")
    assert "10 users of the run have no row" in partly.stderr
    assert sum(json.loads(partly.stdout)["groups"]["users"].values()) == data.n_users
    named = json.loads(fedrec("evaluate", "run", "--by", "region", "--data", DATA, "--groups", "north,moon").stdout)
    assert list(named["groups"]["metrics"]) == ["north", "others"]
    users.vstack(users[:1]).write_csv("twice.csv")
    users.with_columns(user_id=pl.lit("x") + pl.col("user_id").cast(pl.String)).write_csv("others.csv")
    for words, says in [
        ("--by region", "users have no columns here"),
        ("--groups a", "--groups is for --by"),
        ("--by interactions --metrics gini@5", "gini@5 is of the lists of all users together"),
        ("--users users.csv", "--users is for --by"),
        ("--by region --users twice.csv", "listed a second time"),
        ("--by region --users others.csv", "says nothing of any user of the run"),
        ("--by regoin --users users.csv", "Did you mean 'region'"),
        ("--by region --policy greedy --events users.csv", "remove --protocol, --metrics and --by"),
    ]:
        refused = fedrec("evaluate", "run", *words.split())
        assert isinstance(refused.exception, InputError)
        assert says in str(refused.exception)


def test_training_reads_a_table_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = fr.load_data(DATA)
    data.to_frame().write_csv("clicks.csv")
    pl.DataFrame({"user_id": data.users.series, "age": np.arange(data.n_users) % 90}).write_csv("users.csv")
    words = "train --data clicks.csv --users users.csv --model popularity --metrics hr@10 --set evaluation.by=age"
    trained = CliRunner().invoke(app, [*words.split(), "--set", "evaluation.groups=0-39,40-", "--json"])
    figures = json.loads(trained.stdout)["groups"]["test"]
    assert figures["users"] == {"0-39": 120, "40-": 120}
