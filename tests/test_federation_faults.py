"""What networks and nodes do to a federation: whatever happens, a run ends with the right sum or says why it stops.

Right is what the local engine makes of just those nodes that the ledger names, round by round.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chosen_in_test import chosen, every
from faults_in_test import FAULTS, LASTING, Answer, Faulty, Stormy
from federation_in_test import (
    BEST,
    COORDINATOR,
    MF,
    RUN,
    STRANGER,
    WAITING,
    Federation,
    Outcome,
    assert_right,
    kind_of,
    small_plan,
)
from fedrec.errors import PlanError, RunError
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.messages import Request, open_reply, open_request, request_digest
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.network import secure_sums as network_sums
from fedrec.network.post import Failure, LocalPost
from fedrec.network.remote import RemoteEngine

SHORT = small_plan({**MF, "rounds": 2})
PHASES = [("open", 0), ("contribute", 0), ("contribute", 1), ("finish", 0), ("evaluate", 0)]
NAMES = sorted(FAULTS | LASTING)
PHASED = every(2, ((fault, *PHASES[place % 5]) for place, fault in enumerate(NAMES)))
STAGED = every(2, ((fault, place % 5) for place, fault in enumerate(NAMES)), start=1)
"""Each fault strikes a plain or a secure sum; the other one, among the exhaustive tests."""
LONGER = {"answer late, as answer to the next", "away for three requests"}
"""Faults that strike more than one request."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("fedrec.node").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("fedrec.node").setLevel(logging.NOTSET)


def struck(folder: Path, fault: str, kind: str, nth: int, secure: bool, plan: Plan = SHORT) -> Outcome:
    federation = Federation(folder, plan, secure=secure)
    post = Faulty(federation, fault, "node-1", kind, nth, seed=nth)
    outcome = federation.train(post.post)
    assert post.struck, f"no request {nth} of kind {kind} was made"
    assert_right(federation, outcome)
    return outcome


@pytest.mark.parametrize(("fault", "kind", "nth"), PHASED)
def test_one_node_of_four_changes_nothing_but_who_is_in_the_sum(
    fault: str, kind: str, nth: int, tmp_path: Path
) -> None:
    assert_one_is_missed_at_most(tmp_path, fault, kind, nth)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", NAMES)
def test_one_node_of_four_changes_nothing_in_any_phase(fault: str, tmp_path: Path) -> None:
    for kind, nth in PHASES:
        assert_one_is_missed_at_most(tmp_path / f"{kind}{nth}", fault, kind, nth)


@pytest.mark.parametrize(("fault", "stage"), STAGED)
def test_one_node_of_four_changes_nothing_but_who_is_in_the_secure_sum(fault: str, stage: int, tmp_path: Path) -> None:
    assert_one_is_missed_at_most(tmp_path, fault, "mask", stage)


@pytest.mark.exhaustive
@pytest.mark.parametrize("fault", NAMES)
def test_one_node_of_four_changes_nothing_in_any_stage_of_a_secure_sum(fault: str, tmp_path: Path) -> None:
    for kind, nth in [*PHASES, *(("mask", stage) for stage in range(15))]:
        assert_one_is_missed_at_most(tmp_path / f"{kind}{nth}", fault, kind, nth, secure=True)


def assert_one_is_missed_at_most(folder: Path, fault: str, kind: str, nth: int, secure: bool = False) -> None:
    outcome = struck(folder, fault, kind, nth, secure or kind == "mask")
    if fault == "back with another version" and kind == "open":
        assert isinstance(outcome.error, PlanError)
        assert "node-1: the coordinator runs fedrec" in str(outcome.error)
        return
    assert outcome.error is None, (fault, kind, nth)
    others = {"node-0", "node-2", "node-3"}
    assert all(others <= set(line["nodes"]) for line in outcome.rounds), (fault, kind, nth)
    away = fault in LASTING or fault in LONGER
    assert set(outcome.unreached) <= ({"node-1"} if away else set()), (fault, kind, nth)
    if nth == 0 and kind in ("contribute", "mask") and not away:
        assert "node-1" in outcome.rounds[1]["nodes"], (fault, kind, nth)


@pytest.mark.parametrize("fault", chosen({*LONGER, *sorted(FAULTS)[::3]}, sorted(FAULTS)))
def test_the_best_round_is_kept_by_a_node_that_missed_its_turn_to_keep_it(fault: str, tmp_path: Path) -> None:
    outcome = struck(tmp_path, fault, "keep", 0, secure=False, plan=BEST)
    assert outcome.error is None
    assert outcome.trained is not None
    assert outcome.trained.round < 3, "the last round is the best one, so nothing is tested"
    assert fault in LONGER or outcome.unreached == ()


BUFFERED = small_plan(
    {**MF, "rounds": 12, "learning_rate": 3.0},
    cohort=1.0,
    asynchronous={"buffer": 2},
    evaluation={"every": 1, "keep": "best", "metrics": ["ndcg@10"]},
)
UNHEARD = ["request lost", "answer lost", "away for three requests", "killed before", "killed after", "answer cut"]


class Unkept(Faulty):
    """A post on which something happens to node-1 whenever it is asked to keep what it was not asked before to keep."""

    def __init__(self, federation: Federation, fault: str) -> None:
        super().__init__(federation, fault)
        self.asked: set[tuple[Any, Any]] = set()
        self._keeping: tuple[Any, Any] = None, None

    def _interfere(self, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
        request, _ = open_request(frame, COORDINATOR.public(), 1 << 30)
        self._keeping = (request.fields.get("shared"), request.fields.get("committed"))
        return super()._interfere(name, frame, answer)

    def chosen(self, name: str, kind: str) -> str | None:
        if (name, kind) != ("node-1", "keep") or self._keeping in self.asked:
            return None
        self.asked.add(self._keeping)
        return self.fault


@pytest.mark.parametrize("fault", every(2, UNHEARD))
def test_the_best_version_is_kept_by_a_node_that_missed_its_turn_to_keep_it(fault: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path, BUFFERED, nodes=3)
    assert_best_version_is_kept(federation, Unkept(federation, fault), Run(federation.plan, None))


def test_the_best_version_is_kept_by_a_node_that_missed_its_turn_before_the_coordinator_ended(tmp_path: Path) -> None:
    federation = Federation(tmp_path, BUFFERED, nodes=3)
    post, run = Unkept(federation, "request lost"), Run(federation.plan, None)
    engine = federation.engine(post.post, run)
    engine.open()
    Coordinator(federation.agreement, engine, run, engine.has_valid).train(until=3)
    engine.close()
    assert_best_version_is_kept(federation, post, run)


def assert_best_version_is_kept(federation: Federation, post: Unkept, run: Run) -> None:
    outcome = federation.train(post.post, run)
    assert outcome.error is None
    assert outcome.trained is not None
    kept = OwnRounds.after(outcome.rounds, outcome.trained.round)["node-1"]
    last = OwnRounds.after(outcome.rounds, len(outcome.rounds) - 1)["node-1"]
    assert last > kept, "node-1 ends with the best version, so nothing is tested"
    assert outcome.unreached == ()
    assert federation.served["node-1"].kept == kept


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed < 5 else pytest.mark.exhaustive) for seed in range(24)]
)
def test_anything_happens_to_any_frame(seed: int, tmp_path: Path) -> None:
    secure = seed % 2 == 1
    rate = ([0.01, 0.03, 0.06] if secure else [0.05, 0.15, 0.3])[seed // 2 % 3]
    federation = Federation(tmp_path, BEST if seed % 4 < 2 else SHORT, nodes=4 + seed % 3, secure=secure)
    outcome = federation.train(Stormy(federation, rate, seed).post)
    assert_right(federation, outcome)
    assert isinstance(outcome.error, RunError | PlanError | None)


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(10))
def test_anything_happens_to_any_frame_for_longer(part: int, tmp_path: Path) -> None:
    for seed in range(1000 + 30 * part, 1030 + 30 * part):
        test_anything_happens_to_any_frame(seed, tmp_path / str(seed))


@pytest.mark.parametrize(("kind", "nth"), [*PHASES[:3], ("mask", 0), ("mask", 2), ("mask", 4), ("mask", 7)])
def test_with_too_few_nodes_left_a_run_stops_and_says_why_and_goes_on_when_they_are_back(
    kind: str, nth: int, tmp_path: Path
) -> None:
    federation = Federation(tmp_path, SHORT, secure=kind == "mask")
    post = Faulty(federation, "none", "node-0", kind, nth)
    gone: set[str] = set()
    plainly = post.post.interfere
    assert plainly is not None

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        before = plainly(name, frame, lambda _: b"")
        if post.seen.count((name, kind)) > nth and name != "node-0":
            gone.add(name)
        return Failure("gone", "it is not up") if name in gone else answer(frame) if before == b"" else before

    post.post.interfere = interfere
    run = Run(federation.plan, None)
    outcome = federation.train(post.post, run)
    assert isinstance(outcome.error, RunError)
    assert re.search(r"node-1, node-2 and node-3: it is not up", str(outcome.error)), "said once"
    assert_right(federation, outcome)
    committed = len(outcome.rounds)

    post.post.interfere = None
    for name in federation.names:
        post.restart(name)
    again = federation.train(post.post, run)
    assert again.error is None
    assert len(again.rounds) == 2 >= committed
    assert_right(federation, again)


def test_a_node_that_comes_after_the_best_round_gets_the_model(tmp_path: Path) -> None:
    federation = Federation(tmp_path, BEST.model_copy(update={"model": {**BEST.model, "rounds": 6}, "cohort": 1.0}))
    rounds = 0

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        nonlocal rounds
        rounds += (name, kind_of(frame)) == ("node-0", "contribute")
        return Failure("gone", "it is not up") if name == "node-1" and rounds < 5 else answer(frame)

    outcome = federation.train(LocalPost(federation.hosts(), interfere))
    assert outcome.error is None
    assert outcome.trained is not None
    assert outcome.trained.round < 4, "the last round is the best one, so nothing is tested"
    assert "node-1" in outcome.rounds[-1]["nodes"]
    assert outcome.unreached == ()
    assert_right(federation, outcome)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_a_run_waits_for_nodes_that_are_soon_back(secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, secure=secure)
    post = Faulty(federation)
    asked = dict.fromkeys(federation.names, 0)

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        asked[name] += 1
        return Failure("gone", "it is not up") if 1 < asked[name] < 5 else answer(frame)

    post.post.interfere = interfere
    outcome = federation.train(post.post, waiting=replace(WAITING, max_retries=1, reconnect_timeout=20.0))
    assert outcome.error is None
    assert_right(federation, outcome)
    assert [line["nodes"] for line in outcome.rounds] == [federation.names, federation.names]
    assert any("0 of 4 nodes are connected; waiting" in told for told in federation.told)


def test_a_sum_that_was_opened_is_opened_again_among_the_same_nodes_only(tmp_path: Path) -> None:
    """node-3 is away until the others have revealed shares to a coordinator that hears none, then it is back."""
    federation = Federation(tmp_path, SHORT, secure=True)
    post = Faulty(federation, "none")
    stages: dict[str, int] = {}

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        kind = kind_of(frame)
        stages[name] = stages.get(name, 0) + (kind == "mask")
        if name == "node-3" and stages.get("node-0", 0) in (1, 2, 3, 4) and kind == "mask":
            return Failure("gone", "it is not up")
        said: bytes = answer(frame)
        return Failure("timeout", "no answer in time") if kind == "mask" and stages[name] == 5 else said

    post.post.interfere = interfere
    outcome = federation.train(post.post)
    assert outcome.error is None
    assert outcome.rounds[0]["nodes"] == ["node-0", "node-1", "node-2"]
    assert outcome.rounds[1]["nodes"] == federation.names
    assert_right(federation, outcome)


def test_a_sum_that_was_opened_waits_for_the_nodes_it_was_opened_with(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, secure=True)
    post = Faulty(federation, "none")
    stages: dict[str, int] = {}
    gone: set[str] = set()

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        if name in gone:
            return Failure("gone", "it is not up")
        stages[name] = stages.get(name, 0) + (kind_of(frame) == "mask")
        said: bytes = answer(frame)
        if stages[name] == 5:
            gone.update({"node-1"})
            return Failure("timeout", "no answer in time")
        return said

    post.post.interfere = interfere
    run = Run(federation.plan, None)
    outcome = federation.train(post.post, run)
    assert isinstance(outcome.error, RunError)
    assert "opened together with node-1" in str(outcome.error)
    assert not outcome.rounds
    gone.clear()
    stages.update(dict.fromkeys(stages, 10))
    again = federation.train(post.post, run)
    assert again.error is None
    assert again.rounds[0]["nodes"] == federation.names
    assert_right(federation, again)


def test_the_number_of_a_secure_sum_is_used_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(tmp_path, SHORT, secure=True)
    post = Faulty(federation)
    make = federation.engine

    def forgetful(*arguments: Any) -> RemoteEngine:
        engine = make(*arguments)
        plainly = engine._sums._one  # type: ignore[union-attr]

        def once(*arguments: Any) -> Any:
            engine._sums._number = -1  # type: ignore[union-attr]
            return plainly(*arguments)

        monkeypatch.setattr(engine._sums, "_one", once)
        monkeypatch.setattr(network_sums, "time", SimpleNamespace(time_ns=lambda: 0))
        return engine

    monkeypatch.setattr(federation, "engine", forgetful)
    outcome = federation.train(post.post)
    assert isinstance(outcome.error, RunError)
    assert "began before; each round has one attempt" in str(outcome.error)
    assert len(outcome.rounds) == 1, "the second sum has the number of the first"
    assert_right(federation, outcome)


def test_a_node_that_is_back_goes_on_from_its_disk(tmp_path: Path) -> None:
    """All nodes' processes end after every request; nothing but their disks is left to go on from."""
    federation = Federation(tmp_path, BEST)
    post = Faulty(federation)

    def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
        said: bytes = answer(frame)
        if kind_of(frame) != "open":
            post.restart(name)
        return said

    post.post.interfere = interfere
    outcome = federation.train(post.post)
    assert outcome.error is None
    assert all(line["nodes"] == federation.names for line in outcome.rounds)
    assert_right(federation, outcome)


def test_an_unpinned_coordinator_is_not_obeyed(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT)
    post = Faulty(federation)
    run = Run(federation.plan, None)
    post.post.interfere = None
    engine = RemoteEngine(
        post.post, STRANGER, federation.public, RUN, federation.agreement, run.ledger,
        waiting=federation.engine(post.post, run)._waiting,
    )  # fmt: skip
    with pytest.raises(RunError, match="the signature of coordinator is wrong"):
        engine.open()
    assert not (tmp_path / "node-1-home" / "runs").exists()
    assert all(host._opened is None for host in post.post.hosts.values())


@pytest.mark.parametrize("again", ["same process", "restarted"])
def test_a_recorded_conversation_handed_in_again_is_refused_word_by_word(again: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, secure=True)
    post = Faulty(federation)
    outcome = federation.train(post.post)
    assert outcome.error is None
    files = _files(tmp_path / "node-1-home")
    if again == "restarted":
        post.restart("node-1")
    for frame in post.past["node-1"]:
        reply = open_reply(
            post.post.hosts["node-1"].answer(frame), federation.public["node-1"], request_digest(frame), 1 << 30
        )
        assert reply.problem == "repeated" or (again == "restarted" and reply.problem == "not-open"), reply
        assert not reply.parts
    assert _files(tmp_path / "node-1-home") == files


def test_a_request_reaches_only_the_node_and_the_run_that_it_is_for(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT)
    post = Faulty(federation)
    assert federation.train(post.post).error is None
    host = post.post.hosts["node-1"]
    for request, problem in (
        (Request("hello", RUN, "node-2", 1 << 62), "refused"),
        (Request("contribute", "f" * 16, "node-1", 1 << 62), "not-open"),
        (Request("hello", "../../etc", "node-1", 1 << 62), "damaged"),
        (Request("anything", RUN, "node-1", (1 << 62) + 1), "damaged"),
    ):
        frame = request.sign(COORDINATOR).whole()
        reply = open_reply(host.answer(frame), federation.public["node-1"], request_digest(frame), 1 << 30)
        assert reply.problem == problem, (request, reply)
        assert not reply.parts


def test_the_answer_of_one_node_is_no_answer_of_another(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT)
    post = Faulty(federation, "request to another node", "node-1", "contribute", 0)
    outcome = federation.train(post.post)
    assert outcome.error is None
    assert outcome.rounds[0]["nodes"] == ["node-0", "node-2", "node-3"]
    assert_right(federation, outcome)


def test_the_oracle_sees_a_wrong_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that is counted twice, or off by one unit, does not get past the check of these tests."""
    for wrong in ("twice", "off by one"):
        federation = Federation(tmp_path / wrong, SHORT)
        post = Faulty(federation)
        plainly = RemoteEngine.contribute

        def contribute(engine: RemoteEngine, call: Any, wrong: str = wrong, plainly: Any = plainly) -> Any:
            sums = plainly(engine, call)
            if wrong == "twice":
                return [*sums, sums[0]]
            next(iter(sums[0].arrays.values())).reshape(-1)[0] += 1 << 20
            return sums

        with monkeypatch.context() as patch:
            patch.setattr(RemoteEngine, "contribute", contribute)
            outcome = federation.train(post.post)
        with pytest.raises(AssertionError, match=r"wrong sum|clients"):
            assert_right(federation, outcome)


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
