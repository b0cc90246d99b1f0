"""What a coordinator asks of a node. Nothing else crosses between them but sums."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.evaluation.groups import Groups
from fedrec.evaluation.metrics import Metric
from fedrec.evaluation.protocols import Protocol
from fedrec.federation.own_rounds import OwnRounds
from fedrec.models.base import Arrays
from fedrec.privacy.guard import RoundTerms
from fedrec.record.durable import arrays_digest

__all__ = ["HELD_OUT", "CountCall", "EvaluationCall", "Part", "RoundCall", "for_node"]

Part = Literal["valid", "test"]
HELD_OUT: tuple[Part, ...] = ("valid", "test")
"""The parts that can be measured."""


@dataclass(frozen=True, eq=False)
class RoundCall:
    """Take part in a round.

    Args:
        round: its number, from 0.
        committed: the last committed round, −1 before the first: private rows up to it count.
        shared: the model's shared arrays.
        spec: what is summed, with rings.
        share: probability of a client to be drawn.
        change: sum what changed since the earlier run that the node remembers, instead of everything.
        privacy: what is promised of this round, in a private run.
        rows: item rows that are summed in this round, ascending; all by default.
        groups: into how many groups nodes are divided, whose sums are opened apart, under secure aggregation.
        agreed: digest of the transcript that all nodes agreed on; `None` within one process.
        own: which round counts for each node; `committed` for all of them by default.
        counts: how many clients have each item [items] int64, where pairs of items are masked with as few bits as
            that allows.
    """

    round: int
    committed: int
    shared: Arrays
    spec: SumSpec
    share: float
    change: bool = False
    privacy: RoundTerms | None = None
    groups: int = 1
    rows: np.ndarray | None = None
    agreed: str | None = None
    own: OwnRounds | None = None
    counts: np.ndarray | None = None

    @cached_property
    def model(self) -> str:
        """Digest of the shared arrays."""
        return arrays_digest(self.shared)


@dataclass(frozen=True, eq=False)
class CountCall:
    """Count the clients of every item.

    Args:
        spec: of the counts.
        noise: deviation of the noise that the node adds.
    """

    spec: SumSpec
    noise: float


@dataclass(frozen=True, eq=False)
class EvaluationCall:
    """Measure the shared arrays on held-out interactions.

    Args:
        committed: the last committed round of the node's private rows.
        shared: the model's shared arrays.
        part: `valid` or `test`.
        protocol, metrics: what is measured.
        n_max: most clients of a sum.
        round: whose model is measured; `committed` if `None`.
        own: which round counts for each node; `committed` for all of them by default.
        trial: above 0, how much better a model is than another one, user by user: the shared arrays are those of both,
            see `fedrec.federation.trials`, and the number tells the trials of a run apart.
        groups: of users, that are measured apart too; `None` for none.
    """

    committed: int
    shared: Arrays
    part: Part
    protocol: Protocol
    metrics: tuple[Metric, ...]
    n_max: int
    round: int | None = None
    own: OwnRounds | None = None
    trial: int = 0
    groups: Groups | None = None

    @cached_property
    def model(self) -> str:
        """Digest of the shared arrays."""
        return arrays_digest(self.shared)

    @property
    def after(self) -> int:
        """The round whose model is measured."""
        return self.committed if self.round is None else self.round


_Call = TypeVar("_Call", RoundCall, EvaluationCall)


def for_node(call: _Call, name: str) -> _Call:
    """A call as one node hears it: with the committed round that counts for this node."""
    if call.own is None or call.own[name] == call.committed:
        return call
    return replace(call, committed=call.own[name])
