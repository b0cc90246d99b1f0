"""What a training begins with: a fresh model or that of an earlier run, and the items that take part."""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.sums import Sum
from fedrec.errors import DamagedError, PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.calls import CountCall
from fedrec.federation.counted import counting_spec, counts_first, counts_of, fit_counts
from fedrec.federation.engine import Engine
from fedrec.federation.gathering import merged
from fedrec.federation.item_floor import ItemFloor, with_served
from fedrec.federation.warm_start import Changed, Earlier, How, carried, how_to_start, places_of
from fedrec.models.base import State

__all__ = ["Beginning"]


class Beginning:
    """The state before round 0, and what the first round sums.

    Args:
        agreement: the plan, with its model and catalog.
        engine: the nodes, which count the clients of items where the plan has a floor.
        earlier: the run that the plan's `warm_start` names; `None` without one.
    """

    def __init__(self, agreement: Agreement, engine: Engine, earlier: Earlier | None) -> None:
        self.agreement = agreement
        self.engine = engine
        self.earlier = earlier

    @property
    def how(self) -> How | None:
        """What this training gains from the earlier one; `None` without one.

        Raises:
            PlanError: naming the key in which the two cannot differ.
        """
        plan = self.agreement.plan
        if self.earlier is None:
            return None
        return how_to_start(self.agreement.model, self.earlier, plan.cohort, plan.release, plan.seed, plan.weights)

    @property
    def sums(self) -> dict[str, np.ndarray]:
        """The summed integers that the earlier run kept, by name."""
        return {} if self.earlier is None else self.earlier.sums

    def state(self) -> State:
        """The state before round 0, with what it says of the items that take part.

        Raises:
            PlanError: if no item has enough clients, or the earlier run is not one to go on from.
        """
        floor, first = self.agreement.plan.items, self._model()
        return first if floor is None else with_served(first, self._served(floor))

    def counted(self, round: int) -> Sum | None:
        """How many clients have each item, where that makes the masked sum of a round shorter; `None` where not."""
        if round > 0 or self.engine.parties is None or self.change(round) is not None:
            return None
        if not counts_first(self.agreement):
            return None
        spec = counting_spec(self.agreement)
        (total,) = self.engine.count_items(CountCall(spec, 0.0))
        if not fit_counts(self.agreement, counts_of(total)):
            raise DamagedError("the masked counts of items add up to impossible ones: a node masked something else")
        return total

    def change(self, round: int) -> Changed | None:
        """The two catalogs, where a round asks for the change since the earlier run only, as the first one may."""
        if round > 0 or self.earlier is None or self.how != "adds the change":
            return None
        return Changed.of(self.earlier.catalog, self.agreement.catalog, self.earlier.name)

    def _model(self) -> State:
        """The model: fresh, or with what the earlier run ended with."""
        model, catalog, earlier = self.agreement.model, self.agreement.catalog, self.earlier
        fresh = self.agreement.start()
        if earlier is None or self.how != "goes on":
            return fresh
        places = places_of(earlier.catalog, catalog, earlier.name)
        items = (len(earlier.catalog), len(catalog))
        old = earlier.state
        held = {name: array for name, array in fresh.server.items() if name in old.shared}  # to be shared later
        shared = carried({**held, **fresh.shared}, old.shared, places, items)
        server = carried(
            {name: array for name, array in fresh.server.items() if name not in held}, old.server, places, items
        )
        return model.carry(fresh, State(shared, server))

    def _served(self, floor: ItemFloor) -> np.ndarray:
        """Which items have enough clients [items] bool."""
        spec = counting_spec(self.agreement)
        honest = 1 if self.engine.parties is None else self.engine.parties[1]
        sums = self.engine.count_items(CountCall(spec, floor.noise / honest**0.5))
        served: np.ndarray = merged(spec, sums, 0).value("counts")[:, 0] >= floor.least
        if not served.any():
            raise PlanError(f"items: no item has {floor.least} clients; lower items.least")
        return served
