"""Which private rows nodes keep: those of the best round so far, and those of the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedrec.federation.best_round import kept_round
from fedrec.federation.messages import Reply
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays
from fedrec.network.links import Answers, Links
from fedrec.network.waiting import Waiting
from fedrec.record.ledger import Ledger

__all__ = ["Keeping"]

_FINISHES = 2
"""How often the end is sent to nodes: a node that misses it once is usually connected again a moment later."""


class Keeping:
    """Tells nodes which private rows to keep, and repeats that for nodes that may have missed it.

    Args:
        links: sends requests to the nodes.
        plan: plan of the run.
        ledger: ledger of the run, with the best round and the last round of each node.
        waiting: how long nodes have to answer.
        tell: receives warnings about nodes.
    """

    def __init__(self, links: Links, plan: Plan, ledger: Ledger, waiting: Waiting, tell: Callable[[str], None]) -> None:
        self._links, self._plan, self._ledger, self._waiting, self._tell = links, plan, ledger, waiting, tell
        self._kept: set[tuple[str, int]] = set()
        self.unreached: tuple[str, ...] = ()

    def keep(self, shared: Arrays, rounds: OwnRounds, names: Sequence[str] | None = None) -> None:
        """Let nodes keep the private rows of the last round that each took part in.

        Args:
            shared: shared arrays after the round.
            rounds: rounds by node.
            names: names of the nodes; all connected nodes by default.
        """
        names = self._links.present(self._waiting.sign) if names is None else names
        fields = {name: {"committed": rounds[name]} for name in names}
        for name, answer in self._links.ask("keep", fields, self._waiting.deadline, shared).items():
            if isinstance(answer, Reply):
                self.has_kept(name, rounds[name])

    def has_kept(self, name: str, round: int) -> None:
        """Note that a node has kept its private rows of a round."""
        self._kept.add((name, round))

    def lacking(self, names: Sequence[str]) -> dict[str, int]:
        """The nodes that must keep private rows before their next sum is used, and the round of these rows.

        It is the node's last round in the best round so far. A node has these rows until it continues from a later
        round of its own; until then, a node that may have missed the request can get it again.
        """
        if self._plan.evaluation.keep != "best" or not self._ledger.of_kind("validation"):
            return {}
        lines = self._ledger.of_kind("round")
        best, last = (
            OwnRounds.after(lines, round) for round in (kept_round(self._plan, self._ledger), lines[-1]["round"])
        )
        return {name: best[name] for name in names if best[name] == last[name] and (name, best[name]) not in self._kept}

    def that_kept(self, names: Sequence[str], shared: Arrays) -> Sequence[str]:
        """The nodes that have kept their private rows of the best round so far. The others get the request once more,
        as another round would make them lose these rows."""
        lacking = self.lacking(names)
        if not lacking:
            return names
        self.keep(shared, OwnRounds(-1, lacking), list(lacking))
        return [name for name in names if name not in lacking or (name, lacking[name]) in self._kept]

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        """End with each node's private rows of the round `kept`. Nodes that cannot be reached get the model when the
        run is resumed."""
        answers: Answers = {}
        for _ in range(_FINISHES):
            fields = {
                name: {"committed": committed[name], "kept": kept[name]}
                for name in self._links.present(self._waiting.sign)
                if not isinstance(answers.get(name), Reply)
            }
            answers |= self._links.ask("finish", fields, self._waiting.deadline, shared)
        self.unreached = tuple(name for name in self._links.names if not isinstance(answers.get(name), Reply))
        for name in self.unreached:
            self._tell(
                f"{name} did not get the finished model ({answers.get(name, 'not connected')}); --resume sends it again"
            )
