"""The sum of a round from the sum that an earlier run kept: clients that are gone are taken out of it."""

from __future__ import annotations

from dataclasses import replace

from fedrec.data.catalog import Catalog
from fedrec.federation.calls import RoundCall
from fedrec.federation.engine import Engine
from fedrec.federation.gathering import Gathered, Gathering, counted, merged
from fedrec.federation.warm_start import Changed, Earlier

__all__ = ["Subtracted"]


class Subtracted(Gathering):
    """The sum over all clients, worked out from a kept one; integers, so that it has the bits of the sum itself.

    The ledger says of it what it would say had all clients been summed. Nothing in it depends on those who are gone: a
    commitment to the change alone would be one to their histories.

    Args:
        engine: nodes that remember the earlier run and keep no receipts.
        earlier: the run that kept the sum.
        catalog: the items now.
        clients: number of clients of the sum.
    """

    def __init__(self, engine: Engine, earlier: Earlier, catalog: Catalog, clients: int) -> None:
        self.engine = engine
        self.earlier = earlier
        self.catalog = catalog
        self.clients = clients

    def gather(self, call: RoundCall) -> Gathered:
        """Ask the nodes for the change since the earlier run, and add it to the kept sum."""
        changed = Changed.of(self.earlier.catalog, self.catalog, self.earlier.name)
        asked = replace(call, spec=changed.widened(call.spec), change=True)
        change = merged(asked.spec, self.engine.contribute(asked), call.round)
        total = replace(changed.added(self.earlier.sums, change, call.spec), clients=self.clients)
        return Gathered(total, {**counted(total, call, [total]), "sums": []})
