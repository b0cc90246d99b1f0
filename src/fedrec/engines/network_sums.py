"""Secure sums among nodes over a network: the coordinator's side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.engines.links import Links
from fedrec.errors import DamagedError, FedrecError
from fedrec.federation.masked import layout_of, unmasked
from fedrec.federation.messages import Reply
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.secagg.manifest import invite
from fedrec.secagg.policy import FEWEST_PARTIES
from fedrec.secagg.primitives import Identity
from fedrec.secagg.server import Server

__all__ = ["AbandonedError", "NetworkSums", "Ready", "commitments_in"]


class AbandonedError(FedrecError):
    """A sum that came to nothing this time."""


@dataclass(frozen=True)
class Ready:
    """A node that holds its part of a sum and waits to mask it.

    Args:
        name: of the node.
        call: digest of what was asked.
        commitments: to its receipt.
        among: keys of those among whom the part was opened before, and only may be again; `None` where it was not.
    """

    name: str
    call: str
    commitments: tuple[str, ...]
    among: frozenset[bytes] | None = None

    @classmethod
    def of(cls, name: str, reply: Reply) -> Ready:
        """From what a node said."""
        return cls(name, str(reply.fields.get("call", "")), commitments_in(reply), _keys(reply.fields.get("among")))


class NetworkSums:
    """Runs secure sums among those nodes that are ready.

    Args:
        links: to the nodes.
        key: the coordinator's; it signs manifests too, under a label of its own.
        nodes: public keys by name.
        run: number of the run.
        deadline: seconds for a node to answer in one stage.
    """

    def __init__(
        self, links: Links, key: SigningKey, nodes: Mapping[str, PublicKey], run: str, deadline: float
    ) -> None:
        self._links, self._nodes, self._run, self._deadline = links, nodes, run, deadline
        self._identity = Identity(key.secret)
        self._number = 0
        self._least_clients = 0

    def opened(self, said: Mapping[str, Any]) -> None:
        """Learn from a node which numbers of sums are used up, and what it insists on."""
        self._number = max(self._number, _count(said, "begun"))
        self._least_clients = max(self._least_clients, _count(said, "min_clients"))

    def run(
        self,
        ready: Sequence[Ready],
        spec: SumSpec,
        round: int,
        rows: np.ndarray | None,
        noise: float,
        groups: int,
        model: bytes,
    ) -> tuple[list[Sum], list[str]]:
        """The sum of the ready nodes, or of each of some groups of them; and whose parts are in.

        Raises:
            AbandonedError: if there is none; says why.
        """
        if len(ready) < FEWEST_PARTIES * groups:
            raise AbandonedError(f"{len(ready)} nodes are ready; {groups} secure sums take {FEWEST_PARTIES * groups}")
        found = [self._one(group, spec, round, rows, noise, model) for group in self._grouped(ready, groups)]
        return [total for total, _ in found], sorted(name for _, names in found for name in names)

    def _grouped(self, ready: Sequence[Ready], groups: int) -> list[list[Ready]]:
        """Who is summed with whom: every n-th node by name.

        An attempt may have come so far that nodes opened their parts, and then have failed. Their parts can be summed
        again among the very same nodes only, as the difference of two sums would show single parts.
        """
        ordered = sorted(ready, key=lambda one: one.name)
        bound = sorted({one.among for one in ordered if one.among is not None}, key=sorted)
        if not bound:
            return [ordered[group::groups] for group in range(groups)]
        keys = {one.name: self._nodes[one.name].key for one in ordered}
        names = {public.key: name for name, public in self._nodes.items()}
        again = [[one for one in ordered if keys[one.name] in among] for among in bound]
        for among in bound:
            missing = sorted(names.get(key, "a stranger") for key in among - set(keys.values()))
            if missing:
                raise AbandonedError(
                    f"parts of this sum were opened together with {', '.join(missing)}; it takes the same nodes again"
                )
        if len(bound) > groups or len(frozenset().union(*bound)) < sum(map(len, bound)):
            raise AbandonedError("nodes opened their parts of this sum in unlike company before")
        free = [one for one in ordered if not any(keys[one.name] in among for among in bound)]
        left = groups - len(again)
        return again + [free[group::left] for group in range(left)]

    def _one(
        self, ready: Sequence[Ready], spec: SumSpec, round: int, rows: np.ndarray | None, noise: float, model: bytes
    ) -> tuple[Sum, list[str]]:
        if len(ready) < FEWEST_PARTIES:
            raise AbandonedError(f"{len(ready)} nodes are ready for a secure sum, which takes {FEWEST_PARTIES}")
        calls = {one.call for one in ready}
        if len(calls) != 1:
            raise AbandonedError("the nodes hold parts of unlike calls")
        keys = [self._nodes[one.name].key for one in ready]
        manifest = invite(
            self._run,
            self._number,
            self._identity.public,
            keys,
            layout_of(spec, rows),
            model=model,
            min_clients=self._least_clients,
            noise=noise,
        )
        self._number += 1
        places = {manifest.parties.index(self._nodes[one.name].key): one for one in ready}
        server = Server(manifest, self._identity)
        why: dict[str, str] = {}
        sent = dict.fromkeys(places, 0)
        frames, begin = server.invite(), True
        while frames:
            by_place: dict[int, list[bytes]] = {}
            for place, frame in frames:
                by_place.setdefault(place, []).append(bytes(frame))
            asked = {places[place].name: {"begin": begin, "call": places[place].call} for place in by_place}
            parts = {places[place].name: some for place, some in by_place.items()}
            answers = self._links.ask("mask", asked, self._deadline, parts=parts)
            for place in by_place:
                name = places[place].name
                answer = answers[name]
                if not isinstance(answer, Reply):
                    why[name] = str(answer)
                    continue
                if answer.fields.get("aborted"):
                    why[name] = str(answer.fields["aborted"])
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
            said = "; ".join([*aborted, *reasons]) or "nobody said why"
            raise AbandonedError(f"the secure sum has no outcome ({said})")
        total = unmasked(spec, round, rows, server.result)
        inside = [places[place] for place in server.survivors]
        inside.sort(key=lambda one: one.name)
        total.commitments = tuple(text for one in inside for text in one.commitments)
        total.masked_bytes = max(sent.values())
        return total, [one.name for one in inside]


def commitments_in(reply: Reply) -> tuple[str, ...]:
    """What a node commits to in its receipt, as far as it has the form of one."""
    said = reply.fields.get("commitments")
    return tuple(str(text)[:64] for text in said) if isinstance(said, list) else ()


def _keys(said: Any) -> frozenset[bytes] | None:
    if not isinstance(said, list):
        return None
    try:
        return frozenset(bytes.fromhex(text) for text in said)
    except (TypeError, ValueError):
        return None


def _count(said: Mapping[str, Any], name: str) -> int:
    value = said.get(name)
    return value if type(value) is int and 0 <= value < 1 << 62 else 0
