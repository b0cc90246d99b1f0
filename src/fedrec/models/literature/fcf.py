"""Federated collaborative filtering (Ammad-ud-din et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, Dense, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.kernels.least_squares import gram_of_rows, item_pulls, outer_rows, solve_users
from fedrec.models.base import Arrays, Given, Private, Recommender, State, cosines
from fedrec.models.factors.scoring import factor_scores
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.served import with_columns
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["FCF"]

_SCALE_BITS = 22
_TINY = 1e-8


class FCF(Recommender):
    """score = ⟨user factor, item factor⟩, fitted to 1 where a user has an item and 0 elsewhere, by gradients of items.

    The loss is Σ_(u, i) c_ui (p_ui − ⟨u, i⟩)² + λ (Σ‖u‖² + Σ‖i‖²) with p = 1 and c = 1 + α at interactions, p = 0 and
    c = 1 elsewhere (Hu et al. 2008). In a round each client solves for its own factor x from its history; the
    coordinator makes one Adam step on the item factors Y along

        ∂/∂y_i = −2 Σ_u c_ui (p_ui − ⟨x_u, y_i⟩) x_u + 2 λ y_i.

    The paper's clients send this for every item of the catalog. Here it is taken apart: c_ui (p_ui − ⟨x_u, y_i⟩) x_u is
    [(1 + α) − α ⟨x_u, y_i⟩] x_u − x_u x_uᵀ y_i at interactions and −x_u x_uᵀ y_i elsewhere, so a client sends rows of
    its interactions only, and x_u x_uᵀ once; the sum is the same. `ials` sends the normal equations instead, and they
    are solved: more numbers a round, far fewer rounds.

    Args:
        embedding_size: length d of the factors. Larger factors fit finer differences between items; they need more
            data, memory and bytes.
        rounds: rounds of training.
        learning_rate: step size of Adam at the coordinator (with correction of bias).
        first_decay, second_decay: shares of earlier rounds' gradients and squared gradients that Adam keeps. Larger
            values smooth more.
        alpha: α, additional confidence in an interaction: it counts 1 + α times as much as a missing one. A larger
            value fits observed interactions more closely.
        reg: regularisation λ. A larger value keeps factors closer to 0; a smaller value fits the interactions more
            closely.
        init_sd: standard deviation of initial item factors.
        bound: largest coordinate of one client's rows and of x xᵀ; beyond it saturates.

    Example:
        >>> from fedrec.data.identifiers import Identifiers
        >>> catalog = Catalog(Identifiers.of(list(range(1000))))
        >>> model = FCF(embedding_size=8)
        >>> state = model.start(catalog, {}, KeyedSource.from_seed(0))
        >>> {array.name: array.shape for array in model.spec(state.shared, 0).arrays}
        {'pulls': (1000, 8), 'everyone': (37,)}
    """

    embedding_size: PositiveInt = 64
    rounds: PositiveInt = 60
    learning_rate: PositiveFloat = 0.1
    first_decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    second_decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    alpha: PositiveFloat = 4.0
    reg: NonNegativeFloat = 30.0
    init_sd: PositiveFloat = 0.1
    bound: PositiveFloat = Field(default=64.0, le=4096.0)

    name: ClassVar[str] = "fcf"
    traits: ClassVar[Traits] = Traits(iterative=True)

    def shapes(self, n_items: int) -> Shapes:
        """Item factors Y and YᵀY; the moments of Adam."""
        d = self.embedding_size
        table, gram = Shape((n_items, d)), Shape((d, d), "float64")
        return Shapes((Form({"items": table, "gram": gram}, {"first_moment": table, "second_moment": table}),))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item factors, and moments of zero."""
        shape = (len(catalog), self.embedding_size)
        table = rng.generator().normal(0.0, self.init_sd, shape).astype(np.float32)
        zeros = np.zeros(shape, dtype=np.float32)
        return _state(table, {"first_moment": zeros, "second_moment": zeros.copy()})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Σ [(1 + α) − α ⟨x, y⟩] x at the clients' items; [vech(Σ x xᵀ), number] of all clients."""
        if round >= self.rounds:
            return None
        shape = shared["items"].shape
        everyone = (triangle_size(self.embedding_size) + 1,)
        return SumSpec(
            (
                ArraySpec("pulls", "rows", shape, bound=self.bound, scale_bits=_SCALE_BITS, role="change"),
                ArraySpec("everyone", "dense", everyone, bound=self.bound, scale_bits=_SCALE_BITS, role="change"),
            )
        )

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """The client's factor, as rows of its items and as its outer product."""
        users = self._users(given.shared, clients)
        values = np.empty((len(clients.items), self.embedding_size), dtype=np.float32)
        item_pulls(clients.indptr, clients.items, given.shared["items"], users, self.alpha, values)
        size = triangle_size(self.embedding_size)
        outer = np.empty((len(clients), size + self.embedding_size))
        outer_rows(users, outer)
        everyone = np.ones((len(clients), size + 1), dtype=np.float32)
        everyone[:, :size] = outer[:, :size]
        ones = np.ones(len(clients))
        pulls = RowUpdates(clients.indptr, clients.items, values, ones)
        return Contributions({"pulls": pulls, "everyone": Dense(everyone, ones)}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """One step of Adam on every item factor, in float64."""
        if total.clients == 0:
            return state
        table = state.shared["items"]
        gradient = self.gradient(table, total)
        first = self.first_decay * state.server["first_moment"] + (1.0 - self.first_decay) * gradient
        second = self.second_decay * state.server["second_moment"] + (1.0 - self.second_decay) * gradient**2
        unbiased = first / (1.0 - self.first_decay ** (round + 1))
        spread = np.sqrt(second / (1.0 - self.second_decay ** (round + 1)))
        moved = table - self.learning_rate * unbiased / (spread + _TINY)
        moments = {"first_moment": first.astype(np.float32), "second_moment": second.astype(np.float32)}
        return _state(moved.astype(np.float32), moments)

    def gradient(self, table: np.ndarray, total: Sum) -> np.ndarray:
        """∂loss / ∂ item factors [items, d] float64 over the clients of a sum."""
        everyone = unpack_triangle(total.value("everyone")[:-1], self.embedding_size, 1.0)
        gradient = np.zeros(table.shape)
        rows = table.astype(np.float64)
        for place in range(self.embedding_size):  # no product whose bits depend on its library
            gradient += rows[:, place, None] * everyone[place]
        gradient -= total.value("pulls")
        return np.asarray(2.0 * gradient + 2.0 * self.reg * rows)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """⟨user, item⟩ with the user's factor solved from its history; zeros without one."""
        return factor_scores(self._users(given.shared, clients).astype(np.float32), given.shared, items)

    def ready(self, shared: Arrays) -> Arrays:
        """The item table in the order in which single clients read it."""
        return with_columns(shared, "items")

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the item factors."""
        return cosines(given.shared["items"], items)

    def cost(self, n_items: int) -> Cost:
        """Sum, factors and moments, and the step in float64. An interaction has a row; a client has a factor and its
        outer product, in float64 and float32."""
        d = self.embedding_size
        return Cost(memory=72 * n_items * d, per_interaction=d, per_client=3 * (triangle_size(d) + d))

    def _users(self, shared: Arrays, clients: Clients) -> np.ndarray:
        """x = (YᵀY + α Σ y yᵀ + λ I)⁻¹ (1 + α) Σ y over each client's items [clients, d] float64."""
        users = np.empty((len(clients), self.embedding_size))
        base = shared["gram"] / self.alpha
        weights, table = clients.weights, shared["items"]
        solve_users(clients.indptr, clients.items, weights, table, base, 0.0, self.reg / self.alpha, 0.0, users)
        return np.asarray(users * ((1.0 + self.alpha) / self.alpha))


def _state(table: np.ndarray, moments: Arrays) -> State:
    gram = np.empty((table.shape[1], table.shape[1]))
    gram_of_rows(table, gram)
    return State({"items": table, "gram": gram}, moments)
