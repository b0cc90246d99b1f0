"""A run killed anywhere and resumed ends with the same bits and the same ledger as one that was never killed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kill_driver
from fedrec.runs.training import Placement, train_run
from runs_in_test import MODELS, assert_same, each_kind, small_plan

PLACEMENT = Placement(2)


class Whole(dict[str, Path]):
    """Runs that were never killed, each trained when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, model: str) -> Path:
        self[model] = self.folder / model
        train_run(small_plan(model), self[model], PLACEMENT)
        return self[model]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


def killed_at(folder: Path, model: str, write: int, half: bool) -> bool:
    """Whether a run was killed at this write; it is not when it has fewer writes."""
    return kill_driver.is_killed(lambda: train_run(small_plan(model), folder, PLACEMENT, resume=True), write, half)


def assert_resumed_like(folder: Path, whole: Path, model: str) -> None:
    train_run(small_plan(model), folder, PLACEMENT, resume=True)
    assert_same(folder, whole)
    assert (folder / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    files = [sorted(path.name for path in (run / "private").rglob("*")) for run in (folder, whole)]
    assert files[0] == files[1]
    progress = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (whole / "progress.jsonl").read_text().splitlines()]
    assert [line | {"seconds": 0} for line in progress] == [line | {"seconds": 0} for line in expected]


@pytest.mark.parametrize("model", each_kind())
def test_killed_at_some_writes(model: str, whole: dict[str, Path], tmp_path: Path) -> None:
    stride = {"ease": 5, "mf": 13} | dict.fromkeys(("content", "itemknn", "popularity", "slit"), 17)
    assert_resumes(model, stride.get(model, 29), whole, tmp_path)


@pytest.mark.parametrize("half", [False, True])
def test_the_line_of_a_committed_round_is_never_lost(half: bool, whole: dict[str, Path], tmp_path: Path) -> None:
    """Killed at every write round the commit of the only round, the line of its progress included."""
    for write in range(11, 18):
        assert killed_at(tmp_path / "run", "ease", write, half)
        assert_resumed_like(tmp_path / "run", whole["ease"], "ease")
        shutil.rmtree(tmp_path / "run")


def test_progress_that_somebody_damaged_stops_no_run(whole: dict[str, Path], tmp_path: Path) -> None:
    """Nothing depends on it: it is for people and plots."""
    run = tmp_path / "run"
    assert killed_at(run, "mf", 40, half=False)
    (run / "progress.jsonl").write_text("not JSON\n")
    train_run(small_plan("mf"), run, PLACEMENT, resume=True)
    assert_same(run, whole["mf"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("model", MODELS)
def test_killed_at_one_write_after_the_other(model: str, whole: dict[str, Path], tmp_path: Path) -> None:
    assert_resumes(model, 1, whole, tmp_path)


def assert_resumes(model: str, stride: int, whole: dict[str, Path], tmp_path: Path) -> None:
    """Killed at every so manieth write, in turn before it and within it, a run goes on to the same end."""
    tries = 0
    while killed_at(tmp_path / "run", model, tries * stride, half=tries % 2 == 0):
        assert_resumed_like(tmp_path / "run", whole[model], model)
        shutil.rmtree(tmp_path / "run")
        tries += 1
    assert tries > 1


def test_killed_again_and_again(whole: dict[str, Path], tmp_path: Path) -> None:
    draws = random.Random(1)
    for _ in range(12):
        killed_at(tmp_path / "run", "mf", draws.randrange(30), draws.random() < 0.5)
    assert_resumed_like(tmp_path / "run", whole["mf"], "mf")


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [2, pytest.param(20, marks=pytest.mark.exhaustive)])
def test_processes_killed_with_signal_nine(attempts: int, whole: dict[str, Path], tmp_path: Path) -> None:
    draws = random.Random(7)
    died = 0
    for attempt in range(attempts):
        folder = tmp_path / str(attempt)
        command = [sys.executable, kill_driver.__file__, str(folder), "mf", str(draws.randrange(60))]
        done = subprocess.run(command + ["half"] * (attempt % 2), check=False, capture_output=True)
        died += done.returncode == -9
        assert done.returncode in (0, -9), done.stderr.decode()
        assert_resumed_like(folder, whole["mf"], "mf")
    assert died >= attempts * 0.6


def test_a_finished_run_says_so_again(whole: dict[str, Path]) -> None:
    report = train_run(small_plan("mf"), whole["mf"], PLACEMENT, resume=True)
    assert report["rounds"] == 6
    assert (
        report["digests"]["model"]
        == train_run(small_plan("mf"), whole["mf"], PLACEMENT, resume=True)["digests"]["model"]
    )
