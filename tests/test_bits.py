"""Same plan and seed: the same bits for any number of nodes and threads and any partition."""

from __future__ import annotations

from pathlib import Path

import pytest

from chosen_in_test import in_turn
from fedrec.kernels.threads import limit_threads, thread_count
from fedrec.runs.training import Placement, train_run
from runs_in_test import MODELS, assert_same, small_plan

PLACEMENTS = [
    (Placement(2, "hash"), 2),
    (Placement(7, "hash"), 1),
    (Placement(3, "by:region"), 2),
    (Placement(7, "dirichlet:0.3"), 2),
    (Placement(1, "hash"), 1),
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One node, all threads."""
    runs = {}
    for model in MODELS:
        runs[model] = tmp_path_factory.mktemp("bits") / model
        train_run(small_plan(model), runs[model])
    return runs


def test_more_than_one_thread_is_compared() -> None:
    if thread_count() < 2:
        pytest.skip("this machine has one core, so one and two threads cannot be compared")


@pytest.mark.parametrize(("model", "place"), in_turn(MODELS, PLACEMENTS), ids=str)
def test_same_bits_wherever_clients_live(
    model: str, place: tuple[Placement, int], alone: dict[str, Path], tmp_path: Path
) -> None:
    placement, threads = place
    with limit_threads(threads):
        train_run(small_plan(model), tmp_path / "run", placement)
    assert_same(tmp_path / "run", alone[model])


def test_another_seed_is_another_model(alone: dict[str, Path], tmp_path: Path) -> None:
    train_run(small_plan("mf", seed=6), tmp_path / "run")
    shared = "model/shared.safetensors"
    assert (tmp_path / "run" / shared).read_bytes() != (alone["mf"] / shared).read_bytes()
