"""What decides whether the parts of a plan go together: the plan, and what its model declares of itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fedrec.aggregation.buffered import Asynchronous
from fedrec.aggregation.robust import Robust
from fedrec.aggregation.specs import SumSpec
from fedrec.data.splits import SplitMethod
from fedrec.data.weights import Weights
from fedrec.federation.data_plan import DataPlan
from fedrec.federation.evaluation_plan import EvaluationPlan
from fedrec.federation.item_floor import ItemFloor
from fedrec.models.base import Recommender
from fedrec.models.outline import first_sum, pooled
from fedrec.privacy.terms import Privacy

__all__ = ["Case"]


@dataclass(frozen=True, eq=False)
class Case:
    """A plan as its rules see it; see `fedrec.federation.plan.Plan` for what is not explained here.

    Args:
        model: the plan's, in its private form where the plan has privacy.
        settings: hyperparameters that the plan names.
        share: probability of a client to be drawn for a round.
        leaky: whether training is told about held-out items.
    """

    model: Recommender
    settings: frozenset[str]
    data: DataPlan
    split: str
    weights: Weights | None
    cohort: float
    share: float
    leaky: bool
    items: ItemFloor | None
    rows: float
    robust: Robust | None
    privacy: Privacy | None
    asynchronous: Asynchronous | None
    evaluation: EvaluationPlan
    refit: bool
    warm_start: object | None
    transfer: object | None
    keep_sums: bool
    down: str

    @cached_property
    def first(self) -> SumSpec:
        """What round 0 sums, for a small catalog."""
        return first_sum(self.model)

    @cached_property
    def pooled(self) -> tuple[str, ...]:
        """What nodes sum for all of their clients together."""
        return pooled(self.model)

    @property
    def cut_by_data(self) -> bool:
        """Whether the split is cut at a time that all data together decide."""
        method = SplitMethod.parse(self.split)
        return method.name == "temporal" and method.cuts is None
