"""EASE: a linear autoencoder whose weights have a closed form (Steck 2019, "Embarrassingly Shallow Autoencoders")."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveFloat
from scipy.linalg import lapack

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import FedrecError
from fedrec.kernels.scoring import sum_rows
from fedrec.models.base import Arrays, Private, Recommender, State
from fedrec.models.gram import gram_contributions, gram_matrix, gram_spec

__all__ = ["EASE"]

_AUTO = 6.0


class EASE(Recommender):
    """P = (G + λI)⁻¹, B = −P / diag(P) with a zero diagonal, score = x B. One round, exactly the pooled-data model.

    Args:
        reg: λ; `auto` is 6 × the mean item count, trace(G) / items.
        alpha: users weigh n_u^−alpha in G; 0 counts them equally.

    Memory at the coordinator: about 20 bytes × items².
    """

    reg: PositiveFloat | Literal["auto"] = "auto"
    alpha: float = Field(default=0.0, ge=0.0, le=2.0)

    name: ClassVar[str] = "ease"

    def start(self, catalog: Catalog, rng: KeyedSource) -> State:
        """No weights yet."""
        return State({"weights": np.zeros((len(catalog), 0), dtype=np.float32)})

    def spec(self, state: State, round: int) -> SumSpec | None:
        """The Gram matrix, once."""
        return gram_spec(len(state.shared["weights"]), self.alpha) if round == 0 else None

    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        """w_u x_u x_uᵀ."""
        return gram_contributions(clients, self.alpha), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Solve for B by Cholesky in float64."""
        gram = gram_matrix(total, len(state.shared["weights"]))
        reg = _AUTO * max(np.trace(gram) / len(gram), 1e-12) if self.reg == "auto" else self.reg
        return State({"weights": solve(gram, float(reg))})

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        """x_u B: the sum of the rows of B at the client's items."""
        scores = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        sum_rows(clients.indptr, clients.items, shared["weights"], scores)
        return scores

    def similarity(self, shared: Arrays, items: np.ndarray) -> np.ndarray:
        """How much an item adds to every other item's score."""
        return shared["weights"][items]

    def memory(self, n_items: int) -> int:
        """Triangle, float64 matrix and float32 weights."""
        return 20 * n_items * n_items


def solve(gram: np.ndarray, reg: float) -> np.ndarray:
    """B [items, items] float32 from G [items, items] float64, which is overwritten.

    >>> solve(np.array([[2.0, 1.0], [1.0, 2.0]]), reg=1.0).round(4).tolist()
    [[0.0, 0.3333], [0.3333, 0.0]]
    """
    n_items = len(gram)
    gram[np.diag_indices(n_items)] += reg
    factor, info = lapack.dpotrf(gram.T, lower=1, overwrite_a=1)
    if info != 0:
        raise FedrecError(f"ease: the Gram matrix is not positive definite at item {info}; raise reg (now {reg:g})")
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    diagonal = np.diag(inverse).copy()
    weights = np.empty((n_items, n_items), dtype=np.float32)
    for low in range(0, n_items, 512):
        high = min(low + 512, n_items)
        # Column block of the full inverse: the stored lower part, and its mirror above the block.
        block = inverse[:, low:high].copy()
        block[:low] = inverse[low:high, :low].T
        corner = np.tril(block[low:high])
        block[low:high] = corner + np.tril(corner, -1).T
        weights[:, low:high] = block / -diagonal[low:high]
    weights[np.diag_indices(n_items)] = 0.0
    return weights
