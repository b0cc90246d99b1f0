"""What happens to contributions before they are summed: an ordered list of steps from the plan.

Every release ends by rounding to the grid and saturating at the bound, which `Sum.add` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.draws import newest_or_drawn

__all__ = ["Cap", "Release", "ReleaseStep", "Weight"]

_WEIGHT_BITS = 20


class ReleaseStep(BaseModel):
    """One step of a release. `linear`: sums of released parts are the release of the sum. `sees`: what it must see."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    linear: ClassVar[bool] = True
    sees: ClassVar[Literal["clients", "nodes"]] = "clients"


class Cap(ReleaseStep):
    """Let a client use at most `items` of its interactions in a round.

    Args:
        items: the most interactions of one client.
        choose: `newest` keeps the newest, `random` draws them anew each round with the client's own key.
    """

    step: Literal["cap"] = "cap"
    items: int = Field(ge=1)
    choose: Literal["newest", "random"] = "newest"
    linear: ClassVar[bool] = False

    def apply(self, clients: Clients, rng: KeyedSource) -> Clients:
        """The same clients with at most `items` interactions each, still oldest first.

        What is left out is not forgotten: negatives avoid it.
        """
        if len(clients) == 0 or clients.lengths.max() <= self.items:
            return clients
        keep = np.zeros(len(clients.items), dtype=np.bool_)
        seeds = rng.child("cap").seeds(clients.keys)
        newest_or_drawn(clients.indptr, self.items, self.choose == "random", seeds, keep)
        return clients.where(keep).avoiding(clients.where(~keep))


class Weight(ReleaseStep):
    """Weight each client's contribution before summing.

    Args:
        by: `uniform` counts every client once; `interactions` weights by its share of interactions, as federated
            averaging does (McMahan et al. 2017), scaled so that no weight exceeds 1.
    """

    step: Literal["weight"] = "weight"
    by: Literal["uniform", "interactions"] = "uniform"

    def factors(self, clients: Clients, most: int) -> np.ndarray:
        """Weights [clients] float64 in [0, 1], where `most` interactions weigh 1."""
        if self.by == "uniform":
            return np.ones(len(clients))
        return np.minimum(clients.lengths / most, 1.0)


class Release:
    """The ordered steps of a plan, checked.

    Args:
        steps: at most one `Cap`, then at most one `Weight`.

    Raises:
        PlanError: for an order or a mix that cannot keep its promise.
    """

    def __init__(self, steps: Sequence[Annotated[Cap | Weight, Field(discriminator="step")]] = ()) -> None:
        kinds = [step.step for step in steps]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise PlanError(f"release: step {kind!r} appears more than once")
        if kinds == ["weight", "cap"]:
            raise PlanError("release: 'cap' must come before 'weight', which would count capped interactions")
        self.cap = next((step for step in steps if isinstance(step, Cap)), None)
        self.weight = next((step for step in steps if isinstance(step, Weight)), Weight())

    def adjust(self, spec: SumSpec) -> SumSpec:
        """The spec with a grid fine enough for the weights."""
        if self.weight.by == "uniform":
            return spec
        arrays = [replace(array, scale_bits=max(array.scale_bits, _WEIGHT_BITS)) for array in spec.arrays]
        return SumSpec(tuple(arrays), spec.n_max)

    def before(self, clients: Clients, rng: KeyedSource) -> Clients:
        """What the model is handed of the clients."""
        return clients if self.cap is None else self.cap.apply(clients, rng)

    def after(self, contributions: Contributions, clients: Clients) -> Contributions:
        """Contributions ready to be summed."""
        if self.weight.by == "uniform":
            return contributions
        most = clients.n_items if self.cap is None else min(self.cap.items, clients.n_items)
        return contributions.scale(self.weight.factors(clients, most))
