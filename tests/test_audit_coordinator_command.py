"""The command that lets a coordinator lie: its options, its exit code, and what it cannot stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fedrec as fr
from fedrec.audit.lying import LIES
from fedrec.audit.running import audit
from fedrec.audit.staged import modes_of, stage
from fedrec.errors import InputError
from fedrec.node import opening
from stages_in_test import DATA, small_plan


def test_the_command_lies_and_draws(fedrec: Any, tmp_path: Path) -> None:
    path, picture = tmp_path / "plan.yaml", tmp_path / "a.png"
    path.write_text(small_plan("ease").to_yaml())
    said = fedrec("audit", path, "--attack", "again-unlike", "--attack", "plain-sums", "--json", "--plot", picture)
    assert said.code == 0, said.err
    found = json.loads(said.out)["findings"]
    assert [each["attack"] for each in found] == ["again-unlike (secure)", "again-unlike (plain)", "plain-sums (plain)"]
    assert {each["against"] for each in found} == {"server"}
    assert picture.read_bytes()[:4] == b"\x89PNG"
    said = fedrec("audit", path, "--attack", "again-unlke")
    assert "Did you mean 'again-unlike'" in said.err


def test_a_promise_of_nodes_that_fails_is_an_exit_code_of_1_without_privacy_too(
    fedrec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(small_plan("ease").to_yaml())
    monkeypatch.setattr(opening, "_keep", lambda *_: None)
    said = fedrec("audit", path, "--attack", "unlike-plans", "--quiet")
    assert said.code == 1
    assert "a second plan" in said.out


def test_coordinator_stands_for_all_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("fedrec.audit.running.lied_to", lambda *said: asked.extend(said[3]) or [])
    assert audit(small_plan("ease"), ["coordinator"]) == []
    assert asked == list(LIES)


def test_plans_that_cannot_be_staged_say_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="remove asynchronous"):
        modes_of(small_plan("mf", asynchronous={"buffer": 2}))
    few = small_plan("ease", min_clients=200)
    with pytest.raises(InputError, match=r"fails in its first rounds: .*fewer than 200 users"):
        stage(few, fr.load_data(DATA), "0" * 64, "plain", tmp_path)
