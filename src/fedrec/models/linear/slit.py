"""SLIT: what comes next, from a history that fades on several scales, in closed form.

Session-aware linear item transitions are of Choi et al. 2021 ("Session-aware linear item-item models for session-based
recommendation", WWW; SLIT is that half of SLIST in which everything that comes later is a target), weights of the past
that fade with time, and the next item alone as target, of Park et al. 2025 ("Temporal linear item-item model for
sequential recommendation", WSDM; TALE). Here several scales of fading are stacked in one ridge regression, and its sums
are pairs of items of one user, so that each user adds them in one round without forming a prefix.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError, PlanError
from fedrec.kernels.item_pairs import faded_weights
from fedrec.kernels.scoring import sum_rows
from fedrec.kernels.splitting import kept_offsets
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, Recommender, State, of_items
from fedrec.models.linear.prefixes import (
    Reduced,
    reduced_form,
    reduced_memory,
    reduced_scores,
    reduced_similarity,
)
from fedrec.models.linear.private_gram import pass_query
from fedrec.models.linear.private_prefixes import (
    directions,
    joint,
    joint_query,
    joint_spec,
    solved,
    unit_sketch,
    unit_sketch_spec,
)
from fedrec.models.linear.private_sketch import pass_forms, sharpened
from fedrec.models.linear.sketch import Sketched, basis_table, draw_signs, sketch_memory
from fedrec.models.linear.transitions import Scales, solve
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["SLIT", "PrivateSLIT"]

_FAINT = np.float32(1e-4)

Decay = Annotated[float, Field(ge=0.0, lt=1.0)]


class SLIT(Recommender):
    """score(u) = p B, with p the user's items, each weighed by how long ago it was, and B = (C + λ)⁻¹ D.

    In p_t^a, the history up to step t on scale a, an item n steps back weighs γ_a^n; p_t stacks the scales. What comes
    next is f_t: the next item weighs 1, the one after it δ, then δ², … One round sums C = Σ_u w_u Σ_t p_t p_tᵀ and
    D = Σ_u w_u Σ_t p_t f_tᵀ over users and steps; B is what a ridge regression on the pooled steps gives.

    Args:
        decays: γ_a in ascending order: a small one reads the last few items, one near 1 reads a long history.
        future: δ; 0 takes the next item alone as what comes next.
        reg: λ of every scale, in mean diagonal entries of C at that scale.
        alpha: users of T items weigh w_u = (T − 1)^−alpha; 0 counts every step equally.
        unit: what a step is: `steps` from one item to the next, or `days` where a step counts as the days that passed,
            and as one at least.
        rank: columns of a basis in which p_t is summed, for large catalogs; `None` sums all pairs of items.
        passes: rounds that find the basis, before the one that sums in it. Unused without a rank.

    Memory at the coordinator: about 64 bytes × items² for two scales, or 48 bytes × items × rank.
    """

    decays: tuple[Decay, ...] = Field(default=(0.5, 0.95), min_length=1, max_length=4)
    future: float = Field(default=0.5, ge=0.0, lt=1.0)
    reg: PositiveFloat = 1.0
    alpha: float = Field(default=0.0, ge=0.0, le=2.0)
    unit: Literal["steps", "days"] = "steps"
    rank: PositiveInt | None = None
    passes: PositiveInt = 2

    name: ClassVar[str] = "slit"
    traits: ClassVar[Traits] = Traits(
        reads=frozenset({"items", "order", "times", "repeats"}),
        additive=True,
        sums_by=frozenset({"decays", "future", "alpha", "unit"}),
    )

    @field_validator("decays", mode="before")
    @classmethod
    def _one_is_enough(cls, decays: Any) -> Any:
        return (decays,) if isinstance(decays, (int, float)) else decays

    @field_validator("decays")
    @classmethod
    def _ascending(cls, decays: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(decays)):
            raise ValueError(f"decays must ascend, each one above the one before it, not {list(decays)}")
        return decays

    @property
    def rounds(self) -> int:
        """One; with a rank, the passes and one more."""
        return 1 if self.rank is None else self.passes + 1

    def shapes(self, n_items: int) -> Shapes:
        """Nothing, then weights of all scales, one below the other; with a rank, tables, then two factors."""
        if self.rank is not None:
            return Shapes((Form({"table": Shape((n_items, "rank"))}), reduced_form(n_items)))
        first = Form({"weights": Shape((n_items, 0))})
        return Shapes((first, Form({"weights": Shape((len(self.decays) * n_items, n_items))})))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """No weights yet; random signs for a basis."""
        if self.rank is not None:
            return State({"table": draw_signs(rng, len(catalog), self.rank).astype(np.float32)})
        return State({"weights": np.zeros((len(catalog), 0), dtype=np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Pairs of items, once; or sketches of the longest scale, then sums in the basis."""
        if round >= self.rounds:
            return None
        if self.rank is None:
            return self._scales.spec(len(shared["weights"]))
        table = shared["table"]
        return self._reduced.sketch_spec(table, round == 0) if round < self.passes else self._reduced.spec(table)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """w_u Σ_t p_t p_tᵀ and w_u Σ_t p_t f_tᵀ.

        Raises:
            InputError: if the unit is days, and the data has no times.
        """
        self._check(clients)
        if self.rank is None:
            return self._scales.contributions(clients, self.alpha), None
        table = given.shared["table"]
        sums = self._reduced.sketch if given.round < self.passes else self._reduced.contributions
        return sums(clients, table), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Solve for B; or sharpen the basis, and at last solve in it."""
        if self.rank is None:
            return State({"weights": solve(total, len(state.shared["weights"]), len(self.decays), self.reg)})
        table = state.shared["table"]
        if round < self.passes:
            return State({"table": basis_table(Sketched.of(table, total))})
        return State(self._reduced.solve(table, total, self.reg))

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """p B: the sum of the rows of B at the client's items, on every scale, times what is left of their weights."""
        self._check(clients)
        if "projection" in given.shared:
            return of_items(reduced_scores(given.shared, self._scales, clients), items)
        scores = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        for scale, decay in enumerate(self.decays):
            table = given.shared["weights"][scale * clients.n_items : (scale + 1) * clients.n_items]
            weights = np.empty(len(clients.items), dtype=np.float32)
            faded_weights(clients.indptr, self._scales.fades(clients, decay), weights)
            keep, indptr = weights >= _FAINT, np.empty_like(clients.indptr)
            kept_offsets(clients.indptr, keep, indptr)
            sum_rows(indptr, clients.items[keep], weights[keep], table, scores)
        return of_items(scores, items)

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """What comes after an item: the scores of a history that has this item alone."""
        if "projection" in given.shared:
            return reduced_similarity(given.shared, items)
        weights = given.shared["weights"]
        by_scale = weights.reshape(len(self.decays), -1, weights.shape[1])
        out: np.ndarray = by_scale[:, items].sum(axis=0, dtype=np.float32)
        return out

    def cost(self, n_items: int) -> Cost:
        """Sums of pairs of two nodes, a square matrix over all scales, and the weights; fades per row and scale. With a
        rank, tables of the basis, and per client the triangle of its pasts."""
        scales = len(self.decays)
        if self.rank is not None:
            width = scales * min(self.rank, n_items)
            memory = reduced_memory(n_items, self.rank, scales)
            return Cost(memory=memory, per_interaction=3 * width, per_client=triangle_size(width))
        memory = (8 * scales * scales + 16 * scales) * n_items * n_items
        return Cost(memory=memory, per_interaction=2 * (scales + scales * (scales + 1) // 2) + 8)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """The regression in directions that stand out of noisy passes, see `PrivateSLIT`.

        Raises:
            PlanError: with an alpha other than 1.
        """
        if "alpha" in self.model_fields_set and self.alpha != 1.0:
            raise PlanError(
                "slit under privacy: users of T items weigh 1 / (T − 1), which is alpha = 1; leave out alpha"
            )
        return PrivateSLIT.of(self, terms)

    @property
    def _reduced(self) -> Reduced:
        return Reduced(self._scales, self.alpha)

    @property
    def _scales(self) -> Scales:
        return Scales(self.decays, self.future, self.unit == "days")

    def _check(self, clients: Clients) -> None:
        if self.unit == "days" and clients.times is None:
            raise InputError("slit with unit: days needs the times of interactions, and the data has none; take steps")


class PrivateSLIT(PrivateRecommender, SLIT):
    """Transitions in directions that stand out of noisy passes; see `fedrec.models.linear.private_prefixes`.

    The clip is the norm of a client's part, 1 by default.

    Args:
        alpha: 1, as users weigh 1 / (T − 1).
        rank: width of the first sketch; small, because noise grows with it.
        passes: rounds that look for directions, before the one that sums in them.
        reg: λ, in mean diagonal entries of the pasts in these directions.
    """

    alpha: float = Field(default=1.0, ge=0.0, le=2.0)
    rank: PositiveInt | None = 64

    default_clip: ClassVar[float] = 1.0

    @property
    def rounds(self) -> int:
        """The passes and one more."""
        return self.passes + 1

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Nine tenths for the passes, two fifths of it for the first of two: the regression is of few numbers."""
        passes = (0.36, 0.54) if self.passes == 2 else (0.9 / self.passes,) * self.passes
        return (*passes, 0.1)

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """The first sketch, passes, then pasts and what comes next."""
        if round == self.passes:
            return (joint_query(self.clip),)
        return (Query({"sketch": PLAIN}, self.clip) if round == 0 else pass_query(self.clip),)

    def shapes(self, n_items: int) -> Shapes:
        """Sketches, directions, at last two factors."""
        directions = Form({"table": Shape((n_items, "directions"))})
        return Shapes((*pass_forms(n_items, self.passes), directions, reduced_form(n_items)))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random signs over √rank."""
        signs = draw_signs(rng, len(catalog), self._width)
        return State({"table": (signs / np.sqrt(signs.shape[1])).astype(np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """A sketch in every pass, then the regression."""
        if round >= self.rounds:
            return None
        table = shared["table"]
        return joint_spec(table, len(self.decays)) if round == self.passes else unit_sketch_spec(table)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """p̂ ⊗ Tᵀp̂, then z zᵀ and z gᵀ, over T − 1.

        Raises:
            InputError: if the unit is days, and the data has no times.
        """
        self._check(clients)
        sums = joint if given.round == self.passes else unit_sketch
        return sums(self._scales, clients, given.shared["table"]), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """The directions of the next round, or the regression after the last."""
        if round == self.passes:
            return State(solved(self._scales, state.shared["table"], total, self.reg))
        found = sharpened(state, total, round, self.passes)
        if isinstance(found, State):
            return found
        table = directions(found.factors, total.noise["sketch"], total.clients)
        return State({"table": table.astype(np.float32)})

    def cost(self, n_items: int) -> Cost:
        """Sums and tables of passes; per client the triangle over pasts and what comes next."""
        width = min(self._width, n_items) * (len(self.decays) + 1)
        memory = sketch_memory(n_items, self._width) + 64 * width * width
        return Cost(memory=memory, per_interaction=2 * width, per_client=2 * triangle_size(width))

    @property
    def _width(self) -> int:
        return 64 if self.rank is None else self.rank
