"""Which committed round counts for each node: the last one that has a sum of the node's own, as the ledger says.

A node's private rows go by its own sums: rows that it journalled count once a round with that sum is committed. A line
of a round says whose sums are in it, in one of three ways: it names `parts`, of whom and computed from which version of
the model, where nodes work at their own pace; it names the `nodes` that took part, where others may have been away; or
it names nobody, and has a sum of every node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["OwnRounds"]


@dataclass(frozen=True)
class OwnRounds:
    """The round that counts for each node.

    Args:
        others: the round of all nodes that `named` lacks; −1 for none.
        named: rounds of single nodes.

    Example:
        >>> lines = [{"round": 0}, {"round": 1, "nodes": ["a"]}, {"round": 2, "nodes": ["b"]}]
        >>> own = OwnRounds.after(lines, 1)
        >>> own["a"], own["b"], own["c"]
        (1, 0, 0)
        >>> OwnRounds.after([{"round": 5, "parts": [{"node": "a", "version": 3}]}], 5)["a"]
        3
    """

    others: int
    named: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def after(cls, lines: Sequence[Mapping[str, Any]], committed: int) -> OwnRounds:
        """From the lines of rounds in a ledger.

        Args:
            lines: of all committed rounds, in order. Without any, as where a finished run is looked at again, all nodes
                have the rows of round `committed`.
            committed: the last round that is looked at.
        """
        if not lines:
            return cls(committed)
        named: dict[str, int] = {}
        for line in reversed(lines):
            if line["round"] > committed:
                continue
            if "parts" in line:
                sums = {part["node"]: int(part["version"]) for part in line["parts"]}
            elif "nodes" in line:
                sums = dict.fromkeys(line["nodes"], int(line["round"]))
            else:
                return cls(int(line["round"]), named)
            named = sums | named
        return cls(-1, named)

    def __getitem__(self, node: str) -> int:
        """The round, or version, that counts for a node; −1 where no sum of the node is committed."""
        return self.named.get(node, self.others)

    def of(self, nodes: Sequence[str]) -> dict[str, int]:
        """The same of some nodes, by name."""
        return {node: self[node] for node in nodes}
