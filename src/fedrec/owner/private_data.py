"""What may be done to an owner's data before it is summed, so that a plan's promise and an owner's floors hold."""

from __future__ import annotations

import logging

from fedrec.data.cleaning import Cleaning
from fedrec.errors import PlanError
from fedrec.federation.agreement import Agreement
from fedrec.federation.plan import Plan
from fedrec.owner.config import NodeConfig

__all__ = ["agreed_cleanings", "check_users", "cleaning_refusals", "hides_sums"]

_LOG = logging.getLogger("fedrec.node")
_AGREED = {"shrink_catalog": False, "drop_missing": True}
"""What a node does whatever a plan says, as the catalog is agreed on."""
_MERGING = ("sum", "count", "max")
"""Rules for repeats of which one alone can be carried out."""


def cleaning_refusals(config: NodeConfig, plan: Plan) -> list[str]:
    """Every reason why a plan's cleaning, or the owner's own beside it, is not done to the owner's data.

    A clip bounds what one user changes only while nobody's history depends on other users. And whoever chooses how data
    are cleaned chooses which users are left: a coordinator that may choose asks how many there are of each kind.
    """
    found: list[str] = []
    own, asked, policy = config.data.cleaning, plan.data.cleaning, config.policy
    if plan.privacy is not None and own.across_users:
        found.append(
            f"data.cleaning: this node's own cleaning ({', '.join(own.across_users)}) looks across users, so that one "
            "user's absence would change other users' histories, and move the sums by more than the clip. The owner "
            "takes it out of node.toml; min_user_interactions and rating_at_least look at one user alone"
        )
    held = plan.privacy is not None or policy.cleaning is not None
    allowed = [Cleaning(), policy.cleaning or Cleaning()]
    if held and plan.digest not in policy.plans and _agreed(asked) not in map(_agreed, allowed):
        found.append(
            f"policy.cleaning: the plan cleans this node's data by {_said(asked)}, and who chooses that chooses whose "
            "histories count. Ask without data.cleaning, or the owner names the same cleaning as policy.cleaning"
        )
    if {own.repeats, asked.repeats} <= set(_MERGING) and own.repeats != asked.repeats:
        found.append(
            f"data.cleaning: the plan says repeats = {asked.repeats} and this node's owner repeats = {own.repeats}, "
            "and repeats can be merged only once. Take it out of the plan or of node.toml"
        )
    return found


def agreed_cleanings(own: Cleaning, asked: Cleaning) -> tuple[Cleaning, Cleaning]:
    """The owner's cleaning and the plan's after it. Repeats are merged once: in the owner's, by the rule of whoever
    says one.

    >>> own, asked = agreed_cleanings(Cleaning(), Cleaning(repeats="sum"))
    >>> own.repeats, asked.repeats
    ('sum', 'latest')
    """
    if own.repeats == "latest" and asked.repeats in _MERGING:
        own = own.model_copy(update={"repeats": asked.repeats})
    if own.repeats != "keep":
        asked = asked.model_copy(update={"repeats": "latest"})
    return own.model_copy(update={"shrink_catalog": False}), asked.model_copy(update=_AGREED)


def hides_sums(plan: Plan) -> bool:
    """Whether all that leaves hides in noise, so that nothing exact may be told of users by other ways either."""
    return plan.privacy is not None and plan.privacy.distributed


def check_users(agreement: Agreement, users: int, least: int, vouched: int) -> None:
    """Check how many users there are under the plan's catalog and cleaning.

    Where sums hide in noise, whoever asked with many catalogs or bounds would be told exact numbers by what is refused:
    there the owner's log alone is told, and 'fedrec node check' compares the owner's numbers with the owner's data.

    Raises:
        PlanError: if there are more than the plan says, or too few for their sums to leave.
    """
    plan, n_max = agreement.plan, agreement.n_max
    if hides_sums(plan):
        if users > n_max or users < vouched:
            _LOG.warning(
                "%d users take part; the plan says %d at most, beyond which sums may wrap around, and this node "
                "vouches for %d", users, n_max, vouched
            )  # fmt: skip
        return
    if users > n_max:
        raise PlanError(f"there are more users here than the plan's n_max = {n_max}")
    if users < least:
        raise PlanError(
            f"under this catalog and cleaning fewer than {least} users are here, whose sums could not leave unmasked"
        )


def _agreed(cleaning: Cleaning) -> Cleaning:
    """The cleaning with what a node does anyway; that all ratings count needs no doing."""
    return cleaning.model_copy(update={**_AGREED, "rating_at_least": cleaning.lowest_rating})


def _said(cleaning: Cleaning) -> str:
    said = cleaning.model_dump(exclude_defaults=True, exclude=set(_AGREED))
    return ", ".join(f"{name} {value}" for name, value in said.items())
