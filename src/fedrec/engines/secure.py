"""All nodes in this process, as parties of a secure aggregation: the coordinator gets the total and no node's part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from fedrec.aggregation.sums import Sum
from fedrec.engines.local import LocalEngine
from fedrec.engines.virtual import VirtualArrivals
from fedrec.errors import PlanError, RunError
from fedrec.federation.call_fields import Call
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.compatibility import NOT_MASKED
from fedrec.federation.masked import COUNTS, layout_of, unmasked, vectors_of
from fedrec.federation.transcript import Transcript
from fedrec.node.node import Node
from fedrec.secagg.client import Client
from fedrec.secagg.layout import Layout
from fedrec.secagg.manifest import Manifest, invite
from fedrec.secagg.policy import FEWEST_PARTIES, Floors
from fedrec.secagg.primitives import Identity
from fedrec.secagg.rounds import Outcome, Party, run_round
from fedrec.secagg.server import Server

__all__ = ["SecureEngine"]


class SecureEngine(LocalEngine):
    """Nodes whose sums are masked before they leave them, in training and in evaluation.

    Every call is one attempt of one secure aggregation with the next number. Keys are made anew in each process, and so
    are the records of attempts; all nodes know all others' keys, as nodes of one process do.

    Args:
        nodes: at least three.

    Raises:
        PlanError: for fewer.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        super().__init__(nodes)
        if len(self.nodes) < FEWEST_PARTIES:
            raise PlanError(
                f"secure aggregation needs at least {FEWEST_PARTIES} nodes with users, so that each is hidden among "
                f"others; this run has {len(self.nodes)}. Give --nodes {FEWEST_PARTIES} or more"
            )
        self._coordinator = Identity()
        # A node declares as many users as the floor asks for, and says no more of how many it has.
        self._parties = [Party(Identity(), clients=min(len(node), self._least_clients)) for node in self.nodes]
        self._number = 0
        shape = self._invite(self._parties, Layout((COUNTS,)), bytes(32), bytes(32), 0.0)
        self._honest = shape.min_parties - shape.colluders
        self._who = hashlib.sha256(json.dumps(sorted(node.name for node in self.nodes)).encode()).hexdigest()
        for node in self.nodes:
            if node.guard is not None:
                node.guard.parties = self._who, self._honest

    @property
    def parties(self) -> tuple[int, int, str]:
        """How many nodes there are, how many are honest and left in a sum at least, and a digest of who they are."""
        return len(self.nodes), self._honest, self._who

    @property
    def arrivals(self) -> VirtualArrivals:
        """It has none.

        Raises:
            PlanError: always.
        """
        raise PlanError(f"asynchronous: {NOT_MASKED}")

    def contribute(self, call: RoundCall) -> list[Sum]:
        """The total over nodes, or over each of the groups that are asked for, alone.

        Raises:
            PlanError: for groups of fewer than three nodes.
            RunError: if a secure aggregation ends without an outcome.
        """
        if call.groups > 1 and len(self.nodes) < FEWEST_PARTIES * call.groups:
            raise PlanError(
                f"{call.groups} groups of {FEWEST_PARTIES} nodes or more take {FEWEST_PARTIES * call.groups} nodes; "
                f"there are {len(self.nodes)}"
            )
        parts = super().contribute(call)
        guard = self.nodes[0].guard
        shares = guard is not None and guard.terms.distributed
        noise = guard.charges[call.round].noise_multiplier if shares and guard is not None else 0.0
        return [self._summed(parts, call, noise, group, call.groups) for group in range(call.groups)]

    def count_items(self, call: CountCall) -> list[Sum]:
        """The total of counts, alone."""
        return [self._summed(super().count_items(call), call)]

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        """The total of metrics over nodes, alone."""
        return [self._summed(super().evaluate(call), call)]

    def _invite(
        self, parties: Sequence[Party], layout: Layout, model: bytes, transcript: bytes, noise: float
    ) -> Manifest:
        return invite(
            "run",
            self._number,
            self._coordinator.public,
            [party.identity.public for party in parties],
            layout,
            model=model,
            transcript=transcript,
            min_clients=self._least_clients,
            noise=noise,
        )

    @property
    def _least_clients(self) -> int:
        return min(node.floors.min_clients for node in self.nodes)

    def _summed(
        self,
        parts: Sequence[Sum],
        call: Call,
        noise: float = 0.0,
        group: int = 0,
        groups: int = 1,
    ) -> Sum:
        """The sum over every `groups`-th node from the `group`-th on."""
        rows, counts = (call.rows, call.counts) if isinstance(call, RoundCall) else (None, None)
        parts, parties = parts[group::groups], self._parties[group::groups]
        spec, round = parts[0].spec, parts[0].round
        layout = layout_of(spec, rows, counts)
        model = bytes(32) if isinstance(call, CountCall) else bytes.fromhex(call.model)
        transcript = bytes.fromhex(Transcript.of(call, model.hex(), parties=[node.name for node in self.nodes]).digest)
        manifest = self._invite(parties, layout, model, transcript, noise)
        self._number += 1
        floors = Floors(
            self._coordinator.public,
            frozenset(manifest.parties),
            clients=self._least_clients,
            noise=noise,
            layout=layout,
            transcript=transcript,
        )
        clients = [Client(party.identity, floors, party.keep, party.attempts, party.clients) for party in parties]
        vectors = [vectors_of(part, rows, counts) for part in parts]
        outcome = run_round(Server(manifest, self._coordinator), clients, vectors)
        if outcome.arrays is None:
            raise RunError(f"the secure aggregation of round {round} has no outcome: {_reasons(outcome)}")
        total = unmasked(spec, round, rows, outcome.arrays, counts)
        total.commitments = tuple(commitment for part in parts for commitment in part.commitments)
        total.masked_bytes = outcome.upload_bytes
        return total


def _reasons(outcome: Outcome) -> str:
    return "; ".join(str(abort) for abort in (outcome.aborted, *outcome.left.values()) if abort is not None)
