"""The result of one attack of a lying coordinator: what it got, and what nodes refused."""

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
    """All requests of one attack.

    Args:
        what: what was requested, in the plural, as the unit of the value.
        beyond: what limits the attack if nodes do not promise to refuse; `None` if they do.
        got: descriptions of the requests that succeeded.
        refused: reasons for the others, as quotations from nodes or as descriptions.
    """

    what: str
    beyond: str | None = None
    got: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def answer(self, words: str, reply: Reply) -> None:
        """Record the reply of a node to a request."""
        if reply.problem is None:
            self.got.append(words)
        else:
            self.refused.append(_quoted(str(reply.fields.get("text"))))

    def answers(self, words: str, replies: Mapping[str, Reply]) -> None:
        """Record the replies of several nodes."""
        for reply in replies.values():
            self.answer(words, reply)

    def opening(self, words: str, driven: Driven, wanted: bool = True) -> None:
        """Record the result of an attempt to open parts.

        Args:
            words: description of the attempt.
            driven: the attempt.
            wanted: whether an opened sum counts as a success of the attack.
        """
        if driven.total is not None and wanted:
            self.got.append(words)
        else:
            self.refused.append(_quoted(next(iter(driven.why.values()), "no node gave a reason")))

    def finding(self, name: str) -> Finding:
        """The finding, under the attack's name.

        Raises:
            RunError: if nodes failed in all requests, which shows nothing about what they refuse.
        """
        if not self.got and all(_BROKE_DOWN in text for text in self.refused):
            raise RunError(f"attack {name}: the nodes failed, so the attack shows nothing: {self.refused[:1]}")
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
    """The first sentence of a node's text, shortened if it is long."""
    first = printable(text).split(". ")[0].rstrip(".")
    return f"“{first if len(first) <= _LETTERS else f'{first[:_LETTERS]}…'}”"
