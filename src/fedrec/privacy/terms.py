"""The privacy terms of a plan, and the cost of each round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from fedrec.errors import PlanError
from fedrec.privacy.accounting import Charge, Epsilons, epsilons, noise_for

__all__ = ["Privacy", "schedule", "total_cost"]

_SLACK = 1.0 + 1e-6


class Privacy(BaseModel):
    """User-level differential privacy of a run: adding or removing one user changes the odds of any released result
    by at most a factor e^ε, except with probability δ.

    Args:
        epsilon: maximum ε for the observer in `view`: smaller values protect users more and need more noise. Without a
            `noise_multiplier` the smallest noise that keeps ε is used.
        delta: δ, the probability that a user's privacy loss is larger than `epsilon`; a tenth of 1 / users or less.
        clip: maximum norm of what one client adds to a sum, for models with a free choice of the clip.
        unit: the protected unit, which is all interactions of one user at one node.
        sampling: `poisson` claims that an observer of released models does not know which clients took part in a round;
            needs a `cohort` below 1. `none` makes no such claim.
        participations: maximum number of rounds that one client takes part in; `None` for all.
        noise: who adds the noise. `central`: the coordinator, which then sees exact sums. `distributed`: every node
            adds a share before it masks its sum, so that nobody sees an exact sum; needs secure aggregation.
        users: public upper estimate of the number of users; without it the number of users in the data counts as
            public.
        max_cohort: maximum number of clients of a node in a round; clients beyond it are dropped at random. Models that
            keep state of a client between rounds, such as `mf`, allow it with `participations: 1` only.
        view: observer whose ε is limited: `cohort`, who sees which clients took part and all sums with noise, or
            `release`, who sees the released model only.
        noise_multiplier: standard deviation of the noise for the budget of the whole run, as a multiple of the clip;
            filled in by the first run.

    Raises:
        PlanError: if the terms contradict each other.
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

    @model_validator(mode="before")
    @classmethod
    def _both(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or ("epsilon" in value) == ("delta" in value):
            return value
        if "epsilon" not in value:
            raise PlanError(
                "privacy.epsilon is missing: add --epsilon, or epsilon to the plan's privacy, such as 4: the maximum "
                "privacy loss of a user"
            )
        users = value.get("users")
        users = users if type(users) is int and users > 0 else 100_000
        raise PlanError(
            "privacy.delta is missing: add --delta, or delta to the plan's privacy: the probability that a user's "
            f"privacy loss is larger than epsilon. A good value is a tenth of 1 / users or less: "
            f"{0.1 / users:.1g} for {users:,} users"
        )

    @model_validator(mode="after")
    def _check(self) -> Privacy:
        if self.users is not None and self.delta * self.users >= 1.0:
            raise PlanError(
                f"privacy.delta: {self.delta:g} is too large for {self.users} users, as one of them may be fully "
                f"exposed; set at most {0.1 / self.users:.1g}, a tenth of 1 / users"
            )
        if self.max_cohort is not None and (self.users is None or self.sampling == "none"):
            raise PlanError("privacy: max_cohort needs sampling: poisson and users; set both, or remove max_cohort")
        return self

    @property
    def distributed(self) -> bool:
        """Whether the nodes add the noise."""
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
            shares: share of the budget of each round.
            share: probability of a client to be drawn.

        Raises:
            PlanError: if the given noise multiplier does not keep `epsilon`.
        """
        if self.noise_multiplier is None:
            sampling = share if self.sampling == "poisson" and self.view == "release" else None
            noise = noise_for(
                self.epsilon,
                self.delta,
                len(shares),
                sampling=sampling,
                truncated=self.truncated(),
                participations=self.participations,
                shares=None if sampling is not None and self.participations is None else shares,
            )
            return self.model_copy(update={"noise_multiplier": noise})
        cost = getattr(total_cost(self, shares, share), self.view)
        if cost > self.epsilon * _SLACK:
            raise PlanError(
                f"privacy: noise_multiplier {self.noise_multiplier:g} costs epsilon {cost:.4g} over {len(shares)} "
                f"rounds at delta {self.delta:g}, more than the plan's {self.epsilon:g}. Remove noise_multiplier, or "
                "raise it"
            )
        return self


def schedule(terms: Privacy, shares: Sequence[float], share: float) -> tuple[Charge, ...]:
    """The charge of each round: a Gaussian with noise multiplier z / √(share of the budget).

    Raises:
        PlanError: if the terms have no noise multiplier yet.
    """
    if terms.noise_multiplier is None:
        raise PlanError("privacy: noise_multiplier is missing; resolve the plan for its data first")
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
