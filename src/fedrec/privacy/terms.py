"""What a plan promises about privacy, and what each round may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from fedrec.errors import PlanError
from fedrec.privacy.accounting import Charge, Epsilons, epsilons, noise_for

__all__ = ["Privacy", "schedule", "total_cost"]

_SLACK = 1.0 + 1e-6


class Privacy(BaseModel):
    """User-level differential privacy of a run: adding or removing one user changes the odds of anything that is
    released by at most a factor e^ε, but for a probability δ.

    Args:
        epsilon: ε, a limit for the view named by `view`. Without a `noise_multiplier` the least noise that keeps it is
            chosen.
        delta: δ; well below 1 / users.
        clip: bound on the norm of what one client adds, where the model lets people choose it.
        unit: what is added or removed: all interactions of one user at one node.
        sampling: `poisson` claims, for who sees released models only, that nobody knows who took part in a round; needs
            a `cohort` below 1. `none` claims nothing of the kind.
        participations: most rounds that one client takes part in; `None` for all.
        noise: who adds it: `central`, the coordinator, which then sees exact sums, or `distributed`, every node a share
            before it masks its sum, so that nobody ever sees an exact one; that takes the secure sum.
        users: a public upper estimate of the number of users; the data's own number is taken to be public without it.
        max_cohort: most clients of a node in a round; who is beyond it is drawn away at random. Models that keep
            something of a client between rounds, as `mf` does, take it with `participations: 1` only.
        view: whose ε is limited: of somebody who sees the `cohort` of every round and all noised sums, or of
            somebody who sees only what is in a `release`, the model.
        noise_multiplier: deviation of the noise of the whole run's budget per unit of clip; filled in by the first run.

    Raises:
        PlanError: for a mix that cannot keep a promise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    epsilon: PositiveFloat
    delta: float = Field(gt=0.0, lt=1.0)
    clip: PositiveFloat | None = None
    unit: Literal["user"] = "user"
    sampling: Literal["none", "poisson"] = "none"
    participations: PositiveInt | None = None
    noise: Literal["central", "distributed"] = "central"
    users: PositiveInt | None = None
    max_cohort: PositiveInt | None = None
    view: Literal["cohort", "release"] = "cohort"
    noise_multiplier: PositiveFloat | None = None

    @model_validator(mode="after")
    def _check(self) -> Privacy:
        if self.users is not None and self.delta * self.users >= 1.0:
            raise PlanError(
                f"privacy: delta = {self.delta:g} allows for one of {self.users} users to be exposed outright; take at "
                f"most {0.1 / self.users:.1g}, a tenth of 1 / users"
            )
        if self.max_cohort is not None and (self.users is None or self.sampling == "none"):
            raise PlanError("privacy: max_cohort truncates Poisson cohorts; it needs sampling: poisson and users")
        return self

    @property
    def distributed(self) -> bool:
        """Whether nodes add the noise."""
        return self.noise == "distributed"

    def cost(self, charges: Sequence[Charge]) -> Epsilons:
        """The three epsilons of some rounds under these terms."""
        return epsilons(charges, self.delta, self.participations, self.distributed)

    def truncated(self) -> tuple[int, int] | None:
        """(users, largest cohort) of truncated Poisson cohorts."""
        return None if self.max_cohort is None or self.users is None else (self.users, self.max_cohort)

    def resolve(self, shares: Sequence[float], share: float) -> Privacy:
        """The terms with the noise multiplier that keeps `epsilon`.

        Args:
            shares: of the budget, by round.
            share: probability of a client to be drawn.

        Raises:
            PlanError: if the given noise multiplier does not keep `epsilon`.
        """
        if self.noise_multiplier is None:
            sampling = share if self.sampling == "poisson" and self.view == "release" else None
            noise = noise_for(
                self.epsilon, self.delta, len(shares), sampling=sampling, truncated=self.truncated(),
                participations=self.participations,
                shares=None if sampling is not None and self.participations is None else shares,
            )  # fmt: skip
            return self.model_copy(update={"noise_multiplier": noise})
        cost = getattr(total_cost(self, shares, share), self.view)
        if cost > self.epsilon * _SLACK:
            raise PlanError(
                f"privacy: noise_multiplier {self.noise_multiplier:g} costs epsilon {cost:.4g} over "
                f"{len(shares)} rounds "
                f"at delta {self.delta:g}, more than the plan's {self.epsilon:g}. Leave noise_multiplier out, "
                f"or raise it"
            )
        return self


def schedule(terms: Privacy, shares: Sequence[float], share: float) -> tuple[Charge, ...]:
    """What each round costs: a Gaussian with multiplier z / √(share of the budget).

    Raises:
        PlanError: if the terms have no noise multiplier yet.
    """
    if terms.noise_multiplier is None:
        raise PlanError("privacy: noise_multiplier is missing; a plan that was resolved for its data has it")
    sampling = share if terms.sampling == "poisson" else None
    if sampling is not None and terms.view == "release" and terms.participations is None:
        return tuple(Charge(round, terms.noise_multiplier, sampling, terms.truncated()) for round in range(len(shares)))
    return tuple(
        Charge(round, terms.noise_multiplier / math.sqrt(part), sampling, terms.truncated() if sampling else None)
        for round, part in enumerate(shares)
    )


def total_cost(terms: Privacy, shares: Sequence[float], share: float) -> Epsilons:
    """The three epsilons of a whole run."""
    return terms.cost(schedule(terms, shares, share))
