"""A node in a run: opened, answered, committed, forward only, whatever a coordinator sends and wherever it dies.

The machine is checked as a whole: every state that is reachable with every message at every time, and random schedules
of several nodes. Nodes here compute like real ones (private rows that a round changes and a commit applies), so that a
second answer to a round, reused noise, or rows that go back would show.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fedrec.errors import DamagedError, FedrecError, PlanError
from fedrec.federation.transcript import Transcript
from fedrec.node.answers import Answers, FileStore, Progress

SCHEDULES = int(os.environ.get("FEDREC_ANSWER_SCHEDULES", "3000"))
ROUNDS = 3
MODELS = ("one", "other")


class CrashError(Exception):
    """The node's process ends here."""


@dataclass
class MemoryStore:
    """What survives a crash; `crash_at` ends the process before that many further writes."""

    kept_lines: list[str] = field(default_factory=list)
    sums: dict[str, bytes] = field(default_factory=dict)
    crash_at: int | None = None
    writes: int = 0

    def _write(self) -> None:
        self.writes += 1
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at < 0:
                raise CrashError

    def lines(self) -> list[str]:
        return list(self.kept_lines)

    def append(self, line: str) -> None:
        self._write()
        self.kept_lines.append(line)

    def put(self, name: str, *data: bytes) -> None:
        self._write()
        self.sums[name] = b"".join(data)

    def get(self, name: str) -> bytes | None:
        return self.sums.get(name)


def transcript(round: int, committed: int, model: str) -> Transcript:
    return Transcript("run", "plan", (), "", (), (("node", committed),), f"round {round}", model, "{}")


def measured(after: int, committed: int, model: str) -> Transcript:
    return Transcript(
        "run", "plan", (), "", (), (("node", committed),), f"test metrics after round {after}", model, "{}"
    )


@dataclass(eq=False)
class SmallNode:
    """A node whose rows are the history of what was applied, and whose sums say exactly what went into them.

    Attributes:
        rows: digest of the private rows as of `applied`; on the disk.
        journal: rows that a round would make, by round; on the disk.
        kept: rows of the best round; on the disk.
        released: every answer that left, by sum.
        noise: what every draw of noise was added to: a draw for two different sums would cancel.
    """

    store: MemoryStore
    rows: str = "first"
    applied: int = -1
    journal: dict[int, str] = field(default_factory=dict)
    kept: str | None = None
    released: dict[str, set[bytes]] = field(default_factory=dict)
    noise: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.store.crash_at = None
        self.answers = Answers(self.store)

    def settle(self, committed: int) -> None:
        if committed > self.applied:
            self.rows = self.journal.get(committed, self.rows)
            self.applied = committed

    def contribute(self, round: int, committed: int, model: str) -> bytes:
        said = transcript(round, committed, model)
        answer = self.answers.ask(said, round, committed)
        if answer is None:
            self.settle(committed)
            self.journal.clear()
            exact = f"{model} {self.rows}"
            drawn = hashlib.sha256(f"{said.digest} {exact}".encode()).hexdigest()
            assert self.noise.setdefault(drawn, exact) == exact, "one draw of noise on two sums"
            self.journal[round] = f"{self.rows} > {round} {model}"
            answer = f"{exact} + {drawn}".encode()
            self.answers.keep(said, answer)
        self.released.setdefault(said.sum_of, set()).add(answer)
        return answer

    def evaluate(self, after: int, committed: int, model: str) -> bytes:
        said = measured(after, committed, model)
        answer = self.answers.ask(said, None, committed)
        if answer is None:
            self.settle(committed)
            answer = f"{model} {self.rows}".encode()
            self.answers.keep(said, answer)
        self.released.setdefault(said.sum_of, set()).add(answer)
        return answer

    def keep(self, committed: int) -> None:
        self.answers.stand(committed)
        self.settle(committed)
        self.kept = self.rows

    def finish(self, committed: int, kept: int) -> None:
        self.answers.finish(committed, kept)
        self.settle(committed)
        if kept != committed and self.kept is not None:
            self.rows = self.kept

    def take(self, message: tuple[object, ...], crash_at: int | None = None) -> bool:
        """Take a message; says whether it was not refused. A crash loses the answer and all that is not on the disk."""
        kind, *fields = message
        before = self.answers.progress.committed
        ended = self.answers.progress.finished
        self.store.crash_at = crash_at
        try:
            getattr(self, str(kind))(*fields)
        except FedrecError:
            assert self.answers.progress.committed >= before or ended is None
            return False
        except CrashError:
            self.restart()
        self.store.crash_at = None
        if self.answers.progress.finished is None:
            assert self.answers.progress.committed >= before, "the node went back"
        return True

    def check(self) -> None:
        """What must hold at any time."""
        for sum_of, answers in self.released.items():
            assert len(answers) == 1, f"{sum_of} was answered in {len(answers)} ways"


def messages() -> Iterator[tuple[object, ...]]:
    """Everything that a coordinator may say."""
    for committed in range(-1, ROUNDS):
        for model in MODELS:
            for round in range(ROUNDS):
                yield "contribute", round, committed, model
            yield "evaluate", max(committed, 0), committed, model
        yield "keep", committed
        for kept in range(-1, committed + 1):
            yield "finish", committed, kept


def copied(node: SmallNode) -> SmallNode:
    again = copy(node)
    again.store = MemoryStore(list(node.store.kept_lines), dict(node.store.sums))
    again.answers = copy(node.answers)
    again.answers._store = again.store
    again.journal, again.noise = dict(node.journal), dict(node.noise)
    again.released = {sum_of: set(answers) for sum_of, answers in node.released.items()}
    return again


def state(node: SmallNode) -> tuple[object, ...]:
    """All that decides what a node says next, and what it has said."""
    progress = node.answers.progress
    bound = tuple(sorted(progress.transcripts.items()))
    return (progress.committed, progress.pending, bound, progress.finished, node.rows, node.applied, node.kept,
            tuple(sorted(node.journal.items())), tuple(sorted(node.store.sums.items())),
            tuple(sorted((key, *sorted(said)) for key, said in node.released.items())))  # fmt: skip


def explored(every: Sequence[tuple[object, ...]]) -> tuple[int, int]:
    """Go to all states, and from each send every message, with a crash at each of its writes and without.

    Returns:
        How many states and messages there were.
    """
    seen, frontier, moves = {state(SmallNode(MemoryStore()))}, [SmallNode(MemoryStore())], 0
    while frontier:
        node = frontier.pop()
        for message in every:
            writes = 0
            for crash_at in (None, 0, 1):
                if crash_at is not None and crash_at >= writes:
                    break
                after = copied(node)
                after.take(message, crash_at)
                after.check()
                writes = max(writes, after.store.writes)
                moves += 1
                if (key := state(after)) not in seen:
                    seen.add(key)
                    frontier.append(after)
    return len(seen), moves


def test_every_message_at_every_state_of_two_rounds_leads_forward_only() -> None:
    every = [message for message in messages() if message[0] != "evaluate" and 2 not in message[1:3]]
    states, moves = explored(every)
    assert (states, moves) > (500, 5_000), "the machine was hardly explored"


@pytest.mark.exhaustive
def test_metrics_do_not_lead_back_either() -> None:
    states, moves = explored([message for message in messages() if 2 not in message[1:3]])
    assert (states, moves) > (20_000, 500_000)


def test_random_schedules_of_three_nodes_have_one_answer_a_round() -> None:
    """Up to three nodes and three rounds, any message at any time, crashes anywhere."""
    every, finished, answered = list(messages()), 0, 0
    for seed in range(SCHEDULES):
        dice = random.Random(seed)
        nodes = [SmallNode(MemoryStore()) for _ in range(dice.randint(1, 3))]
        for _ in range(dice.randint(4, 14)):
            message = dice.choice(every)
            for node in nodes if dice.random() < 0.5 else [dice.choice(nodes)]:
                node.take(message, dice.choice([None, None, 0, 1]))
                node.check()
        agreed: dict[str, set[str]] = {}
        for node in nodes:
            answered += len(node.released)
            finished += node.answers.progress.finished is not None
            for sum_of, digest in node.answers.progress.transcripts.items():
                agreed.setdefault(sum_of, set()).add(digest)
        for sum_of, digests in agreed.items():
            # masks of unlike transcripts never open together, so at most the nodes of one transcript are summed
            together = [sum(n.answers.progress.transcripts.get(sum_of) == digest for n in nodes) for digest in digests]
            assert sum(together) <= len(nodes)
    assert answered > SCHEDULES / 2, "schedules in which nothing is answered say nothing"
    assert finished > SCHEDULES / 20


class Coordinated(RuleBasedStateMachine):
    """Hypothesis looks for a schedule that breaks a node, and shrinks it."""

    def __init__(self) -> None:
        super().__init__()
        self.node = SmallNode(MemoryStore())

    @rule(message=st.sampled_from(list(messages())), crash_at=st.sampled_from([None, 0, 1, 2]))
    def say(self, message: tuple[object, ...], crash_at: int | None) -> None:
        self.node.take(message, crash_at)

    @rule()
    def crash(self) -> None:
        self.node.restart()

    @invariant()
    def holds(self) -> None:
        self.node.check()


TestCoordinated = pytest.mark.filterwarnings("ignore")(
    settings(max_examples=60, stateful_step_count=30, deadline=None)(Coordinated).TestCase
)


# --- single steps -----------------------------------------------------------------------------------------------------


def test_an_honest_run_goes_through() -> None:
    node = SmallNode(MemoryStore())
    for round in range(ROUNDS):
        first = node.contribute(round, round - 1, "one")
        node.restart()
        assert node.contribute(round, round - 1, "one") == first, "after a crash the answer that was kept"
        node.evaluate(round, round, "one")
    node.keep(ROUNDS - 1)
    for _ in range(2):
        node.finish(ROUNDS - 1, ROUNDS - 1)
        node.evaluate(ROUNDS - 1, ROUNDS - 1, "one")
    assert node.rows == "first > 0 one > 1 one > 2 one"


def test_a_node_that_missed_rounds_stands_where_it_stood() -> None:
    progress = Progress().asked("round 0", "a", 0, -1).asked("round 2", "b", 2, -1)
    assert (progress.committed, progress.pending) == (-1, 2)
    assert progress.stands(2).asked("round 5", "c", 5, 2).committed == 2
    with pytest.raises(PlanError, match="waits for round 2 to be committed"):
        progress.stands(0)


def test_a_round_that_was_passed_over_is_never_answered() -> None:
    progress = Progress().asked("round 2", "b", 2, -1)
    with pytest.raises(PlanError, match="round 1 is over"):
        progress.asked("round 1", "a", 1, -1)
    again = progress.asked("round 3", "c", 3, -1)
    with pytest.raises(PlanError, match="round 2 is over"):
        again.asked("round 2", "b", 2, -1)
    late = replace(again, repeats=True).asked("round 2", "b", 2, -1)
    assert late.pending == 2
    with pytest.raises(PlanError, match="under another transcript"):
        late.asked("round 2", "x", 2, -1)


def test_a_finished_run_stays_finished() -> None:
    progress = Progress().asked("round 0", "a", 0, -1).ended(0, -1)
    assert progress.ended(0, -1) == progress
    with pytest.raises(PlanError, match="it ended after round 0 with those of round -1"):
        progress.ended(0, 0)
    with pytest.raises(PlanError, match="finished at this node"):
        progress.asked("round 1", "b", 1, 0)


def test_a_journal_is_read_back_and_a_damaged_one_refused(tmp_path: Path) -> None:
    answers = Answers(FileStore(tmp_path))
    said = transcript(0, -1, "one")
    assert answers.ask(said, 0, -1) is None
    answers.keep(said, b"sum")
    again = Answers(FileStore(tmp_path))
    assert again.progress == answers.progress
    assert again.ask(said, 0, -1) == b"sum"
    path = tmp_path / "answers.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "asked"')
    assert Answers(FileStore(tmp_path)).progress == answers.progress, "a line that a crash cut short was never written"
    for line in (b"{}\n", b"no json\n", b'{"event": "stands", "committed": 7}\n', b'{"event": "x", "committed": 0}\n',
                 b'{"event": "stands", "committed": true}\n', b"[" * 100_000 + b"\n"):  # fmt: skip
        path.write_bytes(whole + line)
        with pytest.raises(DamagedError, match="journal of answers is damaged in line 2"):
            Answers(FileStore(tmp_path))


def test_a_long_journal_is_read_in_time_that_grows_with_its_length() -> None:
    """A coordinator that asks for every round of a long plan does not make the node's next start take for ever."""
    lines = [
        json.dumps(
            {"event": "asked", "sum": f"round {round}", "transcript": f"{round:064x}", "round": round, "committed": -1}
        )
        for round in range(60_000)
    ]
    began = time.process_time()
    progress = Answers(MemoryStore(lines)).progress
    assert time.process_time() - began < 10.0
    assert (progress.pending, len(progress.transcripts), progress.transcripts["round 7"]) == (
        59_999,
        60_000,
        f"{7:064x}",
    )


def test_whatever_differs_in_a_call_differs_in_the_digest() -> None:
    one = transcript(0, -1, "one")
    changes = {"run": "r", "plan": "p", "parties": ("a",), "record": "1 a", "past": ((0, "a"),),
               "standing": (("node", 0),), "sum_of": "s", "model": "m", "asked": "[]"}  # fmt: skip
    digests = {one.digest, *(replace(one, **{name: value}).digest for name, value in changes.items())}  # type: ignore[arg-type]
    assert len(digests) == 1 + len(changes)
