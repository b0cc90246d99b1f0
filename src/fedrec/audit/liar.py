"""A lying coordinator with the real key, which sends each node any request it likes."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrec import __version__
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum
from fedrec.audit.staged import Staged
from fedrec.errors import RunError
from fedrec.federation.agreement import Agreement
from fedrec.federation.call_fields import Call, call_fields
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.messages import Reply, Request, open_reply, pack_arrays
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays
from fedrec.node.answers import FileStore
from fedrec.node.host import NodeHost
from fedrec.node.opening import honest_of
from fedrec.node.witness import told
from fedrec.privacy.protection import Protection
from fedrec.record.durable import arrays_digest
from fedrec.record.keys import SigningKey

__all__ = ["Liar"]

_START = bytes(32)
_LARGEST = 1 << 34
_DIGEST = 64
_NEVER = "0" * _DIGEST
_KINDS = {RoundCall: "contribute", CountCall: "count", EvaluationCall: "evaluate"}


@dataclass(eq=False)
class Liar:
    """Sends requests to the nodes of a stage, each separately, in fresh homes.

    Args:
        stage: the federation.
        further: keys that owners list in addition to those of the nodes.
        run: identifier of the run in requests; it may be changed.
        sources: data files of nodes whose data have changed.
    """

    stage: Staged
    further: Sequence[SigningKey] = ()
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    sources: dict[str, Path] = field(default_factory=dict)
    hosts: dict[str, NodeHost] = field(default_factory=dict, init=False)
    _number: int = field(default=0, init=False)
    _answered: dict[tuple[str, str, int], str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.homes = self.stage.homes()

    def pretend(self, name: str, round: int, transcript: str) -> None:
        """Claim from now on that a round was summed with this transcript, whatever the node answered."""
        self._answered[self.run, name, round] = transcript

    def number(self) -> int:
        """A number larger than all earlier ones, as requests and sums need."""
        self._number = max(self._number + 1, time.time_ns())
        return self._number

    def restart(self) -> None:
        """Restart all nodes from their homes, at their next request."""
        self.hosts.clear()

    def ask(self, name: str, kind: str, fields: Mapping[str, Any], parts: Sequence[bytes] = ()) -> Reply:
        """Send one request to one node; returns its reply."""
        frame = Request(kind, self.run, name, self.number(), fields, parts).sign(self.stage.coordinator)
        if name not in self.hosts:
            self.hosts[name] = self.stage.host(name, self.homes, self.further, self.sources.get(name))
        answer = self.hosts[name].answer(frame.whole())
        return open_reply(answer, self.stage.keys[name].public(), frame.digest, _LARGEST)

    def offer(self, name: str, plan: Plan | None = None, parties: Sequence[SigningKey] | None = None) -> Reply:
        """Offer a node a plan and parties of secure aggregation; by default those that all agreed on."""
        plan = plan or self.stage.plan
        fields = {
            "version": __version__,
            "plan": json.dumps(plan.model_dump(mode="json")),
            "digest": plan.digest,
            "secure": self.stage.secure,
            "parties": self._texts(parties) if self.stage.secure else [],
        }
        return self.ask(name, "open", fields, (self.stage.catalog.to_json_lines(),))

    def begin(self) -> None:
        """Open the agreed run at all nodes.

        Raises:
            RunError: if a node refuses.
        """
        self.need({name: self.offer(name) for name in self.stage.names})

    def round(
        self,
        number: int,
        committed: int | None = None,
        model: Arrays | None = None,
        *,
        plan: Plan | None = None,
        parties: Sequence[SigningKey] | None = None,
    ) -> RoundCall:
        """The request for a round according to the plan, with a model that the liar chooses.

        Args:
            number: number of the round.
            committed: last committed round; by default the round before.
            model: shared arrays; by default those of an honest run.
            plan: the plan; by default the agreed one.
            parties: nodes of secure aggregation; by default all.
        """
        agreement = self.stage.agreement if plan is None else Agreement.of(plan, self.stage.catalog)
        plan, shared = agreement.plan, self.stage.models[number] if model is None else model
        terms, excess = None, 1.0
        if (private := plan.private()) is not None:
            texts = self._texts(parties)
            who, honest, _ = honest_of(texts) if self.stage.secure else ("", 1, 0)
            within = (len(texts), honest, who) if self.stage.secure else None
            promised, trained = private
            protection = Protection(
                promised, trained, agreement.share, agreement.n_max, self.run, self.stage.chance, within
            )
            terms, excess = protection.round_terms(number), protection.excess
        spec = agreement.spec(shared, number, excess)
        assert spec is not None, "the rounds that are attacked are rounds of the plan"
        return RoundCall(
            number,
            number - 1 if committed is None else committed,
            shared,
            spec,
            agreement.drawn(shared, number),
            privacy=terms,
            groups=1 if plan.robust is None else plan.robust.groups or 1,
        )

    def call(
        self,
        name: str,
        call: Call,
        *,
        record: Sequence[bytes] = (),
        standing: Mapping[str, int] | None = None,
        named: Arrays | None = None,
    ) -> Reply:
        """Request a sum from a node.

        Args:
            name: name of the node.
            call: the request.
            record: entries of the record after the first.
            standing: last round that counts for each node; by default that of the request.
            named: shared arrays whose digest is sent in place of the digest of the sent arrays.
        """
        fields = call_fields(call)
        if isinstance(call, RoundCall):
            fields["record"] = told([_START, *record], 0, self.stage.coordinator)
        if isinstance(call, CountCall):
            return self.ask(name, _KINDS[type(call)], fields)
        table = dict.fromkeys(self.stage.names, call.committed) if standing is None else dict(standing)
        fields |= {"standing": table, "past": self._past(name, {round for round in table.values() if round >= 0})}
        reply = self._with_arrays(name, _KINDS[type(call)], fields, call.shared, named)
        if isinstance(call, RoundCall) and "call" in reply.fields:
            self._answered[self.run, name, call.round] = str(reply.fields["call"])
        return reply

    def _past(self, name: str, rounds: Iterable[int]) -> dict[str, str]:
        """Transcripts of rounds as the node itself answered them, so that the node accepts them."""
        return {str(round): self._answered.get((self.run, name, round), _NEVER) for round in rounds}

    def settle(self, name: str, kind: str, shared: Arrays, **fields: int) -> Reply:
        """Tell a node to `keep` its private rows, or to `finish`."""
        return self._with_arrays(name, kind, fields, shared)

    def all(self, call: Call, **how: Any) -> dict[str, Reply]:
        """Request the same sum from all nodes; `how` are arguments of `call`."""
        return {name: self.call(name, call, **how) for name in self.stage.names}

    def part(self, name: str, call: RoundCall) -> Sum:
        """A node's own part of the last round that it answered, from its disk, to compare attacks with."""
        kept = FileStore(self.homes / name / "runs" / self.run).get("round")
        assert kept is not None
        return decode_sum(kept[_DIGEST:].partition(b"\n")[2], call.spec)

    def need(self, replies: Mapping[str, Reply]) -> Mapping[str, Reply]:
        """Replies to requests that an honest coordinator sends too.

        Raises:
            RunError: if a node refused, as the attack then shows nothing.
        """
        for name, reply in replies.items():
            if reply.problem is not None:
                raise RunError(
                    f"the attack could not start: {name} refuses an honest request: {reply.fields.get('text')}"
                )
        return replies

    def _with_arrays(
        self, name: str, kind: str, fields: Mapping[str, Any], shared: Arrays, named: Arrays | None = None
    ) -> Reply:
        digest = arrays_digest(shared if named is None else named)
        return self.ask(name, kind, {**fields, "shared": digest}, (pack_arrays(shared),))

    def _texts(self, parties: Sequence[SigningKey] | None) -> list[str]:
        keys = list(self.stage.keys.values()) if parties is None else parties
        return sorted(str(key.public()) for key in keys)
