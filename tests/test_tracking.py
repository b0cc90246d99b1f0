"""What a tracker is told of a training: what the ledger says, and nothing that could stop the training."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from conftest import Said
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.record.ledger import Ledger
from fedrec.runs.tracking import Tracked, tracker
from fedrec.runs.training import Placement, train_run
from kill_driver import is_killed

PLAN = Plan.make(
    {
        "data": {"source": "synthetic:users=60,items=30,interactions_per_user=8"},
        "model": {"name": "mf", "embedding_size": 2, "rounds": 3},
        "evaluation": {"every": 1, "metrics": ["ndcg@10"]},
    }
)


class Told:
    """A tracker that remembers."""

    def __init__(self, fails_at: int = 99) -> None:
        self.settings: dict[str, str] = {}
        self.steps: list[tuple[int, dict[str, float]]] = []
        self.ended: dict[str, float] | None = None
        self.fails_at = fails_at

    def begin(self, name: str, settings: Mapping[str, str]) -> None:
        assert name == "run"
        self.settings = dict(settings)

    def log(self, step: int, values: dict[str, float]) -> None:
        if len(self.steps) == self.fails_at:
            raise ConnectionError("nobody answers")
        self.steps.append((step, values))

    def end(self, values: dict[str, float]) -> None:
        self.ended = values


def trained(told: Told, folder: Path, resume: bool = False) -> tuple[dict[str, Any], list[str]]:
    warned: list[str] = []
    tracked = Tracked(told, folder, warned.append)
    report = train_run(PLAN, folder, Placement(3), resume, lambda _: tracked.follow())
    tracked.end(report)
    return report, warned


def test_a_tracker_is_told_what_the_ledger_says_and_what_the_run_ended_with(tmp_path: Path) -> None:
    told = Told()
    report, warned = trained(told, tmp_path / "run")
    ledger = Ledger(tmp_path / "run" / "ledger.jsonl", rooted=True)
    rounds, validations = ledger.of_kind("round"), ledger.of_kind("validation")
    assert [step for step, _ in told.steps] == [1, 1, 2, 2, 3, 3]
    for (_, values), line in zip(told.steps[::2], rounds, strict=True):
        assert values["cohort"] == line["cohort"]
        assert values["bytes/plain_per_node/up"] == line["bytes"]["plain_per_node"]["up"]
    assert [values for _, values in told.steps[1::2]] == [
        {"valid/ndcg@10": line["metrics"]["ndcg@10"]} for line in validations
    ]
    assert told.ended is not None
    assert told.ended["test/ndcg@10"] == report["metrics"]["test"]["ndcg@10"]
    assert told.ended["test/ndcg@10 s.e."] == report["standard_error"]["test"]["ndcg@10"]
    assert told.settings["model.rounds"] == "3"
    assert warned == []


def test_a_run_that_was_killed_is_told_whole_when_it_goes_on(tmp_path: Path) -> None:
    assert is_killed(lambda: train_run(PLAN, tmp_path / "run", Placement(3), resume=True), 30, False)
    told = Told()
    trained(told, tmp_path / "run", resume=True)
    assert [step for step, _ in told.steps] == [1, 1, 2, 2, 3, 3]


def test_a_tracker_that_fails_is_left_and_the_training_goes_on(tmp_path: Path) -> None:
    told = Told(fails_at=2)
    report, warned = trained(told, tmp_path / "run")
    assert report["rounds"] == 3
    assert len(told.steps) == 2
    assert told.ended is None
    assert warned == ["the tracker failed (ConnectionError: nobody answers); the training goes on and is not tracked"]


@pytest.mark.parametrize("text", ["", "tensorboard", "mlflow:", "trackio:shops", "tensorbord:logs"])
def test_what_names_no_tracker_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--track"):
        tracker(text)


def test_a_library_that_is_missing_is_named_before_the_training(
    fedrec: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = fedrec("train", "--data", "synthetic:users=60", "--model", "ease", "--track", "tensorboard:logs", "--out",
                  tmp_path / "run")  # fmt: skip
    assert (said.code, said.err) == (
        2, "fedrec: --track tensorboard:logs needs tensorboardX; pip install tensorboardX\n"
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_libraries_are_called_as_they_want_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins that take what the libraries take; `test_events_are_those_of_tensorboard` has a real one."""
    calls: list[Any] = []
    flow, bias = ModuleType("mlflow"), ModuleType("wandb")
    for name in ("set_tracking_uri", "set_experiment", "start_run", "log_params", "log_metrics", "end_run"):
        setattr(flow, name, lambda *words, name=name, **more: calls.append((name, words, more)))
    run = SimpleNamespace(log=lambda values, step: calls.append((step, values)), summary={}, finish=calls.clear)
    bias.init = lambda project, name, config: calls.append((project, name, config)) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", flow)
    monkeypatch.setitem(sys.modules, "wandb", bias)
    told = tracker("mlflow:file:mlruns")
    told.begin("run", {"seed": "5"})
    told.log(2, {"valid/ndcg@10": 0.5})
    told.end({"test/ndcg@10": 0.25})
    assert calls == [
        ("set_tracking_uri", ("file:mlruns",), {}),
        ("set_experiment", ("fedrec",), {}),
        ("start_run", (), {"run_name": "run"}),
        ("log_params", ({"seed": "5"},), {}),
        ("log_metrics", ({"valid/ndcg_at_10": 0.5},), {"step": 2}),
        ("log_metrics", ({"end/test/ndcg_at_10": 0.25},), {}),
        ("end_run", (), {}),
    ]
    calls.clear()
    told = tracker("wandb:shops")
    told.begin("run", {"seed": "5"})
    told.log(2, {"valid/ndcg@10": 0.5})
    assert calls == [("shops", "run", {"seed": "5"}), (2, {"valid/ndcg@10": 0.5})]
    told.end({"test/ndcg@10": 0.25})
    assert run.summary == {"test/ndcg@10": 0.25}


@pytest.mark.exhaustive
def test_events_are_those_of_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    told = tracker(f"tensorboard:{tmp_path / 'logs'}")
    told.begin("run", {"seed": "5"})
    told.log(1, {"valid/ndcg@10": 0.5})
    told.end({"test/ndcg@10": 0.25})
    (events,) = (tmp_path / "logs" / "run").iterdir()
    assert all(name in events.read_bytes() for name in (b"valid/ndcg_at_10", b"end/test/ndcg_at_10"))
