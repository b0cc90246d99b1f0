"""What all nodes of a sum agree on before any of them answers.

Whatever enters a node's answer beside the node's own data and secrets is in one transcript. A node binds its answer,
its share of noise and its masks to the digest, and sums of nodes with unlike transcripts never open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from fedrec.federation.call_fields import Call, call_fields
from fedrec.federation.calls import CountCall, RoundCall

__all__ = ["COUNTS", "Transcript", "sum_of", "sum_of_round"]

_VERSION = "fedrec transcript 2"
COUNTS = "counts"
"""Name of the sum of counts of items."""


@dataclass(frozen=True)
class Transcript:
    """One call of one run, as all its nodes must have heard it.

    Args:
        run: number of the run.
        plan: digest of the resolved plan, which names the catalog and from which item rows and floors follow.
        parties: public keys of the nodes of secure aggregations, as text, ascending; empty where sums are plain.
        record: number of entries and root of the coordinator's ledger at this call; empty where the call does not
            depend on it.
        past: of every round that `standing` speaks of, the digest of the transcript that its sum was made under, so
            that nodes whose private rows come from unlike rounds have unlike transcripts; empty where sums are plain.
        standing: of each node, by name, the last committed round that its own sum is in; −1 before the first.
        sum_of: which sum of the run is asked for; a run has each sum once.
        model: SHA-256 of the shared arrays; empty where there are none.
        asked: canonical JSON of the other fields of the call: round, spec, share, noise, groups, metrics, protocol.

    Example:
        >>> one = Transcript("ab", "cd", (), "", (), (("a", -1),), "round 0", "ef", "{}")
        >>> one.digest == Transcript("ab", "cd", (), "", (), (("a", -1),), "round 0", "ef", "{}").digest
        True
    """

    run: str
    plan: str
    parties: tuple[str, ...]
    record: str
    past: tuple[tuple[int, str], ...]
    standing: tuple[tuple[str, int], ...]
    sum_of: str
    model: str
    asked: str

    @classmethod
    def of(
        cls,
        call: Call,
        model: str,
        *,
        run: str = "",
        plan: str = "",
        parties: Sequence[str] = (),
        record: str = "",
        past: Mapping[int, str] | None = None,
        standing: Mapping[str, int] | None = None,
    ) -> Transcript:
        """The transcript of a call.

        Args:
            call: what is asked, as the node understands it.
            model: SHA-256 of the shared arrays, as they came.
            run, plan, parties, record, past, standing: as of the class.
        """
        fields = {name: value for name, value in call_fields(call).items() if name != "committed"}
        return cls(
            run,
            plan,
            tuple(sorted(parties)),
            record,
            tuple(sorted((past or {}).items())),
            tuple(sorted((standing or {}).items())),
            sum_of(call),
            model,
            _canonical(fields),
        )

    @classmethod
    def alone(cls, call: RoundCall) -> Transcript:
        """The transcript of a round within one process, where every node hears the same by construction."""
        return cls.of(call, call.model, standing={"": call.committed})

    @cached_property
    def encoded(self) -> bytes:
        """Its bytes, of which there is one version only."""
        return _canonical([_VERSION, asdict(self)]).encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of `encoded`, in hexadecimal."""
        return hashlib.sha256(self.encoded).hexdigest()


def sum_of(call: Call) -> str:
    """Which sum of a run a call asks for: of a round, of the counts of items, or of the metrics of a part after a
    round, or in a trial."""
    if isinstance(call, RoundCall):
        return sum_of_round(call.round)
    if isinstance(call, CountCall):
        return COUNTS
    metrics = f"{call.part} metrics after round {call.after}"
    return f"{metrics}, trial {call.trial}" if call.trial else metrics


def sum_of_round(round: int) -> str:
    """Name of the sum of a round."""
    return f"round {round}"


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
