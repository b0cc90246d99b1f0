"""Spectral graph filtering of degree-normalised interactions (Shen et al. 2021, "How powerful is graph convolution for
recommendation?"; ridge: Steck 2019), from a sketch of the normalised item Gram matrix."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Arrays, Private, Recommender, State
from fedrec.models.sketch import (
    Sketched,
    basis_table,
    draw_signs,
    leading_spectrum,
    low_rank_arrays,
    low_rank_scores,
    low_rank_similarity,
    sketch_contribution,
    sketch_memory,
    sketch_spec,
)

__all__ = ["Spectral"]


class Spectral(Recommender):
    """score = ((x ∘ n_i^−β) B) ∘ n_i^β, where B filters the spectrum of G = Σ_u a_u a_uᵀ, a_u = n_u^−α (x_u ∘ n_i^−β).

    Round 0 sums item counts n_i; each of the `passes` after it sums items × rank numbers. User lengths n_u stay at
    home. Items that nobody has take no part and score 0.

    Args:
        rank: eigenvectors of G that are kept; more is better on sparse data (Gowalla: 1024 and up).
        passes: over the data; the second sharpens the first, more add little.
        alpha: α, how much long histories are weighed down.
        beta: β, how much popular items are weighed down.
        filter: `ridge` weighs an eigenvector by Λ / (Λ + λ) and gives B = −P / diag(P), P = (G + λI)⁻¹, a diagonal of
            zero, as EASE does; `low-pass` weighs all that are kept by 1.
        reg: λ of the ridge filter.

    Memory at the coordinator: about 24 bytes × items × rank.
    """

    rank: PositiveInt = 256
    passes: PositiveInt = 2
    alpha: float = Field(default=0.3, ge=0.0, le=2.0)
    beta: float = Field(default=0.5, ge=0.0, le=2.0)
    filter: Literal["ridge", "low-pass"] = "ridge"
    reg: PositiveFloat = 0.1

    name: ClassVar[str] = "spectral"

    @property
    def rounds(self) -> int:
        """Item counts, then the passes."""
        return 1 + self.passes

    def start(self, catalog: Catalog, rng: KeyedSource) -> State:
        """Random signs, kept back until the counts are known."""
        n_items = len(catalog)
        return State({"counts": np.zeros(n_items)}, {"signs": draw_signs(rng, n_items, self.rank)})

    def spec(self, state: State, round: int) -> SumSpec | None:
        """Counts, then sketches."""
        if round == 0:
            return SumSpec((ArraySpec("counts", "rank_one", (len(state.shared["counts"]), 1), bound=1.0),))
        if round > self.passes:
            return None
        whole = self.alpha == 0 and self.beta == 0 and round == 1
        return SumSpec((sketch_spec(state.shared["sketch"], 2 * self.alpha, round == 1, whole),))

    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        """One for every item; then x_u ⊗ n_u^−2α Tᵀx_u."""
        if round == 0:
            ones = np.ones(len(clients))
            return Contributions(
                {"counts": RankOne(clients.indptr, clients.items, ones, clients.n_items, ones[:, None])}
            ), None
        return Contributions({"sketch": sketch_contribution(clients, shared["sketch"], 2 * self.alpha)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Weigh the signs by item counts, then sharpen the basis, at last filter the spectrum."""
        if round == 0:
            counts = total.value("counts")[:, 0]
            weights = _weights(counts, self.beta)
            table = (state.server["signs"] * weights[:, None]).astype(np.float32)
            return State({"sketch": table}, {"counts": counts})
        counts = state.server["counts"]
        sketched = Sketched.of(state.shared["sketch"], total, _weights(counts, self.beta))
        if round < self.passes:
            return State({"sketch": basis_table(sketched)}, {"counts": counts})
        return State(low_rank_arrays(leading_spectrum(sketched), self.reg if self.filter == "ridge" else None))

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        """The filtered history."""
        return low_rank_scores(shared, clients)

    def similarity(self, shared: Arrays, items: np.ndarray) -> np.ndarray:
        """How much an item adds to every other item's score."""
        return low_rank_similarity(shared, items)

    def memory(self, n_items: int) -> int:
        """Sums, tables and the small matrices of the solver."""
        return sketch_memory(n_items, self.rank)

    @property
    def chunk_floats(self) -> int:
        """A client has at least one interaction and a right factor of `rank` floats."""
        return max(2, self.rank)


def _weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """n_i^−β, and 0 where nobody has the item [items] float64."""
    return np.where(counts > 0, np.maximum(counts, 1.0) ** -beta, 0.0)
