"""Matrix factorisation with biases for explicit ratings, by alternating least squares from summed normal equations."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, RankOne
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import FedrecError
from fedrec.kernels.ratings import bias_rows, solve_rated, solve_raters
from fedrec.kernels.scoring import dot_rows
from fedrec.models.base import Arrays, Given, Private, State, cosines
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.rating_scale import OnScale
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["BiasedMF"]


class BiasedMF(OnScale):
    """A rating is predicted as r̂ = μ + b_u + b_i + ⟨p_u, q_i⟩ (Koren, Bell & Volinsky 2009, "Matrix factorization
    techniques for recommender systems", equation 4).

    The loss is over observed ratings alone; users u have n_u ratings, items i n_i, and what pulls a row towards 0 grows
    with its ratings where ν is above 0 (ν = 1: Zhou et al. 2008, "Large-scale parallel collaborative filtering for the
    Netflix Prize", equation 3):

        Σ_(u, i) observed (r_ui − r̂_ui)² + Σ_u n_u^ν (λ_b b_u² + λ ‖p_u‖²) + Σ_i n_i^ν (λ_b b_i² + λ ‖q_i‖²)

    The first round sums the ratings of each item; μ and the first b_i follow. In every further round each client solves
    for its own [b_u, p_u] from its ratings and contributes the normal equations of its items; the coordinator solves
    those: a round is one sweep of the pooled-data algorithm. What belongs to users is never stored: it follows from
    their ratings, for users that never trained as well. Who has no ratings is predicted μ + b_i.

    Items are ranked by predicted rating, which is not how likely somebody is to want them: for lists of items take a
    model such as `ease` or `ials`.

    Args:
        embedding_size: length d of the factors; 0 leaves biases only. Larger factors fit finer differences; they need
            more ratings.
        rounds: number of rounds: one that sums ratings, then one sweep each.
        reg: regularisation λ of the factors. A larger value keeps factors closer to 0, so that predictions stay closer
            to the biases; a smaller value fits the ratings more closely, and noise in them too.
        bias_reg: regularisation λ_b of the biases. A larger value keeps users and items with few ratings closer to the
            mean rating.
        nu: exponent ν: how regularisation grows with the number of ratings of a user or item. At 0 it is equal for all;
            at 1 it grows in proportion to the number of ratings.
        init_sd: norm that initial item factors have on average.
        lowest, highest: the scale of the ratings, which is public: it bounds what one client can add to a sum, and
            predictions are cut to it. A rating outside is an error.
        scale_bits: contributions are rounded to multiples of 2^-scale_bits. A larger value rounds less; sums may need
            more bytes.

    With w = (d + 1) (d + 2) / 2 + d + 1 numbers per item, a sum has at most 8 · w · items bytes under secure
    aggregation; unmasked its numbers have the bits of the largest one. Down go 4 · (d + 1) · items.

    Raises:
        PlanError: if `highest` is not above `lowest`.

    Example:
        >>> from fedrec.data.identifiers import Identifiers
        >>> model = BiasedMF(embedding_size=8, lowest=1, highest=10)
        >>> catalog = Catalog(Identifiers.of(list(range(1000))))
        >>> state = model.start(catalog, {}, KeyedSource.from_seed(0))
        >>> {array.name: array.shape for array in model.spec(state.shared, 1).arrays}
        {'equations': (1000, 45), 'targets': (1000, 9)}
    """

    embedding_size: int = Field(default=16, ge=0)
    rounds: PositiveInt = 10
    reg: PositiveFloat = 1.4
    bias_reg: PositiveFloat = 0.5
    nu: NonNegativeFloat = Field(default=0.5, le=1.0)
    init_sd: PositiveFloat = 0.1
    lowest: float = 1.0
    highest: float = 5.0
    scale_bits: int = Field(default=22, ge=8, le=32)

    name: ClassVar[str] = "biased-mf"
    traits: ClassVar[Traits] = Traits(reads=frozenset({"items", "values"}), iterative=True)

    def shapes(self, n_items: int) -> Shapes:
        """Rows [b_i, q_i], and μ."""
        return Shapes((Form({"items": Shape((n_items, 1 + self.embedding_size)), "mean": Shape((1,), "float64")}),))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random factors; no biases yet, and μ in the middle of the scale."""
        d = self.embedding_size
        table = np.zeros((len(catalog), 1 + d), dtype=np.float32)
        if d:
            table[:, 1:] = rng.generator().normal(0.0, self.init_sd / np.sqrt(d), (len(catalog), d))
        return State({"items": table, "mean": np.array([(self.lowest + self.highest) / 2.0])})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """First the sum and the count of each item's ratings; then Σ vech(x xᵀ) and Σ x (r − μ − b_u) over the users of
        each item, where x = [1, p_u]."""
        if round >= self.rounds:
            return None
        n_items, bits = len(shared["items"]), self.scale_bits
        if round == 0:
            ratings = ArraySpec("ratings", "rank_one", (n_items, 1), bound=self._range, scale_bits=bits)
            return SumSpec((ratings, count_spec(n_items)))
        length = 1 + self.embedding_size
        largest = self.largest_row(n_items)
        of_residuals = max(1.0, largest**0.5) * (self._range + largest**0.5)
        equations = n_items, triangle_size(length)
        return SumSpec(
            (
                ArraySpec("equations", "rank_one", equations, bound=max(1.0, largest), scale_bits=bits),
                ArraySpec("targets", "rank_one", (n_items, length), bound=of_residuals, scale_bits=bits),
            )
        )

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """The client's ratings; later its row, as equations of its items."""
        ones, values = np.ones(len(clients)), _ratings(clients)
        if given.round == 0:
            above = (values.astype(np.float64) - self.lowest).astype(np.float32)
            of_items = (clients.indptr, clients.items, ones, clients.n_items)
            ratings = RankOne(*of_items, np.ones((len(clients), 1)), above)
            return Contributions({"ratings": ratings, "counts": counted(clients)}), None
        length = 1 + self.embedding_size
        squares, rows = np.empty((len(clients), triangle_size(length))), np.empty((len(clients), length))
        residuals = np.empty(len(clients.items), dtype=np.float32)
        users, mean = self._users(given.shared, clients), float(given.shared["mean"][0])
        bias_rows(clients.indptr, values, users, mean, squares, rows, residuals)
        of_items = (clients.indptr, clients.items, ones, clients.n_items)
        equations, targets = RankOne(*of_items, squares), RankOne(*of_items, rows, residuals)
        return Contributions({"equations": equations, "targets": targets}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Solve every item's normal equations in float64.

        An item that nobody rated in the first round has no bias and no factors until somebody does; items that nobody
        of a later round's cohort rated stay as they are.

        Raises:
            FedrecError: if an item's equations have no solution, because contributions saturated.
        """
        table = state.shared["items"].copy()
        if round == 0:
            return self._first_step(state, total, table)
        solve_rated(
            total.value("equations"), total.value("targets"), self.bias_reg, self.reg, self.nu, self._range, table
        )
        wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
        if len(wrong):
            raise FedrecError(
                f"biased-mf: round {round}: the equations of {len(wrong)} items, first the one at position {wrong[0]}, "
                f"are not positive definite; {total.saturated} coordinates saturated. Raise reg (now {self.reg:g}) and "
                f"bias_reg (now {self.bias_reg:g})"
            )
        return State({**state.shared, "items": table})

    def _first_step(self, state: State, total: Sum, table: np.ndarray) -> State:
        """μ, and a bias for each item that came with none."""
        counts, sums = total.value("counts")[:, 0], total.value("ratings")[:, 0]
        if counts.sum() <= 0.0:
            return state
        mean = self.lowest + sums.sum() / counts.sum()
        table[counts <= 0.0] = 0.0
        anew = (table[:, 0] == 0.0) & (counts > 0.0)
        rated = counts[anew]
        table[anew, 0] = (sums[anew] + (self.lowest - mean) * rated) / (rated + self.bias_reg * rated**self.nu)
        return State({**state.shared, "items": table, "mean": np.array([mean])})

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Predicted ratings, not cut to the scale so that few are tied."""
        table = given.shared["items"] if items is None else given.shared["items"][items]
        users = self._users(given.shared, clients)
        users[:, 0] += given.shared["mean"][0]
        right = table.T.copy(order="C")
        right[0] = 1.0
        scores = np.empty((len(clients), len(table)), dtype=np.float32)
        dot_rows(users.astype(np.float32), right, np.ascontiguousarray(table[:, 0]), scores)
        return scores

    def largest_row(self, n_items: int) -> float:
        """What b_u² + ‖p_u‖² of no client can exceed: n^(1 − ν) T² / (4 min(λ, λ_b)), for n up to the catalog's length.

        T, twice the range of the scale, is the most that a rating can be from μ + b_i. Where a client's loss is least,
        its predictions p of t = r − μ − b_i have Σ p² + n^ν λ (b_u² + ‖p_u‖²) ≤ Σ p t, and Σ p (t − p) ≤ Σ t² / 4.

        >>> BiasedMF(reg=0.1, bias_reg=0.2, nu=1, lowest=1, highest=5).largest_row(1000)
        160.0
        """
        return n_items ** (1.0 - self.nu) * self._range**2 / min(self.reg, self.bias_reg)

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the item factors."""
        return cosines(given.shared["items"][:, 1:], items)

    def cost(self, n_items: int) -> Cost:
        """Three sums, and what is solved from them in float64. An interaction has a residual besides item and value; a
        client adds one row of equations, in float64 and as integers."""
        length = 1 + self.embedding_size
        row = triangle_size(length) + length
        return Cost(memory=n_items * (32 * row + 16 * length), per_interaction=4, per_client=4 * row)

    @property
    def _range(self) -> float:
        return self.highest - self.lowest

    def _users(self, shared: Arrays, clients: Clients) -> np.ndarray:
        """Rows [b_u, p_u] [clients, 1 + d] float64 that minimise the loss given the items, each from its ratings."""
        users = np.empty((len(clients), 1 + self.embedding_size))
        solve_raters(
            clients.indptr,
            clients.items,
            _ratings(clients),
            shared["items"],
            float(shared["mean"][0]),
            self.bias_reg,
            self.reg,
            self.nu,
            users,
        )
        return users


def _ratings(clients: Clients) -> np.ndarray:
    """Ratings [rows] float32; a node without interactions has none."""
    if clients.values is None:
        assert len(clients.items) == 0, "a model that reads ratings is handed ratings"
        return np.empty(0, dtype=np.float32)
    return clients.values
