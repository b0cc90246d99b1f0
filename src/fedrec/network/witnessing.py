"""Nodes as witnesses of the run's record: which entries each node gets, and their signatures at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedrec.errors import DamagedError
from fedrec.federation.messages import Reply
from fedrec.network.links import Links
from fedrec.network.waiting import Waiting
from fedrec.node.witness import told
from fedrec.record.keys import COSIGNATURE, PublicKey, SigningKey
from fedrec.record.ledger import Ledger
from fedrec.record.signing import LEDGER_NOTE, add_cosignature

__all__ = ["Witnessing"]


class Witnessing:
    """Sends each node the entries of the ledger that it has not seen.

    Args:
        links: sends requests to the nodes.
        key: the coordinator's key.
        nodes: public keys by name of the node.
        ledger: ledger of the run.
        waiting: how long nodes have to answer.
        tell: receives warnings about nodes.
    """

    def __init__(
        self,
        links: Links,
        key: SigningKey,
        nodes: Mapping[str, PublicKey],
        ledger: Ledger,
        waiting: Waiting,
        tell: Callable[[str], None],
    ) -> None:
        self._links, self._key, self._nodes = links, key, nodes
        self._ledger, self._waiting, self._tell = ledger, waiting, tell
        self._seen: dict[str, Any] = {}

    def opened(self, name: str, fields: Mapping[str, Any]) -> None:
        """Note how many entries a node that opened the run has, from its reply; none if the reply does not say."""
        self._seen[name] = fields.get("seen")

    def has_seen(self, name: str, fields: Mapping[str, Any]) -> None:
        """Note how many entries a node has, from its reply; unchanged if the reply does not say."""
        if "seen" in fields:
            self._seen[name] = fields["seen"]

    def record(self, name: str) -> dict[str, Any]:
        """Fields of a request with the entries that a node has not seen."""
        leaves = tuple(self._ledger.leaves)  # other threads append to it
        return {"record": told(leaves, min(self._entries(name), len(leaves)), self._key)} if leaves else {}

    def cosign(self, folder: Path) -> tuple[str, ...]:
        """Let connected nodes sign the record of a finished run, after the coordinator; returns their names."""
        fields = {name: self.record(name) for name in self._links.present(self._waiting.sign)}
        signed = []
        for name, answer in self._links.ask("witness", fields, self._waiting.deadline).items():
            if isinstance(answer, Reply):
                public = PublicKey(name, self._nodes[name].key, COSIGNATURE)
                try:
                    add_cosignature(folder, LEDGER_NOTE, public, answer.parts[0] if answer.parts else b"")
                except DamagedError as error:
                    self._tell(f"{name} did not send a valid signature of the record: {error}")
                else:
                    signed.append(name)
            else:
                self._tell(f"{name} did not sign the record: {answer}")
        return tuple(signed)

    def _entries(self, name: str) -> int:
        """Number of entries that a node has."""
        seen = self._seen.get(name)
        return seen if type(seen) is int and seen >= 0 else 0
