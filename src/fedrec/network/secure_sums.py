"""Secure aggregation among nodes over a network: the coordinator's side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.errors import DamagedError
from fedrec.federation.masked import layout_of, unmasked
from fedrec.federation.messages import Reply
from fedrec.federation.read_sums import ReadSums
from fedrec.network.links import Links
from fedrec.network.post import printable
from fedrec.network.ready import Ready, companies, of_one_call
from fedrec.network.retrying import AbandonedError
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.secagg.graph import share_among
from fedrec.secagg.manifest import invite
from fedrec.secagg.policy import FEWEST_PARTIES
from fedrec.secagg.primitives import Identity
from fedrec.secagg.reasons import Reason
from fedrec.secagg.server import Server

__all__ = ["NetworkSums"]


class _TooFewClientsError(AbandonedError):
    """The nodes of a sum declare fewer clients in all than one of them requires."""


class NetworkSums:
    """Runs secure aggregation among the nodes that are ready.

    Args:
        links: sends requests to the nodes.
        key: the coordinator's key, which also signs manifests, under a separate label.
        nodes: public keys by name of the node.
        run: identifier of the run.
        n_max: maximum number of clients of a sum.
        deadline: seconds for a node to answer in one stage.
        tell: receives a text about each node that is left out, with the reason.
        read: counts which sums the coordinator can read.
    """

    def __init__(
        self,
        links: Links,
        key: SigningKey,
        nodes: Mapping[str, PublicKey],
        run: str,
        n_max: int,
        deadline: float,
        tell: Callable[[str], None],
        read: ReadSums,
    ) -> None:
        self._read = read
        self._links, self._nodes, self._run, self._deadline, self._tell = links, nodes, run, deadline, tell
        self._identity, self._n_max = Identity(key.secret), n_max
        self._number = 0
        self._insist: dict[str, int] = {}

    def opened(self, name: str, fields: Mapping[str, Any]) -> None:
        """Store the minimum number of clients that a node requires, from the fields of its reply.

        Raises:
            DamagedError: if the number is not a whole number from 0 to `n_max`.
        """
        least = fields.get("min_clients")
        if type(least) is not int or not 0 <= least <= self._n_max:
            raise DamagedError(
                f"the node requires {least!r:.40} clients in a sum; only 0 to n_max = {self._n_max} are possible"
            )
        self._insist[name] = least

    def run(
        self,
        replies: Mapping[str, Reply],
        spec: SumSpec,
        round: int,
        rows: np.ndarray | None,
        noise: float,
        groups: int,
        model: bytes,
        counts: np.ndarray | None = None,
    ) -> tuple[list[Sum], list[str]]:
        """The sums of one or more groups of nodes that are ready, and the names of the nodes in them.

        Args:
            replies: replies of the nodes that are ready.
            spec: layout of the sum.
            round: number of the round.
            rows: item rows of the sum; `None` for all.
            noise: minimum noise multiplier of the sum.
            groups: number of sums.
            model: digest of the arrays from which the nodes computed their parts.
            counts: how many clients have each item, where pairs of items take as few bits as that allows.

        Raises:
            AbandonedError: if there is no sum; the text says why.
        """
        ready = self._ready(replies)
        together, left_out = companies(ready, groups, {public.key: name for name, public in self._nodes.items()})
        if not together:
            few = f"{len(ready)} nodes are ready, and secure aggregation needs {FEWEST_PARTIES * groups}"
            raise AbandonedError("; ".join([few, *left_out]))
        for words in left_out:
            self._tell(words)
        sums = [self._enough(group, partial(self._one, spec, round, rows, noise, model, counts)) for group in together]
        return [total for total, _ in sums], sorted(name for _, names in sums for name in names)

    def _ready(self, replies: Mapping[str, Reply]) -> list[Ready]:
        """The nodes that hold a part for the call that most nodes answered."""
        claimed = []
        for name, reply in replies.items():
            try:
                claimed.append(Ready.of(name, reply, self._nodes))
            except DamagedError as error:
                self._tell(f"{name} is left out: {error}")
        ready, others = of_one_call(claimed)
        for one in others:
            self._tell(f"{one.name} is left out: it answered another request than most nodes")
        return ready

    def _enough(
        self, ready: Sequence[Ready], attempt: Callable[[Sequence[Ready]], tuple[Sum, list[str]]]
    ) -> tuple[Sum, list[str]]:
        """The sum, without the nodes that require more clients than all nodes declare together."""
        while True:
            try:
                return attempt(ready)
            except _TooFewClientsError as error:
                most = max(self._insist[one.name] for one in ready)
                modest = [one for one in ready if self._insist[one.name] < most]
                if len(modest) < FEWEST_PARTIES or any(one.among is not None for one in ready):
                    raise
                for one in ready:
                    if one not in modest:
                        self._tell(f"{one.name} is left out: it requires {most} clients in a sum, and {error}")
                ready = modest

    def _one(
        self,
        spec: SumSpec,
        round: int,
        rows: np.ndarray | None,
        noise: float,
        model: bytes,
        counts: np.ndarray | None,
        ready: Sequence[Ready],
    ) -> tuple[Sum, list[str]]:
        self._number = max(self._number + 1, time.time_ns())  # a number that no node has seen, without asking the nodes
        manifest = invite(
            self._run,
            self._number,
            self._identity.public,
            [one.key for one in ready],
            layout_of(spec, rows, counts),
            model=model,
            transcript=bytes.fromhex(ready[0].call),
            min_clients=max(self._insist[one.name] for one in ready),
            noise=noise,
            colluding=share_among(len(ready), len(self._nodes)),
        )
        places = {manifest.parties.index(one.key): one for one in ready}
        server = Server(manifest, self._identity)
        why: dict[str, str] = {}
        sent = dict.fromkeys(places, 0)
        frames, begin = server.invite(), True
        while frames:
            by_place: dict[int, list[bytes]] = {}
            for place, frame in frames:
                by_place.setdefault(place, []).append(bytes(frame))
            fields = {places[place].name: {"begin": begin, "call": places[place].call} for place in by_place}
            parts = {places[place].name: some for place, some in by_place.items()}
            answers = self._links.ask("mask", fields, self._deadline, parts=parts)
            for place in by_place:
                name = places[place].name
                answer = answers[name]
                if not isinstance(answer, Reply):
                    why[name] = str(answer)
                    continue
                if answer.fields.get("aborted"):
                    why[name] = printable(str(answer.fields["aborted"]))
                for part in answer.parts:
                    sent[place] += len(part)
                    try:
                        server.receive(part, place)
                    except DamagedError as error:
                        why[name] = str(error)
            frames, begin = server.close(), False
        if server.result is None:
            reasons = [f"{name}: {text}" for name, text in sorted(why.items())]
            aborted = [] if server.aborted is None else [str(server.aborted)]
            why_not = "; ".join([*aborted, *reasons]) or "no node gave a reason"
            few = server.aborted is not None and server.aborted.reason is Reason.TOO_FEW_CLIENTS
            raise (_TooFewClientsError if few else AbandonedError)(f"secure aggregation failed ({why_not})")
        inside = sorted((places[place] for place in server.survivors), key=lambda one: one.name)
        self._read.total(len(inside), max(sent.values()))
        try:
            total = unmasked(spec, round, rows, server.result, counts)
        except DamagedError as error:
            names = ", ".join(one.name for one in inside)
            raise AbandonedError(f"one of {names} sent a wrong part: {error}") from None
        total.commitments = tuple(text for one in inside for text in one.commitments)
        total.masked_bytes, total.transcript = max(sent.values()), ready[0].call
        return total, [one.name for one in inside]
