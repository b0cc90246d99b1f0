"""Nodes over a network: requests go out as signed messages, and sums come back, unmasked or masked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fedrec import __version__
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.call_fields import Call, call_fields
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.measuring import measuring_spec
from fedrec.federation.messages import Reply
from fedrec.federation.own_rounds import OwnRounds
from fedrec.federation.read_sums import ReadSums
from fedrec.models.base import Arrays
from fedrec.network.arrivals import NetworkArrivals
from fedrec.network.keeping import Keeping
from fedrec.network.links import Answers, Links
from fedrec.network.plain_sums import PlainSums
from fedrec.network.post import Post
from fedrec.network.retrying import Retrying
from fedrec.network.secure_sums import NetworkSums
from fedrec.network.waiting import PATIENT, Waiting
from fedrec.network.witnessing import Witnessing
from fedrec.node.opening import honest_of
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.record.ledger import Ledger
from fedrec.secagg.policy import FEWEST_PARTIES

__all__ = ["RemoteEngine"]


class RemoteEngine:
    """The nodes of a federation, reached through a post.

    Every request goes to the connected nodes. A node that is late, silent, damaged or connected again changes only
    which nodes are in the sum, and the ledger records them. A round with too few nodes is repeated; if it keeps
    failing, the run stops and can be resumed.

    Args:
        post: carries the frames.
        key: the coordinator's key.
        nodes: public keys of all nodes by name.
        run: identifier of the run, in hexadecimal.
        agreement: the plan and its catalog.
        ledger: ledger of the run, which records the nodes of every round.
        secure: whether sums are masked.
        waiting: how long and how often to wait for nodes.
        tell: receives warnings about nodes.
    """

    def __init__(
        self,
        post: Post,
        key: SigningKey,
        nodes: Mapping[str, PublicKey],
        run: str,
        agreement: Agreement,
        ledger: Ledger,
        secure: bool = False,
        waiting: Waiting = PATIENT,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        if secure and len(nodes) < FEWEST_PARTIES:
            raise PlanError(
                f"secure aggregation needs {FEWEST_PARTIES} nodes or more, and the federation has {len(nodes)}"
            )
        plan, catalog = agreement.plan, agreement.catalog
        parties = [str(public) for _, public in sorted(nodes.items())] if secure else []
        offer = {
            "version": __version__,
            "plan": json.dumps(plan.model_dump(mode="json")),
            "digest": plan.digest,
            "secure": secure,
            "parties": parties,
        }
        self._links = Links(post, key, nodes, run, (offer, (catalog.to_json_lines(),)), self._on_opened)
        self._run, self._agreement, self._ledger, self._waiting, self._tell = run, agreement, ledger, waiting, tell
        self.read = ReadSums()
        self.witnessing = Witnessing(self._links, key, nodes, ledger, waiting, tell)
        self._retrying = Retrying(self._links, waiting, secure, tell)
        self._keeping = Keeping(self._links, plan, ledger, waiting, tell)
        self._plain = PlainSums(tell, self.read)
        self._sums: NetworkSums | None = None
        self._parties: tuple[int, int, str] | None = None
        if secure:
            who, honest, _ = honest_of(parties)
            self._parties = len(parties), honest, who
            n_max = agreement.n_max
            self._sums = NetworkSums(self._links, key, nodes, run, n_max, waiting.deadline, tell, self.read)
        self._took_part: tuple[str, ...] = ()
        self._opened: dict[str, Mapping[str, Any]] = {}

    def open(self) -> None:
        """Open the run at all nodes.

        Raises:
            PlanError: if a node refuses the plan; the text names the node and the reason.
            RunError: if too few nodes are connected.
        """
        self._retrying.open()

    def close(self) -> None:
        """Stop sending requests to nodes."""
        self.arrivals.close()

    @property
    def run(self) -> str:
        """Identifier of the run, as nodes know it."""
        return self._run

    @property
    def has_valid(self) -> bool:
        """Whether any connected node holds out interactions for validation."""
        return any(fields.get("valid") for fields in tuple(self._opened.values()))

    @property
    def has_test(self) -> bool:
        """Whether any connected node holds out interactions for the test."""
        return any(fields.get("test") for fields in tuple(self._opened.values()))

    @property
    def parties(self) -> tuple[int, int, str] | None:
        """For secure aggregation: number of nodes, minimum number of honest nodes left, and a digest of the nodes."""
        return self._parties

    @property
    def took_part(self) -> tuple[str, ...]:
        """The nodes in the last sum."""
        return self._took_part

    @property
    def unreached(self) -> tuple[str, ...]:
        """The nodes that did not get the finished model."""
        return self._keeping.unreached

    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes up and down by node."""
        return self._links.traffic()

    def contribute(self, call: RoundCall) -> list[Sum]:
        """The sums of nodes for a round; with masked sums, the one sum of all nodes that took part."""
        noise = 0.0 if call.privacy is None or call.privacy.parties is None else call.privacy.noise_multiplier
        what = f"round {call.round}"
        return self._summed("contribute", call, call.spec, what, call.shared, call.round, call.rows, noise, call.groups)

    def count_items(self, call: CountCall) -> list[Sum]:
        """Counts of items."""
        return self._summed("count", call, call.spec, "counting items", None)

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        """Sums of metrics."""
        catalog, split = self._agreement.catalog, self._agreement.split
        spec = measuring_spec(call.metrics, len(catalog), call.n_max, split.positions, call.groups)
        return self._summed("evaluate", call, spec, f"the {call.part} measurement", call.shared)

    @cached_property
    def arrivals(self) -> NetworkArrivals:
        """The nodes in the order in which they answer."""
        return NetworkArrivals(
            self._links, self._keeping, self.witnessing, self._plain.decoded, self._waiting, self._tell
        )

    def made_of(self, shared: Arrays, frame: bytes) -> None:
        """Send the bytes of the sum that shared arrays were made of, to each node once, in the place of the arrays."""
        self._links.made_of(shared, frame)

    def keep(self, shared: Arrays, committed: OwnRounds) -> None:
        """Let connected nodes keep the private rows of the last round that each took part in."""
        self._keeping.keep(shared, committed)

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        """End with each node's private rows of the round `kept`. Nodes that cannot be reached get the model when the
        run is resumed. No further sums are requested."""
        self.arrivals.close()
        self._keeping.finish(shared, committed, kept)

    def cosign(self, folder: Path) -> tuple[str, ...]:
        """Let connected nodes sign the record of a finished run, after the coordinator; returns their names."""
        return self.witnessing.cosign(folder)

    def _summed(
        self,
        kind: str,
        call: Call,
        spec: SumSpec,
        what: str,
        shared: Arrays | None,
        round: int = 0,
        rows: np.ndarray | None = None,
        noise: float = 0.0,
        groups: int = 1,
    ) -> list[Sum]:
        """Repeat a request until enough nodes have answered, and open masked sums."""

        def ask(names: Sequence[str]) -> Answers:
            if isinstance(call, RoundCall):
                names = self._keeping.that_kept(names, call.shared)
            fields = self._fields(call, names)
            answers = self._links.ask(kind, fields, self._waiting.deadline, shared, enough=self._retrying.enough)
            for name, answer in answers.items():
                if isinstance(answer, Reply):
                    self.witnessing.has_seen(name, answer.fields)
            return answers

        def use(replies: dict[str, Reply]) -> tuple[list[Sum], list[str]]:
            if self._sums is None:
                return self._plain.run(replies, spec, round)
            counts = call.counts if isinstance(call, RoundCall) else None
            return self._sums.run(replies, spec, round, rows, noise, groups, _model(call), counts)

        sums, names = self._retrying.until_enough(what, ask, use)
        self._took_part = tuple(names)
        return sums

    def _fields(self, call: Call, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Fields of a request, for each of some nodes.

        They contain the last round of every node, so that the nodes can compare them; in an asynchronous run each node
        gets its own last round only. In a round, each node gets the entries of the record that it has not seen.
        """
        fields = call_fields(call)
        if isinstance(call, CountCall):
            return dict.fromkeys(names, fields)
        last_rounds = (call.own or OwnRounds(call.committed)).of(self._links.names)
        fields |= self._past(set(last_rounds.values()))
        alone = self._agreement.plan.asynchronous is not None
        return {
            name: {
                **fields,
                "standing": {name: last_rounds[name]} if alone else last_rounds,
                "committed": last_rounds[name],
                **(self.witnessing.record(name) if isinstance(call, RoundCall) else {}),
            }
            for name in names
        }

    def _past(self, rounds: set[int]) -> dict[str, Any]:
        """Transcripts of rounds, for secure aggregation."""
        if self._sums is None:
            return {}
        lines = [line for line in self._ledger.of_kind("round") if line["round"] in rounds]
        return {"past": {str(line["round"]): text for line in lines for text in line.get("transcript", ())}}

    def _on_opened(self, name: str, fields: Mapping[str, Any]) -> None:
        if self._sums is not None:
            self._sums.opened(name, fields)
        self._opened[name] = fields
        self.witnessing.opened(name, fields)


def _model(call: Call) -> bytes:
    """Digest of the arrays from which parts are computed."""
    return bytes(32) if isinstance(call, CountCall) else bytes.fromhex(call.model)
