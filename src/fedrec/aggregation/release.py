"""What happens to contributions before they are summed: an ordered list of steps from the plan.

Every release ends by rounding to the grid and saturating at the bound, which `Sum.add` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, model_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN
from fedrec.aggregation.specs import SumSpec
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.draws import newest_or_drawn

__all__ = ["Cap", "Clip", "Release", "ReleaseStep", "Step", "Weight"]

_WEIGHT_BITS = 20


class ReleaseStep(BaseModel):
    """One step of a release."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cap(ReleaseStep):
    """Let a client use at most `items` of its interactions in a round.

    Args:
        items: the most interactions of one client.
        choose: `newest` keeps the newest, `random` draws them anew each round with the client's own key.
    """

    step: Literal["cap"] = "cap"
    items: int = Field(ge=1)
    choose: Literal["newest", "random"] = "newest"

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


class Clip(ReleaseStep):
    """Bound what one client can add, whatever its data are.

    Args:
        norm: longest L2 norm of a client's contribution over all arrays; longer ones are scaled down to it.
        row: longest norm of a row of a table; see `Contribution.clip_rows` for other kinds of arrays.
    """

    step: Literal["clip"] = "clip"
    norm: PositiveFloat | None = None
    row: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check(self) -> Clip:
        if self.norm is None and self.row is None:
            raise PlanError("release: clip needs norm, row, or both")
        return self

    def apply(self, contributions: Contributions) -> Contributions:
        """The contributions within their bounds: rows first, then the whole."""
        if self.row is not None:
            contributions = contributions.clip_rows(self.row)
        if self.norm is not None:
            contributions = contributions.clip(dict.fromkeys(contributions.arrays, PLAIN), self.norm)
        return contributions


Step = Annotated[Cap | Weight | Clip, Field(discriminator="step")]
"""A step of a plan's release."""

_ORDER = ("cap", "weight", "clip")


class Release:
    """The ordered steps of a plan, checked.

    Args:
        steps: at most one each of `Cap`, `Weight` and `Clip`, in this order.

    Raises:
        PlanError: for an order or a mix that cannot keep its promise.
    """

    def __init__(self, steps: Sequence[Step] = ()) -> None:
        kinds = [step.step for step in steps]
        for kind in kinds:
            if kinds.count(kind) > 1:
                raise PlanError(f"release: step {kind!r} appears more than once")
        if kinds != sorted(kinds, key=_ORDER.index):
            raise PlanError(
                "release: the order must be cap, weight, clip: weight would otherwise count interactions that cap "
                "removes, and would undo clip"
            )
        self.cap = next((step for step in steps if isinstance(step, Cap)), None)
        self.weight = next((step for step in steps if isinstance(step, Weight)), Weight())
        self.clip = next((step for step in steps if isinstance(step, Clip)), None)

    def adjust(self, spec: SumSpec) -> SumSpec:
        """The spec with a grid fine enough for weights and factors of clipping.

        Raises:
            PlanError: if the release weights or clips clients of an array that is pooled.
        """
        self.check_apart(spec.pooled)
        if self._single is None:
            return spec
        arrays = [replace(array, scale_bits=max(array.scale_bits, _WEIGHT_BITS)) for array in spec.arrays]
        return SumSpec(tuple(arrays), spec.n_max)

    def check_apart(self, pooled: Sequence[str]) -> None:
        """Check that single clients can be clipped and weighed, if that is asked for.

        Args:
            pooled: arrays to which a node's clients are added up before the release.

        Raises:
            PlanError: if there are any.
        """
        if self._single is not None and pooled:
            raise PlanError(
                f"release: {self._single} needs each client's contribution, but this model adds up the contributions "
                f"to {', '.join(pooled[:3])}{' and others' * (len(pooled) > 3)} before the release; remove "
                f"{self._single}, or set granularity to client"
            )

    @property
    def _single(self) -> str | None:
        """The step that changes single clients."""
        return "clip" if self.clip is not None else None if self.weight.by == "uniform" else "weight"

    def before(self, clients: Clients, rng: KeyedSource) -> Clients:
        """What the model is handed of the clients."""
        return clients if self.cap is None else self.cap.apply(clients, rng)

    def after(self, contributions: Contributions, clients: Clients) -> Contributions:
        """Contributions ready to be summed, or to be clipped for privacy."""
        if self.weight.by == "interactions":
            most = clients.n_items if self.cap is None else min(self.cap.items, clients.n_items)
            contributions = contributions.scale(self.weight.factors(clients, most))
        return contributions if self.clip is None else self.clip.apply(contributions)
