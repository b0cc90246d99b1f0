"""Nodes that make a model of the sum: the same model for fewer bytes, and the arrays where it is another one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation_in_test import Federation, assert_right, small_plan
from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.models.linear.ease import EASE
from fedrec.network.post import LocalPost
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run
from lying_in_test import Liar
from runs_in_test import DATA

SETTINGS: dict[str, Any] = {"cohort": 1.0, "seed": 5}


def federation(folder: Path, model: str, down: str, secure: bool = False) -> Federation:
    return Federation(folder, small_plan({"name": model}, cohort=1.0, down=down), secure=secure)


def traffic_down(there: Federation) -> tuple[Any, int]:
    """How a training ended, and the bytes that went to the busiest node in requests with a model or a sum."""
    sent: dict[str, int] = dict.fromkeys(there.names, 0)

    def watch(name: str, frame: bytes, answer: Any) -> bytes:
        if b'"shared"' in frame and b'"kind":"contribute"' not in frame:
            sent[name] += len(frame)
        whole: bytes = answer(frame)
        return whole

    return there.train(LocalPost(there.hosts(), watch)), max(sent.values())


@pytest.mark.parametrize("secure", [False, True])
def test_nodes_make_the_model_themselves_and_end_with_the_same(secure: bool, tmp_path: Path) -> None:
    there = federation(tmp_path, "ease", "sum", secure)
    outcome, sent = traffic_down(there)
    assert outcome.error is None
    assert_right(there, outcome)
    other, whole = traffic_down(federation(tmp_path / "model", "ease", "model", secure))
    weights = outcome.trained.state.shared["weights"]
    assert np.array_equal(weights, other.trained.state.shared["weights"])
    for served in there.served.values():
        assert served.state.shared["weights"].tobytes() == weights.tobytes()
    assert outcome.rounds[0]["model_bytes"] < 0.2 * weights.nbytes
    assert whole - sent == pytest.approx(weights.nbytes - outcome.rounds[0]["model_bytes"], abs=500)


def test_a_node_that_makes_another_model_gets_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there, step, steps = federation(tmp_path, "ease", "sum"), EASE.step, []

    def other(self: EASE, *arguments: Any) -> Any:
        state = step(self, *arguments)
        steps.append(len(steps))
        if len(steps) == 3:  # the coordinator's is the first one
            state.shared["weights"][0, 1] += np.float32(1e-6)
        return state

    monkeypatch.setattr(EASE, "step", other)
    outcome, sent = traffic_down(there)
    assert outcome.error is None
    assert len(steps) == 1 + len(there.names)
    monkeypatch.setattr(EASE, "step", step)
    assert_right(there, outcome)
    assert sent > outcome.trained.state.shared["weights"].nbytes


def test_no_sum_is_taken_for_a_model_where_the_plan_sends_models(tmp_path: Path) -> None:
    there = federation(tmp_path, "popularity", "model")
    liar = Liar(there)
    assert liar.open(there.plan, there.catalog).problem is None
    reply = liar.ask("finish", {"shared": "0" * 64, "made_of": "sum", "committed": 0, "kept": 0}, (b"x",))
    assert reply.problem == "refused"
    assert "the plan sends models" in reply.fields["text"]


def test_bytes_that_are_no_sum_make_no_model(tmp_path: Path) -> None:
    there = federation(tmp_path, "popularity", "sum")
    liar = Liar(there)
    assert liar.open(there.plan, there.catalog).problem is None
    fields = {"shared": "0" * 64, "made_of": "sum", "committed": 0, "kept": 0}
    assert liar.ask("finish", fields, (b"x",)).problem == "damaged"


def test_the_report_has_the_bytes_of_the_sum(tmp_path: Path) -> None:
    moved = {}
    for down in ("model", "sum"):
        plan = Plan.make({"data": {"source": DATA}, "model": {"name": "ease"}, "down": down})
        moved[down] = train_run(plan, tmp_path / down, Placement(1))["bytes"]["plain_per_node"]
    assert moved["model"]["down"] == 4 * 90 * 90
    assert moved["sum"]["down"] == moved["sum"]["up"], "the sum of the only node is the whole sum"


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "mf"}},
        {"model": {"name": "ease", "rank": 8}},
        {"items": {"least": 3}},
        {"privacy": {"epsilon": 4.0, "delta": 1e-5}},
        {"transfer": "elsewhere"},
    ],
)
def test_a_step_that_nodes_cannot_repeat_is_a_plan_error(changes: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="down: sum lets nodes repeat the only step of a model"):
        Plan.make({"data": {"source": DATA}, "model": {"name": "ease"}, "down": "sum", **changes})
