"""Requests of a coordinator to its nodes: signs requests, checks replies, and tracks what each node already has."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedrec.errors import DamagedError
from fedrec.federation.messages import Frame, Reply, Request, open_reply, pack_arrays
from fedrec.models.base import Arrays
from fedrec.network.post import Failure, Post
from fedrec.record.keys import PublicKey, SigningKey

__all__ = ["Answers", "Links", "is_failure"]

_MOST_BYTES = 1 << 34
_TRIES = 3

Answers = dict[str, Reply | Failure]


@dataclass(eq=False)
class _Link:
    """The state of a node, as the coordinator knows it."""

    key: PublicKey
    session: str = ""
    number: int = 0
    opened: bool = False
    shared: str = ""
    sent: int = 0
    received: int = 0
    suspect: bool = False
    why: str = ""
    got_sum: bool = False


class Links:
    """Sends requests to nodes, opens the run at nodes that do not know it, and sends shared arrays only where missing.

    Args:
        post: carries the frames.
        key: the coordinator's key.
        nodes: public keys by name of the node.
        run: identifier of the run.
        offer: fields and parts of the request that opens the run.
        opened: called with the name and reply of every node that opened the run; raises `DamagedError` if the reply
            cannot be right, which leaves the node out.
    """

    def __init__(
        self,
        post: Post,
        key: SigningKey,
        nodes: Mapping[str, PublicKey],
        run: str,
        offer: tuple[Mapping[str, Any], Sequence[bytes]],
        opened: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._post, self._key, self._run, self._offer, self._opened = post, key, run, offer, opened
        self._links = {name: _Link(key) for name, key in sorted(nodes.items())}
        self._number = 0
        self._changing = threading.RLock()  # several threads may send requests, each to nodes of its own
        self._packed: tuple[Arrays, bytes, bytes] | None = None
        self._made_of: tuple[Arrays, bytes] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all nodes of the federation, sorted."""
        return tuple(self._links)

    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes of frames to (`down`) and from (`up`) each node so far."""
        return {name: {"up": link.received, "down": link.sent} for name, link in self._links.items()}

    def failures(self) -> dict[str, str]:
        """Reasons of the nodes that did not answer the last request, by name."""
        return {name: link.why for name, link in self._links.items() if link.suspect}

    def present(self, seconds: float) -> list[str]:
        """Names of the nodes that answer. Nodes that did not answer the last request get a new one, for `seconds`."""
        suspects = [name for name, link in self._links.items() if link.suspect]
        if suspects:
            self._round_trip({name: self._request("hello", name) for name in suspects}, seconds, None)
        return [name for name, link in self._links.items() if not link.suspect]

    def made_of(self, shared: Arrays, frame: bytes) -> None:
        """Send the bytes of a sum where these shared arrays are missing; a node that does not answer that well gets the
        arrays."""
        with self._changing:
            self._made_of = shared, frame

    def open(self, seconds: float) -> Answers:
        """Open the run at all nodes."""
        answers = self._round_trip({name: self._opening(name) for name in self.names}, seconds, None)
        return self._took_openings(answers)

    def ask(
        self,
        kind: str,
        fields: Mapping[str, Mapping[str, Any]],
        seconds: float,
        shared: Arrays | None = None,
        parts: Mapping[str, Sequence[bytes]] | None = None,
        enough: int | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Answers:
        """Send one request to each of some nodes; nodes that do not know the run open it first.

        Several threads may send requests to one node. A node refuses a request that a later one overtook; the request
        is then sent again. Threads do not wait for each other, as one slow node would use up the deadline of all.

        Args:
            kind: kind of the request.
            fields: fields of the request, by node.
            seconds: deadline of all answers together.
            shared: arrays that the request is about.
            parts: further parts of the request, by node.
            enough: number of answers after which to stop waiting.
            wanted: returns false when the answers are no longer needed; then no further request is sent.

        Returns:
            A reply or failure for every node.
        """
        until = time.monotonic() + seconds
        answers: Answers = {}
        waiting, tries = dict(fields), dict.fromkeys(fields, _TRIES)
        while waiting and (enough is None or _replies(answers) < enough):
            with self._changing:
                if not wanted():
                    return dict.fromkeys(fields, Failure("late", "the answer is no longer needed")) | answers
                closed = {name for name in waiting if not self._links[name].opened}
                requests = {
                    name: self._opening(name)
                    if name in closed
                    else self._about(kind, name, own, shared, () if parts is None else parts[name])
                    for name, own in waiting.items()
                }
                numbers = {name: self._links[name].number for name in waiting}
            left = max(0.0, until - time.monotonic())
            if len(closed) == len(waiting):
                left /= 2  # nodes that open the run get the request afterwards, and a node may never open
            due = None if enough is None else enough - _replies(answers) + len(closed)
            arrived = self._round_trip(requests, left, due)
            arrived |= self._took_openings({name: arrived[name] for name in closed})
            again = {}
            for name, answer in arrived.items():
                if name in closed and isinstance(answer, Reply):
                    answers[name], again[name] = Failure("late", "enough other nodes answered first"), waiting[name]
                    continue
                if is_failure(answer, "repeated") and self._links[name].number > numbers[name]:
                    answer = Failure("overtaken", "a later request overtook this one")
                answers[name] = answer
                tries[name] -= 1
                if tries[name] and is_failure(answer, "not-open", "unknown-model", "overtaken"):
                    again[name] = waiting[name]
            waiting = again
        return {name: answers[name] for name in fields}

    def _opening(self, name: str) -> Frame:
        return self._request("open", name, *self._offer)

    def _took_openings(self, answers: Answers) -> Answers:
        """Answers to requests to open the run, with a failure for each reply that cannot be right."""
        for name, answer in answers.items():
            if isinstance(answer, Reply):
                try:
                    self._opened(name, answer.fields)
                    self._links[name].opened = True
                except DamagedError as error:
                    answers[name] = Failure("damaged", str(error))
                    self._links[name].suspect, self._links[name].why = True, str(error)
        return answers

    def _about(
        self, kind: str, name: str, fields: Mapping[str, Any], shared: Arrays | None, parts: Sequence[bytes]
    ) -> Frame:
        """A request about shared arrays, which contains the arrays if the node does not have them."""
        if shared is None:
            return self._request(kind, name, fields, parts)
        with self._changing:
            if self._packed is None or self._packed[0] is not shared:
                packed = pack_arrays(shared)
                self._packed = shared, packed, hashlib.sha256(packed).digest()
            _, packed, digest = self._packed
            link = self._links[name]
            has_arrays = link.shared == digest.hex()
            link.shared = digest.hex()
            made_of, frame = self._made_of or (None, b"")
            as_sum = made_of is shared and not has_arrays and not link.got_sum
            link.got_sum = link.got_sum or as_sum
        fields = {**fields, "shared": digest.hex()}
        if as_sum:
            return self._request(kind, name, {**fields, "made_of": "sum"}, (frame,))
        return self._request(kind, name, fields) if has_arrays else self._request(kind, name, fields, (packed,), digest)

    def _request(
        self,
        kind: str,
        name: str,
        fields: Mapping[str, Any] | None = None,
        parts: Sequence[bytes] = (),
        digest: bytes | None = None,
    ) -> Frame:
        with self._changing:
            number = self._number = self._links[name].number = max(self._number + 1, time.time_ns())
        return Request(kind, self._run, name, number, fields or {}, parts).sign(self._key, digest)

    def _round_trip(self, requests: Mapping[str, Frame], seconds: float, enough: int | None) -> Answers:
        """Send requests and check replies; note which nodes failed, and which restarted without arrays."""
        if not requests:
            return {}
        answers: Answers = {}
        frames = self._post.ask(requests, seconds, enough)
        for name, request in requests.items():
            link = self._links[name]
            answer = self._checked(
                name, frames.pop(name), request.digest
            )  # replies may be large: keep one copy of each
            answers[name] = answer
            link.sent += 0 if is_failure(answer, "gone") else request.size
            link.suspect = is_failure(answer, "timeout", "gone", "damaged")
            link.why = str(answer) if isinstance(answer, Failure) else ""
            if isinstance(answer, Failure):
                link.shared = ""
        return answers

    def _checked(self, name: str, frame: bytes | Failure, about: str) -> Reply | Failure:
        if isinstance(frame, Failure):
            return frame
        link = self._links[name]
        link.received += len(frame)
        try:
            reply = open_reply(frame, link.key, about, _MOST_BYTES)
        except DamagedError as error:
            return Failure("damaged", str(error))
        session = str(reply.fields.get("session", ""))
        if session != link.session or reply.problem == "not-open":
            link.opened, link.shared, link.session = False, "", session
        if reply.problem is not None:
            return Failure(reply.problem, str(reply.fields.get("text", "")))
        return reply


def _replies(answers: Answers) -> int:
    """Number of answers that are not failures."""
    return sum(isinstance(answer, Reply) for answer in answers.values())


def is_failure(answer: Reply | Failure, *kinds: str) -> bool:
    """Whether an answer is a failure of one of some kinds."""
    return isinstance(answer, Failure) and answer.kind in kinds
