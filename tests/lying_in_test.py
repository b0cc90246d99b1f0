"""A coordinator that asks a node whatever it likes, with the real key."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from federation_in_test import COORDINATOR, RUN, WAITING, Federation
from fedrec import __version__
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.errors import DamagedError
from fedrec.federation.call_fields import Call, call_fields
from fedrec.federation.calls import CountCall, RoundCall
from fedrec.federation.masked import layout_of, unmasked
from fedrec.federation.messages import Reply, Request, open_reply, pack_arrays
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Arrays
from fedrec.network.post import Failure, LocalPost
from fedrec.node.host import NodeHost
from fedrec.node.witness import told
from fedrec.secagg.bodies import decode_advert
from fedrec.secagg.manifest import Manifest, invite
from fedrec.secagg.primitives import SIGNATURE_BYTES, Identity
from fedrec.secagg.server import Server
from fedrec.secagg.wire import HEADER_BYTES

RECORD = told([bytes(32)], 0, COORDINATOR)


class Liar:
    """Asks one node of a federation.

    Args:
        federation: whose node and keys.
        name: of the node.
        host: the node; started if `None`.
    """

    def __init__(self, federation: Federation, name: str = "node-0", host: NodeHost | None = None) -> None:
        self.federation, self.name, self.number = federation, name, 0
        self.transcripts: dict[int, str] = {}
        self.host = host or federation.host(name)

    def ask(
        self, kind: str, fields: dict[str, Any] | None = None, parts: Sequence[bytes] = (), run: str = RUN
    ) -> Reply:
        """One request, and what the node says."""
        self.number = max(self.number + 1, time.time_ns())
        frame = Request(kind, run, self.name, self.number, fields or {}, parts).sign(COORDINATOR)
        return open_reply(self.host.answer(frame.whole()), self.federation.public[self.name], frame.digest, 1 << 34)

    def open(self, plan: Plan, catalog: Catalog, run: str = RUN) -> Reply:
        """Offer a run."""
        parties = [str(key) for _, key in sorted(self.federation.public.items())] if self.federation.secure else []
        fields = {
            "version": __version__,
            "plan": json.dumps(plan.model_dump(mode="json")),
            "digest": plan.digest,
            "secure": self.federation.secure,
            "parties": parties,
        }
        return self.ask("open", fields, (catalog.to_json_lines(),), run)

    def call(self, kind: str, call: Call, shared: Arrays | None = None, run: str = RUN, **said: Any) -> Reply:
        """Ask for a sum, under other shared arrays than the call's if they are given, and with other fields."""
        fields = {**call_fields(call), "record": RECORD}
        if isinstance(call, CountCall):
            return self.ask(kind, fields | said, run=run)
        fields["standing"] = dict.fromkeys(self.federation.public, call.committed)
        packed = pack_arrays(call.shared if shared is None else shared)
        fields |= {"shared": hashlib.sha256(packed).hexdigest(), **said}
        rounds = set(fields["standing"].values()) if isinstance(fields["standing"], dict) else set()
        past = {str(round): self.transcripts[round] for round in rounds if round in self.transcripts}
        reply = self.ask(kind, {"past": past, **fields}, (packed,), run)
        if isinstance(call, RoundCall) and "call" in reply.fields:
            self.transcripts[call.round] = reply.fields["call"]
        return reply

    def settle(self, kind: str, shared: Arrays, run: str = RUN, **rounds: int) -> Reply:
        """Tell the node to keep, or to end with, private rows."""
        packed = pack_arrays(shared)
        return self.ask(kind, {**rounds, "shared": hashlib.sha256(packed).hexdigest()}, (packed,), run)


@dataclass(eq=False)
class Opened:
    """What came of a secure aggregation that a liar ran.

    Args:
        total: the sum; `None` where there is none.
        nodes: who is in it.
        why: why nodes left, by name.
    """

    total: Sum | None
    nodes: list[str]
    why: dict[str, str]


class Coming:
    """A federation with secure aggregations whose nodes come and go."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.federation = Federation(folder, plan, secure=True, policy={"secure": True})
        self.gone: set[str] = set()

        def interfere(name: str, frame: bytes, answer: Any) -> bytes | Failure:
            return Failure("gone", "it is not up") if name in self.gone else answer(frame)

        run = Run(self.federation.plan, None)
        run.ledger.append("start")
        waiting = replace(WAITING, max_retries=0)
        self.engine = self.federation.engine(LocalPost(self.federation.hosts(), interfere), run, waiting)
        self.engine.open()


def secure_sum(
    liars: Mapping[str, Liar],
    replies: Mapping[str, Reply],
    spec: SumSpec,
    manifests: Mapping[str, Manifest],
    run: str = RUN,
    spoil: Callable[[Server, dict[str, list[bytes]]], None] = lambda _, frames: None,
) -> Opened:
    """Run a secure aggregation in which each node is shown a manifest of its own.

    Args:
        liars: by name of their nodes.
        replies: what nodes said when they were asked for their parts.
        spec: of the sum.
        manifests: by name; the first is the one that the coordinator goes by.
        run: its number.
        spoil: changes the frames that nodes are sent.
    """
    identity, first = Identity(COORDINATOR.secret), next(iter(manifests.values()))
    keys = {name: liars[name].federation.public[name].key for name in replies}
    servers = {manifest.digest: Server(manifest, identity) for manifest in manifests.values()}
    leading, why = servers[first.digest], dict[str, str]()
    sent = {name: servers[manifests[name].digest] for name in replies}
    frames = {name: [bytes(frame) for to, frame in sent[name].invite() if to == first.parties.index(keys[name])]
              for name in replies}  # fmt: skip
    begin = True
    while frames:
        spoil(leading, frames)
        for name, some in frames.items():
            said = liars[name].ask("mask", {"begin": begin, "call": replies[name].fields["call"]}, some, run)
            if said.problem or said.fields.get("aborted"):
                why[name] = str(said.fields.get("text") or said.fields["aborted"])
            for part in said.parts:
                try:
                    leading.receive(part, first.parties.index(keys[name]))
                except DamagedError as error:
                    why.setdefault(name, str(error))
        begin, frames = False, {}
        for place, frame in leading.close():
            name = next(name for name, key in keys.items() if key == first.parties[place])
            frames.setdefault(name, []).append(bytes(frame))
    if leading.result is None:
        return Opened(None, [], why | {"": str(leading.aborted)})
    inside = [name for name, key in keys.items() if first.parties.index(key) in leading.survivors]
    return Opened(unmasked(spec, 0, None, leading.result), inside, why)


def manifest_of(
    federation: Federation, call: RoundCall, transcript: str, noise: float = 0.0, run: str = RUN
) -> Manifest:
    """The manifest that invites all nodes to sum their parts of a call under a transcript."""
    keys = [key.key for key in federation.public.values()]
    return invite(
        run, time.time_ns(), Identity(COORDINATOR.secret).public, keys, layout_of(call.spec, None),
        model=bytes.fromhex(call.model), transcript=bytes.fromhex(transcript), min_clients=32, noise=noise,
    )  # fmt: skip


def declared_clients(liar: Liar, manifest: Manifest, transcript: str, run: str = RUN) -> int:
    """How many clients a node declares in the secure aggregation of a manifest."""
    place = manifest.parties.index(liar.federation.public[liar.name].key)
    invited = Server(manifest, Identity(COORDINATOR.secret)).invite()
    frames = [bytes(frame) for to, frame in invited if to == place]
    (advert,) = liar.ask("mask", {"begin": True, "call": transcript}, frames, run).parts
    return decode_advert(advert[HEADER_BYTES:-SIGNATURE_BYTES], b"").clients
