"""EASE: a linear autoencoder whose weights have a closed form (Steck 2019, "Embarrassingly Shallow Autoencoders")."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.domains import items_of_domain
from fedrec.data.features import ItemColumns
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.scoring import sum_rows
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, State, of_items
from fedrec.models.cold_items import Boost, ColdItems, boosted_rows
from fedrec.models.linear.denoising import ridge_arrays
from fedrec.models.linear.domains import (
    TARGET,
    Domain,
    domain_shapes,
    domain_spec,
    in_domain,
    of_target_users,
    solve_domains,
)
from fedrec.models.linear.gram import check_alpha, gram_contributions, gram_matrix, gram_spec, ridge_inverse
from fedrec.models.linear.hat import hat_columns, hat_factors
from fedrec.models.linear.private_gram import Found, PrivateGram
from fedrec.models.linear.recency import NO_DECAY, Decay, Decaying
from fedrec.models.linear.sketch import (
    Sketched,
    basis_table,
    draw_signs,
    leading_spectrum,
    low_rank_arrays,
    low_rank_column,
    low_rank_form,
    low_rank_scores,
    low_rank_similarity,
    sketch_contribution,
    sketch_memory,
    sketch_spec,
)
from fedrec.models.linear.towards import POOL, PULL, SOURCE, solve_towards
from fedrec.models.served import with_columns
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["EASE", "PrivateEASE"]

_AUTO = 6.0
_AUTO_SKETCHED = 8.0
_AUTO_PRIVATE = 4.0
_WEIGHT_BITS = 24


class EASE(ColdItems, Decaying):
    """P = (G + λI)⁻¹, B = −P / diag(P) with a zero diagonal, score = x B. One round, exactly the pooled-data model.

    With a `rank`, G is replaced by its leading spectrum, sketched in `passes` rounds of items × rank numbers.

    Args:
        reg: regularisation λ. A larger value keeps item weights closer to 0 and favours popular items; a smaller value
            follows pairs of items that few users share. `auto` is 6 × the mean item count, trace(G) / items, and 8 ×
            with a rank; with a target, 2 × the mean count of its items.
        alpha: how much less users with long histories count: user u with n_u items weighs n_u^−alpha in G. 0 counts all
            users equally; at 1 a user with twice the items weighs half.
        rank: number of eigenvectors of G that are kept. More of them are more accurate and need more memory and bytes;
            `None` keeps all of G.
        passes: rounds of a sketch; the second sharpens the first, more add little. Unused without a rank.
        decay: how much older interactions of the user count in scores: an interaction weighs decay^age; the newest has
            age 0, the one before it age 1. 1 counts all equally; smaller values favour the newest.
        item_features: columns of the catalog, and how each is read, as in `{genres: categories, title: [year, text]}`;
            `auto` takes those whose type says how to read them. With them, items that nobody has are scored by what
            they share with others, see `fedrec.models.cold_items`; no client sends more. `None` scores such items 0.
        boost: factor of the scores of items that nobody has. At 1 they rarely reach a list, as scores of what nobody
            took are small; larger values bring in more of them, in place of others. `auto` is 3; with split
            `cold-items:0.1,0.1`, which holds out interactions with both kinds of items, the value of 1, 1.5, 2, 3, 4,
            6, 10 and 15 that is best on validation. `careful` is 1; with such a split, the best of
            0.5, 0.8, 1, 1.1, 1.2, 1.3, 1.5, 2 and 3 that costs other items a twentieth of their figure at most.
        target: the domain whose items are recommended, a value of the catalog's column `domain`. Items of all other
            domains are read and never recommended, see `fedrec.models.linear.domains`. `None` recommends all items.
        dropout: how often each user counts again with all items of the target hidden. Larger values serve users who
            have none of them better. Unused without a target.

    Memory at the coordinator: about 20 bytes × items², 44 with a target, or 24 bytes × items × rank.
    """

    reg: PositiveFloat | Literal["auto"] = "auto"
    alpha: float = Field(default=0.0, ge=0.0, le=2.0)
    rank: PositiveInt | None = None
    passes: PositiveInt = 2
    decay: Decay = 1.0
    item_features: ItemColumns | None = None
    boost: Boost = "auto"
    target: Domain | None = None
    dropout: float = Field(default=4.0, ge=0.0, le=1000.0)

    name: ClassVar[str] = "ease"
    traits: ClassVar[Traits] = Traits(
        reads=frozenset({"items", "order"}),
        order_unless=NO_DECAY,
        weights="a user's row x_u of the interaction matrix holds the weights, in G and in the scores x_u B.",
        additive=True,
        sums_by=frozenset({"alpha"}),
        scores_by=frozenset({"decay"}),
        transfers=True,
    )

    unsaid: ClassVar[frozenset[str]] = frozenset({"decay", "item_features", "boost", "target", "dropout"})

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.target is not None and (self.rank is not None or self.item_features is not None):
            raise ValueError("a target goes with neither rank nor item_features; leave them out")
        return self

    @property
    def reads_catalog(self) -> bool:
        """Whether it reads domains, or features."""
        return self.target is not None or super().reads_catalog

    def public(self, catalog: Catalog) -> Arrays:
        """Features of items; with a target, which items are of it."""
        return super().public(catalog) if self.target is None else {TARGET: items_of_domain(catalog, self.target)}

    @property
    def rounds(self) -> int:
        """One, or as many as passes."""
        return 1 if self.rank is None else self.passes

    def shapes(self, n_items: int) -> Shapes:
        """Nothing, then the weights; with a rank, a table of directions, then factors."""
        if self.target is not None:
            return domain_shapes(n_items)
        known, cold = self.feature_shapes(n_items), self.cold_shapes(n_items)
        if self.rank is None:
            kept = {"kept": Shape((n_items,))} if cold else {}
            last = Form({"weights": Shape((n_items, n_items)), **kept, **cold})
            return Shapes((Form({"weights": Shape((n_items, 0))}, known), last))
        sketch, later = {"sketch": Shape((n_items, "rank"))}, {"mean": Shape((1,), "float64"), **known}
        if known:
            later["warm"] = Shape((n_items,), "bool")
        last = Form({**low_rank_form(n_items).shared, **cold})
        return Shapes((Form(sketch, known), Form(sketch, later), last))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """No weights yet; random signs for a sketch."""
        if self.rank is None:
            return State({"weights": np.zeros((len(catalog), 0), dtype=np.float32)}, public)
        return State({"sketch": draw_signs(rng, len(catalog), self.rank).astype(np.float32)}, public)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The Gram matrix, once; or a sketch in every pass, with item counts in the first."""
        if round >= self.rounds:
            return None
        if self.rank is None:
            spec = gram_spec(len(shared["weights"]), self.alpha, self._heaviest)
            return spec if self.target is None else domain_spec(spec, len(shared["weights"]), self._heaviest)
        table = shared["sketch"]
        whole = round == 0 and self.alpha == 0 and self._heaviest is None
        sketch = sketch_spec(table, self.alpha, round == 0, whole, self._heaviest)
        if round > 0:
            return SumSpec((sketch,))
        bits = 0 if self.alpha == 0 and self._heaviest is None else _WEIGHT_BITS
        bound = max(1.0, (self._heaviest or 1.0) ** 2)
        return SumSpec(
            (ArraySpec("counts", "rank_one", (len(table), 1), bound=bound, scale_bits=bits, role="count"), sketch)
        )

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """w_u x_u x_uᵀ, or w_u x_u ⊗ Ωᵀx_u; with a target, of users who have something of it."""
        if self.rank is None:
            gram = gram_contributions(clients, self.alpha)
            return gram if self.target is None else of_target_users(gram, clients, given.public[TARGET]), None
        sketch = sketch_contribution(clients, given.shared["sketch"], self.alpha)
        if given.round > 0:
            return Contributions({"sketch": sketch}), None
        ones = np.ones((len(clients), 1))
        squares = None if clients.values is None else clients.values**2
        counts = RankOne(clients.indptr, clients.items, sketch.weights, clients.n_items, ones, squares)
        return Contributions({"counts": counts, "sketch": sketch}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Solve for B by Cholesky in float64, towards the weights of a source or with sums of one if there are any; or
        sharpen the basis, and at last solve in it."""
        if self.rank is not None:
            return self._sketched(state, total, round)
        gram = gram_matrix(total, len(state.shared["weights"]))
        if self.target is not None:
            reg = None if self.reg == "auto" else self.reg
            return State(solve_domains(gram, total, state.server[TARGET], reg, self.dropout))
        if POOL in state.server:
            gram += state.server[POOL]
        mean = max(np.trace(gram) / len(gram), 1e-12)
        if SOURCE in state.server:
            return State({"weights": solve_towards(gram, float(state.server[PULL][0] * mean), state.server[SOURCE])})
        cold = np.diag(gram) <= 0
        reg = float(_AUTO * mean if self.reg == "auto" else self.reg)
        weights, diagonal = solve(gram, reg)
        if self.item_features is None:
            return State({"weights": weights})
        kept = np.where(cold, 0.0, reg * diagonal).astype(np.float32)
        arrays = {"weights": weights, "kept": kept, **self.cold_arrays(cold)}
        return State(self.filled(arrays, state.server["features"]))

    def filled(self, arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of cold items from the hat, or their factors."""
        return hat_columns(arrays, features) if self.rank is None else hat_factors(arrays, features)

    def boosted(self, shared: Arrays, factor: float) -> dict[str, np.ndarray]:
        """Columns of cold items times the factor, or their gain."""
        return boosted_rows(shared, "gain" if self.rank else "weights", factor, axis=0 if self.rank else 1)

    def _weighted(self, heaviest: float) -> EASE:
        """G = XᵀX of a matrix X of weights.

        Raises:
            PlanError: if alpha is above 1.
        """
        check_alpha(self.name, self.alpha)
        return super()._weighted(heaviest)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """A noisy Gram matrix, then a pass over what stands out of it, see `PrivateEASE`.

        Raises:
            PlanError: with settings that have no meaning there.
        """
        chosen = {name: getattr(self, name) for name in self.model_fields_set}
        if self.rank is not None or chosen.get("passes", 2) != 2 or chosen.get("alpha", 1.0) != 1.0:
            raise PlanError(
                "ease under privacy finds its rank by itself, in one pass, and users weigh 1 / n_u: leave out rank, "
                "passes and alpha; spectral has passes"
            )
        if self.target is not None:
            raise PlanError("ease under privacy knows no domains: leave out target, or privacy")
        self.check_not_private()
        return PrivateEASE.of(self, terms)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """x_u B: the sum of the rows of B at the client's items, times their weights."""
        clients = self.recent(clients)
        if "factors" in given.shared:
            return of_items(low_rank_scores(given.shared, clients), items)
        scores = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        sum_rows(clients.indptr, clients.items, clients.weights, given.shared["weights"], scores)
        if self.target is not None:
            in_domain(scores, given, clients)
        return of_items(scores, items)

    def ready(self, shared: Arrays) -> Arrays:
        """The table of factors, if there is one, in the order in which single clients read it."""
        return with_columns(shared, "factors") if "factors" in shared else shared

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """How much an item adds to every other item's score."""
        return low_rank_similarity(given.shared, items) if "factors" in given.shared else given.shared["weights"][items]

    def reasons(self, given: Given, client: Clients, item: int) -> np.ndarray | None:
        """The entries of B from the client's items to the item, times their weights; with a `target` that is not all of
        a score."""
        if self.target is not None:
            return None
        recent, added = self.recent(client), np.zeros(len(client.items), dtype=np.float32)
        low_rank = "factors" in given.shared
        column = low_rank_column(given.shared, item) if low_rank else given.shared["weights"][:, item]
        newest = added[len(added) - len(recent.items) :]
        newest[:] = column[recent.items]
        if recent.values is not None:
            newest *= recent.values
        return added

    def cost(self, n_items: int) -> Cost:
        """Triangle, float64 matrix and float32 weights; or sums and tables of the sketch. A client has at least one
        interaction and a right factor of `rank` floats."""
        memory = 20 * n_items * n_items if self.rank is None else sketch_memory(n_items, self.rank)
        if self.target is not None:
            memory += 24 * n_items * n_items
        return Cost(memory=memory + self.cold_memory(n_items), per_interaction=max(2, self.rank or 0))

    def _sketched(self, state: State, total: Sum, round: int) -> State:
        server = dict(state.server)
        if round == 0:
            counts = total.value("counts")
            server["mean"] = np.array([counts.mean()])
            if self.item_features is not None:
                server["warm"] = counts[:, 0] > 0
        sketched = Sketched.of(state.shared["sketch"], total)
        if round < self.passes - 1:
            return State({"sketch": basis_table(sketched)}, server)
        reg = _AUTO_SKETCHED * max(float(server["mean"][0]), 1e-12) if self.reg == "auto" else self.reg
        arrays: Arrays = low_rank_arrays(leading_spectrum(sketched), float(reg))
        if self.item_features is not None:
            arrays = self.filled({**arrays, **self.cold_arrays(~server["warm"])}, server["features"])
        return State(arrays)


class PrivateEASE(PrivateGram, EASE):
    """B of the cleaned Gram matrix, as factors; see `fedrec.models.linear.private_gram`.

    Args:
        reg: regularisation λ, see `ease`; `auto` is 4 times the mean diagonal entry of G.
        alpha: 1 by default: user u with n_u items weighs 1 / n_u.
    """

    alpha: float = Field(default=1.0, ge=0.0, le=2.0)

    def last_form(self, n_items: int) -> Form:
        """Factors of B."""
        return low_rank_form(n_items)

    def solved(self, found: Found) -> State:
        """The ridge solution of the factors of G."""
        reg = _AUTO_PRIVATE * found.mean if self.reg == "auto" else float(self.reg)
        return State(ridge_arrays(found.factors, reg))


def solve(gram: np.ndarray, reg: float) -> tuple[np.ndarray, np.ndarray]:
    """B [items, items] float32 and diag(P) [items] float64 from G [items, items] float64, which is overwritten.

    >>> weights, diagonal = solve(np.array([[2.0, 1.0], [1.0, 2.0]]), reg=1.0)
    >>> weights.astype(float).round(4).tolist(), diagonal.round(4).tolist()
    ([[0.0, 0.3333], [0.3333, 0.0]], [0.375, 0.375])
    """
    n_items = len(gram)
    inverse = ridge_inverse(gram, reg, f"raise reg (now {reg:g})")
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
    return weights, diagonal
