"""A coordinator with the real key that opens one round twice, or shows nodes unlike things: nothing opens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation_in_test import COORDINATOR, MF, RUN, Federation, small_plan
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum
from fedrec.data.keys import KeyedSource
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.federation.calls import EvaluationCall, RoundCall
from fedrec.federation.messages import Reply
from fedrec.models.base import Arrays, State
from fedrec.node.host import NodeHost
from fedrec.node.opening import honest_of
from fedrec.node.witness import told
from fedrec.owner.config import PrivacyFloors
from fedrec.privacy.chance import SYSTEM
from fedrec.privacy.protection import Protection
from fedrec.record.receipts import commitment, sum_digest
from lying_in_test import Liar, Opened, manifest_of, secure_sum

SECURE: dict[str, Any] = {"secure": True, "min_clients": 32}
NOISE = {"epsilon": 1.0, "delta": 1e-6, "users": 240, "noise": "distributed", "clip": 1.0}
FLOORS = PrivacyFloors(required=True, distributed=True, epsilon=4.0, delta=1e-6, max_run_epsilon=2.0, max_clip=1.0)


class Attack:
    """All nodes of a federation of secure aggregations, asked by somebody who has the coordinator's key."""

    def __init__(self, folder: Path, private: bool = True, model: Mapping[str, Any] | None = None) -> None:
        named = {**MF, "rounds": 2} if model is None else model
        plan = small_plan(named, cohort=1.0, split="none", min_clients=32, **({"privacy": NOISE} if private else {}))
        self.federation = Federation(folder, plan, secure=True, policy=SECURE)
        self.plan, self.private = self.federation.plan, private
        self.liars = {name: Liar(self.federation, name, self.host(name)) for name in self.federation.names}
        parties = [str(key) for key in self.federation.public.values()]
        self.who, self.honest, _ = honest_of(parties)
        self.model = self.plan.build_model()
        self.state = self.model.start(self.federation.catalog, {}, KeyedSource.from_seed(1))
        for liar in self.liars.values():
            said = liar.open(self.plan, self.federation.catalog)
            assert said.problem is None, said.fields

    def host(self, name: str) -> NodeHost:
        host = self.federation.host(name)
        if self.private:
            host.config = host.config.model_copy(update={"privacy": FLOORS})
        return host

    def restart(self) -> None:
        """All nodes' processes end, begin anew and are offered the run again."""
        for name, liar in self.liars.items():
            liar.host = self.host(name)
            assert liar.open(self.plan, self.federation.catalog).problem is None

    def call(self, round: int, committed: int, shared: Arrays | None = None) -> RoundCall:
        """What the plan lets the coordinator ask, under any shared arrays."""
        state = self.state if shared is None else State(shared)
        agreed, parties = self.federation.agreement, (len(self.liars), self.honest, self.who)
        terms, excess = None, 1.0
        if self.plan.privacy is not None:
            protection = Protection(self.plan.privacy, self.model, agreed.share, agreed.n_max, RUN, SYSTEM, parties)
            terms, excess = protection.round_terms(round), protection.excess
        spec = agreed.spec(state.shared, round, excess)
        assert spec is not None
        return RoundCall(round, committed, state.shared, spec, agreed.share, privacy=terms)

    def ask(self, call: RoundCall, **said: Any) -> dict[str, Reply]:
        return {name: liar.call("contribute", call, **said) for name, liar in self.liars.items()}

    def settle(self, kind: str, **rounds: int) -> dict[str, Reply]:
        return {name: liar.settle(kind, self.state.shared, **rounds) for name, liar in self.liars.items()}

    def opened(self, replies: Mapping[str, Reply], call: RoundCall, transcript: str) -> Opened:
        noise = 0.0 if call.privacy is None else call.privacy.noise_multiplier
        manifest = manifest_of(self.federation, call, transcript, noise)
        return secure_sum(self.liars, replies, call.spec, dict.fromkeys(replies, manifest))


def assert_refused(replies: Mapping[str, Reply], words: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every node refuses in these words, and its owner can read so in the log."""
    for name, reply in replies.items():
        assert reply.problem == "refused", f"{name} answered"
        assert words in reply.fields["text"]
    assert words in caplog.text


def transcript_of(replies: Mapping[str, Reply]) -> str:
    (digest,) = {reply.fields["call"] for reply in replies.values()}
    return str(digest)


def fine(replies: Mapping[str, Reply]) -> dict[str, Reply]:
    assert all(reply.problem is None for reply in replies.values()), [reply.fields for reply in replies.values()][:1]
    return dict(replies)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "fedrec.node")
    return caplog


# --- one round opened twice -----------------------------------------------------------------------------------------


def test_an_honest_round_opens(tmp_path: Path) -> None:
    there = Attack(tmp_path)
    replies = fine(there.ask(there.call(0, -1)))
    found = there.opened(replies, there.call(0, -1), transcript_of(replies))
    assert found.total is not None, found.why
    assert found.nodes == there.federation.names


def test_numbers_of_sums_are_counted_in_one_run(tmp_path: Path) -> None:
    """Else each name that a coordinator makes up would begin at number 0 again, and add a line to the node's record."""
    there = Attack(tmp_path)
    call = there.call(0, -1)
    replies = fine(there.ask(call))
    assert call.privacy is not None
    manifest = manifest_of(there.federation, call, transcript_of(replies), call.privacy.noise_multiplier, "another")
    found = secure_sum(there.liars, replies, call.spec, dict.fromkeys(replies, manifest))
    assert found.total is None
    assert "the manifest names another run" in found.why["node-0"]
    assert not list(tmp_path.glob("*/runs/*/party.json"))


def test_a_round_is_not_opened_on_top_of_another_one(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path)
    fine(there.ask(there.call(0, -1)))
    fine(there.ask(there.call(1, -1)))
    assert_refused(there.ask(there.call(0, -1)), "round 0 is over", log)
    assert_refused(there.ask(there.call(1, 0)), "round 1 was asked for before under another transcript", log)
    there.restart()
    assert_refused(there.ask(there.call(1, 0)), "round 1 was asked for before under another transcript", log)


def test_rows_are_not_turned_back_by_an_early_end(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path)
    fine(there.settle("keep", committed=-1))
    fine(there.ask(there.call(0, -1)))
    first = fine(there.ask(there.call(1, 0)))
    assert there.opened(first, there.call(1, 0), transcript_of(first)).total is not None
    fine(there.settle("finish", committed=0, kept=-1))
    assert_refused(there.ask(there.call(1, 0)), "the run is finished at this node", log)
    assert_refused(there.settle("finish", committed=0, kept=0), "at this node it ended", log)
    there.restart()
    assert_refused(there.ask(there.call(1, 0)), "the run is finished at this node", log)


def test_a_measurement_does_not_bring_a_passed_round_back(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path)
    fine(there.ask(there.call(0, -1)))
    fine(there.ask(there.call(1, -1)))
    assert_refused(there.settle("keep", committed=0), "waits for round 1 to be committed", log)
    assert_refused(there.settle("finish", committed=0, kept=0), "waits for round 1 to be committed", log)


def test_a_second_opening_for_nearly_the_same_model_is_refused_for_good(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    there = Attack(tmp_path)
    first = fine(there.ask(there.call(0, -1)))
    moved = {name: array.copy() for name, array in there.state.shared.items()}
    moved["items"][0, 0] += 1e-6
    for _ in range(2):
        assert_refused(there.ask(there.call(0, -1, moved)), "round 0 was asked for before under another", log)
        there.restart()
    assert transcript_of(fine(there.ask(there.call(0, -1)))) == transcript_of(first)


def test_whoever_asks_again_gets_the_answer_that_was_kept(tmp_path: Path) -> None:
    """Even where the node would compute another one now: its private rows were turned back on the disk."""
    plan = small_plan({**MF, "rounds": 2}, cohort=1.0)
    federation = Federation(tmp_path, plan)
    liar, state = Liar(federation), plan.build_model().start(federation.catalog, {}, KeyedSource.from_seed(1))
    assert liar.open(federation.plan, federation.catalog).problem is None
    found = plan.build_model().spec(state.shared, 0)
    assert found is not None
    assert federation.plan.n_max is not None
    call = RoundCall(0, -1, state.shared, found.fit(federation.plan.n_max), plan.share())
    first = liar.call("contribute", call).parts[0]
    private = tmp_path / "node-0-home" / "runs" / RUN / "private" / "node-0"
    for path in private.glob("*.safetensors"):
        path.unlink()
    liar.host = federation.host("node-0")
    assert liar.open(federation.plan, federation.catalog).problem is None
    again = liar.call("contribute", call)
    assert again.parts[0] == first
    assert decode_sum(again.parts[0], call.spec).clients > 0


def test_shares_of_unlike_sums_owe_nothing_to_each_other(tmp_path: Path) -> None:
    """The noise of a node follows from its exact sum too: a difference of two sums under one key is never exact."""
    there = Attack(tmp_path)
    opened = there.liars["node-0"].host._opened
    assert opened is not None
    node, call = opened.node, there.call(0, -1)
    guard = node.guard
    assert guard is not None
    queries = guard.model.queries(call.shared, 0)
    sums = []
    for nudge in (0, 0, 1):
        total = Sum.zeros(call.spec, 0)
        total.arrays["items"][3, 2] += nudge
        sums.append(guard.with_noise(total, queries, call.privacy, KeyedSource.from_seed(1)).arrays["items"])
    assert np.array_equal(sums[0], sums[1])
    unlike = np.count_nonzero(sums[0].astype(np.int64) - sums[2])
    assert unlike > 0.99 * sums[0].size


def test_a_commitment_does_not_tell_who_guesses_the_sum(tmp_path: Path) -> None:
    """Without privacy a node's randomness follows from the plan, so whoever guesses its data knows its exact sum."""
    there = Attack(tmp_path, private=False)
    opened = there.liars["node-0"].host._opened
    assert opened is not None
    call = there.call(0, -1)
    guessed = opened.node.contribute(call)
    counts = (guessed.round, guessed.clients, guessed.left_out, guessed.saturated)
    digest = sum_digest(call.spec.digest, counts, guessed.arrays)
    salt = KeyedSource.from_seed(there.plan.seed).child("receipt", "node-0", 0).key
    (told,) = there.liars["node-0"].call("contribute", call).fields["commitments"]
    assert told == guessed.commitments[0], "it commits to another sum"
    assert told != commitment(salt, bytes.fromhex(digest))


# --- nodes that are shown unlike things -----------------------------------------------------------------------------


def unlike(there: Attack, shown: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Reply]:
    """Answers where the first node is told one thing, and all others another."""
    replies = {}
    for name, liar in there.liars.items():
        told_of = dict(shown if name == "node-0" else other)
        call = told_of.pop("call")
        replies[name] = liar.call("contribute", call, **told_of)
    return fine(replies)


def assert_nothing_opens(
    there: Attack, replies: dict[str, Reply], call: RoundCall, log: pytest.LogCaptureFixture
) -> None:
    """Whatever the manifests say, and whether they are one or two."""
    digests = {reply.fields["call"] for reply in replies.values()}
    assert len(digests) == 2
    for digest in digests:
        found = there.opened(replies, call, str(digest))
        assert found.total is None or "node-0" not in found.nodes or len(found.nodes) == 1, "a mixed sum was opened"
        assert any("another request than the request that this party answered" in text for text in found.why.values())
    noise = 0.0 if call.privacy is None else call.privacy.noise_multiplier
    manifests = {
        name: manifest_of(there.federation, call, str(reply.fields["call"]), noise) for name, reply in replies.items()
    }
    shared_by_others = manifests["node-1"]
    manifests |= {name: shared_by_others for name in manifests if name != "node-0"}
    found = secure_sum(there.liars, replies, call.spec, {"node-1": shared_by_others, **manifests})
    assert found.total is None or "node-0" not in found.nodes
    assert "another request than the request that this party answered" in log.text


def test_one_node_that_is_shown_another_model_is_in_no_sum(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path, private=False, model={"name": "ease", "rank": 60, "passes": 2})
    items = len(there.federation.catalog)
    real, null = ({"sketch": array.astype(np.float32)} for array in (np.eye(items), np.zeros((items, items))))
    calls = [replace(there.call(0, -1), shared=shared) for shared in (real, null)]
    replies = unlike(there, {"call": calls[0]}, {"call": calls[1]})
    assert_nothing_opens(there, replies, calls[1], log)


def test_nodes_that_are_told_unlike_standings_are_in_no_sum(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path)
    fine(there.ask(there.call(0, -1)))
    call = there.call(1, -1)
    table = dict.fromkeys(there.federation.names, -1)
    replies = unlike(there, {"call": call, "standing": {**table, "node-3": 0}}, {"call": call})
    assert_nothing_opens(there, replies, call, log)


@pytest.mark.parametrize("own_past", [True, False])
def test_one_node_whose_rows_come_from_another_model_is_in_no_later_sum(
    own_past: bool, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """What a round leaves in private rows enters later answers: a node agrees on the past as well."""
    there = Attack(tmp_path, private=False)
    crafted = {**there.state.shared, "items": there.state.shared["items"] + 3}
    shown = there.call(0, -1, crafted)
    unlike(there, {"call": shown}, {"call": there.call(0, -1)})
    transcripts = {name: liar.transcripts[0] for name, liar in there.liars.items()}
    call = there.call(1, 0)
    replies = {}
    for name, liar in there.liars.items():
        past = {"0": transcripts[name if own_past else "node-1"]}
        replies[name] = liar.call("contribute", call, past=past)
    if own_past:
        assert_nothing_opens(there, fine(replies), call, log)
    else:
        assert_refused({"node-0": replies["node-0"]}, "its rows are not those of the other nodes' round", log)
        fine({name: reply for name, reply in replies.items() if name != "node-0"})


@pytest.mark.parametrize("kind", ["keep", "valid", "round"])
def test_first_rows_follow_from_the_round_that_counts(kind: str, tmp_path: Path) -> None:
    """A head that a node is shown before the first committed round leaves nothing behind."""
    plan = small_plan({"name": "pfedrec", "embedding_size": 4, "rounds": 3}, cohort=1.0)
    federation, model = Federation(tmp_path, plan), plan.build_model()
    state = model.start(federation.catalog, {}, KeyedSource.from_seed(1))
    crafted = {**state.shared, "head": state.shared["head"] + 5}

    def call(round: int, shared: Arrays) -> RoundCall:
        found = model.spec(shared, round)
        assert found is not None
        assert federation.plan.n_max is not None
        return RoundCall(round, -1, shared, found.fit(federation.plan.n_max), plan.share())

    answers = []
    for run, shared in (("a" * 16, state.shared), ("b" * 16, crafted)):
        liar = Liar(federation)
        assert liar.open(federation.plan, federation.catalog, run).problem is None
        if kind == "round":
            said = liar.call("contribute", call(0, shared), run=run)
        elif kind == "keep":
            said = liar.settle("keep", shared, run, committed=-1)
        else:
            metrics, n_max = parse_metrics(plan.evaluation.metrics), federation.plan.n_max
            assert n_max is not None
            asked = EvaluationCall(-1, shared, "valid", parse_protocol(plan.evaluation.protocol), metrics, n_max)
            said = liar.call("evaluate", asked, run=run)
        assert said.problem is None, said.fields
        answers.append(liar.call("contribute", call(1, state.shared), run=run).parts[0])
    assert answers[0] == answers[1]


def test_nodes_that_are_shown_unlike_records_are_in_no_sum(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path)
    call = there.call(0, -1)
    split = {"record": told([b"\1" * 32], 0, COORDINATOR)}
    assert_nothing_opens(there, unlike(there, {"call": call, **split}, {"call": call}), call, log)


@pytest.mark.parametrize("clip", [2.0**-6, 0.5, 0.999])
def test_noise_is_not_thinned_by_unlike_clips(clip: float, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    there = Attack(tmp_path)
    narrow = {**there.state.shared, "clip": np.array([clip])}
    calls = [there.call(0, -1), there.call(0, -1, narrow)]
    assert_nothing_opens(there, unlike(there, {"call": calls[0]}, {"call": calls[1]}), calls[1], log)


def test_nodes_of_unlike_companies_are_in_no_sum(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    """One node is offered the run among fewer nodes, so that its share of noise would be for another number."""
    there = Attack(tmp_path)
    fed, public = there.federation, dict(there.federation.public)
    fed.public = {name: key for name, key in public.items() if name != "node-3"}
    run = "f" * 16
    assert there.liars["node-0"].open(there.plan, fed.catalog, run).problem is None
    said = there.liars["node-0"].call("contribute", there.call(0, -1), run=run)
    assert said.problem == "refused"
    fed.public = public


@pytest.mark.parametrize(
    ("said", "problem", "words"),
    [
        ({"standing": None}, "damaged", "without the standing"),
        ({"standing": {"node-0": "x"}}, "damaged", "without the standing"),
        ({"standing": {"node-0": True}}, "damaged", "without the standing"),
        ({"standing": {"node-0": -1}}, "refused", "exactly the nodes of the secure aggregation"),
        ({"standing": {}}, "refused", "the table that all nodes are told says None"),
        (
            {"committed": -1, "standing": dict.fromkeys(("node-0", "node-1", "node-2", "node-3"), 0)},
            "refused",
            "says 0",
        ),
        (
            {"standing": {"node-0": -1, "node-1": 0, "node-2": 0, "node-3": 0}},
            "damaged",
            "without the transcripts of the rounds",
        ),
        ({"record": None}, "damaged", "what is told of the record is not whole"),
    ],
)
def test_a_call_without_a_whole_transcript_is_not_answered(
    said: dict[str, Any], problem: str, words: str, tmp_path: Path
) -> None:
    there = Attack(tmp_path)
    reply = there.liars["node-0"].call("contribute", there.call(0, -1), **said)
    assert reply.problem == problem
    assert words in reply.fields["text"]
    assert there.liars["node-0"].call("contribute", there.call(0, -1)).problem is None, "nothing was bound by it"
