"""How a coordinator asks its nodes: whom it waits for, and what it asks again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import pytest

from fedrec.federation.messages import Frame, Reply, Request, open_request
from fedrec.network.links import Answers, Links
from fedrec.network.post import Failure
from fedrec.record.keys import SigningKey

COORDINATOR = SigningKey("coordinator", bytes(31) + b"c")
KEYS = {name: SigningKey(name, name.encode().rjust(32, b"\0")) for name in ("a", "b", "c", "d", "e")}


class Scripted:
    """A post whose nodes answer in the order of their names, each as `say` has it, until enough have.

    Args:
        say: given a request, the problem that the node names; `None` for an answer, "silent" for none at all, "hangs"
            for one that is waited for until the time is over, "gone" where the node is not up.
    """

    def __init__(self, say: Callable[[Request], str | None]) -> None:
        self._say = say
        self.asked: list[tuple[str, str]] = []

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        if seconds <= 0:
            return {name: Failure("timeout", "there was no time") for name in frames}
        answers: dict[str, bytes | Failure] = {}
        hanging = 0
        for name, frame in frames.items():
            if enough is not None and sum(isinstance(answer, bytes) for answer in answers.values()) >= enough:
                answers[name] = Failure("late", "enough other nodes answered first")
                continue
            request, _ = open_request(frame.whole(), COORDINATOR.public(), 1 << 20)
            self.asked.append((name, request.kind))
            problem = self._say(request)
            hanging += problem == "hangs"
            if problem == "gone":
                answers[name] = Failure("gone", "it is not up")
            elif problem in ("silent", "hangs"):
                answers[name] = Failure("timeout", "it says nothing")
            else:
                answers[name] = Reply(name, frame.digest, problem, {"session": "1"}).sign(KEYS[name])
        if hanging and (enough is None or sum(isinstance(answer, bytes) for answer in answers.values()) < enough):
            time.sleep(seconds)
        return answers

    def close(self) -> None:
        """Nothing is held."""


def links_over(post: Scripted) -> Links:
    public = {name: key.public() for name, key in KEYS.items()}
    return Links(post, COORDINATOR, public, "0123456789abcdef", ({}, ()), lambda name, said: None)


def ask_all(post: Scripted, enough: int | None = None) -> Answers:
    return links_over(post).ask("contribute", {name: {} for name in KEYS}, 9.0, enough=enough)


def replies(answers: Answers) -> list[str]:
    return [name for name, answer in answers.items() if isinstance(answer, Reply)]


def test_a_node_that_does_not_know_the_run_is_offered_it_first() -> None:
    post = Scripted(lambda request: None)
    assert replies(ask_all(post)) == list(KEYS)
    assert post.asked == [(name, kind) for kind in ("open", "contribute") for name in KEYS]


def test_nobody_is_waited_for_once_enough_have_answered() -> None:
    answers = ask_all(Scripted(lambda request: None), enough=3)
    assert replies(answers) == ["a", "b", "c"]
    assert {answer.kind for answer in answers.values() if isinstance(answer, Failure)} == {"late"}


def test_nodes_that_cannot_be_opened_are_not_counted_as_answers() -> None:
    def say(request: Request) -> str | None:
        return "silent" if request.kind == "open" and request.to in ("a", "b") else None

    assert replies(ask_all(Scripted(say), enough=3)) == ["c", "d", "e"]


@pytest.mark.parametrize("offered", [False, True])
def test_a_node_that_never_opens_leaves_the_others_their_time(offered: bool) -> None:
    links = links_over(Scripted(lambda request: "hangs" if (request.kind, request.to) == ("open", "c") else None))
    if offered:
        assert replies(links.open(0.1)) == ["a", "b", "d", "e"]
    began = time.monotonic()
    assert replies(links.ask("contribute", {name: {} for name in KEYS}, 0.4)) == ["a", "b", "d", "e"]
    assert time.monotonic() - began < 0.6


def test_opening_is_no_answer_and_whoever_opened_is_let_be_when_the_others_are_enough() -> None:
    away = {"a"}
    post = Scripted(lambda request: "silent" if request.to in away else None)
    links = links_over(post)
    links.open(1.0)
    away.clear()
    answers = links.ask("contribute", {name: {} for name in KEYS}, 1.0, enough=4)
    assert replies(answers) == ["b", "c", "d", "e"]
    assert str(answers["a"]) == "enough other nodes answered first"
    assert list(answers) == list(KEYS)
    assert post.asked[5:] == [("a", "open"), *((name, "contribute") for name in "bcde")]
    assert replies(links.ask("contribute", {name: {} for name in KEYS}, 1.0, enough=5)) == list(KEYS)


def test_a_node_that_lost_the_model_is_asked_again_until_enough_have_answered() -> None:
    forgot = {"a", "b"}

    def say(request: Request) -> str | None:
        if request.kind == "contribute" and request.to in forgot:
            forgot.discard(request.to)
            return "unknown-model"
        return None

    post = Scripted(say)
    assert replies(ask_all(post, enough=5)) == list(KEYS)
    assert post.asked[-2:] == [("a", "contribute"), ("b", "contribute")]


def test_a_node_that_lost_the_model_is_let_be_when_the_others_are_enough() -> None:
    post = Scripted(lambda request: "unknown-model" if request.kind == "contribute" and request.to == "e" else None)
    assert replies(ask_all(post, enough=4)) == ["a", "b", "c", "d"]
    assert ("e", "contribute") not in post.asked


def test_a_node_that_never_knows_the_model_is_given_up() -> None:
    post = Scripted(lambda request: "unknown-model" if request.kind == "contribute" and request.to == "a" else None)
    answers = ask_all(post)
    assert replies(answers) == ["b", "c", "d", "e"]
    failure = answers["a"]
    assert isinstance(failure, Failure)
    assert failure.kind == "unknown-model"
    assert post.asked.count(("a", "contribute")) == 3


class Ordered(Scripted):
    """A post whose nodes refuse a request with a lower number than one before, as they do; the coordinator has made
    another request of `a` by the time that its first `evaluate` arrives."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__(self._in_order)
        self._meanwhile = meanwhile
        self._last: dict[str, int] = {}

    def _in_order(self, request: Request) -> str | None:
        if (request.kind, request.to) == ("evaluate", "a") and ("a", "contribute") not in self.asked:
            self._meanwhile()
        repeated = request.number <= self._last.get(request.to, -1)
        self._last[request.to] = max(request.number, self._last.get(request.to, -1))
        return "repeated" if repeated else None


def test_a_request_that_another_overtook_is_made_again() -> None:
    post = Ordered(lambda: links.ask("contribute", {"a": {}}, 9.0))
    links = links_over(post)
    links.open(9.0)
    assert replies(links.ask("evaluate", {name: {} for name in KEYS}, 9.0)) == list(KEYS)
    assert [kind for name, kind in post.asked[5:] if name == "a"] == ["evaluate", "contribute", "evaluate"]


def test_a_request_that_another_overtook_is_not_made_again_when_nobody_wants_the_answer() -> None:
    wanted = [True]

    def meanwhile() -> None:
        links.ask("contribute", {"a": {}}, 9.0)
        wanted.clear()

    post = Ordered(meanwhile)
    links = links_over(post)
    links.open(9.0)
    answer = links.ask("evaluate", {"a": {}}, 9.0, wanted=lambda: bool(wanted))["a"]
    assert str(answer) == "a later request overtook this one"
    assert [kind for _, kind in post.asked[5:]] == ["evaluate", "contribute"]
    answer = links.ask("evaluate", {"a": {}}, 9.0, wanted=lambda: bool(wanted))["a"]
    assert str(answer) == "the answer is no longer needed"
    assert len(post.asked) == 7


def test_a_request_that_somebody_handed_over_before_is_not_made_again() -> None:
    post = Scripted(lambda request: "repeated" if request.kind == "mask" and request.to == "a" else None)
    links = links_over(post)
    links.open(9.0)
    answer = links.ask("mask", {name: {} for name in KEYS}, 9.0)["a"]
    assert isinstance(answer, Failure)
    assert answer.kind == "repeated"
    assert len(post.asked) == 10


def test_only_what_reached_a_node_is_its_traffic() -> None:
    links = links_over(Scripted(lambda request: {"a": "gone", "b": "silent"}.get(request.to)))
    links.open(9.0)
    moved = links.traffic()
    assert moved["a"] == {"up": 0, "down": 0}
    assert moved["b"]["up"] == 0
    assert moved["b"]["down"] == moved["c"]["down"] > 0
    assert moved["c"]["up"] > 0
