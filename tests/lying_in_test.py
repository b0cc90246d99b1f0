"""A coordinator that asks a node whatever it likes, with the real key."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from typing import Any

from federation_in_test import COORDINATOR, RUN, Federation
from fedrec import __version__
from fedrec.data.catalog import Catalog
from fedrec.federation.call_fields import Call, call_fields
from fedrec.federation.calls import CountCall
from fedrec.federation.host import NodeHost
from fedrec.federation.messages import Reply, Request, open_reply, pack_arrays
from fedrec.federation.plan import Plan
from fedrec.federation.witnessing import told
from fedrec.models.base import Arrays

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

    def call(self, kind: str, call: Call, shared: Arrays | None = None, run: str = RUN) -> Reply:
        """Ask for a sum, under other shared arrays than the call's if they are given."""
        fields = {**call_fields(call), "record": RECORD}
        if isinstance(call, CountCall):
            return self.ask(kind, fields, run=run)
        fields["standing"] = dict.fromkeys(self.federation.public, call.committed)
        packed = pack_arrays(call.shared if shared is None else shared)
        return self.ask(kind, {**fields, "shared": hashlib.sha256(packed).hexdigest()}, (packed,), run)
