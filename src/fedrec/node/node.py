"""A node: the gate between its users' rows and everybody else. It lets only sums out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedrec.aggregation.queries import Query
from fedrec.aggregation.sums import Sum
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.federation.calls import CountCall, EvaluationCall, Part, RoundCall
from fedrec.federation.item_floor import SERVED, add_noise, rows_served
from fedrec.federation.measuring import merge_small
from fedrec.federation.partial_rows import only_rows
from fedrec.federation.transcript import Transcript
from fedrec.models.base import Arrays
from fedrec.node.cohorts import cohort
from fedrec.node.shard import Shard
from fedrec.privacy.guard import Guard
from fedrec.progress import followed
from fedrec.record.receipts import RECEIPTS, Receipt, Receipts, sum_digest

__all__ = ["Floors", "Node"]


@dataclass(frozen=True)
class Floors:
    """What a node's owner insists on, whatever a plan says.

    Args:
        min_clients: the fewest clients in a sum that leaves the node unmasked.
        masked: sums leave the node through secure aggregation only, which has a floor of its own.
        min_item_clients: fewest of the node's clients with an item that is in a sum which leaves unmasked; `None` for
            all items.
        simulated: the node only plays a part in one process, where nothing leaves: smaller sums are let out, counted in
            `Node.small_sums` and stated in the report of the run.
    """

    min_clients: int = 32
    masked: bool = False
    min_item_clients: int | None = None
    simulated: bool = False


class Node:
    """Clients at one place, in one shard or in several, whose sums add up.

    The node draws cohorts, holds coordinators to the plan and to its owner's floors, adds its share of noise and keeps
    receipts. Its shards hold the rows and compute.

    Args:
        name: for messages.
        shards: its users, each in one of them.
        source: the node's secret.
        folder: where receipts are kept; `None` for none.
        floors: the owner's.
        guard: of a private run: checks calls, adds noise and keeps the owner's budget.
        hidden: what noise on counts of items is drawn from; `source` if `None`.
        salts: what salts of receipts are drawn from; `source` if `None`.
    """

    def __init__(
        self,
        name: str,
        shards: Sequence[Shard],
        source: KeyedSource,
        folder: Path | None = None,
        floors: Floors = Floors(),
        guard: Guard | None = None,
        hidden: KeyedSource | None = None,
        salts: KeyedSource | None = None,
    ) -> None:
        self.name = name
        self.shards = tuple(shards)
        self.source = source
        self.hidden = hidden or source
        self.salts = salts or source
        self.folder = folder
        self.floors = floors
        self.guard = guard
        self.small_sums = 0
        self.smallest_sum: int | None = None
        self._starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        self._keys = np.concatenate([shard.keys for shard in self.shards])
        self._active = np.concatenate(
            [start + shard.active for start, shard in zip(self._starts, self.shards, strict=False)]
        )
        self._receipts: Receipts | None = None

    def __len__(self) -> int:
        """Number of users."""
        return len(self._keys)

    def weighed(self) -> dict[str, int]:
        """How many weights of interactions were cut to the largest, and how many are 0."""
        return _added(shard.weighed() for shard in self.shards)

    def counts(self) -> dict[str, int]:
        """Interactions per part."""
        return _added(shard.split.counts() for shard in self.shards)

    def fingerprint(self) -> int:
        """The node's share of the split's hash."""
        return sum(shard.fingerprint() for shard in self.shards)

    def holding(self, part: Part) -> int:
        """How many users hold out something of a part."""
        return sum(shard.holding(part) for shard in self.shards)

    def drawn(self, round: int, share: float) -> list[np.ndarray]:
        """Who takes part in a round: of each shard the positions of its clients, ascending.

        Args:
            round: its number.
            share: probability of a client to be drawn.
        """
        terms = None if self.guard is None else self.guard.terms
        chosen = cohort(self.source, self._keys, self._active, round, share, terms)
        bounds = np.searchsorted(chosen, self._starts)
        return [
            chosen[first:last] - start
            for first, last, start in zip(bounds[:-1], bounds[1:], self._starts[:-1], strict=True)
        ]

    def contribute(self, call: RoundCall) -> Sum:
        """The node's sum for a round. Asking twice gives the same sum and changes nothing.

        A node with a folder keeps a receipt of the sum there before it lets it out, and commits to it.

        Raises:
            PlanError: if fewer clients than the owner's floor would be in the sum, or a private run breaks its terms.
            FedrecError: naming node, round and step, if the model fails.
        """
        total = self._changed(call) if call.change else self._summed(call)
        if self.folder is not None:
            total.commitments = (self._keep_receipt(call, total, self.folder),)
        return total

    def _summed(self, call: RoundCall) -> Sum:
        agreed = self._agreed(call)
        queries = self._admitted(call, agreed)
        served, parts = self._served(call.shared), self.drawn(call.round, call.share)
        work = followed(list(zip(self.shards, parts, strict=True)), sum(map(len, parts)), lambda part: len(part[1]))
        total = _merged(shard.contribute(call, positions, served, queries) for shard, positions in work)
        self._guard(total.clients - total.idle)
        rows_served(total, served)
        only_rows(total, call.rows)
        if self.guard is not None:
            key = self.source.child("contribute", call.round).child("share", agreed)
            total = self.guard.with_noise(total, queries, call.privacy, key)
        for shard in self.shards:
            shard.journal(call.round)
        return total

    def _changed(self, call: RoundCall) -> Sum:
        """The sum of what changed since the earlier run."""
        total = _merged(shard.contribute_change(call) for shard in self._followed())
        self._guard(total.clients)
        return total

    def _keep_receipt(self, call: RoundCall, total: Sum, folder: Path) -> str:
        if self._receipts is None:
            folder.mkdir(parents=True, exist_ok=True)
            self._receipts = Receipts(folder / RECEIPTS)
        counts = (total.round, total.clients, total.left_out, total.saturated)
        digest = sum_digest(call.spec.digest, counts, total.arrays)
        salt = self.salts.child("receipt", self.name, call.round).key.hex()
        return self._receipts.keep(Receipt(call.round, call.model, call.spec.digest, digest, salt))

    def count_items(self, call: CountCall) -> Sum:
        """How many of the node's clients have each item, with noise; the same whenever it is asked."""
        total = _merged(shard.count_items(call.spec) for shard in self._followed())
        self._guard(total.clients)
        add_noise(total, call.noise, self.hidden.child("item floor", self.name))
        return total

    def evaluate(self, call: EvaluationCall) -> Sum:
        """Metrics of the node's users as a sum; over nobody where fewer than the owner's floor would be in it.

        Groups of users with fewer than the owner's floor are among the others before the sum leaves, masked or not: a
        total of all nodes would otherwise be about these few alone where other nodes have none.
        """
        total = _merged(shard.evaluate(call) for shard in self._followed())
        if call.groups is not None and not self.floors.simulated:
            merge_small(total, call.groups, self.floors.min_clients)
        return self._held_back(total)

    def keep(self, shared: Arrays, committed: int) -> None:
        """Remember the private rows of the best round so far."""
        for shard in self.shards:
            shard.keep(shared, committed)

    def finish(self, shared: Arrays, committed: int, kept: int) -> None:
        """End with the private rows of round `kept`; may be called again after a crash."""
        for shard in self.shards:
            shard.finish(shared, committed, kept)

    def _followed(self) -> Iterable[Shard]:
        """The shards, one after the other; each is as much of the work as it has users."""
        return followed(self.shards, len(self), len)

    def _agreed(self, call: RoundCall) -> str:
        """Digest of all that was asked; only private rounds need it."""
        if self.guard is None:
            return ""
        return Transcript.alone(call).digest if call.agreed is None else call.agreed

    def _admitted(self, call: RoundCall, agreed: str) -> tuple[Query, ...]:
        if self.guard is not None:
            return self.guard.admit(
                call.privacy, call.round, call.committed, call.shared, call.spec, call.share, agreed
            )
        if call.privacy is not None:
            raise PlanError(f"node {self.name}: round {call.round} promises privacy, which the plan does not know of")
        return ()

    def _served(self, shared: Arrays) -> np.ndarray | None:
        """Which items take part [items] bool; `None` for all."""
        served, least = shared.get(SERVED), self.floors.min_item_clients
        if least is None or self.floors.masked:
            return served
        enough: np.ndarray = np.sum([shard.item_counts() for shard in self.shards], axis=0) >= least
        return enough if served is None else served & enough

    def _guard(self, clients: int) -> None:
        """Refuse a sum over too few clients, in the same words for any few."""
        if self._is_small(clients):
            raise PlanError(
                f"node {self.name}: a sum over fewer clients than the owner's floor, {self.floors.min_clients}, may "
                "not leave unmasked. Use secure aggregation, or draw a larger cohort"
            )

    def _held_back(self, total: Sum) -> Sum:
        """The sum, or one over nobody instead of over too few."""
        return Sum.zeros(total.spec, total.round) if self._is_small(total.clients) else total

    def _is_small(self, clients: int) -> bool:
        """Whether a sum over so many clients has to stay here."""
        self.smallest_sum = clients if self.smallest_sum is None else min(self.smallest_sum, clients)
        if clients >= self.floors.min_clients or self.floors.masked:
            return False
        self.small_sums += self.floors.simulated and clients > 0
        return not self.floors.simulated


def _merged(sums: Iterable[Sum]) -> Sum:
    """The sum over shards."""
    parts = iter(sums)
    total = next(parts)
    for part in parts:
        total.merge(part)
    return total


def _added(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts of the same names, added up."""
    total: dict[str, int] = {}
    for count in counts:
        total = {name: total.get(name, 0) + number for name, number in count.items()}
    return total
