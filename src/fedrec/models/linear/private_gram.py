"""The item Gram matrix under differential privacy: what the private forms of `ease` and `itemknn` share.

Round 0 releases G = Σ_u a_u a_uᵀ with a_u = x_u / ‖x_u‖: a client's part has norm 1 exactly, however long its history
and whatever its weights, so nothing is clipped and no item has to be left out. (Gaussian noise on a Gram matrix: Dwork
et al. 2014, "Analyze Gauss".) Round 1 looks again where round 0 showed something: Σ_u a_u ⊗ Tᵀa_u for the few
directions T that stand out of the noise, items × q numbers instead of items². What both say together is read by
`fedrec.models.linear.denoising`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN, Metric, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, State
from fedrec.models.linear.denoising import Factors, Pass, denoised, from_gram, next_table, unclipped
from fedrec.models.linear.gram import gram_contributions, gram_spec, unpack_triangle
from fedrec.models.linear.sketch import sketch_contribution
from fedrec.models.shapes import Form, Shape, Shapes

__all__ = ["FROBENIUS", "Found", "PrivateGram", "pass_query", "pass_spec", "passed"]

FROBENIUS = Metric(weight=2.0**0.5, diagonal=0.5**0.5)
"""Of a triangle: an entry off the diagonal stands for two of the matrix."""
_PASS_CLIP = 0.8


class Found(NamedTuple):
    """What the rounds say of the Gram matrix.

    Args:
        factors: F [items, rank] float64, G ≈ F Fᵀ.
        mean: of G's diagonal, users / items.
    """

    factors: np.ndarray
    mean: float


class PrivateGram(PrivateRecommender):
    """A model of the Gram matrix G that a noisy triangle and a noisy pass say: Gram matrix in round 0, pass in round 1.

    The clip is the norm of a client's part, 1 by default, which is what everybody has.
    """

    default_clip: ClassVar[float] = 1.0

    @abstractmethod
    def solved(self, found: Found) -> State:
        """The model of a Gram matrix."""

    @abstractmethod
    def last_form(self, n_items: int) -> Form:
        """The arrays of what `solved` gives."""

    @property
    def rounds(self) -> int:
        """Two: the Gram matrix and the pass."""
        return 2

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """A half for the Gram matrix, a half for the pass."""
        return (0.5, 0.5)

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """The Gram matrix in the norm of matrices; then the pass."""
        return (Query({"gram": FROBENIUS}, self.clip),) if round == 0 else (pass_query(self.clip),)

    def shapes(self, n_items: int) -> Shapes:
        """A table without directions; one with them, and what the coordinator has read of G; at last the model."""
        table, doubles = {"table": Shape((n_items, "directions"))}, "float64"
        server = {
            "gram": Shape((triangle_size(n_items),)),
            "deviation": Shape((1,), doubles),
            "factors": Shape((n_items, "rank"), doubles),
            "scales": Shape((n_items,), doubles),
        }
        return Shapes((Form({"table": Shape((n_items, 0))}), Form(table, server), self.last_form(n_items)))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """No directions yet."""
        return State({"table": np.zeros((len(catalog), 0), dtype=np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The triangle, then a pass."""
        if round == 0:
            return gram_spec(len(shared["table"]), 1.0, self._heaviest)
        return pass_spec(shared["table"]) if round == 1 else None

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """x xᵀ / n; then x ⊗ Tᵀx / n."""
        if given.round == 0:
            return gram_contributions(clients, 1.0), None
        return Contributions({"sketch": sketch_contribution(clients, given.shared["table"], 1.0)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """The directions of the pass after round 0, the model after round 1."""
        if round == 0:
            packed = (total.arrays["gram"] / total.spec["gram"].unit).astype(np.float32)
            deviation = total.noise["gram"] / FROBENIUS.weight
            found = _read(packed, deviation, len(state.shared["table"]))
            table = next_table(found.factors, deviation, total.clients)
            server = {
                "gram": packed,
                "deviation": np.array([deviation]),
                "factors": found.factors,
                "scales": found.scales,
            }
            return State({"table": table.astype(np.float32)}, server)
        first = Factors(state.server["factors"], state.server["scales"])
        matrix = unpack_triangle(state.server["gram"], len(first.factors)).astype(np.float32)
        seen = unclipped(first.factors, passed(state.shared["table"], total))
        found = denoised(first, [seen], matrix, float(state.server["deviation"][0]))
        return self.solved(Found(found.factors, total.clients / len(matrix)))


def pass_spec(table: np.ndarray) -> SumSpec:
    """A row per item and a column per direction; no entry is above the clip."""
    return SumSpec((ArraySpec("sketch", "rank_one", table.shape, bound=float(len(table)) + 1.0),))


def pass_query(clip: float) -> Query:
    """A pass whose table is scaled so that a client has norm 1 in root mean square."""
    return Query({"sketch": PLAIN}, _PASS_CLIP * clip)


def passed(table: np.ndarray, total: Sum) -> Pass:
    """The pass that a sum is of."""
    return Pass(total.value("sketch"), table.astype(np.float64), total.noise["sketch"])


def _read(packed: np.ndarray, deviation: float, n_items: int) -> Factors:
    matrix = unpack_triangle(packed, n_items).astype(np.float32)
    return denoised(from_gram(matrix, deviation), gram=matrix, deviation=deviation)
