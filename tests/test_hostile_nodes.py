"""Nodes that lie in replies which they sign: they are left out by name, and keep nobody else out of a sum."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from chosen_in_test import in_turn
from federation_in_test import COORDINATOR, MF, WAITING, Federation, Outcome, assert_right, kind_of, small_plan
from fedrec.aggregation.sums import Sum
from fedrec.errors import RunError
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.messages import Reply, open_reply, request_digest
from fedrec.federation.run import Run
from fedrec.federation.transcript import Transcript
from fedrec.network.post import Failure, LocalPost
from fedrec.network.ready import Ready, companies
from fedrec.node.party import NetworkParty
from fedrec.record.keys import COSIGNATURE
from fedrec.record.notes import Note
from fedrec.runs.federated import Members, train_federated
from fedrec.runs.verifying import verify_run

SHORT = small_plan({**MF, "rounds": 2})
LIAR = "node-2"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("fedrec.node").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("fedrec.node").setLevel(logging.NOTSET)


def lying(federation: Federation, change: Callable[[str, Reply], Reply]) -> LocalPost:
    """A post behind which `change` is made to all that one node says, which it signs."""

    def interfere(name: str, frame: bytes, answer: Callable[[bytes], bytes]) -> bytes | Failure:
        said = answer(frame)
        if name != LIAR:
            return said
        reply = open_reply(said, federation.public[name], request_digest(frame), 1 << 34)
        return change(kind_of(frame), reply).sign(federation.keys[name])

    return LocalPost(federation.hosts(), interfere)


def saying(kind: str, **fields: Any) -> Callable[[str, Reply], Reply]:
    """Other fields in replies to requests of one kind."""
    return lambda asked, reply: replace(reply, fields={**reply.fields, **fields}) if asked == kind else reply


def trained(federation: Federation, change: Callable[[str, Reply], Reply]) -> Outcome:
    outcome = federation.train(lying(federation, change), waiting=replace(WAITING, max_retries=1))
    assert_right(federation, outcome)
    return outcome


def keys_of(federation: Federation, *places: int) -> list[str]:
    return sorted(federation.public[f"node-{place}"].key.hex() for place in places)


def assert_the_liar_is_left_out(federation: Federation, outcome: Outcome, words: str) -> None:
    assert outcome.error is None
    honest = [name for name in federation.names if name != LIAR]
    assert [line["nodes"] for line in outcome.rounds] == [honest, honest]
    assert any(told.startswith(LIAR) and words in told for told in federation.told), federation.told


def test_a_node_that_holds_another_call_is_left_out(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=5, secure=True)
    outcome = trained(federation, saying("contribute", call="0" * 64))
    assert_the_liar_is_left_out(federation, outcome, "another request than most nodes")


@pytest.mark.parametrize(
    ("among", "words"),
    [
        ([], "cannot have been in one sum"),
        ("no list", "cannot have been in one sum"),
        ([["a list"]], "cannot have been in one sum"),
        (["00" * 32] * 3, "cannot have been in one sum"),
        ((0, 2), "cannot have been in one sum"),
        ((0, 1, 3), "cannot have been in one sum"),
        ((2, 2, 0, 1), "cannot have been in one sum"),
        ((0, 1, 2), "among node-0, node-1, node-2; more nodes can be summed without this node"),
        ((0, 1, 2, 3), "among node-0, node-1, node-2, node-3; more nodes can be summed without this node"),
    ],
)
def test_a_node_does_not_choose_whom_it_is_summed_with(among: Any, words: str, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=5, secure=True)
    said = [federation.public[f"node-{place}"].key.hex() for place in among] if isinstance(among, tuple) else among
    outcome = trained(federation, saying("contribute", among=said))
    assert_the_liar_is_left_out(federation, outcome, words)


def test_that_a_part_was_opened_among_everybody_changes_nothing(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=5, secure=True)
    outcome = trained(federation, saying("contribute", among=keys_of(federation, 0, 1, 2, 3, 4)))
    assert outcome.error is None
    assert [line["nodes"] for line in outcome.rounds] == [federation.names] * 2


@pytest.mark.parametrize("least", [1 << 61, 1025, -1, "many", None, 1.5])
def test_a_node_that_insists_on_more_clients_than_can_be_is_left_out(least: Any, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=5, secure=True)
    outcome = trained(federation, saying("open", min_clients=least))
    assert_the_liar_is_left_out(federation, outcome, "clients in a sum; only 0 to n_max = 1024 are possible")


@pytest.mark.parametrize("least", [1024, 101])
def test_a_node_that_insists_on_more_clients_than_there_are_is_left_out(least: int, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=5, secure=True)
    outcome = trained(federation, saying("open", min_clients=least))
    assert_the_liar_is_left_out(federation, outcome, f"is left out: it requires {least} clients in a sum")
    assert any(f"80 of {least}, without the largest declarations" in told for told in federation.told)


def test_a_run_goes_on_whatever_a_node_says_of_numbers_of_sums(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=5, secure=True)
    run = Run(federation.plan, None)
    engine = federation.engine(lying(federation, saying("open", begun=(1 << 62) - 1)), run)
    engine.open()
    Coordinator(federation.agreement, engine, run, engine.has_valid).train(1)
    outcome = federation.train(LocalPost(federation.hosts()), run)
    assert outcome.error is None
    assert [line["nodes"] for line in outcome.rounds] == [federation.names] * 2
    assert_right(federation, outcome)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda note: (b"no note",), "not a signed note"),
        (lambda note: (), "not a signed note"),
        (lambda note: (replace(Note.parse(note), signatures=Note.parse(note).signatures[:1]).encode(),), "not signed"),
        (lambda note: (Note.parse(note).encode().replace(b"fedrec/", b"others/"),), "another checkpoint"),
        (
            lambda note: (Note.parse(note).encode()[:-90] + Note.parse(note).encode()[-86:],),
            "has a wrong length of 69 bytes",
        ),
    ],
)
def test_what_is_no_signature_of_the_record_takes_away_no_other(
    change: Callable[[bytes], tuple[bytes, ...]], words: str, tmp_path: Path
) -> None:
    federation = Federation(tmp_path, small_plan({"name": "popularity"}), nodes=4)
    members = Members("owners", COORDINATOR, federation.public, federation.catalog, 1024)
    told: list[str] = []

    def lie(asked: str, reply: Reply) -> Reply:
        return replace(reply, parts=change(reply.parts[0])) if asked == "witness" else reply

    run, post = tmp_path / "run", lying(federation, lie)
    report = train_federated(federation.plan, run, members, post, waiting=WAITING, tell=told.append)
    honest = [name for name in federation.names if name != LIAR]
    assert report["federation"]["cosigned"] == honest
    keys = [COORDINATOR.public(), *(federation.keys[name].public(COSIGNATURE) for name in honest)]
    assert verify_run(run, keys).wrong is None
    assert [words in text for text in told if text.startswith(LIAR)] == [True], told


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"clients": -1000}, "clients"),
        ({"clients": 1 << 60}, "clients"),
        ({"clients": 1024}, "clients"),
        ({"left_out": -5}, "-5 left out"),
        ({"left_out": 1 << 40}, "left out"),
        ({"saturated": -1}, "-1 values cut"),
        ({"saturated": 1 << 50}, "values cut"),
    ],
)
def test_masked_counts_that_cannot_be_true_are_no_sum(
    counts: dict[str, int], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = Federation(tmp_path, SHORT, nodes=3, secure=True)
    plainly, own = NetworkParty.hold, federation.keys[LIAR].public().key

    def hold(self: NetworkParty, transcript: Transcript, total: Sum, *arguments: Any) -> None:
        wrong = replace(total, **counts) if self._identity.public == own else total
        plainly(self, transcript, wrong, *arguments)

    monkeypatch.setattr(NetworkParty, "hold", hold)
    outcome = trained(federation, lambda _, reply: reply)
    assert isinstance(outcome.error, RunError)
    assert "one of node-0, node-1, node-2 sent a wrong part: the masked parts add up to" in str(outcome.error)
    assert words in str(outcome.error)
    assert not outcome.rounds


def test_nodes_that_claim_more_clients_than_there_can_be_are_named(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=4)
    claimed: list[str] = []

    def claim(asked: str, reply: Reply) -> Reply:
        if asked != "contribute" or claimed:
            return reply
        claimed.append(asked)
        body = reply.parts[0][:-16]
        length = int.from_bytes(body[8:12], "little")
        header = {**json.loads(body[12 : 12 + length]), "clients": 1024}
        text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
        body = body[:8] + len(text).to_bytes(4, "little") + text + body[12 + length :]
        return replace(reply, parts=(body + hashlib.blake2b(body, digest_size=16).digest(),))

    outcome = trained(federation, claim)
    assert outcome.error is None
    assert [line["nodes"] for line in outcome.rounds] == [federation.names] * 2
    assert any("n_max = 1024" in told and "node-2 1024" in told for told in federation.told), federation.told


@pytest.mark.parametrize(
    ("said", "secure"), in_turn([[""] * 300, ["ab" * 32] * 2, ["AB" * 32], [""], [7], "ab" * 32, None], [False, True])
)
def test_a_commitment_is_one_of_64_digits(said: Any, secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, secure=secure)
    outcome = trained(federation, saying("contribute", commitments=said))
    assert_the_liar_is_left_out(federation, outcome, "its commitment to the sum does not have 64 hexadecimal digits")
    assert all(len(line["sums"]) == 3 for line in outcome.rounds)


RUDE = "\x1b]0;owned\x07\x1b[2J\r\n\u202e" + "x" * 100_000


@pytest.mark.parametrize(
    ("kind", "problem"),
    [("contribute", "failed"), ("contribute", RUDE), ("open", RUDE)],
    ids=["text", "word", "opening"],
)
@pytest.mark.parametrize("secure", [False, True], ids=["plain", "secure"])
def test_words_of_a_node_are_shown_as_words(kind: str, problem: str, secure: bool, tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, secure=secure)

    def rude(asked: str, reply: Reply) -> Reply:
        fields = {"text": RUDE if problem == "failed" else "", "session": ""}
        return Reply(reply.name, reply.about, problem, fields) if asked == kind else reply

    outcome = trained(federation, rude)
    assert_the_liar_is_left_out(federation, outcome, "]0;owned  [2J")
    assert all(told.isprintable() and len(told) < 1000 for told in federation.told)


def test_why_a_node_leaves_a_secure_sum_is_shown_as_words(tmp_path: Path) -> None:
    federation = Federation(tmp_path, SHORT, nodes=3, secure=True)

    def rude(asked: str, reply: Reply) -> Reply:
        return replace(reply, fields={**reply.fields, "aborted": RUDE}, parts=()) if asked == "mask" else reply

    outcome = trained(federation, rude)
    assert "node-2:  ]0;owned  [2J" in "".join(federation.told)
    assert all(told.isprintable() and len(told) < 2000 for told in [*federation.told, str(outcome.error)])


def summed(said: Sequence[str | None], groups: int = 1) -> list[str]:
    """Who is summed with whom, of nodes a, b, c, … that say among whom they opened their parts; `None` is not there."""
    ready = [
        Ready(name, name.encode(), "call", (), frozenset(map(str.encode, among)) if among else None)
        for name, among in zip("abcdefghij", said, strict=False)
        if among is not None
    ]
    together, left_out = companies(ready, groups, {name.encode(): name for name in "abcdefghij"})
    names = ["".join(one.name for one in group) for group in together]
    assert sorted("".join(names) + "".join(words[0] for words in left_out)) == [one.name for one in ready]
    return names


@pytest.mark.parametrize(
    ("said", "groups", "due"),
    [
        (["", "", "", "", ""], 1, ["abcde"]),
        (["", "", "", "", "", "", ""], 2, ["aceg", "bdf"]),
        (["abcd", "abcd", "abcd", "abcd", ""], 1, ["abcd"]),
        (["abcd", "abcd", "abcd", "", ""], 1, ["abcd"]),
        (["abcd", "abcd", "", "", ""], 1, ["abcd"]),
        (["abcde", "", "", "", ""], 1, ["abcde"]),
        (["abcd", "", "", "", ""], 1, ["bcde"]),
        (["abc", "abc", "", ""], 1, ["abc"]),
        (["abc", "abc", "abc", "", "", "", "", "", "", ""], 1, ["defghij"]),
        (["abc", "abc", "abc", "", "", "", "", "", "", ""], 2, ["abc", "defghij"]),
        (["abc", "", "", "", "", "", ""], 2, ["bdf", "ceg"]),
        (["abcdef", "", "", "", "", ""], 2, []),
        (["abcd", "abcd", "abcd", None, ""], 1, []),
        (["abcd", "", "", None, ""], 1, ["bce"]),
        (["abc", "abc", "abc", "def", "def", "def"], 2, ["abc", "def"]),
        (["abc", "abc", "abc", "def", "def", "def"], 1, ["abc"]),
        (["acd", "abc", "abc", "", ""], 1, ["abc"]),
        (["", ""], 1, []),
    ],
)
def test_who_is_summed_with_whom(said: list[str | None], groups: int, due: list[str]) -> None:
    assert summed(said, groups) == due


@pytest.mark.parametrize("n", [4, 5, 8])
def test_one_node_alone_keeps_nobody_out(n: int) -> None:
    nodes = "abcdefgh"[:n]
    for company in range(1 << n):
        among = "".join(name for place, name in enumerate(nodes) if company >> place & 1)
        if "a" in among and len(among) >= 3:
            assert set(nodes[1:]) <= set("".join(summed([among, *[""] * (n - 1)])))
            true = [among, *[nodes] * (n - 1)]
            assert summed(true) == [nodes], "those who were opened together are summed together, whatever one says"
