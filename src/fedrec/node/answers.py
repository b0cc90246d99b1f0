"""What a node has answered in one run, and how far it has come: forward only, and on the disk before anything leaves.

A node moves through a run as follows. It stands after a committed round, −1 before the first. *Asked* for a sum, it
binds that sum of the run to one transcript for good. *Answered*, the bytes of the sum are on the disk, and whoever asks
again under the same transcript gets these bytes. A round that was asked for is *pending*: the next message says either
that it was committed, and the node stands there, or that the node still stands where it stood, and asking for another
round ends the pending one. *Finished*, the node keeps the rows of one round and answers no further round.

Nothing leads back: a round that was committed stays so, one that ended without the node is never answered again, and a
sum has one transcript.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from fedrec.documents import read_file
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.transcript import Transcript
from fedrec.record.durable import append_line, replace_file, whole_lines

__all__ = ["Answers", "FileStore", "Progress", "Store"]

_DIGEST = 64


class Bound(Mapping[str, str]):
    """Transcripts by sum, of which there are only ever more: what was bound earlier is shared, not copied.

    Example:
        >>> one = Bound().added("round 0", "t0")
        >>> two = one.added("round 1", "t1")
        >>> dict(one), dict(two), one == two
        ({'round 0': 't0'}, {'round 0': 't0', 'round 1': 't1'}, False)
    """

    def __init__(self) -> None:
        self._all: dict[str, tuple[int, str]] = {}
        self._count = 0

    def __getitem__(self, sum_of: str) -> str:
        place, transcript = self._all[sum_of]
        if place >= self._count:
            raise KeyError(sum_of)
        return transcript

    def __iter__(self) -> Iterator[str]:
        return itertools.islice(self._all, self._count)

    def __len__(self) -> int:
        return self._count

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Bound) and other._all is self._all:
            return other._count == self._count
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def added(self, sum_of: str, transcript: str) -> Bound:
        """With one sum more."""
        more = Bound()
        more._all = (
            self._all if len(self._all) == self._count else dict(itertools.islice(self._all.items(), self._count))
        )
        more._all[sum_of] = self._count, transcript
        more._count = self._count + 1
        return more


@dataclass(frozen=True)
class Progress:
    """How far a node has come in a run; every change is one event, and events never lead back.

    Args:
        committed: the round that the node stands after; −1 before the first.
        pending: the round that it was asked for last and that may yet be committed.
        transcripts: digest of the transcript of every sum that the node was asked for.
        finished: the last committed round and the kept one, once the run is over for the node.
        repeats: whether a round before the pending one may be asked for again, under its transcript, as long as none of
            them was committed: the coordinator of asynchronous plain sums may lose track of late ones.

    Example:
        >>> begun = Progress().asked("round 0", "t0", 0, -1)
        >>> begun.stands(0).committed
        0
        >>> begun.stands(0).stands(-1)
        Traceback (most recent call last):
        ...
        fedrec.errors.PlanError: round -1 is spoken of as the last one that counts; this node stands after round 0
    """

    committed: int = -1
    pending: int | None = None
    transcripts: Bound = field(default_factory=Bound)
    finished: tuple[int, int] | None = None
    repeats: bool = False

    def stands(self, committed: int) -> Progress:
        """The node once a message says that round `committed` is the last one that counts for it.

        Raises:
            PlanError: if the round is neither the one the node stands after nor the pending one.
        """
        if committed == self.committed:
            return self
        if committed != self.pending or self.finished is not None:
            waits = "" if self.pending is None else f" and waits for round {self.pending} to be committed"
            raise PlanError(
                f"round {committed} is spoken of as the last one that counts; this node stands after round "
                f"{self.committed}{waits}"
            )
        return replace(self, committed=committed, pending=None)

    def asked(self, sum_of: str, transcript: str, round: int | None, committed: int) -> Progress:
        """The node once it was asked for a sum.

        Args:
            sum_of: which sum.
            transcript: digest of the transcript.
            round: of the training; `None` for counts and metrics, which change nothing.
            committed: the last round that counts for the node, as the message says.

        Raises:
            PlanError: if the sum was asked for under another transcript, is over, or the node has finished.
        """
        bound = self.transcripts.get(sum_of)
        if bound is not None and bound != transcript:
            raise PlanError(
                f"{sum_of} was asked for before under another transcript ({bound[:12]}…, now {transcript[:12]}…); two "
                "answers could be subtracted from each other, so the node keeps to the first one for good"
            )
        if round is not None and self.finished is not None:
            raise PlanError(f"{sum_of} is asked for; the run is finished at this node")
        stood = self.stands(committed)
        if round is not None:
            over = bound is not None and self.pending != round and not self.repeats
            if over or round <= stood.committed:
                raise PlanError(f"{sum_of} is over; it was committed, or a later round was asked for")
            if bound is None and self.pending is not None and round < self.pending:
                raise PlanError(f"{sum_of} is over; round {self.pending} was asked for before")
            stood = replace(stood, pending=round)
        if bound is None:
            stood = replace(stood, transcripts=stood.transcripts.added(sum_of, transcript))
        return stood

    def ended(self, committed: int, kept: int) -> Progress:
        """The node once the run is over for it; saying so again changes nothing.

        Raises:
            PlanError: if it ended otherwise before.
        """
        if self.finished is not None:
            if self.finished != (committed, kept):
                raise PlanError(
                    f"the run is to end after round {committed} with the rows of round {kept}; at this node it ended "
                    f"after round {self.finished[0]} with those of round {self.finished[1]}"
                )
            return self
        return replace(self.stands(committed), committed=kept, pending=None, finished=(committed, kept))


class Store(Protocol):
    """Where answers are kept: lines that are only ever added, and one sum of each kind."""

    def lines(self) -> list[str]:
        """All lines that were added."""

    def append(self, line: str) -> None:
        """Add a line; it is there for good once this returns."""

    def put(self, name: str, *data: bytes) -> None:
        """Keep pieces of data in place of those before; they are there for good once this returns."""

    def get(self, name: str) -> bytes | None:
        """The bytes that were kept under a name."""


@dataclass(frozen=True)
class FileStore:
    """Answers of one run on an owner's disk.

    Args:
        folder: of the run.
    """

    folder: Path

    def lines(self) -> list[str]:
        """All lines that were added; one that a crash cut short never was."""
        path = self.folder / "answers.jsonl"
        return whole_lines(path).decode("utf-8", "replace").split("\n")[:-1] if path.exists() else []

    def append(self, line: str) -> None:
        """Add a line and flush it to the disk."""
        append_line(self.folder / "answers.jsonl", line)

    def put(self, name: str, *data: bytes) -> None:
        """Write the pieces aside, flush them, and put them in place."""
        folder = self.folder / "answers"
        folder.mkdir(exist_ok=True)
        replace_file(folder / f"{name}.sum", *data, secret=True)

    def get(self, name: str) -> bytes | None:
        """The sum under a name."""
        path = self.folder / "answers" / f"{name}.sum"
        if not path.exists():
            return None
        try:
            return read_file(path)
        except (OSError, ValueError) as error:
            raise DamagedError(f"{path} cannot be read: {error}") from None


class Answers:
    """The answers of a node in one run.

    Args:
        store: where they are kept.
        repeats: as of `Progress`.

    Raises:
        DamagedError: if the store holds something that no node wrote.
    """

    def __init__(self, store: Store, repeats: bool = False) -> None:
        self._store = store
        self.progress = Progress(repeats=repeats)
        for number, text in enumerate(store.lines(), 1):
            try:
                self.progress = _after(self.progress, json.loads(text))
            except (ValueError, KeyError, TypeError, RecursionError, PlanError) as error:
                raise DamagedError(
                    f"the node's journal of answers is damaged in line {number} ({error}); a node that lost it may not "
                    "answer this run again: begin another run"
                ) from None

    def ask(self, transcript: Transcript, round: int | None, committed: int) -> bytes | None:
        """Take in that a sum is asked for, before anything of it is computed.

        Returns:
            The bytes of the answer where the node has given it, or was about to; `None` where it is to be computed.

        Raises:
            PlanError: if the node may not answer, see `Progress.asked`.
        """
        digest = transcript.digest
        self._take({"event": "asked", "sum": transcript.sum_of, "transcript": digest, "round": round,
                    "committed": committed})  # fmt: skip
        kept = self._store.get(_name(transcript.sum_of))
        if kept is None or kept[:_DIGEST] != digest.encode():
            return None
        return kept[_DIGEST:]

    def keep(self, transcript: Transcript, *answer: bytes) -> None:
        """Keep the pieces of an answer; they are on the disk before the node lets anything of it out."""
        self._store.put(_name(transcript.sum_of), transcript.digest.encode(), *answer)

    def stand(self, committed: int) -> None:
        """Take in that a message says which round is the last one that counts.

        Raises:
            PlanError: if that would lead back, see `Progress.stands`.
        """
        self._take({"event": "stands", "committed": committed})

    def finish(self, committed: int, kept: int) -> None:
        """Take in that the run is over.

        Raises:
            PlanError: if it ended otherwise before.
        """
        self._take({"event": "finished", "committed": committed, "kept": kept})

    def _take(self, event: Mapping[str, Any]) -> None:
        """Write an event down, where it changes anything, and go on from it."""
        after = _after(self.progress, event)
        if after != self.progress:
            self._store.append(json.dumps(event))
            self.progress = after


def _after(progress: Progress, event: Mapping[str, Any]) -> Progress:
    kind, committed = event["event"], event["committed"]
    if type(committed) is not int:
        raise TypeError("committed is not a whole number")
    if kind == "asked":
        return progress.asked(str(event["sum"]), str(event["transcript"]), event["round"], committed)
    if kind == "stands":
        return progress.stands(committed)
    if kind == "finished" and type(event["kept"]) is int:
        return progress.ended(committed, event["kept"])
    raise ValueError(f"unknown event {kind!r}")


def _name(sum_of: str) -> str:
    """One place for all rounds, of which the last answer alone may be asked for again; one for each kind of metrics."""
    return "round" if sum_of.startswith("round ") else sum_of.replace(" ", "-")
