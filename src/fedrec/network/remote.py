"""Nodes somewhere else: the coordinator's calls go out as signed messages, and sums come back, plain or masked."""

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
    """The nodes of a federation, behind a post.

    Every call goes to the nodes that are up. A node that is late, silent, damaged or back again only changes who is in
    the sum, which the ledger says; a round with too few nodes is tried again, and then the run stops, to be resumed.

    Args:
        post: carries frames.
        key: the coordinator's.
        nodes: public keys of all nodes by name.
        run: number of the run, in hexadecimal.
        agreement: the plan and its catalog.
        ledger: of the run; it says who took part in what.
        secure: whether sums are masked.
        waiting: how long, for whom, how often.
        tell: told in words what goes wrong with nodes.
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
            raise PlanError(f"the secure sum takes {FEWEST_PARTIES} nodes or more; the federation has {len(nodes)}")
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
        self._said: dict[str, Mapping[str, Any]] = {}

    def open(self) -> None:
        """Offer the run to all nodes.

        Raises:
            PlanError: if a node refuses it; says which and why.
            RunError: if too few are up.
        """
        self._retrying.open()

    def close(self) -> None:
        """Let nodes be."""
        self.arrivals.close()

    @property
    def run(self) -> str:
        """The number under which nodes know the run."""
        return self._run

    @property
    def has_valid(self) -> bool:
        """Whether any node that is up holds out interactions for validation."""
        return any(said.get("valid") for said in tuple(self._said.values()))

    @property
    def has_test(self) -> bool:
        """Whether any node that is up holds out interactions for the test."""
        return any(said.get("test") for said in tuple(self._said.values()))

    @property
    def parties(self) -> tuple[int, int, str] | None:
        """Of a secure run: its nodes, how many are honest and left at least, and a digest of who they are."""
        return self._parties

    @property
    def took_part(self) -> tuple[str, ...]:
        """The nodes that the last sum is over."""
        return self._took_part

    @property
    def unreached(self) -> tuple[str, ...]:
        """The nodes that did not get the finished model."""
        return self._keeping.unreached

    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes up and down by node."""
        return self._links.traffic()

    def contribute(self, call: RoundCall) -> list[Sum]:
        """The sums of nodes for a round, or the one of all that took part where sums are masked."""
        noise = 0.0 if call.privacy is None or call.privacy.parties is None else call.privacy.noise_multiplier
        what = f"round {call.round}"
        return self._summed("contribute", call, call.spec, what, call.shared, call.round, call.rows, noise, call.groups)

    def count_items(self, call: CountCall) -> list[Sum]:
        """Counts of items."""
        return self._summed("count", call, call.spec, "the counting of items", None)

    def evaluate(self, call: EvaluationCall) -> list[Sum]:
        """Sums of metrics."""
        spec = measuring_spec(call.metrics, len(self._agreement.catalog), call.n_max)
        return self._summed("evaluate", call, spec, f"the {call.part} measurement", call.shared)

    @cached_property
    def arrivals(self) -> NetworkArrivals:
        """The nodes as they answer in their own time."""
        return NetworkArrivals(
            self._links, self._keeping, self.witnessing, self._plain.decoded, self._waiting, self._tell
        )

    def keep(self, shared: Arrays, committed: OwnRounds) -> None:
        """Let the nodes that are up remember private rows as they are after the round that counts for each."""
        self._keeping.keep(shared, committed)

    def finish(self, shared: Arrays, committed: OwnRounds, kept: OwnRounds) -> None:
        """End with each node's private rows of the round `kept`; who cannot be reached gets the model when the run is
        resumed. Nobody is asked for a sum any longer."""
        self.arrivals.close()
        self._keeping.finish(shared, committed, kept)

    def cosign(self, folder: Path) -> tuple[str, ...]:
        """Let the nodes that are up sign the record of a finished run, after the coordinator; returns who did."""
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
        """Ask until enough nodes have answered, and mask where sums are masked."""

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
            return self._sums.run(replies, spec, round, rows, noise, groups, _model(call))

        sums, names = self._retrying.until_enough(what, ask, use)
        self._took_part = tuple(names)
        return sums

    def _fields(self, call: Call, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What each of some nodes is asked.

        Nodes are told which round counts for each of all nodes, so that they can agree; where sums arrive in their own
        time, each is told of itself alone. In a round, each is told what it has not seen of the record.
        """
        said = call_fields(call)
        if isinstance(call, CountCall):
            return dict.fromkeys(names, said)
        everybody = (call.own or OwnRounds(call.committed)).of(self._links.names)
        said |= self._past(set(everybody.values()))
        alone = self._agreement.plan.asynchronous is not None
        return {
            name: {
                **said,
                "standing": {name: everybody[name]} if alone else everybody,
                "committed": everybody[name],
                **(self.witnessing.record(name) if isinstance(call, RoundCall) else {}),
            }
            for name in names
        }

    def _past(self, rounds: set[int]) -> dict[str, Any]:
        """Under which transcripts rounds were summed; of secure sums."""
        if self._sums is None:
            return {}
        lines = [line for line in self._ledger.of_kind("round") if line["round"] in rounds]
        return {"past": {str(line["round"]): text for line in lines for text in line.get("transcript", ())}}

    def _on_opened(self, name: str, said: Mapping[str, Any]) -> None:
        if self._sums is not None:
            self._sums.opened(name, said)
        self._said[name] = said
        self.witnessing.opened(name, said)


def _model(call: Call) -> bytes:
    """Digest of what parts are computed from."""
    return bytes(32) if isinstance(call, CountCall) else bytes.fromhex(call.model)
