"""What a coordinator and its nodes agree on, worked out once: the plan, its catalog, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedrec.aggregation.queries import private_spec
from fedrec.aggregation.release import Release
from fedrec.aggregation.specs import SumSpec
from fedrec.data.catalog import Catalog
from fedrec.data.features import feature_matrix, unit_rows
from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource
from fedrec.data.ordering import check_order
from fedrec.data.splits import Split, SplitMethod
from fedrec.errors import PlanError
from fedrec.evaluation.groups import Groups
from fedrec.evaluation.metrics import Metric, parse_metrics
from fedrec.evaluation.protocols import Protocol, parse_protocol
from fedrec.federation.partial_rows import drawn_rows
from fedrec.federation.plan import Plan
from fedrec.models.base import Arrays, PrivateRecommender, Recommender, State
from fedrec.models.blend import in_batches
from fedrec.models.factors.following import FollowsFactors
from fedrec.models.outline import read_in_order
from fedrec.privacy.accounting import Charge

__all__ = ["Agreement"]


@dataclass(frozen=True, eq=False)
class Agreement:
    """A resolved plan with its catalog, and all that a training needs of both.

    Args:
        plan: resolved.
        catalog: the agreed items.
        model: the recommender, with the plan's weights and in its private form where the plan has privacy.
        n_max: most clients of a sum.
        share: probability of a client to be drawn for a round.
        release: what happens to contributions before they are summed.
        split: how each node splits its interactions.
        metrics: what is measured; the first one decides.
        protocol: how it is measured.
        groups: of users, that are measured apart too; `None` for none.
        charges: what each round of a private plan costs; empty without privacy.

    Example:
        >>> import fedrec as fr
        >>> data = fr.load_data("synthetic:users=40,items=100,interactions_per_user=10,seed=1")
        >>> plan = Plan.make({"data": {"source": "memory"}, "model": {"name": "ease"}}).resolve(data, "0" * 64)
        >>> agreement = Agreement.of(plan, data.catalog)
        >>> agreement.n_max, agreement.rounds, str(agreement.split)
        (1024, 1, 'leave-last-out')
    """

    plan: Plan
    catalog: Catalog
    model: Recommender
    n_max: int
    share: float
    release: Release
    split: SplitMethod
    metrics: tuple[Metric, ...]
    protocol: Protocol
    groups: Groups | None
    charges: tuple[Charge, ...]

    @classmethod
    def of(cls, plan: Plan, catalog: Catalog) -> Agreement:
        """Work out what follows from a plan and its catalog.

        Raises:
            PlanError: if the plan is not resolved, or was resolved for another catalog or other features of its items.
        """
        if plan.n_max is None:
            raise PlanError("plan: n_max is missing; a plan that was resolved for its data has it")
        plan.check_catalog(catalog)
        return cls(
            plan,
            catalog,
            plan.build_model(),
            plan.n_max,
            plan.share(),
            Release(plan.release),
            SplitMethod.parse(plan.split),
            parse_metrics(plan.evaluation.metrics),
            parse_protocol(plan.evaluation.protocol),
            plan.evaluation.grouping,
            plan.charges(),
        )

    @cached_property
    def public(self) -> Arrays:
        """The arrays that the model makes from the catalog."""
        return self.model.public(self.catalog)

    @cached_property
    def item_vectors(self) -> np.ndarray:
        """What the catalog says of items, as vectors of length 1 [items, width] float64: for intra-list distance.

        Raises:
            InputError: if it says nothing that can be read so.
        """
        return unit_rows(feature_matrix(self.catalog, "auto").astype(np.float64))

    @property
    def transfer_memory(self) -> int:
        """Bytes that the coordinator needs beyond those of the model: the weights or factors of a source, and the
        matrices of a model that is drawn towards them."""
        if self.plan.transfer is None:
            return 0
        model, n_items = self.model, len(self.catalog)
        return 24 * n_items * (model.factor_size if isinstance(model, FollowsFactors) else n_items)

    def start(self) -> State:
        """The state before round 0 of a training from the beginning."""
        return self.model.start(self.catalog, self.public, KeyedSource.from_seed(self.plan.seed).child("start"))

    @property
    def rounds(self) -> int:
        """Most rounds of the training."""
        return len(self.charges) if isinstance(self.model, PrivateRecommender) else self.model.rounds

    def spec(self, shared: Arrays, round: int, excess: float = 1.0) -> SumSpec | None:
        """What a round sums: names, shapes, bounds, grids and rings; `None` when the training is finished.

        Args:
            shared: the shared arrays before the round.
            round: its number.
            excess: of a private plan, how much more noise there may be than the plan's: the deviation of all shares of
                noise together over that which is promised.

        Raises:
            PlanError: if the model sums more rounds than the privacy budget was spread over.
        """
        spec = self.model.spec(shared, round)
        if spec is None:
            return None
        if not isinstance(self.model, PrivateRecommender):
            return self.fitted(spec)
        if round >= len(self.charges):
            raise PlanError(
                f"privacy: round {round} has no share of the budget, which is for {len(self.charges)} rounds"
            )
        queries, multiplier = self.model.queries(shared, round), self.charges[round].noise_multiplier
        return private_spec(self.release.adjust(spec), queries, multiplier, self.n_max, excess)

    def fitted(self, spec: SumSpec) -> SumSpec:
        """A spec of the model with the grid of the release, and rings for `n_max` clients; without room for noise."""
        return self.release.adjust(spec).fit(self.n_max)

    def drawn(self, shared: Arrays, round: int) -> float:
        """Probability of a client to be drawn for a round.

        Where the model names the cohort of its steps, rounds that are no such step ask everybody: counts of items and
        sketches would otherwise be those of one batch. Under privacy the plan's share holds for every round, as charges
        do.
        """
        if self.model.traits.cohort is None or self.share >= 1 or isinstance(self.model, PrivateRecommender):
            return self.share
        spec = self.model.spec(shared, round)
        return self.share if spec is None or in_batches(self.model, spec) else 1.0

    def rows(self, round: int) -> np.ndarray | None:
        """The item rows that a round sums, ascending; `None` for all."""
        if self.plan.rows == 1:
            return None
        return drawn_rows(KeyedSource.from_seed(self.plan.seed), round, len(self.catalog), self.plan.rows)

    def check_order(self, data: Interactions) -> None:
        """Check that the order of interactions is known where it matters to the model.

        Raises:
            PlanError: if it is not known; says what to do.
        """
        if (ordered := read_in_order(self.model)) is not None:
            check_order(data, self.split.by_rows, ordered.what, ordered.otherwise)

    def divided(self, data: Interactions) -> Split:
        """A node's interactions, split as the plan says."""
        return self.split.apply(data, KeyedSource.from_seed(self.plan.seed))
