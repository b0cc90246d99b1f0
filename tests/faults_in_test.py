"""What can happen to frames and nodes, on a post within one process."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import fedrec.node.host as host_module
from federation_in_test import COORDINATOR, STRANGER, Federation
from fedrec.federation.messages import open_request
from fedrec.network.post import Failure, LocalPost
from fedrec.record.keys import SigningKey
from kill_driver import is_killed

Answer = Callable[[bytes], bytes]


@dataclass(eq=False)
class Faulty:
    """A post between coordinator and nodes on which something happens to some frames.

    Args:
        federation: whose nodes.
        fault: what happens; see `FAULTS`.
        victim: the node that it happens to.
        kind: of the request at which it happens.
        nth: at which of these, from 0.
        seed: of the damage.
    """

    federation: Federation
    fault: str = "none"
    victim: str = ""
    kind: str = ""
    nth: int = 0
    seed: int = 0
    seen: list[tuple[str, str]] = field(default_factory=list)
    struck: bool = False
    post: LocalPost = field(init=False)

    def __post_init__(self) -> None:
        self.post = LocalPost(self.federation.hosts(), self._interfere)
        self.past: dict[str, list[bytes]] = {name: [] for name in self.federation.names}
        self.held: dict[str, bytes] = {}
        self.away: dict[str, int] = {}
        self.other: set[str] = set()
        self.dice = random.Random(self.seed)
        self.count = 0

    def restart(self, name: str, key: SigningKey | None = None) -> None:
        """Let the node's process end and begin anew."""
        self.post.hosts[name] = self.federation.host(name, key)

    def _interfere(self, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
        request, _ = open_request(frame, COORDINATOR.public(), 1 << 30)
        self.seen.append((name, request.kind))
        try:
            if self.away.get(name, 0) > 0:
                self.away[name] -= 1
                return Failure("gone", "it is not up")
            if name in self.held:
                stale = self.held.pop(name)
                answer(frame)
                return stale
            fault = self.chosen(name, request.kind)
            return answer(frame) if fault is None else (FAULTS | LASTING)[fault](self, name, frame, answer)
        finally:
            self.past[name].append(frame)

    def chosen(self, name: str, kind: str) -> str | None:
        """What happens to this frame."""
        if name != self.victim or self.fault == "none":
            return None
        if self.struck:
            return self.fault if self.fault in LASTING else None
        self.count += kind == self.kind
        self.struck = self.count > self.nth
        return self.fault if self.struck else None


class Stormy(Faulty):
    """A post on which anything may happen to any frame."""

    def __init__(self, federation: Federation, rate: float, seed: int) -> None:
        super().__init__(federation, seed=seed)
        self.rate = rate

    def chosen(self, name: str, kind: str) -> str | None:
        return self.dice.choice(sorted(FAULTS)) if self.dice.random() < self.rate else None


def _killed_at_write(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    """The node's process ends at the first thing that it writes for this request, if it writes at all."""
    said: list[bytes] = []
    killed = is_killed(lambda: said.append(answer(frame)), post.dice.randrange(3), half=post.dice.random() < 0.5)
    post.restart(name)
    return Failure("gone", "it died") if killed else said[0]


def _restarted(before: bool) -> Callable[[Faulty, str, bytes, Answer], bytes | Failure]:
    def fault(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
        if not before:
            answer(frame)
        post.restart(name)
        return Failure("gone", "it died")

    return fault


def _twice(which: int) -> Callable[[Faulty, str, bytes, Answer], bytes | Failure]:
    def fault(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
        return (answer(frame), answer(frame))[which]

    return fault


def _silent(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    return Failure("timeout", "no answer in time")


def _unheard(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    answer(frame)
    return Failure("timeout", "no answer in time")


def _late(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    post.held[name] = answer(frame)
    return Failure("timeout", "no answer in time")


def _away(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    post.away[name] = 3
    return Failure("gone", "it is not up")


def _flipped(post: Faulty, data: bytes) -> bytes:
    place = post.dice.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << post.dice.randrange(8)]) + data[place + 1 :]


def _replayed(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    """Somebody hands the node all its old frames again before it hears the new one."""
    for old in post.past[name]:
        answer(old)
    return answer(frame)


def _stale(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    """An old request comes instead of the new one."""
    return answer(post.past[name][-1]) if post.past[name] else Failure("timeout", "no answer in time")


def _forged(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    """Somebody else asks the same, signs with a key of their own, and then the coordinator asks."""
    request, _ = open_request(frame, COORDINATOR.public(), 1 << 30)
    answer(replace(request, number=request.number + 1).sign(STRANGER).whole())
    return answer(frame)


def _forged_only(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    request, _ = open_request(frame, COORDINATOR.public(), 1 << 30)
    return answer(request.sign(STRANGER).whole())


def _misdirected(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    """The frame reaches another node, whose answer comes back in this one's name."""
    other = next(other for other in post.federation.names if other != name)
    return post.post.hosts[other].answer(frame)


def _damaged(change: Callable[[Faulty, bytes], bytes], request: bool) -> Callable[..., bytes | Failure]:
    def fault(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
        return answer(change(post, frame)) if request else change(post, answer(frame))

    return fault


def _other_version(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    if name not in post.other:
        post.restart(name)
        post.other.add(name)
        answer = post.post.hosts[name].answer
    ours, host_module.__version__ = host_module.__version__, "9.9.9"
    try:
        return answer(frame)
    finally:
        host_module.__version__ = ours


def _other_key(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    if name not in post.other:
        post.restart(name, SigningKey(name, bytes(31) + b"y"))
        post.other.add(name)
        answer = post.post.hosts[name].answer
    return answer(frame)


def _for_good(post: Faulty, name: str, frame: bytes, answer: Answer) -> bytes | Failure:
    return Failure("gone", "it is not up")


FAULTS: dict[str, Callable[[Faulty, str, bytes, Answer], bytes | Failure]] = {
    "request lost": _silent,
    "answer lost": _unheard,
    "answer late, as answer to the next": _late,
    "away for three requests": _away,
    "killed before": _restarted(before=True),
    "killed after": _restarted(before=False),
    "killed at a write": _killed_at_write,
    "asked twice, first answer": _twice(0),
    "asked twice, second answer": _twice(1),
    "answer with a flipped bit": _damaged(_flipped, request=False),
    "answer cut": _damaged(lambda post, data: data[: len(data) // 2], request=False),
    "answer empty": _damaged(lambda post, data: b"", request=False),
    "answer of noise": _damaged(lambda post, data: post.dice.randbytes(500), request=False),
    "request with a flipped bit": _damaged(_flipped, request=True),
    "old requests replayed first": _replayed,
    "old request instead": _stale,
    "forged request first": _forged,
    "forged request instead": _forged_only,
    "request to another node": _misdirected,
}
LASTING: dict[str, Callable[[Faulty, str, bytes, Answer], bytes | Failure]] = {
    "gone for good": _for_good,
    "back with another version": _other_version,
    "back with another key": _other_key,
}
"""What goes on until the end."""
