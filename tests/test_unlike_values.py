"""Ratings that all count alike although they differ are remarked on, once, until somebody says which count."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import fedrec as fr
from conftest import Said
from federation_in_test import Federation, small_plan
from fedrec.data.cleaning import Cleaning
from fedrec.errors import InputError, PlanError
from fedrec.federation.plan import Plan
from fedrec.federation.values import values_remark
from fedrec.network.post import LocalPost
from fedrec.owner.policy import refusals
from fedrec.runs.training import train_run
from owners_in_test import KEYS, PRIVATE, owned, planned

USERS = 60
TABLE = pl.DataFrame(
    [(user, item, 1 if (item < 6) == (user % 2 == 0) else -1) for user in range(USERS) for item in range(12)
     if (user + item) % 3],
    schema=["user_id", "item_id", "rating"], orient="row",
)  # fmt: skip
LOW = TABLE.filter(pl.col("rating") < 0).height
WORDS = f"from -1 to 1 all count alike: the lowest, -1 of {LOW} interactions"
DATA = fr.interactions_from(TABLE)


def said_by(work: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [str(warning.message) for warning in caught]


def test_a_fit_on_dislikes_warns_once_and_names_the_lowest_rating_and_the_setting() -> None:
    split = fr.ratio(DATA)
    works: list[Callable[[], Any]] = [
        lambda: fr.EASE().fit(TABLE),
        lambda: fr.MF(rounds=3).fit(DATA, nodes=3),
        lambda: fr.EASE().fit(split),
        lambda: fr.EASE().fit(split.train),
        lambda: fr.compare(split, ["popularity", "ease"], ["hr@3"], seeds=2),
        lambda: fr.tune(fr.EASE, split, {"reg": [1, 10]}, metric="hr@3"),
    ]
    for number, work in enumerate(works):
        (message,) = said_by(work)
        assert "rating_at_least" in message
        assert "--weights" in message
        assert "from -1 to 1" in message
        if number != 3:
            assert WORDS in message


def test_nothing_is_said_where_somebody_said_which_count_or_there_is_nothing_to_say() -> None:
    none: dict[str, Any] = {"data": {"source": "memory", "cleaning": {"rating_at_least": "none"}}}
    cleaned = fr.clean(DATA, rating_at_least="none")[0]
    works: list[Callable[[], Any]] = [
        lambda: fr.EASE().fit(cleaned),
        lambda: fr.EASE().fit(fr.ratio(cleaned).train),
        lambda: fr.EASE().fit(fr.clean(DATA, rating_at_least=-1)[0]),
        lambda: fr.EASE().fit(fr.clean(DATA, rating_at_most=1)[0].take_users(np.arange(40))),
        lambda: fr.EASE(plan=none).fit(TABLE),
        lambda: fr.EASE(plan=none).fit(fr.ratio(DATA)),
        lambda: fr.compare(fr.ratio(DATA), [fr.EASE(plan=none), fr.Popularity(plan=none)], ["hr@3"]),
        lambda: fr.EASE(weights="value").fit(TABLE.with_columns(pl.col("rating") + 1)),
        lambda: fr.EASE().fit(TABLE.with_columns(rating=pl.lit(-1))),
        lambda: fr.EASE().fit(TABLE.drop("rating")),
    ]
    for work in works:
        assert said_by(work) == []


def test_a_model_that_reads_ratings_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedrec.models.linear.ease import EASE

    plan = Plan.make({"data": {"source": "memory"}, "model": {"name": "ease"}})
    assert WORDS in str(values_remark([plan], DATA))
    monkeypatch.setattr(EASE, "traits", replace(EASE.traits, reads=frozenset({"items", "values"})))
    assert values_remark([plan], DATA) is None


def test_the_command_line_remarks_once_and_the_report_keeps_it(tmp_path: Path, fedrec: Callable[..., Said]) -> None:
    TABLE.write_csv(tmp_path / "thumbs.csv")
    base = ("--data", tmp_path / "thumbs.csv", "--split", "ratio:0.8")
    for number, command in enumerate((
        ("train", "--model", "ease", "--out", tmp_path / "run"),
        ("compare", "--models", "popularity,ease"),
        ("tune", "--model", "ease", "--grid", "reg=1,10", "--metric", "ndcg@10", "--out", tmp_path / "tuned"),
    )):  # fmt: skip
        said = fedrec(*command, *base)
        assert said.code == 0, said.err
        assert " ".join((said.out + said.err).split()).count(WORDS) == 1, number
        out = (*command[:-1], tmp_path / f"none{number}") if "--out" in command else command
        said = fedrec(*out, *base, "--clean", "rating_at_least=none")
        assert "told apart" not in " ".join((said.out + said.err).split())
    for run in ("run", "tuned"):
        notes = json.loads((tmp_path / run / "report.json").read_text())["data"]["notes"]
        assert sum(WORDS in note for note in notes) == 1
    assert "rating_at_least: none" in (tmp_path / "none0" / "plan.yaml").read_text()
    resumed = fedrec("train", *base, "--model", "ease", "--out", tmp_path / "none0", "--resume", "--clean",
                     "rating_at_least=none")  # fmt: skip
    assert resumed.code == 0, resumed.err
    described = fedrec("data", "describe", tmp_path / "thumbs.csv", "--json")
    assert [WORDS in note for note in json.loads(described.out)["notes"]] == [True]


def test_a_threshold_is_the_same_as_data_without_the_low_ratings(tmp_path: Path) -> None:
    TABLE.write_parquet(tmp_path / "all.parquet")
    TABLE.filter(pl.col("rating") > 0).write_parquet(tmp_path / "likes.parquet")
    made = {}
    for name, cleaning in (("all", {"rating_at_least": 1}), ("likes", {})):
        settings = {"data": {"source": str(tmp_path / f"{name}.parquet"), "cleaning": cleaning}, "split": "ratio:0.7"}
        report = train_run(Plan.make({**settings, "model": {"name": "ease"}}), tmp_path / name)
        made[name] = (report["digests"]["model"], report["metrics"], report["split"]["hash"])
    assert made["all"] == made["likes"]
    own = fr.EASE(plan={"data": {"source": "memory", "cleaning": {"rating_at_least": 1}}}).fit(TABLE)
    filtered = fr.EASE().fit(TABLE.filter(pl.col("rating") > 0))
    assert all(np.array_equal(own.shared[name], filtered.shared[name]) for name in filtered.shared)


def test_a_plan_that_cleans_is_not_ignored_where_data_is_split_already() -> None:
    model = fr.EASE(plan={"data": {"source": "memory", "cleaning": {"rating_at_least": 1}}})
    with pytest.raises(InputError, match="already split"):
        model.fit(fr.ratio(DATA))
    with pytest.raises(InputError, match="must not clean its own"):
        fr.compare(DATA, [model], split="ratio:0.8")


def test_a_model_of_likes_measured_on_dislikes_says_so() -> None:
    likes = fr.clean(DATA, rating_at_least=1, shrink_catalog=False)[0]
    model = fr.EASE().fit(fr.ratio(likes, 0.5).train)
    said = said_by(lambda: fr.evaluate(model, fr.ratio(DATA, 0.5), ["hr@3"]))
    assert sum(WORDS in message for message in said) == 1
    assert not any(WORDS in said for said in said_by(lambda: fr.evaluate(model, fr.ratio(likes, 0.5), ["hr@3"])))


def test_dislikes_in_a_history_are_left_out_as_they_were_in_training(
    tmp_path: Path, fedrec: Callable[..., Said]
) -> None:
    TABLE.write_csv(tmp_path / "thumbs.csv")
    train = ("train", "--data", tmp_path / "thumbs.csv", "--split", "none", "--model", "ease", "--clean",
             "rating_at_least=1", "--out", tmp_path / "run")  # fmt: skip
    assert fedrec(*train).code == 0
    rows = [("v", 0, 1), ("v", 1, 1), ("v", 7, -1), ("w", 3, -1)]
    history = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    answers = []
    for name, part in (("mixed", history), ("likes", history.filter(pl.col("rating") > 0))):
        part.write_csv(tmp_path / f"{name}.csv")
        said = fedrec("recommend", tmp_path / "run", "--history", tmp_path / f"{name}.csv", "--json")
        assert said.code == 0, said.err
        answers.append(json.loads(said.out)["recommendations"])
        assert ("2 rows left out" in said.err) == (name == "mixed")
        assert ("1 user with nothing left: 'w'" in said.err) == (name == "mixed")
    assert answers[0] == answers[1]


def test_all_count_must_be_said_with_the_word_and_nothing_else() -> None:
    assert Cleaning(rating_at_least="none").judges
    assert not Cleaning().judges
    for wrong in ("all", "nan", float("inf"), [1]):
        with pytest.raises(InputError, match="none to keep all ratings"):
            fr.clean(DATA, rating_at_least=wrong)
    with pytest.raises(PlanError, match="none to keep all ratings"):
        Plan.make({"data": {"source": "x", "cleaning": {"rating_at_least": "no"}}, "model": {"name": "ease"}})


def test_that_all_count_is_no_choice_of_whose_histories_count() -> None:
    plan = planned(privacy=PRIVATE, data={"source": "x", "cleaning": {"rating_at_least": "none"}})
    assert refusals(owned(), plan, coordinator=KEYS["coordinator"], secure=False, budget=None) == []


def test_an_owner_is_told_in_the_log_of_the_node(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    TABLE.write_parquet(tmp_path / "all.parquet")
    for cleaning, times in (({}, 2), ({"rating_at_least": "none"}, 0)):
        data = {"source": str(tmp_path / "all.parquet"), "cleaning": cleaning}
        plan = small_plan({"name": "popularity"}, data=data, split="ratio:0.8", min_clients=2)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="fedrec.node"):
            federation = Federation(tmp_path / f"f{times}", plan, 2, policy={"secure": False, "min_clients": 2})
            assert federation.train(LocalPost(federation.hosts())).error is None
        assert sum("all count alike" in record.message for record in caplog.records) == times
