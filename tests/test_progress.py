"""Seconds are all that a person waited, by part; progress is told as work is done, and changes no bit of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fedrec as fr
from chosen_in_test import chosen
from conftest import Said
from fedrec import bars, progress
from fedrec.engines.local import LocalEngine
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.factors.mf import MF
from fedrec.node import shard as shard_module
from fedrec.node.node import Node
from fedrec.progress import Step, Stopwatch, counting, doing, followed, following, stage
from fedrec.record.durable import arrays_digest
from fedrec.runs import loading
from fedrec.runs.training import Placement, train_here, train_run

DATA = "synthetic:users=120,items=60,interactions_per_user=8,seed=3"
MF_PLAN = {"data": {"source": DATA}, "model": {"name": "mf", "rounds": 4, "embedding_size": 4}}
Call = Callable[..., Said]


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, seconds: float) -> None:
        """Let a function take so long."""
        does = getattr(owner, name)

        def slowly(*args: Any, **options: Any) -> Any:
            self.now += seconds
            return does(*args, **options)

        monkeypatch.setattr(owner, name, slowly)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


def test_time_counts_once_as_the_innermost_part(clock: Clock) -> None:
    with Stopwatch("write") as outer:
        clock.now += 1
        with stage("train"):
            clock.now += 2
            with Stopwatch(base="prepare") as inner, stage("evaluate"):
                clock.now += 4
            clock.now += 8
        clock.now += 16
    clock.now += 32
    assert outer.seconds_of == {"write": 0.0, "other": 17.0, "train": 10.0, "evaluate": 4.0}
    assert outer.seconds == 31.0
    assert inner.figures() == {"seconds": 4.0, "seconds_of": {"prepare": 0.0, "evaluate": 4.0}}


def test_a_part_that_fails_is_counted_too(clock: Clock) -> None:
    with Stopwatch() as watch:
        with contextlib.suppress(ValueError), stage("read"):
            clock.now += 3
            raise ValueError
        clock.now += 1
    assert watch.seconds_of == {"other": 1.0, "read": 3.0}


def test_a_report_counts_reading_training_and_all_measurements(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.slow(monkeypatch, loading, "load_source", 100.0)
    clock.slow(monkeypatch, LocalEngine, "build", 1.0)
    clock.slow(monkeypatch, Node, "contribute", 10.0)
    clock.slow(monkeypatch, Node, "evaluate", 1000.0)
    clock.slow(monkeypatch, Run, "digests", 5.0)
    plan = Plan.make(MF_PLAN | {"evaluation": {"every": 2}})
    report = train_run(plan, tmp_path / "run")
    # 4 rounds of one node; validations after rounds 2 and 4, then valid and test.
    assert report["seconds_of"] == {"read": 100.0, "prepare": 1.0, "train": 40.0, "evaluate": 4000.0, "write": 5.0}
    assert report["seconds"] == 4146.0
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report
    assert fr.verify(tmp_path / "run").wrong is None


def test_a_clock_that_ran_before_counts_what_was_before(clock: Clock, tmp_path: Path) -> None:
    with Stopwatch(*progress.RUN, base="prepare") as watch:
        clock.now += 7.0
        report = train_run(Plan.make(MF_PLAN), tmp_path / "run", clock=watch)
    assert report["seconds_of"]["prepare"] == report["seconds"] == 7.0


def test_a_run_that_went_on_counts_its_own_seconds_and_says_from_where(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.slow(monkeypatch, Node, "contribute", 10.0)

    def stop(round: Any) -> None:
        if round.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_run(Plan.make(MF_PLAN), tmp_path / "run", watch=stop)
    report = train_run(Plan.make(MF_PLAN), tmp_path / "run", resume=True)
    assert (report["rounds"], report["went_on_at_round"], report["seconds"]) == (4, 3, 10.0)
    assert train_run(Plan.make(MF_PLAN), tmp_path / "new")["went_on_at_round"] is None


def test_tables_of_several_trainings_count_training_and_measuring(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = fr.leave_last_out(fr.load_data(DATA))
    clock.slow(monkeypatch, Node, "contribute", 10.0)
    clock.slow(monkeypatch, Node, "evaluate", 1.0)
    row = fr.compare(split, "popularity", "hr@5").row(0, named=True)
    assert (row["seconds"], row["seconds_train"], row["seconds_evaluate"]) == (11.0, 10.0, 1.0)
    tuned = fr.tune(fr.MF, split, {"embedding_size": [2, 4]}, rounds=3, strategy="halving", seeds=2)
    # Two seeds of three rounds for either; halving of two candidates has one rung.
    assert tuned.table["seconds_train"].to_list() == [60.0, 60.0]
    assert tuned.table["seconds_evaluate"].to_list() == [2.0, 2.0]
    assert tuned.table["seconds"].to_list() == [62.0, 62.0]
    with fr.Stopwatch() as watch:
        fr.evaluate(fr.Popularity().fit(split), split, ["hr@5"])
    assert (watch.seconds_of["train"], watch.seconds_of["evaluate"], watch.seconds) == (10.0, 1.0, 11.0)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_nested_work_is_a_share_of_what_is_around_it() -> None:
    told: list[Step] = []
    with following(told.append), stage("train", "all of it"):
        for _ in followed(["three quarters", "of it"], 4, {"three quarters": 3, "of it": 1}.__getitem__):
            for _ in followed(range(3)):
                pass
    shares = [step.share for step in told if step.says == "all of it"]
    assert shares == [None, 0.25, 0.5, 0.75, 0.75, pytest.approx(0.75 + 1 / 12), pytest.approx(0.75 + 2 / 12), 1.0, 1.0]


def test_who_answered_is_counted_in_words_and_the_share_never_falls_within_a_step() -> None:
    told: list[Step] = []
    with following(told.append):
        doing("round 1 of 2", 0.0, 0.5)
        for _ in range(2):
            with counting(2, "nodes have answered") as reached:
                reached(1)
                reached(2)
        doing("round 1 of 2, solving")
    assert [step.share for step in told] == [0.0, 0.0, 0.25, 0.5, 0.5, 0.5, 0.5, None]
    assert told[2].count == "1 of 2 nodes have answered"
    assert told[-1].count == ""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "_CHUNK_FLOATS", 200)
    monkeypatch.setattr(shard_module, "_SCORE_FLOATS", 600)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("asynchronous", [None, {"buffer": 2}])
def test_training_and_measuring_tell_every_chunk_and_the_model_stays_the_same(asynchronous: Any) -> None:
    data = fr.load_data(DATA)
    changes = {} if asynchronous is None else {"asynchronous": asynchronous}
    plan = Plan.make(MF_PLAN | {"evaluation": {"every": 2}} | changes).resolve(data, "")
    digests = []
    told: list[Step] = []
    for tell in (told.append, None):
        engine = LocalEngine.build(data, plan, 3)
        if tell is None:
            coordinator, trained = train_here(engine, data, Run(plan, None))
        else:
            with following(tell):
                coordinator, trained = train_here(engine, data, Run(plan, None))
                coordinator.evaluate(trained.state, trained.round, "test", ["hr@5"], "full")
        digests.append(arrays_digest(trained.state.shared))
    assert digests[0] == digests[1]
    rounds = [step for step in told if step.says.startswith("round")]
    shares = [round(step.share, 9) for step in rounds if step.share is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert sum(step.says == "round 1 of 4" for step in rounds) > 6
    assert any(step.says == "round 2 of 4, validating" for step in rounds)
    assert any(step.says == "round 4 of 4, solving" and step.share is None for step in rounds)
    measured = [
        round(step.share or 0.0, 9) for step in told if step.says == "measuring test" and step.share is not None
    ]
    assert len(measured) > 6
    assert measured[-1] == 1.0
    if asynchronous is not None:
        assert {"1 of 2 sums are in", "2 of 2 sums are in"} <= {step.count for step in rounds}


@pytest.mark.usefixtures("small_chunks")
def test_lists_for_everybody_are_told_as_they_are_made(tmp_path: Path) -> None:
    model = fr.Popularity().fit(fr.load_data(DATA), nodes=2)
    told: list[Step] = []
    with following(told.append):
        model.save_recommendations(tmp_path / "lists.parquet")
    shares = [step.share for step in told if step.says == "120 users"]
    assert len(shares) > 10
    assert shares[-1] == 1.0


# --- on a terminal ----------------------------------------------------------------------------------------------------


def on_a_terminal(folder: Path, *words: object, stop: tuple[bytes, ...] = ()) -> tuple[int, bytes, bytes]:
    """Run a command whose standard error is a terminal, and interrupt it once it has shown all of `stop`; the exit
    code, standard output and what the terminal showed."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fedrec", *map(str, words)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)  # a process in the background ignores it, and so its children
    try:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    shown, until = b"", time.monotonic() + 120
    while time.monotonic() < until:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end was closed
            break
        shown += piece
        if stop and all(text in shown for text in stop):
            process.send_signal(signal.SIGINT)
            stop = ()
    os.close(ours)
    out, _ = process.communicate()
    return process.returncode, out, shown


LONG = ("train", "--data", DATA, "--model", "mf", "--set", "embedding_size=4", "--set", "cohort=0.5")


def test_an_interrupted_training_leaves_the_terminal_as_it_was_and_a_run_that_goes_on(
    tmp_path: Path, fedrec: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = ("--set", "rounds=100000")
    told = b"of 100,000", b"rounds/s"
    code, out, shown = on_a_terminal(tmp_path, *LONG, *rounds, "--out", "my run", stop=told)
    assert (code, out) == (130, b"")
    assert shown.count(b"\x1b[?25l") == shown.count(b"\x1b[?25h") == 1  # the cursor was hidden, and is back
    last = shown.split(b"\x1b[?25h")[1].decode()
    assert "Continue with: fedrec train --resume --out 'my run'" in last
    monkeypatch.chdir(tmp_path)

    def stop(self: MF, state: Any, total: Any, round: int) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(MF, "step", stop)
    again = fedrec("train", "--resume", "--out", "my run")
    assert (again.code, "--resume --out 'my run'" in again.err) == (130, True)


class ZMQInteractiveShell:
    """What IPython has in a notebook."""


@pytest.mark.parametrize(
    ("notebook", "wanted", "drawn"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_a_notebook_gets_a_bar_unless_it_is_not_wanted(
    notebook: bool, wanted: bool, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = ZMQInteractiveShell() if notebook else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(bars, "_PATIENCE", 0.0)
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    def wait(_: Any) -> None:
        until = time.monotonic() + (10 if drawn else 0)
        while "fit MF: round" not in sys.stderr.getvalue() and time.monotonic() < until:
            time.sleep(0.05)

    fr.MF(rounds=2, embedding_size=2).fit(fr.load_data(DATA), progress=wanted, watch=wait)
    said = sys.stderr.getvalue()
    assert ("fit MF: round 1 of 2" in said, bool(said)) == (drawn, drawn)


@pytest.mark.parametrize("option", chosen(["--json"], ["--quiet", "--json"]))
def test_no_bar_is_drawn_for_whoever_wants_none(option: str, tmp_path: Path) -> None:
    code, _, shown = on_a_terminal(tmp_path, *LONG, "--set", "rounds=3", "--out", "run", option)
    assert (code, shown) == (0, b"")


def test_an_interruption_before_the_run_began_says_so(
    fedrec: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, "load_source", stop)
    said = fedrec(*LONG, "--out", "run")
    assert (said.code, said.err) == (130, "fedrec: interrupted before the run began; nothing was saved\n")
    assert not Path("run").exists()


def test_commands_say_what_was_waited_for(fedrec: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fedrec("train", "--data", DATA, "--model", "ease", "--out", "run").code == 0
    options = {
        ("evaluate", "run"): {"read", "prepare", "evaluate"},
        ("recommend", "run", "--user", 1): {"read", "prepare", "recommend"},
        ("recommend", "run", "--all-users", "--to", "all.csv"): {"read", "prepare", "recommend"},
        ("similar", "run", "--item", 1): {"read", "prepare"},
        ("compare", "--data", DATA, "--models", "popularity"): {"read", "prepare", "train", "evaluate"},
        ("tune", "--data", DATA, "--model", "ease", "--grid", "reg=1,9"): set(progress.RUN),
    }
    for words, parts in options.items():
        said = fedrec(*words, "--json")
        assert said.code == 0, said.err
        answer = json.loads(said.out)
        assert set(answer["seconds_of"]) == parts
        assert answer["seconds"] == pytest.approx(sum(answer["seconds_of"].values()), abs=1e-9)
        assert np.all(np.array(list(answer["seconds_of"].values())) >= 0)


def test_a_placement_says_nothing_of_seconds(tmp_path: Path) -> None:
    """Nodes take turns, so their times add up."""
    report = train_run(Plan.make(MF_PLAN), tmp_path / "run", Placement(3))
    assert report["seconds"] == round(sum(report["seconds_of"].values()), 3)
