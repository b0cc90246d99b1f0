"""How frames travel from the coordinator to nodes and back, and a version for nodes in the same process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fedrec.errors import enumerated
from fedrec.progress import counting

if TYPE_CHECKING:
    from fedrec.federation.messages import Frame
    from fedrec.node.host import NodeHost

__all__ = ["Failure", "LocalPost", "Post", "by_reason", "printable"]

_MOST_LETTERS = 500


@dataclass(frozen=True)
class Failure:
    """Why a node did not answer.

    Args:
        kind: `timeout`, `gone`, `late` (enough other nodes answered first), or the problem that the node reported.
        text: the reason; a text from a node may contain anything.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return printable(self.text or self.kind)


def by_reason(reasons: Mapping[str, object]) -> str:
    """Reasons of nodes in one text, each reason once with the names of its nodes.

    >>> by_reason({"shop-a": "node shop-a: no", "shop-b": "gone", "shop-c": "node shop-c: no"})
    'shop-a and shop-c: no; shop-b: gone'
    >>> by_reason({"a": "full", "b": "full", "c": "full"})
    'a, b and c: full'
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        same = str(reason).removeprefix(f"node {name}: ").replace(f"node {name} ", "each ")
        names.setdefault(same, []).append(name)
    parts = []
    for same, some in names.items():
        if len(some) == 1:
            parts.append(f"{some[0]}: {reasons[some[0]]}")
        else:
            parts.append(f"{enumerated(some)}: {same}")
    return "; ".join(parts)


def printable(text: str) -> str:
    """A text from a node that is safe to print: at most 500 characters, and blanks for unprintable ones.

    >>> printable("gone\\x1b[2J")
    'gone [2J'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MOST_LETTERS])


class Post(Protocol):
    """Carries frames to nodes and their answers back."""

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        """Send one frame to each of some nodes, all at the same time.

        Args:
            frames: frames by name of the node.
            seconds: deadline of all answers.
            enough: number of answers after which to stop waiting.

        Returns:
            An answer or a failure for every node.
        """

    def close(self) -> None:
        """Release the resources of the post."""


Interference = Callable[[str, bytes, Callable[[bytes], bytes]], bytes | Failure]


class LocalPost:
    """Nodes in this process, which answer one after the other.

    Args:
        hosts: nodes by name.
        interfere: takes a node's name, the frame and the host's `answer`, and returns the answer; used to test nodes
            that fail, lie or are slow. By default the host answers.
    """

    def __init__(self, hosts: Mapping[str, NodeHost], interfere: Interference | None = None) -> None:
        self.hosts = dict(hosts)
        self.interfere = interfere
        self._turn = threading.Lock()

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        """Send the frames; answers are late only if `interfere` makes them late."""
        answers: dict[str, bytes | Failure] = {}
        good = 0
        with counting(len(frames), "nodes have answered") as reached:
            for name, frame in frames.items():
                if enough is not None and good >= enough:
                    answers[name] = Failure("late", "enough other nodes answered first")
                elif name not in self.hosts:
                    answers[name] = Failure("gone", "not connected")
                elif self.interfere is None:
                    answers[name] = self._answer(name, frame.whole())
                else:
                    answers[name] = self.interfere(name, frame.whole(), partial(self._answer, name))
                good += isinstance(answers[name], bytes)
                reached(good)
        return answers

    def _answer(self, name: str, frame: bytes) -> bytes:
        """The answer of a host; threads take turns, as the kernels allow one thread at a time."""
        with self._turn:
            return self.hosts[name].answer(frame)

    def close(self) -> None:
        """Nothing to release."""
