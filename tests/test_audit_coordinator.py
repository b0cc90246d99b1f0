"""A coordinator with the real key that lies, as a command: nodes refuse what they promise to refuse, and every attack
succeeds once the defence against it is taken away."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

import fedrec as fr
from chosen_in_test import chosen, every
from fedrec.audit.lying import LIES
from fedrec.audit.staged import Mode, Staged, modes_of, stage
from fedrec.errors import InputError, RunError
from fedrec.federation.messages import unpack_arrays
from fedrec.node import answering, host, opening
from fedrec.node.answers import Answers
from fedrec.node.host import NodeHost
from fedrec.node.party import NetworkParty
from fedrec.privacy import accounting, guard
from fedrec.privacy.budget import Budget
from fedrec.secagg.bodies import Advert
from fedrec.secagg.policy import Floors
from stages_in_test import DATA, small_plan

Stages = Callable[..., Staged]
MEASURED = {"subtracted-runs"}
BEYOND = {"crafted-model", "fake-nodes", "plain-sums", "subtracted-runs", "thresholds"}
"""What nodes cannot refuse, but for those that `noise: distributed` hides."""
HIDDEN = {"subtracted-runs", "thresholds"}


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Homes of staged nodes need not survive a power cut, and all of them compute the same epsilons."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(accounting, "_gaussian_epsilon", functools.cache(accounting._gaussian_epsilon))
        yield


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """Federations by model, noise and mode, each staged once."""
    made: dict[tuple[str, str | None, Mode], Staged] = {}

    def one(model: str, noise: str | None = None, mode: Mode = "secure") -> Staged:
        key = model, noise, mode
        if key not in made:
            folder = tmp_path_factory.mktemp("stage")
            made[key] = stage(small_plan(model, noise), fr.load_data(DATA), "0" * 64, mode, folder)
        return made[key]

    return one


def verdict(name: str, staged: Staged) -> str:
    tried = LIES[name](staged)
    assert tried is not None
    return tried.finding(name).verdict


# --- what nodes refuse ------------------------------------------------------------------------------------------------


BACKWARDS = ("again-committed", "again-rewound", "older-round", "unlike-models")
CASES: dict[str, tuple[str, str | None, tuple[Mode, ...], Sequence[str]]] = {
    "mf, distributed": ("mf", "distributed", ("secure",), tuple(LIES)),
    "mf": ("mf", None, ("secure", "plain"), BACKWARDS),
    "ease, distributed": ("ease", "distributed", ("secure",), BACKWARDS),
    "ease": ("ease", None, ("secure", "plain"), sorted(set(LIES) - BEYOND)),
}


@pytest.mark.parametrize("case", chosen(["mf, distributed"], CASES))
def test_nodes_refuse_what_they_promise_to_refuse(case: str, staged: Stages) -> None:
    model, noise, modes, names = CASES[case]
    assert modes_of(small_plan(model, noise)) == modes
    asked = set()
    for mode in modes:
        for name in names:
            tried = LIES[name](staged(model, noise, mode))
            if tried is None:
                continue
            asked.add(name)
            found = tried.finding(name)
            assert found.against == "server"
            assert (found.value == 0) == (found.verdict == "pass"), found
            assert "“" in found.says or found.value or name in MEASURED, "a node's own words"
            if name in BEYOND:
                hidden = name in HIDDEN and noise == "distributed"
                assert found.verdict == ("pass" if hidden else "out of scope"), found.says
            else:
                assert (found.limit, found.verdict) == (0.0, "pass"), found.says
    lacking = {"plain-sums"} if noise else {"private-metrics", "unlike-clips", "again-restored"}
    if model == "ease" and noise is None:
        lacking |= {"again-committed", "older-round", "unlike-models", "unlike-past"}
    assert asked == set(names) - lacking


def test_what_nothing_bounds_is_got_and_said_to_be_out_of_scope(staged: Stages) -> None:
    said = {
        "subtracted-runs": (staged("ease"), "node-3's part"),
        "fake-nodes": (staged("ease"), "policy.parties"),
        "crafted-model": (staged("ease"), "clip in its release"),
        "thresholds": (staged("ease", None, "plain"), "policy.openings_per_day"),
        "plain-sums": (staged("ease", None, "plain"), "policy.secure = true"),
        "private-metrics": (staged("ease", "central", "plain"), "privacy.distributed = true"),
    }
    for name, (federation, words) in said.items():
        tried = LIES[name](federation)
        assert tried is not None
        found = tried.finding(name)
        assert (found.verdict, found.limit) == ("out of scope", None)
        assert words in found.says


def test_answers_that_are_always_the_same_tell_nothing(staged: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verdict("thresholds", staged("ease")) == "out of scope"
    monkeypatch.setattr(Advert, "clients", property(lambda _: 20, lambda *_: None), raising=False)
    assert verdict("thresholds", staged("ease")) == "pass"


# --- every attack can succeed -----------------------------------------------------------------------------------------

Patch = Callable[[pytest.MonkeyPatch], None]


def forgetful(patch: pytest.MonkeyPatch) -> None:
    """A node that answers whatever it is asked, under any transcript, at any time, and notes nothing."""
    patch.setattr(Answers, "ask", lambda *_: None)
    patch.setattr(Answers, "finish", lambda *_: None)
    patch.setattr(NetworkParty, "among", lambda *_: None)
    patch.setattr(Budget, "charge", lambda *_: None)
    patch.setattr("fedrec.node.private_rows.PrivateRows.settle", lambda *_, **__: None)
    patch.setattr(answering, "_past", lambda *_: {})


def one_transcript(patch: pytest.MonkeyPatch) -> None:
    """Parties that do not insist on the transcript that they answered."""
    checked = Floors.check
    patch.setattr(Floors, "check", lambda self, manifest: checked(replace(self, transcript=None, model=None), manifest))


def unsigned_keys(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Advert, "is_signed", lambda *_: True)


def any_digest(patch: pytest.MonkeyPatch) -> None:
    """A host that takes the coordinator's word for which arrays it sent."""
    taken = NodeHost._shared

    def shared(self: NodeHost, opened: Any, request: Any) -> Any:
        if not request.parts:
            return taken(self, opened, request)
        opened.take(request.fields["shared"], unpack_arrays(request.parts[0]))
        return opened.shared[1]

    patch.setattr(NodeHost, "_shared", shared)


def any_terms(patch: pytest.MonkeyPatch) -> None:
    """A node that keeps no terms of a run."""
    patch.setattr(opening, "_keep", lambda *_: None)


def any_survivors(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Floors, "check_survivors", lambda *_: None)


def any_call(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(answering, "check_call", lambda *_: None)


def any_company(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(opening, "admit", lambda *_, **__: None)


def noise_of_the_call(patch: pytest.MonkeyPatch) -> None:
    """Noise that is drawn for all that was asked, whatever the sum is."""
    patch.setattr(guard, "sum_digest", lambda *_: "")
    patch.setattr(answering, "_past", lambda *_: {})  # which refuses a node whose journal was put back


def changed_data(patch: pytest.MonkeyPatch) -> None:
    """The same at a node that goes on with a run whose data have changed."""
    noise_of_the_call(patch)
    any_terms(patch)


def any_past(patch: pytest.MonkeyPatch) -> None:
    """Nodes that take any word for which round their rows come from."""
    patch.setattr(answering, "_past", lambda *_: {}, raising=False)


BROKEN: list[tuple[str, str, str | None, Mode, Patch]] = [
    ("again-committed", "mf", None, "plain", forgetful),
    ("again-committed", "mf", "distributed", "secure", forgetful),
    ("again-rewound", "mf", None, "plain", forgetful),
    ("again-rewound", "mf", "distributed", "secure", forgetful),
    ("again-restarted", "ease", None, "plain", forgetful),
    ("again-restored", "ease", "distributed", "secure", changed_data),
    ("again-unlike", "mf", None, "secure", forgetful),
    ("older-round", "mf", None, "plain", forgetful),
    ("off-plan", "ease", None, "plain", any_call),
    ("unlike-models", "mf", None, "secure", one_transcript),
    ("unlike-models", "mf", None, "secure", unsigned_keys),
    ("unlike-models", "mf", None, "secure", any_digest),
    ("unlike-clips", "mf", "distributed", "secure", one_transcript),
    ("unlike-records", "ease", None, "secure", one_transcript),
    ("unlike-standing", "ease", None, "secure", one_transcript),
    ("unlike-past", "mf", None, "secure", any_past),
    ("unlike-plans", "ease", None, "secure", one_transcript),
    ("unlike-plans", "ease", None, "plain", any_terms),
    ("unlike-parties", "ease", None, "secure", one_transcript),
    ("other-survivors", "ease", None, "secure", any_survivors),
    ("strangers", "ease", None, "secure", any_company),
    ("private-metrics", "ease", "distributed", "secure", any_call),
]


@pytest.mark.parametrize(("name", "model", "noise", "mode", "breaking"), every(2, BROKEN))
def test_every_attack_succeeds_where_its_defence_is_taken_away(
    name: str,
    model: str,
    noise: str | None,
    mode: Mode,
    breaking: Patch,
    staged: Stages,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation = staged(model, noise, mode)
    breaking(monkeypatch)
    assert verdict(name, federation) == "fail"


def test_noise_is_fresh_where_a_node_takes_changed_data(staged: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    any_terms(monkeypatch)
    tried = LIES["again-restored"](staged("ease", "distributed"))
    assert tried is not None
    assert "different sums get independent noise" in tried.finding("again-restored").says


def test_every_promise_has_an_attack_that_can_succeed() -> None:
    assert {name for name, *_ in BROKEN} == set(LIES) - BEYOND


def test_an_attack_that_does_not_get_to_its_point_is_no_finding(
    staged: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = staged("ease")

    def refused(*_: object, **__: object) -> None:
        raise InputError("nobody is here")

    monkeypatch.setattr(host, "answer_call", refused)
    with pytest.raises(RunError, match="could not start"):
        LIES["again-unlike"](federation)
