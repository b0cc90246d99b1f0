"""Spectral graph filtering of degree-normalised interactions (Shen et al. 2021, "How powerful is graph convolution for
recommendation?"; ridge: Steck 2019), from a sketch of the normalised item Gram matrix."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.features import ItemColumns
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, State, of_items
from fedrec.models.cold_items import Boost, ColdItems, boosted_rows
from fedrec.models.linear.counts import count_spec, counted, degree_weights
from fedrec.models.linear.denoising import ridge_arrays
from fedrec.models.linear.hat import hat_factors
from fedrec.models.linear.private_gram import Found, pass_query, pass_spec
from fedrec.models.linear.private_sketch import pass_forms, sharpened
from fedrec.models.linear.recency import NO_DECAY, Decay, Decaying
from fedrec.models.linear.sketch import (
    Sketched,
    basis_table,
    draw_signs,
    leading_spectrum,
    low_rank_arrays,
    low_rank_form,
    low_rank_scores,
    low_rank_similarity,
    sketch_contribution,
    sketch_memory,
    sketch_spec,
)
from fedrec.models.served import with_columns
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["PrivateSpectral", "Spectral"]


class Spectral(ColdItems, Decaying):
    """score = ((x ∘ n_i^−β) B) ∘ n_i^β, where B filters the spectrum of G = Σ_u a_u a_uᵀ, a_u = n_u^−α (x_u ∘ n_i^−β).

    Round 0 sums item counts n_i; each of the `passes` after it sums items × rank numbers. User lengths n_u stay at
    home. Items that nobody has take no part, and score 0 without `item_features`.

    Args:
        rank: number of eigenvectors of G that are kept; more is better on sparse data (Gowalla: 1024 and up).
        passes: passes over the data, a round each; the second sharpens the first, more add little.
        alpha: exponent α: how much less users with long histories count. 0 counts all users equally.
        beta: exponent β: how much less popular items count in G. 0 counts all items as they are.
        filter: `ridge` weighs an eigenvector by Λ / (Λ + λ) and gives B = −P / diag(P), P = (G + λI)⁻¹, a diagonal of
            zero, as EASE does; `low-pass` weighs all that are kept by 1.
        reg: regularisation λ of the ridge filter. A larger value lets only the strongest patterns count; a smaller
            value follows weaker ones too, and noise.
        decay: how much older interactions of the user count in scores: an interaction weighs decay^age; the newest has
            age 0, the one before it age 1. 1 counts all equally; smaller values favour the newest.
        item_features: columns of the catalog, and how each is read, as in `{genres: categories, title: [year, text]}`;
            `auto` takes those whose type says how to read them. With them, items that nobody has are scored by what
            they share with others, as by `ease`; that takes 24 bytes × items² more.
        boost: factor of the scores of items that nobody has, as for `ease`.

    Memory at the coordinator: about 24 bytes × items × rank.
    """

    rank: PositiveInt = 256
    passes: PositiveInt = 2
    alpha: float = Field(default=0.3, ge=0.0, le=2.0)
    beta: float = Field(default=0.5, ge=0.0, le=2.0)
    filter: Literal["ridge", "low-pass"] = "ridge"
    reg: PositiveFloat = 0.1
    decay: Decay = 1.0
    item_features: ItemColumns | None = None
    boost: Boost = "auto"

    name: ClassVar[str] = "spectral"
    traits: ClassVar[Traits] = Traits(
        reads=frozenset({"items", "order"}), order_unless=NO_DECAY, scores_by=frozenset({"decay"})
    )
    unsaid: ClassVar[frozenset[str]] = frozenset({"decay", "item_features", "boost"})

    @property
    def rounds(self) -> int:
        """Item counts, then the passes."""
        return self.passes + 1

    def shapes(self, n_items: int) -> Shapes:
        """Counts, then a sketch, at last factors."""
        known, counts = self.feature_shapes(n_items), Shape((n_items,), "float64")
        signs = Shape((n_items, min(self.rank, n_items)), "int8", -1, 2)
        sketch = Form({"sketch": Shape((n_items, "rank"))}, {"counts": counts, **known})
        last = Form({**low_rank_form(n_items).shared, **self.cold_shapes(n_items)})
        return Shapes((Form({"counts": counts}, {"signs": signs, **known}), sketch, last))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random signs, kept back until the counts are known."""
        n_items = len(catalog)
        return State({"counts": np.zeros(n_items)}, {"signs": draw_signs(rng, n_items, self.rank), **public})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Counts, then sketches."""
        if round >= self.rounds:
            return None
        if round == 0:
            return SumSpec((count_spec(len(shared["counts"])),))
        whole = self.alpha == 0 and self.beta == 0 and round == 1
        return SumSpec((sketch_spec(shared["sketch"], 2 * self.alpha, round == 1, whole),))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; then x_u ⊗ n_u^−2α Tᵀx_u."""
        if given.round == 0:
            return Contributions({"counts": counted(clients)}), None
        return Contributions({"sketch": sketch_contribution(clients, given.shared["sketch"], 2 * self.alpha)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Weigh the signs by item counts, then sharpen the basis, at last filter the spectrum."""
        if round == 0:
            server = dict(state.server)
            counts = total.value("counts")[:, 0]
            weights = degree_weights(counts, self.beta)
            table = (server.pop("signs") * weights[:, None]).astype(np.float32)
            return State({"sketch": table}, {**server, "counts": counts})
        counts = state.server["counts"]
        sketched = Sketched.of(state.shared["sketch"], total, degree_weights(counts, self.beta))
        if round < self.passes:
            return State({"sketch": basis_table(sketched)}, state.server)
        arrays = low_rank_arrays(leading_spectrum(sketched), self.reg if self.filter == "ridge" else None)
        if self.item_features is None:
            return State(arrays)
        return State(self.filled({**arrays, **self.cold_arrays(counts <= 0)}, state.server["features"]))

    def filled(self, arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
        """Factors of cold items."""
        return hat_factors(arrays, features)

    def boosted(self, shared: Arrays, factor: float) -> dict[str, np.ndarray]:
        """The gain of cold items times the factor."""
        return boosted_rows(shared, "gain", factor)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Noise in every pass, see `PrivateSpectral`.

        Raises:
            PlanError: with settings that have no meaning there.
        """
        fixed = {"alpha": 0.5, "beta": 0.0, "filter": "ridge"}
        odd = sorted(name for name in self.model_fields_set & set(fixed) if getattr(self, name) != fixed[name])
        if odd:
            raise PlanError(
                "spectral under privacy: users weigh 1 / n_u, which is alpha = 0.5, items weigh 1, which is beta = 0, "
                f"and the filter is ridge; leave out {', '.join(odd)}"
            )
        self.check_not_private()
        return PrivateSpectral.of(self, terms)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """The filtered history."""
        return of_items(low_rank_scores(given.shared, self.recent(clients)), items)

    def ready(self, shared: Arrays) -> Arrays:
        """The table of factors, if there is one, in the order in which single clients read it."""
        return with_columns(shared, "factors") if "factors" in shared else shared

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """How much an item adds to every other item's score."""
        return low_rank_similarity(given.shared, items)

    def cost(self, n_items: int) -> Cost:
        """Sums, tables and the small matrices of the solver. A client has at least one interaction and a right factor
        of `rank` floats."""
        memory = sketch_memory(n_items, self.rank) + self.cold_memory(n_items)
        return Cost(memory=memory, per_interaction=max(2, self.rank))


class PrivateSpectral(PrivateRecommender, Spectral):
    """The spectrum of noisy passes, see `fedrec.models.linear.private_sketch`.

    The clip multiplies the norm that a client is expected to have, 1 by default.

    Args:
        rank: width of the first sketch; small, because noise grows with it.
        passes: rounds; there are no counts of items.
        alpha: 0.5 by default: user u with n_u items weighs 1 / n_u.
        beta: 0 by default: all items weigh 1.
        filter: `ridge`.
        reg: regularisation λ of the ridge filter, in mean diagonal entries of G.
    """

    rank: PositiveInt = 128
    alpha: float = Field(default=0.5, ge=0.0, le=2.0)
    beta: float = Field(default=0.0, ge=0.0, le=2.0)
    reg: PositiveFloat = 4.0

    default_clip: ClassVar[float] = 1.0

    @property
    def rounds(self) -> int:
        """The passes."""
        return self.passes

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Two fifths for the first sketch of two, evenly otherwise."""
        first = 0.4
        return (first, 1.0 - first) if self.passes == 2 else (1.0 / self.passes,) * self.passes

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """The first sketch, then passes."""
        return (Query({"sketch": PLAIN}, self.clip) if round == 0 else pass_query(self.clip),)

    def shapes(self, n_items: int) -> Shapes:
        """Sketches, at last factors."""
        return Shapes((*pass_forms(n_items, self.passes), low_rank_form(n_items)))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random signs over √rank."""
        signs = draw_signs(rng, len(catalog), self.rank)
        return State({"table": (signs / np.sqrt(signs.shape[1])).astype(np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """A sketch in every pass."""
        return pass_spec(shared["table"]) if round < self.rounds else None

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """x ⊗ Tᵀx / n."""
        return Contributions({"sketch": sketch_contribution(clients, given.shared["table"], 1.0)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """The directions of the next pass, or the filtered spectrum after the last."""
        found = sharpened(state, total, round, self.passes)
        return State(ridge_arrays(found.factors, self.reg * found.mean)) if isinstance(found, Found) else found
