"""The number of threads is the person's to choose, and only plans that ask for no equal bits depend on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info

import fedrec as fr
from conftest import Said
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.kernels.threads import thread_count
from fedrec.models.linear.ease import EASE, PrivateEASE
from fedrec.runs.training import train_run
from fedrec.threads import held_threads

DATA = "synthetic:users=200,items=80,interactions_per_user=8,seed=3"
PLAN = {"data": {"source": DATA}, "model": {"name": "ease"}}
ANY = {**PLAN, "reproducible": False}
CORES = thread_count()
two_cores = pytest.mark.skipif(CORES < 2, reason="this machine has one core")
Call = Callable[..., Said]


def blas() -> int:
    """Threads of linear algebra now."""
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Threads of kernels and of linear algebra in each step of EASE."""
    threads: list[tuple[int, int]] = []

    def watch(kind: Any) -> None:
        step = kind.step

        def watched(self: Any, state: Any, total: Any, round: int) -> Any:
            threads.append((thread_count(), blas()))
            return step(self, state, total, round)

        monkeypatch.setattr(kind, "step", watched)

    for kind in (EASE, PrivateEASE):
        watch(kind)
    return threads


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    fr.set_threads()


# --- how many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, -1, CORES + 1, 1.0, True, "2"])
def test_other_numbers_than_those_of_the_cores_are_refused(wrong: Any) -> None:
    with pytest.raises(
        InputError, match=f"threads .*: give a whole number from 1 to {CORES}, the number of threads of this process"
    ):
        fr.set_threads(wrong)
    assert thread_count() == CORES


def test_set_threads_holds_kernels_and_linear_algebra_until_it_is_taken_back() -> None:
    before = blas()
    fr.set_threads(1)
    assert (thread_count(), blas()) == (1, 1)
    fr.set_threads(CORES)
    assert (thread_count(), blas()) == (CORES, CORES)
    fr.set_threads()
    assert (thread_count(), blas()) == (CORES, before)


@pytest.mark.parametrize(
    "words",
    ["train --data x --model ease", "evaluate run", "recommend run --user 1", "similar run --item 1",
     "compare --data x --models ease", "tune --data x --model ease --grid reg=1", "bench ease", "demo", "audit run",
     "federation demo"],
)  # fmt: skip
def test_every_command_that_computes_refuses_more_threads_than_there_are(words: str, fedrec: Call) -> None:
    for wrong in (0, CORES + 1):
        said = fedrec(*words.split(), "--threads", wrong)
        assert said.code == 2
        assert f"--threads {wrong}: give a whole number from 1 to {CORES}" in said.err


def test_a_node_takes_no_more_threads_than_its_owner_allows(fedrec: Call, tmp_path: Path) -> None:
    home = tmp_path / "node.toml"
    assert fedrec("node", "init", "shop", "--data", "x.csv", "--config", home, "--home", tmp_path / "home").code == 0
    home.write_text(home.read_text().replace("# threads = 2", "threads = 1"))
    said = fedrec("node", "start", "--kit", tmp_path, "--config", home, "--threads", 2)
    assert (said.code, "limits.threads in node.toml allows 1" in said.err) == (2, True)


@two_cores
@pytest.mark.parametrize("threads", [1, 2])
def test_a_command_computes_on_as_many_threads_and_gives_them_back(
    threads: int, seen: list[tuple[int, int]], fedrec: Call, tmp_path: Path
) -> None:
    words = ("train", "--data", DATA, "--model", "ease", "--out", tmp_path / "run", "--threads", threads, "--json")
    said = fedrec(*words, "--set", "reproducible=false")
    assert said.code == 0, said.err
    assert seen == [(threads, threads)]
    assert json.loads(said.out)["step_threads"] == threads
    assert thread_count() == CORES


@two_cores
def test_the_variables_that_people_know_keep_working() -> None:
    script = (
        "import fedrec as fr\nfrom fedrec.kernels.threads import thread_count\n"
        "from fedrec.threads import blas_threads\nfrom threadpoolctl import ThreadpoolController\n"
        "print(thread_count(), blas_threads(ThreadpoolController()))\n"
        "try:\n    fr.set_threads(2)\nexcept fr.InputError as error:\n    print(error)\n"
    )

    def said(**variables: str) -> str:
        environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        command = [sys.executable, "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment | variables).stdout

    assert said(OMP_NUM_THREADS="1").startswith(f"{CORES} 1\n")
    few = said(NUMBA_NUM_THREADS="1")
    assert few.startswith("1 1\n")
    assert "from 1 to 1, the number of threads of this process (set by NUMBA_NUM_THREADS)" in few


# --- plans that ask for no equal bits ---------------------------------------------------------------------------------


def test_only_a_plan_that_gives_up_equal_bits_says_so() -> None:
    plain, free = Plan.make(PLAN), Plan.make(ANY)
    assert "reproducible" not in plain.to_yaml()
    assert Plan.make({**PLAN, "reproducible": True}).digest == plain.digest
    assert "reproducible: false\n" in free.to_yaml()
    assert free.digest != plain.digest
    assert Plan.make(free.model_dump()) == free


@two_cores
def test_steps_use_all_threads_that_they_may_where_equal_bits_are_given_up(
    seen: list[tuple[int, int]], tmp_path: Path
) -> None:
    with held_threads(2):
        told = [train_run(Plan.make(plan), tmp_path / name) for name, plan in (("plain", PLAN), ("free", ANY))]
    with held_threads(1):
        told.append(train_run(Plan.make(ANY), tmp_path / "one"))
    assert [threads for _, threads in seen] == [1, 2, 1]
    assert [(report["reproducible"], report["step_threads"]) for report in told] == [(True, 1), (False, 2), (False, 1)]
    plain, free = (fr.load_model(tmp_path / name).shared["weights"] for name in ("plain", "free"))
    np.testing.assert_allclose(free, plain, atol=1e-5)
    assert any("not the same bits" in remark for remark in fr.verify(tmp_path / "free").remarks)
    assert not any("same bits" in remark for remark in fr.verify(tmp_path / "plain").remarks)


@two_cores
def test_fit_takes_the_key_with_the_rest_of_the_plan_and_private_plans_may_have_it(seen: list[tuple[int, int]]) -> None:
    data = fr.load_data(DATA)
    with held_threads(2):
        fr.EASE(plan={"reproducible": False}).fit(data)
        privacy = {"epsilon": 8.0, "delta": 1e-4, "users": 200}
        fr.EASE(plan={"reproducible": False, "privacy": privacy}).fit(data)
    assert {threads for _, threads in seen} == {2}
    assert len(seen) > 1


def test_people_are_told_that_the_bits_may_differ(fedrec: Call, tmp_path: Path) -> None:
    words = ("train", "--data", DATA, "--model", "ease", "--out")
    said = fedrec(*words, tmp_path / "free", "--set", "reproducible=false")
    assert "the same model up to rounding errors, not the same bits" in " ".join(said.out.split())
    assert "same bits" not in fedrec(*words, tmp_path / "plain").out
