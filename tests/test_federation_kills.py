"""A coordinator that is killed anywhere and goes on ends with the same bytes and the same ledger, at every node too."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fedrec.record.durable as durable
from federation_in_test import BEST, COORDINATOR, MF, WAITING, Federation, assert_same_rows, at_most, small_plan
from fedrec.federation.plan import Plan
from fedrec.federation.run import read_plan
from fedrec.models.base import State
from fedrec.network.post import Failure, LocalPost
from fedrec.node.host import NodeHost, Served
from fedrec.privacy.budget import Budget
from fedrec.record.durable import arrays_digest
from fedrec.record.ledger import Ledger
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.published import save_served
from fedrec.runs.saved import open_run
from fedrec.runs.verifying import verify_run
from kill_driver import Killed, is_killed

PLANS = {
    "mf": small_plan({**MF, "rounds": 3}),
    "best": BEST,
    "ease": small_plan({"name": "ease"}, cohort=1.0),
    "private": small_plan({"name": "ease"}, cohort=1.0, privacy={"epsilon": 8.0, "delta": 1e-4, "users": 240}),
}


@pytest.fixture(autouse=True)
def same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs have one number: salts of receipts and transcripts follow from it, and both are in the ledger."""
    monkeypatch.setattr("fedrec.runs.federated.secrets", SimpleNamespace(token_hex=lambda size: "0" * 2 * size))


class Home:
    """A coordinator's run folder, and nodes that outlive the coordinator or die with it."""

    def __init__(self, folder: Path, plan: Plan, secure: bool, together: bool) -> None:
        self.federation = Federation(folder, plan, secure=secure)
        self.run, self.together, self.secure = folder / "run", together, secure
        self.hosts = self.federation.hosts()
        shown = self.federation
        self.members = Members("test", COORDINATOR, shown.public, shown.catalog, 1024)

    def train(self, write: int | None = None, half: bool = False) -> bool:
        """Train, or go on; says whether it was killed at this write."""
        if self.together:
            self.hosts = self.federation.hosts()
        elsewhere = durable.os  # type: ignore[attr-defined]

        def apart(name: str, frame: bytes, answer: Callable[[bytes], bytes]) -> bytes | Failure:
            here, durable.os = durable.os, elsewhere  # type: ignore[attr-defined]
            try:
                return answer(frame)
            finally:
                durable.os = here  # type: ignore[attr-defined]

        post = LocalPost(self.hosts, None if self.together else apart)

        def work() -> None:
            with at_most(60):
                train_federated(
                    self.federation.plan, self.run, self.members, post, self.secure, WAITING, resume=self.run.exists()
                )

        return is_killed(work, write, half)


def assert_as_if_never_killed(home: Home, whole: Home) -> None:
    for name in ("model/model.json", "model/shared.safetensors", "model/catalog.jsonl", "ledger.jsonl", "plan.yaml"):
        assert (home.run / name).read_bytes() == (whole.run / name).read_bytes(), name
    assert {path.name for path in home.run.iterdir()} == {path.name for path in whole.run.iterdir()}
    for name in home.federation.names:
        rows = (one.federation.served[name].node.shards[0].private() for one in (home, whole))
        assert_same_rows(*rows, name)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "secure", "together", "stride"),
    [("best", False, True, 127), ("ease", False, False, 11), ("mf", True, False, 23)],
)
def test_killed_at_a_write_and_resumed(name: str, secure: bool, together: bool, stride: int, tmp_path: Path) -> None:
    assert_resumes(tmp_path, PLANS[name], secure, together, stride)


@pytest.mark.exhaustive
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
@pytest.mark.parametrize("together", [False, True], ids=["coordinator", "coordinator and nodes"])
@pytest.mark.parametrize("name", ["mf", "best", "ease"])
def test_killed_at_one_write_after_the_other(name: str, secure: bool, together: bool, tmp_path: Path) -> None:
    assert_resumes(tmp_path, PLANS[name], secure, together, stride=3 if together else 1)


def assert_resumes(folder: Path, plan: Plan, secure: bool, together: bool, stride: int) -> None:
    """Killed at every so manieth write, a run goes on to the same end."""
    whole = Home(folder / "whole", plan, secure, together)
    assert not whole.train()
    for write in range(0, 2000, stride):
        home = Home(folder / "killed", plan, secure, together)
        killed = home.train(write, half=write // stride % 2 == 0)
        assert not killed or not home.train()
        assert_as_if_never_killed(home, whole)
        shutil.rmtree(folder / "killed")
        if not killed:
            break
    assert write > 2 * stride


@pytest.mark.parametrize("secure", [pytest.param(False, marks=pytest.mark.exhaustive), True], ids=["plain", "secure"])
def test_killed_again_and_again(secure: bool, tmp_path: Path) -> None:
    draws = random.Random(1)
    whole = Home(tmp_path / "whole", BEST, secure, together=False)
    assert not whole.train()
    home = Home(tmp_path / "killed", BEST, secure, together=False)
    deaths = 0
    for attempt in range(12):
        home.together = attempt % 3 == 2
        deaths += home.train(draws.randrange(14 if home.together else 6), draws.random() < 0.5)
    home.together = True
    assert not home.train()
    assert deaths > 3
    assert_as_if_never_killed(home, whole)


def test_killed_between_any_two_requests(tmp_path: Path) -> None:
    """The coordinator ends right after a frame went out, whatever the frame; nodes have answered, nobody heard it."""
    whole = Home(tmp_path / "whole", BEST, secure=False, together=False)
    assert not whole.train()
    last = 0
    for number in range(0, 200, 29):
        home = Home(tmp_path / "killed", BEST, secure=False, together=False)
        if not _killed_after_frame(home, number):
            last = number
            break
        assert not home.train()
        assert_as_if_never_killed(home, whole)
        shutil.rmtree(tmp_path / "killed")
    assert last > 30


def _killed_after_frame(home: Home, number: int) -> bool:
    count = 0
    plainly = NodeHost.answer

    def answer(host: NodeHost, frame: bytes) -> bytes:
        nonlocal count
        said = plainly(host, frame)
        count += 1
        if count == number + 1:
            raise Killed
        return said

    NodeHost.answer = answer  # type: ignore[method-assign]
    try:
        return home.train()
    finally:
        NodeHost.answer = plainly  # type: ignore[method-assign]


@pytest.mark.parametrize(("together", "stride"), [
    pytest.param(False, 3, marks=pytest.mark.exhaustive), pytest.param(True, 3, marks=pytest.mark.exhaustive),
    (True, 11),
])  # fmt: skip
def test_a_private_run_that_is_killed_is_charged_once(together: bool, stride: int, tmp_path: Path) -> None:
    whole = Home(tmp_path / "whole", PLANS["private"], secure=False, together=together)
    assert not whole.train()
    due = charges(whole)
    assert len(due) == 1 + 4
    for write in range(0, 200, 4 * stride + 1 if together else stride):
        home = Home(tmp_path / "killed", PLANS["private"], secure=False, together=together)
        killed = home.train(write, half=write % 2 == 0)
        assert not killed or not home.train()
        assert charges(home) == due, f"killed at write {write}"
        shutil.rmtree(tmp_path / "killed")
        if not killed:
            break
    assert write > 9


def charges(home: Home) -> list[Any]:
    """What the ledger says of every round's charge, and what every owner's journal says was spent."""
    lines = Ledger(home.run / "ledger.jsonl", rooted=True).of_kind("round")
    spent = []
    for name in home.federation.names:
        budget: Budget = home.federation.config(name).open_budget()
        text = budget.path.read_text() if budget.path is not None else ""
        spent.append(sorted(len(line) > 0 for line in text.splitlines()))
    return [[(line["round"], line["charge"], line["epsilon_cohort"]) for line in lines], *spent]


# --- the finished model at a node -------------------------------------------------------------------------------------

STEPS = ("mkdir", "rename", "replace", "rmdir", "symlink", "unlink")
"""What changes names on a disk; removing a folder takes many."""


def finished(folder: Path, plan: Plan) -> Served:
    """What a finished run leaves at a node."""
    home = Home(folder, plan, secure=False, together=False)
    assert not home.train()
    return home.federation.served[home.federation.names[0]]


def other_model(served: Served) -> Served:
    """The same run, finished with other shared arrays."""
    shared = {name: np.asarray(array * 2, dtype=array.dtype) for name, array in served.state.shared.items()}
    return replace(served, state=State(shared))


def die_at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what comes before the step of this number (from 0) the last thing that happens."""
    done = iter(range(1 << 30))

    def mortal(step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*words: Any, **more: Any) -> Any:
            if next(done) == number:
                raise Killed
            return step(*words, **more)

        return taken

    for name in STEPS:
        monkeypatch.setattr(os, name, mortal(getattr(os, name)))


def assert_whole(models: Path, *candidates: Served) -> Served:
    """What `latest` opens as: all of one of these."""
    there = open_run(models / "latest")
    assert verify_run(models / "latest").wrong is None
    digest = arrays_digest(there.trained.state.shared)
    one = next(one for one in candidates if arrays_digest(one.state.shared) == digest)
    assert there.trained.round == one.kept
    assert there.data.users.series.to_list() == one.data.users.series.to_list()
    assert there.engine.counts() == one.node.counts()
    assert_same_rows(there.private(), one.node.shards[0].private(), "latest")
    return one


def names_and_places(models: Path) -> dict[str, int]:
    return {str(path.relative_to(models)): path.lstat().st_ino for path in models.rglob("*")}


@pytest.mark.parametrize("name", ["mf", "ease", "private"])
def test_a_finished_model_that_is_handed_over_again_stays_where_it_is(name: str, tmp_path: Path) -> None:
    served = finished(tmp_path, PLANS[name])
    models = served.folder.parent
    save_served(served)
    before = names_and_places(models)
    save_served(served)
    assert names_and_places(models) == before
    assert os.readlink(models / "latest") == served.folder.name
    for number in (2, 3):
        served = other_model(served)
        save_served(served)
        assert assert_whole(models, served) is served
        assert sorted(path.name for path in models.iterdir()) == [f"{served.folder.name}-{number}", "latest"]


def test_a_later_run_takes_over_and_an_earlier_one_is_left(tmp_path: Path) -> None:
    first, later = (finished(tmp_path / name, PLANS[name]) for name in ("ease", "mf"))
    later = replace(later, folder=first.folder.with_name("f" * 16))
    for served in (first, later):
        save_served(served)
        assert_whole(first.folder.parent, served)
    assert open_run(first.folder).model.name == "ease"


def test_a_reader_stays_with_the_run_that_was_the_latest_when_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = (finished(tmp_path / name, PLANS[name]) for name in ("ease", "mf"))
    later = replace(later, folder=first.folder.with_name("f" * 16))
    save_served(first)

    def overtaken(folder: Path) -> Plan:
        plan = read_plan(folder)
        save_served(later)
        return plan

    monkeypatch.setattr("fedrec.runs.saved.read_plan", overtaken)
    assert open_run(first.folder.with_name("latest")).model.name == "ease"


def test_a_model_whose_data_or_rows_are_others_is_another(tmp_path: Path) -> None:
    mf, twin = (finished(tmp_path / name, PLANS["mf"]) for name in ("one", "other"))
    assert twin.node.shards[0].private() is not None
    twin = replace(twin, folder=mf.folder)
    save_served(mf)
    before = names_and_places(mf.folder.parent)
    save_served(twin)
    assert names_and_places(mf.folder.parent) == before, "equal, whoever hands it over"
    rows = {name: array * 2 for name, array in (twin.node.shards[0].private() or {}).items()}
    twin.node.shards[0].adopt(rows, twin.kept)
    save_served(twin)
    assert_whole(mf.folder.parent, twin)


@pytest.mark.parametrize("what", ["plan.yaml", "model/shared.safetensors", "private/interactions.parquet"])
def test_a_model_that_was_damaged_is_saved_anew(what: str, tmp_path: Path) -> None:
    served = finished(tmp_path, PLANS["mf"])
    save_served(served)
    (served.folder / what).unlink()
    save_served(served)
    assert_whole(served.folder.parent, served)
    assert sorted(path.name for path in served.folder.parent.iterdir()) == [f"{served.folder.name}-2", "latest"]


@pytest.mark.parametrize(
    ("name", "death"),
    [
        ("mf", "in a write"),
        pytest.param("mf", "at a step", marks=pytest.mark.exhaustive),
        pytest.param("mf", "at a write", marks=pytest.mark.exhaustive),
        pytest.param("private", "at a write", marks=pytest.mark.exhaustive),
        pytest.param("private", "at a step", marks=pytest.mark.exhaustive),
        pytest.param("private", "in a write", marks=pytest.mark.exhaustive),
    ],
)
def test_the_latest_model_is_whole_wherever_saving_was_killed(
    name: str, death: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finished(tmp_path, PLANS[name])
    models, killed, deaths = first.folder.parent, True, 0
    save_served(first)
    served = first
    while killed:
        before, served = served, other_model(served)
        with monkeypatch.context() as patch:
            if death == "at a step":
                die_at_step(deaths, patch)
            write = None if death == "at a step" else deaths
            killed = is_killed(lambda: save_served(served), write, half=death == "in a write")  # noqa: B023
        deaths += killed
        assert_whole(models, before, served)
        save_served(served)
        assert_whole(models, served)
        assert len(list(models.iterdir())) == 2, "what was left behind is cleared away"
    assert deaths > 9


def test_the_first_model_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = finished(tmp_path, PLANS["mf"])
    models, killed, deaths = served.folder.parent, True, 0
    while killed:
        with monkeypatch.context() as patch:
            die_at_step(deaths, patch)
            killed = is_killed(lambda: save_served(served))
        deaths += killed
        assert not (models / "latest").exists() or assert_whole(models, served)
        save_served(served)
        assert_whole(models, served)
        assert sorted(path.name for path in models.iterdir()) == [served.folder.name, "latest"]
        shutil.rmtree(models)
    assert deaths > 9
