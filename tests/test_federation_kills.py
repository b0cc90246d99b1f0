"""A coordinator that is killed anywhere and goes on ends with the same bytes and the same ledger, at every node too."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedrec.record.durable as durable
from federation_in_test import BEST, COORDINATOR, MF, WAITING, Federation, assert_same_rows, at_most, small_plan
from fedrec.engines.federated import Members, train_federated
from fedrec.engines.post import Failure, LocalPost
from fedrec.federation.host import NodeHost
from fedrec.federation.plan import Plan
from fedrec.privacy.budget import Budget
from fedrec.record.ledger import Ledger
from kill_driver import Killed, is_killed

PLANS = {
    "mf": small_plan({**MF, "rounds": 3}),
    "best": BEST,
    "ease": small_plan({"name": "ease"}, cohort=1.0),
    "private": small_plan({"name": "ease"}, cohort=1.0, privacy={"epsilon": 8.0, "delta": 1e-4, "users": 240}),
}


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
        rows = (one.federation.served[name].node.private() for one in (home, whole))
        assert_same_rows(*rows, name)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "secure", "together", "stride"),
    [("mf", False, False, 3), ("best", False, True, 37), ("ease", False, False, 3), ("mf", True, False, 7),
     ("mf", True, True, 71)],
)  # fmt: skip
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


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
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
    for number in range(0, 200, 11):
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


@pytest.mark.parametrize("together", [False, True], ids=["coordinator", "coordinator and nodes"])
def test_a_private_run_that_is_killed_is_charged_once(together: bool, tmp_path: Path) -> None:
    whole = Home(tmp_path / "whole", PLANS["private"], secure=False, together=together)
    assert not whole.train()
    due = charges(whole)
    assert len(due) == 1 + 4
    for write in range(0, 200, 13 if together else 3):
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
