"""How frames reach nodes, seen from the coordinator; and the post within one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fedrec.progress import counting

if TYPE_CHECKING:
    from fedrec.federation.messages import Frame
    from fedrec.node.host import NodeHost

__all__ = ["Failure", "LocalPost", "Post", "by_reason", "printable"]

_MOST_LETTERS = 500


@dataclass(frozen=True)
class Failure:
    """Why there is no answer of a node.

    Args:
        kind: `timeout`, `gone`, `late` (others were quick enough), or the problem that the node named.
        text: in words; a node's may be anything.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return printable(self.text or self.kind)


def by_reason(said: Mapping[str, object]) -> str:
    """What nodes said, each reason once and every node with its reason, whatever it may have said.

    >>> by_reason({"shop-a": "node shop-a: no", "shop-b": "gone", "shop-c": "node shop-c: no"})
    'shop-a and shop-c: no; shop-b: gone'
    >>> by_reason({"a": "full", "b": "full", "c": "full"})
    'a, b and c: full'
    """
    names: dict[str, list[str]] = {}
    for name, reason in said.items():
        same = str(reason).removeprefix(f"node {name}: ").replace(f"node {name} ", "each ")
        names.setdefault(same, []).append(name)
    parts = []
    for same, some in names.items():
        if len(some) == 1:
            parts.append(f"{some[0]}: {said[some[0]]}")
        else:
            parts.append(f"{', '.join(some[:-1])} and {some[-1]}: {same}")
    return "; ".join(parts)


def printable(text: str) -> str:
    """What a node said, as it can be shown: no more than 500 letters, and blanks for what is not printed.

    >>> printable("gone\\x1b[2J")
    'gone [2J'
    """
    return "".join(letter if letter.isprintable() else " " for letter in text[:_MOST_LETTERS])


class Post(Protocol):
    """Carries frames to nodes and their answers back."""

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        """Hand one frame to each of some nodes, all at the same time.

        Args:
            frames: by name of the node.
            seconds: after which nobody is waited for any longer.
            enough: go on as soon as so many have answered.

        Returns:
            An answer or a failure for every node.
        """

    def close(self) -> None:
        """Let go of what the post holds."""


Interference = Callable[[str, bytes, Callable[[bytes], bytes]], bytes | Failure]


class LocalPost:
    """Nodes of this process, asked one after the other.

    Args:
        hosts: by name.
        interfere: given a node's name, the frame and the host's `answer`, decides what becomes of the frame: a test
            bed for nodes that fail, lie or dawdle. By default it is answered.
    """

    def __init__(self, hosts: Mapping[str, NodeHost], interfere: Interference | None = None) -> None:
        self.hosts = dict(hosts)
        self.interfere = interfere
        self._turn = threading.Lock()

    def ask(self, frames: Mapping[str, Frame], seconds: float, enough: int | None = None) -> dict[str, bytes | Failure]:
        """Hand the frames over; nobody is late here unless `interfere` says so."""
        answers: dict[str, bytes | Failure] = {}
        good = 0
        with counting(len(frames), "nodes have answered") as reached:
            for name, frame in frames.items():
                if enough is not None and good >= enough:
                    answers[name] = Failure("late", "others were quicker")
                elif name not in self.hosts:
                    answers[name] = Failure("gone", "it is not up")
                elif self.interfere is None:
                    answers[name] = self._answer(name, frame.whole())
                else:
                    answers[name] = self.interfere(name, frame.whole(), partial(self._answer, name))
                good += isinstance(answers[name], bytes)
                reached(good)
        return answers

    def _answer(self, name: str, frame: bytes) -> bytes:
        """One at a time: threads of one process take turns at the kernels."""
        with self._turn:
            return self.hosts[name].answer(frame)

    def close(self) -> None:
        """Nothing is held."""
