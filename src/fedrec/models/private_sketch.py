"""A sketched Gram matrix under differential privacy: noise per pass, items × rank numbers instead of items².

Round 0 releases item counts and chooses the head, as `fedrec.models.private_gram` does. Each pass then sums
Σ_u (1 / n_u) x_u ⊗ (Tᵀ x_u) over the head's items, T = DΩ: first with random signs, then with a basis of what the
pass before showed. The clip follows from public things: for signs a client's norm is near √rank times the mean weight
of its items, d² on average; for a basis, that without the root, and about half of it, because a basis of a few
directions holds a part of a history only. The last pass is cleaned as a rectangular matrix plus noise (Gavish & Donoho
2017).
"""

from __future__ import annotations

import numpy as np

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.queries import Metric, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.clients import Clients
from fedrec.models.base import Arrays, State
from fedrec.models.counts import count_spec, counted
from fedrec.models.private_gram import COUNTS, Denoised, head_of, restricted
from fedrec.models.sketch import sketch_contribution

__all__ = ["contribute", "first_pass", "last_pass", "next_pass", "queries", "shares", "spec"]

_COUNT_SHARE = 0.1
_INSIDE = 0.5


def shares(passes: int) -> tuple[float, ...]:
    """Of the budget: a tenth for the counts, the rest evenly over the passes."""
    return (_COUNT_SHARE, *((1.0 - _COUNT_SHARE) / passes,) * passes)


def spec(shared: Arrays, round: int) -> SumSpec:
    """Counts of all items, then sketches of the head."""
    if round == 0:
        return SumSpec((count_spec(len(shared["counts"])),))
    table = shared["sketch"]
    return SumSpec((ArraySpec("sketch", "rank_one", table.shape, bound=float(len(table)) + 1.0),))


def queries(shared: Arrays, round: int, clip: float) -> tuple[Query, ...]:
    """Counts, then a sketch in the norm that item weights give; `clip` multiplies the norm that is expected."""
    if round == 0:
        return (COUNTS,)
    weights, counts = shared["weights"], shared["counts"][shared["head"]]
    typical = float((counts * weights**2).sum() / max(counts.sum(), 1e-12))
    expected = typical * (np.sqrt(shared["sketch"].shape[1]) if round == 1 else _INSIDE)
    return (Query({"sketch": Metric(rows=weights)}, clip * float(expected)),)


def contribute(shared: Arrays, clients: Clients, round: int) -> Contributions:
    """One for every item; then (1 / n) x ⊗ Tᵀx over the head."""
    if round == 0:
        return Contributions({"counts": counted(clients)})
    inside = restricted(clients, shared["head"])
    sketch: RankOne = sketch_contribution(inside, shared["sketch"], 1.0)
    return Contributions({"sketch": sketch})


def first_pass(total: Sum, signs: np.ndarray, beta: float, clip: float) -> State:
    """After round 0: the head, its weights d = (ñ / mean)^−β, and T of random signs."""
    shared = head_of(total, clip, (_COUNT_SHARE, 1.0 - _COUNT_SHARE)).shared
    counts = np.maximum(shared["counts"][shared["head"]], 1.0)
    weights = (counts / counts.mean()) ** -beta
    table = signs[shared["head"]] * weights[:, None]
    return State({**shared, "weights": weights, "sketch": table.astype(np.float32)})


def next_pass(shared: Arrays, total: Sum) -> State:
    """T of an orthonormal basis of what the pass showed."""
    basis = np.linalg.qr(total.value("sketch") * shared["weights"][:, None])[0]
    return State({**shared, "sketch": (basis * shared["weights"][:, None]).astype(np.float32)})


def last_pass(shared: Arrays, total: Sum) -> Denoised:
    """The spectrum from Y = GΩ + noise: singular values that stand out of the noise, shrunk."""
    product = total.value("sketch") * shared["weights"][:, None]
    left, values, _ = np.linalg.svd(product, full_matrices=False)
    tall, wide = (total.noise["sketch"] * np.sqrt(size) for size in product.shape)
    kept = values > tall + wide
    values = values[kept]
    shrunk = np.sqrt((values**2 - tall**2 - wide**2) ** 2 - 4 * tall**2 * wide**2) / values
    mean = float(shared["counts"][shared["head"]].sum()) / total.clients / len(product)
    return Denoised(shared["head"], left[:, kept], shrunk, max(mean, 1e-12))
