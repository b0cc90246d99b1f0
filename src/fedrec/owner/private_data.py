"""Which cleaning of an owner's data is allowed, so that the plan's privacy and the owner's rules hold."""

from __future__ import annotations

import logging

from fedrec.data.cleaning import Cleaning
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.plan import Plan
from fedrec.owner.config import NodeConfig

__all__ = ["TOO_FEW_USERS", "agreed_cleanings", "check_users", "cleaning_refusals", "hides_sums"]

_LOG = logging.getLogger("fedrec.node")
_AGREED = {"shrink_catalog": False, "drop_missing": True}
"""Settings that every node uses whatever a plan says, as the catalog is agreed."""
_MERGING = ("sum", "count", "max")
"""Rules for repeats that exclude each other."""
TOO_FEW_USERS = "so its sums cannot leave unmasked"
"""Part of the error for too few users, by which the audit recognises it."""


def cleaning_refusals(config: NodeConfig, plan: Plan) -> list[str]:
    """Every reason why the node does not clean its data as the plan and the owner request together.

    A clip bounds what one user changes only if no user's history depends on other users. And a coordinator that may
    choose the cleaning chooses which users are left, and can so find out how many users of each kind there are.
    """
    reasons: list[str] = []
    own, requested, policy = config.data.cleaning, plan.data.cleaning, config.policy
    if plan.privacy is not None and own.across_users:
        reasons.append(
            f"data.cleaning: this node's own cleaning ({', '.join(own.across_users)}) makes the rows of one user "
            "depend on other users, so one user could change the sums by more than the clip. The owner removes it from "
            "node.toml; min_user_interactions and rating_at_least are allowed"
        )
    held = plan.privacy is not None or policy.cleaning is not None
    allowed = [Cleaning(), policy.cleaning or Cleaning()]
    if held and plan.digest not in policy.plans and _agreed(requested) not in map(_agreed, allowed):
        reasons.append(
            f"policy.cleaning: the plan requests the cleaning {_in_words(requested)}, which the owner does not allow. "
            "Remove data.cleaning from the plan, or the owner sets the same cleaning as policy.cleaning"
        )
    if {own.repeats, requested.repeats} <= set(_MERGING) and own.repeats != requested.repeats:
        reasons.append(
            f"data.cleaning: the plan has repeats = {requested.repeats}, node.toml has repeats = {own.repeats}, and "
            "repeats can be merged only once. Remove repeats from the plan or from node.toml"
        )
    return reasons


def agreed_cleanings(own: Cleaning, requested: Cleaning) -> tuple[Cleaning, Cleaning]:
    """The owner's cleaning, and the plan's cleaning that follows. Repeats are merged once, in the owner's cleaning, by
    the rule of the owner or, if the owner has no rule, of the plan.

    >>> own, requested = agreed_cleanings(Cleaning(), Cleaning(repeats="sum"))
    >>> own.repeats, requested.repeats
    ('sum', 'latest')
    """
    if own.repeats == "latest" and requested.repeats in _MERGING:
        own = own.model_copy(update={"repeats": requested.repeats})
    if own.repeats != "keep":
        requested = requested.model_copy(update={"repeats": "latest"})
    return own.model_copy(update={"shrink_catalog": False}), requested.model_copy(update=_AGREED)


def hides_sums(plan: Plan) -> bool:
    """Whether noise hides all sums of the plan, so that nothing else may reveal exact numbers about users either."""
    return plan.privacy is not None and plan.privacy.distributed


def check_users(agreement: Agreement, users: int, minimum: int, declared: int) -> None:
    """Check the number of users that remain under the plan's catalog and cleaning.

    If noise hides the sums, refusals must not reveal exact numbers to a coordinator that tries many catalogs or
    bounds. Then only the owner's log gets a warning, and 'fedrec node check' compares node.toml with the data.

    Args:
        agreement: the requested plan with its catalog.
        users: number of users that remain.
        minimum: minimum number of users whose sums may leave.
        declared: number of users that the node declares in secure aggregation.

    Raises:
        PlanError: if there are more users than the plan's `n_max`, or fewer than `minimum`.
    """
    plan, n_max = agreement.plan, agreement.n_max
    if hides_sums(plan):
        if users > n_max:
            _LOG.warning("%d users take part, more than the plan's n_max = %d; sums may overflow", users, n_max)
        if users < declared:
            _LOG.warning(
                "%d users take part, fewer than the %d that this node declares; lower policy.declared_min_users",
                users,
                declared,
            )
        return
    if users > n_max:
        raise PlanError(f"the node has more users than the plan's n_max = {n_max}; raise n_max")
    if users < minimum:
        raise PlanError(
            f"with this catalog and cleaning the node has fewer than {minimum} users, {TOO_FEW_USERS}; use secure "
            "aggregation"
        )


def _agreed(cleaning: Cleaning) -> Cleaning:
    """The cleaning with the settings that every node uses, in a form that can be compared."""
    return cleaning.model_copy(update={**_AGREED, "rating_at_least": cleaning.lowest_rating})


def _in_words(cleaning: Cleaning) -> str:
    settings = cleaning.model_dump(exclude_defaults=True, exclude=set(_AGREED))
    return ", ".join(f"{name} {value}" for name, value in settings.items())
