"""Whether a plan tells the values of interactions apart."""

from __future__ import annotations

from collections.abc import Iterable

from fedrec.data.interactions import Interactions
from fedrec.data.judging import remark_on_values
from fedrec.federation.plan import Plan

__all__ = ["values_remark"]


def values_remark(plans: Iterable[Plan], data: Interactions) -> str | None:
    """What to say once of plans for the same data, of which one takes every interaction as liked although values differ
    and nobody said which count; `None` if there is nothing to say.

    A plan says it with `rating_at_least` or `rating_at_most`, uses values as `weights`, or has a model that reads
    ratings itself.
    """
    return remark_on_values(data) if any(_takes_all_alike(plan) for plan in plans) else None


def _takes_all_alike(plan: Plan) -> bool:
    if plan.data.cleaning.judges or plan.weights is not None:
        return False
    return not plan.build_model().traits.reads_ratings
