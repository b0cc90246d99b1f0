"""The item Gram matrix under differential privacy: what `ease` and `itemknn` share.

Round 0 releases G = Σ_u a_u a_uᵀ with a_u = x_u / ‖x_u‖: a client's part has norm 1 exactly, however long its history
and whatever its weights, so nothing is clipped and no item has to be left out. (Gaussian noise on a Gram matrix: Dwork
et al. 2014, "Analyze Gauss".) Round 1 looks again where round 0 showed something: Σ_u a_u ⊗ Tᵀa_u for the few
directions T that stand out of the noise, items × q numbers instead of items². What both say together is read by
`fedrec.models.linear.denoising`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import PLAIN, Metric, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.models.base import Arrays, State
from fedrec.models.linear.denoising import Factors, Pass, denoised, from_gram, next_table, unclipped
from fedrec.models.linear.gram import gram_contributions, gram_spec, unpack_triangle
from fedrec.models.linear.sketch import sketch_contribution
from fedrec.models.shapes import Form, Shape

__all__ = [
    "SHARES",
    "Found",
    "contribute",
    "forms",
    "pass_query",
    "pass_spec",
    "passed",
    "queries",
    "spec",
    "start",
    "step",
]

SHARES = (0.5, 0.5)
"""Of the budget: for the Gram matrix and the pass."""
_FROBENIUS = Metric(weight=2.0**0.5, diagonal=0.5**0.5)
"""Of a triangle: an entry off the diagonal stands for two of the matrix."""
_PASS_CLIP = 0.8


class Found(NamedTuple):
    """What two rounds say.

    Args:
        factors: F [items, rank] float64, G ≈ F Fᵀ.
        mean: of G's diagonal, users / items.
    """

    factors: np.ndarray
    mean: float


def forms(n_items: int) -> tuple[Form, ...]:
    """A table without directions, then one with them, and what the coordinator has read of the Gram matrix."""
    table, doubles = {"table": Shape((n_items, "directions"))}, "float64"
    server = {
        "gram": Shape((triangle_size(n_items),)),
        "deviation": Shape((1,), doubles),
        "factors": Shape((n_items, "rank"), doubles),
        "scales": Shape((n_items,), doubles),
    }
    return Form({"table": Shape((n_items, 0))}), Form(table, server)


def start(n_items: int) -> State:
    """Nothing known yet."""
    return State({"table": np.zeros((n_items, 0), dtype=np.float32)})


def spec(shared: Arrays, round: int, heaviest: float | None) -> SumSpec | None:
    """The triangle, then a pass; interactions weigh up to `heaviest`."""
    if round == 0:
        return gram_spec(len(shared["table"]), 1.0, heaviest)
    return pass_spec(shared["table"]) if round == 1 else None


def queries(round: int, clip: float) -> tuple[Query, ...]:
    """The Gram matrix in the norm of matrices; then the pass."""
    return (Query({"gram": _FROBENIUS}, clip),) if round == 0 else (pass_query(clip),)


def contribute(shared: Arrays, clients: Clients, round: int) -> Contributions:
    """x xᵀ / n; then x ⊗ Tᵀx / n."""
    if round == 0:
        return gram_contributions(clients, 1.0)
    return Contributions({"sketch": sketch_contribution(clients, shared["table"], 1.0)})


def step(state: State, total: Sum, round: int) -> State | Found:
    """The directions of the pass after round 0, what was found after round 1."""
    if round == 0:
        packed = (total.arrays["gram"] / total.spec["gram"].unit).astype(np.float32)
        deviation = total.noise["gram"] / _FROBENIUS.weight
        found = _read(packed, deviation, len(state.shared["table"]))
        table = next_table(found.factors, deviation, total.clients)
        server = {"gram": packed, "deviation": np.array([deviation]), "factors": found.factors, "scales": found.scales}
        return State({"table": table.astype(np.float32)}, server)
    first = Factors(state.server["factors"], state.server["scales"])
    matrix = unpack_triangle(state.server["gram"], len(first.factors)).astype(np.float32)
    seen = unclipped(first.factors, passed(state.shared["table"], total))
    found = denoised(first, [seen], matrix, float(state.server["deviation"][0]))
    return Found(found.factors, total.clients / len(matrix))


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
