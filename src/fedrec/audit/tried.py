"""What came of one attack of a coordinator that lies: what it got, and what nodes said instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrec.audit.driven import Driven
from fedrec.audit.findings import Finding
from fedrec.errors import RunError
from fedrec.federation.messages import Reply
from fedrec.network.post import printable

__all__ = ["Tried"]

_LETTERS = 220
_BROKE_DOWN = "the node's own log says more"


@dataclass(eq=False)
class Tried:
    """Everything that was asked for in one attack.

    Args:
        what: was asked for, in the plural: of what the value is a number.
        beyond: where nothing was promised, what bounds the attack; `None` where nodes promise to refuse.
        got: in words, what was got.
        refused: why something was not, in a node's words, quoted, or in others.
    """

    what: str
    beyond: str | None = None
    got: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def answer(self, words: str, reply: Reply) -> None:
        """Take in what a node said to something that was asked of it."""
        if reply.problem is None:
            self.got.append(words)
        else:
            self.refused.append(_quoted(str(reply.fields.get("text"))))

    def answers(self, words: str, replies: Mapping[str, Reply]) -> None:
        """The same of several nodes."""
        for reply in replies.values():
            self.answer(words, reply)

    def opening(self, words: str, driven: Driven, wanted: bool = True) -> None:
        """Take in what came of a secure sum.

        Args:
            words: for it.
            driven: the try.
            wanted: whether the sum, if one came out, is one that was looked for.
        """
        if driven.total is not None and wanted:
            self.got.append(words)
        else:
            self.refused.append(_quoted(next(iter(driven.why.values()), "nobody says why")))

    def finding(self, name: str) -> Finding:
        """The finding, under the attack's name.

        Raises:
            RunError: if nodes broke down in all that was tried, which says nothing of what they refuse.
        """
        if not self.got and all(_BROKE_DOWN in text for text in self.refused):
            raise RunError(f"the attack {name} gets no answer because nodes break down: {self.refused[:1]}")
        tried = len(self.got) + len(self.refused)
        says = f"{len(self.got) or 'none'} of {tried} {self.what}"
        if not self.got:
            return Finding(name, "server", self.what, 0.0, self._limit, "pass", f"{says}: {self.refused[0]}")
        says = f"{says}: {', '.join(dict.fromkeys(self.got))}"
        value = float(len(self.got))
        if self.beyond is None:
            return Finding(name, "server", self.what, value, self._limit, "fail", says)
        return Finding(name, "server", self.what, value, self._limit, "out of scope", f"{says}; {self.beyond}")

    @property
    def _limit(self) -> float | None:
        return 0.0 if self.beyond is None else None


def _quoted(text: str) -> str:
    """The first sentence of what a node said, or as much of it as fits."""
    first = printable(text).split(". ")[0].rstrip(".")
    return f"“{first if len(first) <= _LETTERS else f'{first[:_LETTERS]}…'}”"
