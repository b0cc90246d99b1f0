"""Item-based nearest neighbours with cosine similarity (Sarwar et al. 2001; Deshpande & Karypis 2004)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.scoring import sum_neighbours
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, State, of_items
from fedrec.models.linear.gram import check_alpha, gram_contributions, gram_matrix, gram_spec
from fedrec.models.linear.private_gram import Found, PrivateGram
from fedrec.models.linear.recency import NO_DECAY, Decay, Decaying
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["ItemKNN", "PrivateItemKNN"]


class ItemKNN(Decaying):
    """score = Σ of similarities between a candidate and the client's items, from the same sums as `ease`.

    similarity(i, j) = G_ij / (√G_ii √G_jj + shrink), of which each item keeps its `neighbours` largest.

    Args:
        neighbours: number of most similar items that are kept for each item. More neighbours let rarer relations count,
            and more noise.
        shrink: how strongly similarities that few clients support are reduced; larger values favour popular items.
        alpha: how much less users with long histories count: user u with n_u items weighs n_u^−alpha in G. 0 counts all
            users equally.
        decay: how much older interactions of the user count in scores: an interaction weighs decay^age; the newest has
            age 0, the one before it age 1. 1 counts all equally; smaller values favour the newest.

    Memory at the coordinator: about 16 bytes × items².
    """

    neighbours: PositiveInt = 50
    shrink: NonNegativeFloat = 10.0
    alpha: float = Field(default=0.0, ge=0.0, le=2.0)
    decay: Decay = 1.0

    name: ClassVar[str] = "itemknn"
    traits: ClassVar[Traits] = Traits(
        reads=frozenset({"items", "order"}),
        order_unless=NO_DECAY,
        weights=(
            "a user's row of the interaction matrix holds the weights, in the cosines between items and in the scores."
        ),
        additive=True,
        sums_by=frozenset({"alpha"}),
        scores_by=frozenset({"decay"}),
    )

    @property
    def rounds(self) -> int:
        """One."""
        return 1

    def shapes(self, n_items: int) -> Shapes:
        """Neighbours, none at first."""
        return Shapes((_form(n_items),))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """No neighbours yet."""
        return State(_neighbours(np.zeros((len(catalog), 0)), 0))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The Gram matrix, once."""
        return gram_spec(len(shared["neighbours"]), self.alpha, self._heaviest) if round == 0 else None

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """w_u x_u x_uᵀ."""
        return gram_contributions(clients, self.alpha), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep each item's nearest neighbours."""
        similarity = cosine(gram_matrix(total, len(state.shared["neighbours"])), self.shrink)
        return State(_neighbours(similarity, self.neighbours))

    def _weighted(self, heaviest: float) -> ItemKNN:
        """Cosines between columns of weights.

        Raises:
            PlanError: if alpha is above 1.
        """
        check_alpha(self.name, self.alpha)
        return super()._weighted(heaviest)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Cosines of the cleaned Gram matrix that `ease` has under privacy, see `PrivateItemKNN`.

        Raises:
            PlanError: with weights of users other than 1 / n_u.
        """
        if "alpha" in self.model_fields_set and self.alpha != 1.0:
            raise PlanError("itemknn under privacy: users weigh 1 / n_u; leave out alpha")
        return PrivateItemKNN.of(self, terms)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Similarities to the client's items times their weights, summed."""
        clients = self.recent(clients)
        scores = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        neighbours, similarities = given.shared["neighbours"], given.shared["similarities"]
        sum_neighbours(clients.indptr, clients.items, clients.weights, neighbours, similarities, scores)
        return of_items(scores, items)

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine similarity to the kept neighbours, 0 elsewhere."""
        out = np.zeros((len(items), len(given.shared["neighbours"])), dtype=np.float32)
        kept = given.shared["neighbours"][items] >= 0
        out[np.nonzero(kept)[0], given.shared["neighbours"][items][kept]] = given.shared["similarities"][items][kept]
        return out

    def reasons(self, given: Given, client: Clients, item: int) -> np.ndarray:
        """The similarities of the client's items to the item, times their weights."""
        recent, added = self.recent(client), np.zeros(len(client.items), dtype=np.float32)
        near = given.shared["neighbours"][recent.items] == item
        newest = added[len(added) - len(recent.items) :]
        newest[:] = np.sum(given.shared["similarities"][recent.items], axis=1, where=near)
        if recent.values is not None:
            newest *= recent.values
        return added

    def cost(self, n_items: int) -> Cost:
        """Triangle and float64 matrix."""
        return Cost(memory=16 * n_items * n_items)


class PrivateItemKNN(PrivateGram, ItemKNN):
    """Cosines of the cleaned Gram matrix G, see `fedrec.models.linear.private_gram`.

    Args:
        neighbours: number of most similar items that are kept for each item.
        shrink: how strongly similarities that few clients support are reduced, in mean diagonal entries of G.
        alpha: 1 by default: user u with n_u items weighs 1 / n_u.
    """

    neighbours: PositiveInt = 200
    shrink: NonNegativeFloat = 0.3
    alpha: float = Field(default=1.0, ge=0.0, le=2.0)

    def last_form(self, n_items: int) -> Form:
        """Neighbours."""
        return _form(n_items)

    def solved(self, found: Found) -> State:
        """Each item's nearest neighbours."""
        return State(_neighbours(cosine(found.factors @ found.factors.T, self.shrink * found.mean), self.neighbours))


def cosine(gram: np.ndarray, shrink: float) -> np.ndarray:
    """Cosine similarities [items, items] float64 with a zero diagonal, from G, which is overwritten."""
    norms = np.sqrt(np.maximum(np.diag(gram), 0.0))
    for row in range(len(gram)):
        lengths = norms[row] * norms + shrink
        np.divide(gram[row], lengths, out=gram[row], where=lengths > 0)
    gram[np.diag_indices(len(gram))] = 0.0
    return gram


def _form(n_items: int) -> Form:
    nearest = Shape((n_items, "nearest"), "int32", -1, n_items)
    return Form({"neighbours": nearest, "similarities": Shape((n_items, "nearest"))})


def _neighbours(similarity: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Per row the `count` largest positive entries in ascending order of item; ties go to the smaller item."""
    n_items = len(similarity)
    count = min(count, max(similarity.shape[1] - 1, 0))
    neighbours = np.full((n_items, count), -1, dtype=np.int32)
    similarities = np.zeros((n_items, count), dtype=np.float32)
    for row in range(n_items if count else 0):
        best = np.argsort(-similarity[row], kind="stable")[:count]
        best = np.sort(best[similarity[row][best] > 0])
        neighbours[row, : len(best)] = best
        similarities[row, : len(best)] = similarity[row][best]
    return {"neighbours": neighbours, "similarities": similarities}
