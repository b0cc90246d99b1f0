"""Secure aggregation run by a lying coordinator, with one manifest for all nodes or a different one for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.audit.liar import Liar
from fedrec.errors import DamagedError, RunError
from fedrec.federation.calls import RoundCall
from fedrec.federation.masked import layout_of, unmasked
from fedrec.federation.messages import Reply
from fedrec.record.keys import SigningKey
from fedrec.secagg.bodies import Advert, decode_advert, encode_roster
from fedrec.secagg.manifest import Manifest, invite
from fedrec.secagg.primitives import Identity
from fedrec.secagg.server import Server
from fedrec.secagg.wire import COORDINATOR, Message, Stage, compose, limits, parse

__all__ = ["Driven", "honest_round", "transcript_in"]


@dataclass(eq=False)
class Driven:
    """One attempt to open the parts of nodes.

    Args:
        liar: the lying coordinator.
        call: the request whose arrays are summed.
        replies: replies in which nodes name the transcripts that they answered.
        total: the sum, if the attempt succeeded.
        survivors: nodes whose parts are in the sum.
        why: reasons of the nodes that refused or left.
    """

    liar: Liar
    call: RoundCall
    replies: Mapping[str, Reply]
    total: Sum | None = None
    survivors: tuple[str, ...] = ()
    why: dict[str, str] = field(default_factory=dict)

    def manifest(self, transcript: str | None = None) -> Manifest:
        """A manifest for the nodes of the replies.

        Args:
            transcript: transcript in the manifest, in hexadecimal; by default that of the first node.
        """
        stage, call = self.liar.stage, self.call
        noise = 0.0 if call.privacy is None or not stage.hidden else call.privacy.noise_multiplier
        return invite(
            self.liar.run,
            self.liar.number(),
            stage.coordinator.public().key,
            [self.key(name).public().key for name in self.replies],
            layout_of(call.spec, self.rows),
            model=bytes.fromhex(call.model),
            transcript=bytes.fromhex(transcript or transcript_in(next(iter(self.replies.values())))),
            min_clients=stage.plan.min_clients,
            noise=noise,
        )

    def open(self, manifest: Manifest | None = None, silent: Sequence[str] = ()) -> Driven:
        """Run all stages of secure aggregation.

        Args:
            manifest: manifest for all nodes; by default `self.manifest()`.
            silent: nodes that get no frames, as if they had dropped out.
        """
        manifest = manifest or self.manifest()
        server, first = Server(manifest, self._identity), True
        frames = server.invite()
        while frames:
            for name in self.replies:
                place = self._place(name, manifest)
                own = [bytes(frame) for to, frame in frames if to == place]
                if not own or name in silent:
                    continue
                for part in self.answers(name, own, first):
                    try:
                        server.receive(part, place)
                    except DamagedError as error:
                        self.why.setdefault(name, str(error))
            frames, first = server.close(), False
        if server.result is not None:
            self.survivors = tuple(name for name in self.replies if self._place(name, manifest) in server.survivors)
            self.total = unmasked(self.call.spec, self.call.round, self.rows, server.result)
        return self

    def go_along(self, manifests: Mapping[str, Manifest]) -> list[str]:
        """Send each node a different manifest, and then send all of them each other's keys.

        Returns:
            Nodes that sealed shares for keys of other manifests.
        """
        adverts: dict[int, Advert] = {}
        for name, manifest in manifests.items():
            advert = self.advert(name, manifest)
            if advert is not None:
                adverts[self._place(name, manifest)] = advert
        along = []
        for name, manifest in manifests.items():
            roster = encode_roster(adverts, len(manifest.parties))
            if any(one.stage is Stage.SHARES for one in self._messages(name, manifest, Stage.ROSTER, roster)):
                along.append(name)
        return along

    def advert(self, name: str, manifest: Manifest) -> Advert | None:
        """A node's advert at the start of secure aggregation; `None` if the node does not take part."""
        for message in self._messages(name, manifest, Stage.MANIFEST, manifest.body):
            if message.stage is Stage.ADVERT:
                return decode_advert(message.body, message.signature)
        return None

    def _messages(self, name: str, manifest: Manifest, stage: Stage, body: bytes) -> Iterator[Message]:
        """A node's answers to a frame that the coordinator signed."""
        frame = compose(stage, COORDINATOR, manifest.digest, body, self._identity)
        for part in self.answers(name, [frame], stage is Stage.MANIFEST):
            yield parse(part, limits(manifest), manifest.digest)

    def answers(self, name: str, frames: Sequence[bytes], first: bool) -> Sequence[bytes]:
        """A node's answers to frames of secure aggregation; records why it leaves."""
        fields = {"begin": first, "call": transcript_in(self.replies[name])}
        reply = self.liar.ask(name, "mask", fields, frames)
        reason = reply.fields.get("text") if reply.problem is not None else reply.fields.get("aborted")
        if reason:
            self.why.setdefault(name, str(reason))
        return reply.parts

    def key(self, name: str) -> SigningKey:
        """A node's key pair."""
        return self.liar.stage.keys[name]

    def _place(self, name: str, manifest: Manifest) -> int:
        return manifest.parties.index(self.key(name).public().key)

    @property
    def rows(self) -> np.ndarray | None:
        """Item rows of the sum; `None` for all."""
        return self.liar.stage.agreement.rows(self.call.round)

    @property
    def _identity(self) -> Identity:
        return Identity(self.liar.stage.coordinator.secret)


def honest_round(liar: Liar, call: RoundCall) -> Mapping[str, Reply]:
    """Send a request to all nodes as an honest coordinator does, and open masked parts.

    Raises:
        RunError: if a node refuses, or the parts do not open.
    """
    replies = liar.need(liar.all(call))
    if liar.stage.secure:
        driven = Driven(liar, call, replies).open()
        if driven.total is None:
            raise RunError(f"the attack could not start: round {call.round} did not open ({driven.why})")
    return replies


def transcript_in(reply: Reply) -> str:
    """Digest of the transcript that a node answered, according to its reply."""
    return str(reply.fields.get("call"))
