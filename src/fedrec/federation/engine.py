"""Where nodes live, as the coordinator sees it: every call goes to all of them, and only sums come back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from fedrec.aggregation.sums import Sum
    from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
    from fedrec.federation.own_rounds import OwnRounds
    from fedrec.models.base import Arrays

__all__ = ["Engine"]


class Engine(Protocol):
    """Where nodes live. Every call goes to all of them."""

    def contribute(self, call: RoundCall) -> Sequence[Sum]:
        """Each node's sum for a round."""

    def evaluate(self, call: EvaluationCall) -> Sequence[Sum]:
        """Each node's sum of metrics."""

    def count_items(self, call: CountCall) -> Sequence[Sum]:
        """Each node's counts of items."""

    @property
    def parties(self) -> tuple[int, int, str] | None:
        """Of a secure aggregation: number of nodes, least number of honest nodes left in it, digest of who they are."""

    @property
    def run(self) -> str | None:
        """The number under which nodes know the run; `None` where any will do."""

    @property
    def took_part(self) -> tuple[str, ...]:
        """The nodes that the last sum is over, where that may change from sum to sum; empty where it is all of them."""

    def made_of(self, shared: Arrays, frame: bytes) -> None:
        """Take the bytes of the sum that shared arrays were made of, for nodes that can make them themselves."""

    def keep(self, shared: Arrays, committed: OwnRounds) -> None:
        """Remember private rows as they are after the round that counts for each node."""

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        """End with each node's private rows of the round `kept`."""
