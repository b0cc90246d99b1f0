"""Lists that are drawn and served: their propensities come back with events, and judge policies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import fedrec as fr
from fedrec.cli.main import app
from fedrec.errors import InputError
from fedrec.recommending.exploring import Exploration
from fedrec.runs.off_policy import judged
from serving_in_test import DATA, Client, client, run_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_of(fr.EASE(), tmp_path_factory.mktemp("served") / "run")


def impressions(asked: Client, user: int) -> list[dict[str, Any]]:
    """The events that a shop sends of a list that it has shown."""
    answer = asked.get("/v1/recommend", user=user, n=3)
    return [
        {
            "event_id": f"shown-{user}-{entry['rank']}",
            "user": user,
            "item": entry["item"],
            "kind": "impression",
            "model": answer["model"],
            "request_id": answer["request_id"],
            "rank": entry["rank"],
            "propensity": entry["propensity"],
        }
        for entry in answer["items"]
    ]


def test_slots_of_a_drawn_list_say_how_likely_they_were(run: Path) -> None:
    with client(run) as best, client(run, explore=Exploration.parse("epsilon:0.5")) as drawn:
        assert "propensity" not in best.get("/v1/recommend", user=1)["items"][0]
        greedy, left = best.items(1, 1000), len(best.items(1, 1000))
        firsts = []
        for _ in range(200):
            (entry,) = drawn.get("/v1/recommend", user=1, n=1)["items"]
            firsts.append(entry["item"])
            likely = 0.5 / left + (0.5 if entry["item"] == greedy[0] else 0.0)
            assert entry["propensity"] == pytest.approx(likely, rel=1e-12)
        assert 0.35 < firsts.count(greedy[0]) / 200 < 0.7
        assert set(firsts) <= set(greedy)
        only = drawn.get("/v1/recommend", user=1, n=9, only=greedy[:2])["items"]
        assert sorted(entry["item"] for entry in only) == sorted(greedy[:2])
        posted = drawn.ask("POST", "/v1/recommend", json={"history": greedy[:3], "n": 4}).json()["items"]
        batch = drawn.ask("POST", "/v1/recommend/batch", json={"users": [1, 2]}).json()["lists"]
        assert all(entry["propensity"] > 0 for entry in [*posted, *batch[0]["items"], *batch[1]["items"]])


def test_served_lists_judge_policies_by_what_came_back(run: Path, tmp_path: Path) -> None:
    log, policy = str(tmp_path / "events.db"), Exploration.parse("plackett-luce:0.2")
    users = fr.load_data(DATA).users.series.to_list()
    rewards = []
    with client(run, log, explore=policy) as asked:
        for user in users:
            shown = impressions(asked, user)
            asked.send(*shown)
            taken = user % 3 == 0
            rewards.append(float(taken))
            if taken:
                asked.send(shown[0] | {"event_id": f"taken-{user}", "kind": "click"})
            asked.send(shown[1] | {"event_id": f"second-{user}", "kind": "click"})
        asked.send({**impressions(asked, 1)[0], "event_id": "stranger", "user": 10_001})
    opened = fr.load_model(run).opened
    itself = judged(opened, policy, log)
    assert (itself.events, itself.cut, itself.left_out) == (len(users), 0, 1)
    assert itself.effective == pytest.approx(len(users), rel=1e-9)
    assert itself.estimates["ips"].value == pytest.approx(np.mean(rewards), rel=1e-9)
    said = json.loads(CliRunner().invoke(
        app, ["evaluate", str(run), "--policy", "epsilon:0.1", "--events", log, "--largest-weight", "200", "--json"],
    ).stdout)  # fmt: skip
    other = judged(opened, Exploration.parse("epsilon:0.1"), log, 200.0)
    assert said["estimates"] == {name: each.value for name, each in other.estimates.items()}
    assert said["left_out"] == 1


def test_a_log_without_propensities_judges_nothing(run: Path, tmp_path: Path) -> None:
    log = str(tmp_path / "events.db")
    with client(run, log) as asked:
        asked.send({"event_id": "a", "user": 1, "item": asked.items(1)[0], "kind": "impression", "rank": 1})
    opened = fr.load_model(run).opened
    with pytest.raises(InputError, match="no impression of rank 1 has a request_id and a propensity"):
        judged(opened, Exploration.parse("greedy"), log)
    with pytest.raises(InputError, match="there is no such file"):
        judged(opened, Exploration.parse("greedy"), str(tmp_path / "none.db"))
    pl.DataFrame({"user_id": [1]}).write_csv(tmp_path / "log.txt")
    with pytest.raises(InputError, match=r"are read from .parquet, .csv or .jsonl, or from a log"):
        judged(opened, Exploration.parse("greedy"), tmp_path / "log.txt")
