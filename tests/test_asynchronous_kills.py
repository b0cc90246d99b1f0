"""An asynchronous run killed anywhere and resumed: the same bits, the same order of events, the same ledger."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kill_driver
from chosen_in_test import chosen, every
from fedrec.federation.plan import Plan
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run
from fedrec.runs.verifying import verify_run
from runs_in_test import DATA, MODELS, assert_same

PLACEMENT = Placement(4, clock="slow:0.5x5,there:2/0.5")
TERMS: dict[str, dict[str, Any]] = {
    "waiting": {"buffer": 2},
    "hurried": {"buffer": 1, "max_staleness": 2, "staleness": "hinge", "fresh": 1},
}
DRIVER = """
import os, signal, sys
import kill_driver, test_asynchronous_kills as tests
from pathlib import Path
from fedrec.runs.training import train_run
folder, terms, write, *rest = sys.argv[1:]
kill_driver.die_at_write(int(write), bool(rest), lambda: os.kill(os.getpid(), signal.SIGKILL))
train_run(tests.plan(terms), Path(folder), tests.PLACEMENT)
"""


def plan(terms: str, model: str = "mf") -> Plan:
    """Cohorts, validation and the best round; some nodes never answer before the run is resumed."""
    return Plan.make(
        {
            "data": {"source": DATA},
            "model": MODELS[model] | {"rounds": 14},
            "seed": 5,
            "cohort": 0.7,
            "evaluation": {"every": 2, "keep": "best", "metrics": ["ndcg@10"]},
            "asynchronous": TERMS[terms],
            "items": {"least": 3},
        }
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were never killed."""
    runs = {}
    for terms in TERMS:
        runs[terms] = tmp_path_factory.mktemp("whole") / terms
        report = train_run(plan(terms), runs[terms], PLACEMENT)
        assert report["asynchronous"]["max_staleness"] > 1
        assert (report["asynchronous"]["late"] > 0) == (terms == "hurried")
    return runs


def killed_at(folder: Path, made: Plan, write: int, half: bool) -> bool:
    """Whether a run was killed at this write; it is not when it has fewer writes."""
    return kill_driver.is_killed(lambda: train_run(made, folder, PLACEMENT, resume=True), write, half)


def assert_resumed_like(folder: Path, whole: Path, made: Plan) -> None:
    train_run(made, folder, PLACEMENT, resume=True)
    assert_same(folder, whole)
    assert (folder / "ledger.jsonl").read_bytes() == (whole / "ledger.jsonl").read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    files = [sorted(path.name for path in (run / "private").rglob("*")) for run in (folder, whole)]
    assert files[0] == files[1]
    checkpoints = [sorted(path.name for path in (run / "checkpoint").iterdir()) for run in (folder, whole)]
    assert checkpoints[0] == checkpoints[1]
    assert verify_run(folder).wrong is None


@pytest.mark.parametrize("stride", chosen([41], [8, 41]))
@pytest.mark.parametrize("terms", TERMS)
def test_killed_at_one_write_after_the_other(terms: str, stride: int, whole: dict[str, Path], tmp_path: Path) -> None:
    """What rounds write differs in length, so that every kind of write is met."""
    tries = 0
    while killed_at(tmp_path / "run", plan(terms), tries * stride, half=tries % 2 == 0):
        assert_resumed_like(tmp_path / "run", whole[terms], plan(terms))
        shutil.rmtree(tmp_path / "run")
        tries += 1
    assert tries * stride > 56


@pytest.mark.parametrize("terms", TERMS)
def test_killed_again_and_again(terms: str, whole: dict[str, Path], tmp_path: Path) -> None:
    draws = random.Random(1)
    for _ in range(12):
        killed_at(tmp_path / "run", plan(terms), draws.randrange(30), draws.random() < 0.5)
    assert_resumed_like(tmp_path / "run", whole[terms], plan(terms))


@pytest.mark.parametrize("model", every(2, ["pfedrec", "fedncf", "mf-adam", "fcf"]))
def test_other_models(model: str, tmp_path: Path) -> None:
    made = plan("waiting", model)
    train_run(made, tmp_path / "whole", PLACEMENT)
    for write in (13, 24, 38):
        killed_at(tmp_path / "run", made, write, half=write % 2 == 0)
        assert_resumed_like(tmp_path / "run", tmp_path / "whole", made)
        shutil.rmtree(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("attempts", [8])
def test_processes_killed_with_signal_nine(attempts: int, whole: dict[str, Path], tmp_path: Path) -> None:
    draws = random.Random(7)
    died = 0
    for attempt in range(attempts):
        folder, terms = tmp_path / str(attempt), list(TERMS)[attempt % 2]
        command = [sys.executable, "-c", DRIVER, str(folder), terms, str(draws.randrange(50))]
        done = subprocess.run(
            command + ["half"] * (attempt % 2), check=False, capture_output=True, cwd=Path(__file__).parent
        )
        died += done.returncode == -9
        assert done.returncode in (0, -9), done.stderr.decode()
        assert_resumed_like(folder, whole[terms], plan(terms))
    assert died >= attempts / 2
