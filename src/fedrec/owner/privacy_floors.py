"""The least privacy that an owner insists on, and what plans that give less are told."""

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
    """The least privacy that the owner insists on for users.

    Args:
        required: only plans that promise user-level differential privacy.
        distributed: in private plans, only noise that nodes add before they mask their sums, so that the coordinator
            sees no exact sum.
        epsilon: the most that users may lose over all runs, at `delta`.
        delta: chance of a worse loss; well below 1 / users.
        max_run_epsilon: the most that users may lose in one run, at `delta`.
        min_noise_multiplier: least noise of a round per unit of clip.
        max_clip: largest bound on what one user adds.
        min_cohort: fewest clients that a plan expects in a round; of every plan, private or not.
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
            raise PlanError("privacy.delta: an epsilon means nothing without a delta; set one well below 1 / users")
        if self.epsilon is None and self.max_clip is not None:
            raise PlanError(
                "privacy.max_clip: the budget holds every round to it, and there is none; set privacy.epsilon"
            )
        if self.required and self.epsilon is None and self.max_run_epsilon is None:
            raise PlanError(
                "privacy.required: any epsilon would do, which protects nobody; set privacy.epsilon or "
                "privacy.max_run_epsilon, with privacy.delta"
            )
        if self.epsilon is not None and self.max_run_epsilon is not None and self.max_run_epsilon > self.epsilon:
            raise PlanError(
                f"privacy.max_run_epsilon: {self.max_run_epsilon:g} of one run is more than privacy.epsilon, "
                f"{self.epsilon:g} of all"
            )
        return self

    @property
    def limits(self) -> Limits | None:
        """What the budget keeps to; `None` without an epsilon over all runs."""
        if self.epsilon is None or self.delta is None:
            return None
        return Limits(self.epsilon, self.delta, self.min_noise_multiplier, self.max_clip)


def expected_clients(plan: Plan) -> float | None:
    """How many clients a round of the plan has by what it says of itself; `None` if it does not say.

    >>> data, model = {"source": "clicks.csv"}, {"name": "ease"}
    >>> expected_clients(Plan.make({"data": data, "model": model, "cohort": 0.1, "n_max": 2000}))
    200.0
    """
    if plan.cohort > 1:
        return plan.cohort
    users = plan.n_max if plan.privacy is None or plan.privacy.users is None else plan.privacy.users
    return None if users is None else plan.cohort * users


def privacy_refusals(floors: PrivacyFloors, node: str, plan: Plan, budget: Budget | None) -> list[str]:
    """Every reason why an owner's floors do not allow a plan.

    Args:
        floors: the owner's.
        node: its name, under which the journal keeps its charges.
        plan: what is asked.
        budget: the journal; `None` for a run that has its reservation in it already.
    """
    found: list[str] = []
    if floors.min_cohort is not None:
        expected = expected_clients(plan)
        if expected is None or expected < floors.min_cohort:
            said = "does not say how many clients there may be" if expected is None else f"expects {expected:g} of them"
            found.append(
                f"privacy.min_cohort: a round must have {floors.min_cohort} clients, and the plan {said}. Set n_max "
                "and a larger cohort, or the owner lowers privacy.min_cohort"
            )
    private = plan.private()
    if private is None:
        if floors.required:
            found.append(
                "privacy.required: the plan promises no privacy to users, and its sums are exact. Set privacy.epsilon "
                "and privacy.delta in the plan, or the owner sets privacy.required = false"
            )
        return found
    terms, model = private
    if floors.distributed and not terms.distributed:
        found.append(
            "privacy.distributed: with noise: central the coordinator sees sums without noise. Ask for noise: "
            "distributed and the secure sum, or the owner sets privacy.distributed = false"
        )
    try:
        charges = plan.with_noise().charges()
    except PlanError as error:
        return [*found, str(error)]
    if floors.max_clip is not None and model.clip > floors.max_clip:
        found.append(
            f"privacy.max_clip: the plan lets one user add {model.clip:g}; the largest is {floors.max_clip:g}. Ask for "
            "a smaller clip, or the owner raises privacy.max_clip"
        )
    least = min(charge.effective for charge in charges)
    if floors.min_noise_multiplier is not None and least < floors.min_noise_multiplier:
        found.append(
            f"privacy.min_noise_multiplier: a round has noise of {least:.4g} per unit of clip; the least is "
            f"{floors.min_noise_multiplier:g}. Ask for a smaller epsilon or fewer rounds, or the owner lowers "
            "privacy.min_noise_multiplier"
        )
    return [*found, *_losses(floors, node, terms, charges, budget)]


def _losses(
    floors: PrivacyFloors, node: str, terms: Privacy, charges: Sequence[Charge], budget: Budget | None
) -> list[str]:
    """Epsilon of the run, and of all runs with it, at the owner's delta."""
    found: list[str] = []
    if floors.max_run_epsilon is not None and floors.delta is not None:
        cost = cohort_epsilon(charges, floors.delta, terms.participations)
        if cost > floors.max_run_epsilon * _SLACK:
            found.append(
                f"privacy.max_run_epsilon: users would lose epsilon {cost:.4g} at delta {floors.delta:g} in this run; "
                f"the most is {floors.max_run_epsilon:g}. Ask for a smaller epsilon, or the owner raises "
                "privacy.max_run_epsilon"
            )
    limits = floors.limits
    if limits is not None:
        journal = Budget(None, limits) if budget is None else budget
        dearest = sorted(charge.effective for charge in charges)[: terms.participations]
        after = journal.epsilon(node, sum(1.0 / noise**2 for noise in dearest))
        if after > limits.epsilon * _SLACK:
            found.append(
                f"privacy.epsilon: with this run users would have lost epsilon {after:.4g} at delta {limits.delta:g} "
                f"over all runs; the budget is {limits.epsilon:g}, of which {journal.epsilon(node):.4g} is "
                "spent. Ask for a smaller epsilon, or the owner raises the budget"
            )
    return found
