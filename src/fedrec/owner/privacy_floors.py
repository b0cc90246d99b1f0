"""The minimum privacy that an owner requires, and the reasons against plans that give less."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedrec.errors import PlanError
from fedrec.federation.plan import Plan
from fedrec.privacy.accounting import Charge, cohort_epsilon
from fedrec.privacy.budget import Budget, Limits
from fedrec.privacy.terms import Privacy

__all__ = ["PrivacyFloors", "expected_clients", "privacy_refusals"]

_SLACK = 1.0 + 1e-6


class PrivacyFloors(BaseModel):
    """The minimum privacy that the owner requires for users.

    Args:
        required: allow only plans that promise user-level differential privacy.
        distributed: in plans with privacy, the nodes must add the noise before they mask their sums, so that the
            coordinator sees no exact sum.
        epsilon: maximum privacy loss of a user over all runs, at `delta`.
        delta: probability of a larger loss; well below 1 / users.
        max_run_epsilon: maximum privacy loss of a user in one run, at `delta`.
        min_noise_multiplier: minimum noise of a round, as a multiple of the clip.
        max_clip: maximum clip, which bounds what one user adds to a sum.
        min_cohort: minimum number of clients that a plan expects in a round; for plans with and without privacy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    required: bool = False
    distributed: bool = False
    epsilon: float | None = Field(default=None, gt=0)
    delta: float | None = Field(default=None, gt=0, lt=1)
    max_run_epsilon: float | None = Field(default=None, gt=0)
    min_noise_multiplier: float | None = Field(default=None, gt=0)
    max_clip: float | None = Field(default=None, gt=0)
    min_cohort: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _check(self) -> PrivacyFloors:
        if self.delta is None and (self.epsilon is not None or self.max_run_epsilon is not None):
            raise PlanError("privacy.delta: epsilon needs a delta; set delta well below 1 / users")
        if self.epsilon is None and self.max_clip is not None:
            raise PlanError("privacy.max_clip: this key is part of the privacy budget; set privacy.epsilon too")
        if self.required and self.epsilon is None and self.max_run_epsilon is None:
            raise PlanError(
                "privacy.required: without a maximum epsilon plans with any epsilon are allowed, which protects "
                "nobody; set privacy.epsilon or privacy.max_run_epsilon, with privacy.delta"
            )
        if self.epsilon is not None and self.max_run_epsilon is not None and self.max_run_epsilon > self.epsilon:
            raise PlanError(
                f"privacy.max_run_epsilon: {self.max_run_epsilon:g} for one run is more than privacy.epsilon, "
                f"{self.epsilon:g} for all runs; lower max_run_epsilon"
            )
        return self

    @property
    def limits(self) -> Limits | None:
        """Limits of the privacy budget; `None` if `epsilon` or `delta` is not set."""
        if self.epsilon is None or self.delta is None:
            return None
        return Limits(self.epsilon, self.delta, self.min_noise_multiplier, self.max_clip)


def expected_clients(plan: Plan) -> float | None:
    """Expected number of clients in a round, from the plan alone; `None` if the plan does not determine it.

    >>> data, model = {"source": "clicks.csv"}, {"name": "ease"}
    >>> expected_clients(Plan.make({"data": data, "model": model, "cohort": 0.1, "n_max": 2000}))
    200.0
    """
    if plan.cohort > 1:
        return plan.cohort
    users = plan.n_max if plan.privacy is None or plan.privacy.users is None else plan.privacy.users
    return None if users is None else plan.cohort * users


def privacy_refusals(floors: PrivacyFloors, node: str, plan: Plan, budget: Budget | None) -> list[str]:
    """Every reason why the owner's privacy rules do not allow a plan.

    Args:
        floors: the owner's rules.
        node: name of the node in the journal.
        plan: the requested plan.
        budget: the journal of privacy charges; `None` for a run whose reservation is in the journal already.
    """
    reasons: list[str] = []
    if floors.min_cohort is not None:
        expected = expected_clients(plan)
        if expected is None or expected < floors.min_cohort:
            size = "has no n_max to tell the number from" if expected is None else f"expects {expected:g}"
            reasons.append(
                f"privacy.min_cohort: a round must have at least {floors.min_cohort} clients, and the plan {size}. Set "
                "n_max and a larger cohort, or the owner lowers privacy.min_cohort"
            )
    private = plan.private()
    if private is None:
        if floors.required:
            reasons.append(
                "privacy.required: the plan has no privacy, so its sums are exact. Set privacy.epsilon and "
                "privacy.delta in the plan, or the owner sets privacy.required = false"
            )
        return reasons
    terms, model = private
    if floors.distributed and not terms.distributed:
        reasons.append(
            "privacy.distributed: with noise: central the coordinator sees sums without noise. Use noise: distributed "
            "and secure aggregation, or the owner sets privacy.distributed = false"
        )
    try:
        charges = plan.with_noise().charges()
    except PlanError as error:
        return [*reasons, str(error)]
    if floors.max_clip is not None and model.clip > floors.max_clip:
        reasons.append(
            f"privacy.max_clip: the plan has a clip of {model.clip:g}, and the maximum is {floors.max_clip:g}. Use a "
            "smaller clip, or the owner raises privacy.max_clip"
        )
    noise = min(charge.effective for charge in charges)
    if floors.min_noise_multiplier is not None and noise < floors.min_noise_multiplier:
        reasons.append(
            f"privacy.min_noise_multiplier: a round has noise of {noise:.4g} times the clip, and the minimum is "
            f"{floors.min_noise_multiplier:g}. Use a smaller epsilon or fewer rounds, or the owner lowers "
            "privacy.min_noise_multiplier"
        )
    return [*reasons, *_losses(floors, node, terms, charges, budget)]


def _losses(
    floors: PrivacyFloors, node: str, terms: Privacy, charges: Sequence[Charge], budget: Budget | None
) -> list[str]:
    """Reasons about the epsilon of this run, and of all runs including this one, at the owner's delta."""
    reasons: list[str] = []
    if floors.max_run_epsilon is not None and floors.delta is not None:
        cost = cohort_epsilon(charges, floors.delta, terms.participations)
        if cost > floors.max_run_epsilon * _SLACK:
            reasons.append(
                f"privacy.max_run_epsilon: this run costs epsilon {cost:.4g} at delta {floors.delta:g}, and the "
                f"maximum is {floors.max_run_epsilon:g}. Use a smaller epsilon, or the owner raises "
                "privacy.max_run_epsilon"
            )
    limits = floors.limits
    if limits is not None:
        journal = Budget(None, limits) if budget is None else budget
        dearest = sorted(charge.effective for charge in charges)[: terms.participations]
        after = journal.epsilon(node, sum(1.0 / noise**2 for noise in dearest))
        if after > limits.epsilon * _SLACK:
            reasons.append(
                f"privacy.epsilon: with this run all runs cost epsilon {after:.4g} at delta {limits.delta:g}. The "
                f"budget is {limits.epsilon:g}, of which {journal.epsilon(node):.4g} is spent. Use a smaller epsilon, "
                "or the owner raises the budget"
            )
    return reasons
