"""iALS: implicit alternating least squares from summed normal equations (Hu et al. 2008; Rendle et al. 2021)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contribution, Contributions, Dense, RankOne
from fedrec.aggregation.queries import PLAIN, Metric, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.features import ItemColumns
from fedrec.data.keys import KeyedSource
from fedrec.errors import FedrecError
from fedrec.kernels.least_squares import gram_of_rows, outer_rows, solve_items, solve_users
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, State, cosines
from fedrec.models.cold_items import BOOST, COLD, Boost, ColdItems, boosted_rows, predicted
from fedrec.models.factors.conjugate_gradients import (
    SWEEP,
    Pulls,
    Sweep,
    error_sums,
    everyone_sums,
    fitted_users,
    item_sums,
    largest_sum,
    server_shapes,
    shared_of,
    shared_shapes,
    sweep_spec,
)
from fedrec.models.factors.noisy_equations import bounded, item_weights, noisy_counts, noisy_factors
from fedrec.models.factors.noisy_errors import improved, largest_error
from fedrec.models.factors.scoring import factor_scores
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.served import with_columns
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["IALS", "PrivateIALS", "PrivateStepsIALS"]

_TRAINED = "trained"
"""Name of the shared array with the length of the catalog in training: new items do not move users' factors."""
_COUNT_SHARE = 0.1
_EVERYONE_SHARE = 0.05
_COUNTED_IN_FULL = 20


class IALS(ColdItems):
    """score = ⟨user factor, item factor⟩, fitted to 1 where a user has an item and weakly to 0 everywhere.

    The loss, over users u with n_u items and items i that n_i users have (Rendle et al. 2021, "Revisiting the
    Performance of iALS on Item Recommendation Benchmarks", eq. 3 and 12):

        Σ_(u, i) observed c_ui (⟨u, i⟩ − 1)² + α₀ Σ_all (u, i) ⟨u, i⟩²
            + λ (Σ_u (n_u + α₀ · items)^ν ‖u‖² + Σ_i (n_i + α₀ · users)^ν ‖i‖²)

    with weights c_ui of interactions, 1 unless the plan has `weights`.

    In a round each client solves for its own factor from its history, the item factors Y and YᵀY, and contributes the
    normal equations of its items; the coordinator solves those. So a round is one sweep of the pooled-data algorithm.
    With `solver=cg` a sweep is three rounds of conjugate gradients on both sides, which send d numbers an item each,
    see `fedrec.models.factors.conjugate_gradients`; clients then keep their factors at their node from sweep to sweep.
    Whoever is scored, a user that never trained as well, has the factor that solves for its history. With
    `item_features`, the last round gives items that nobody has the factors that features predict from those of others,
    see `fedrec.models.cold_items`; users' factors do not depend on these.

    Args:
        embedding_size: length d of the factors. Larger factors fit finer differences between items; they need more
            data, memory and bytes.
        rounds: number of rounds. A sweep is one with `cholesky` and three with `cg`; a sweep that is not finished by
            then changes nothing. 24 by default with `cg`.
        unobserved_weight: weight α₀ of every pair of a user and an item, observed or not, whose score is pulled to 0. A
            larger value keeps scores of unseen items lower; a smaller value trusts observed interactions more.
        reg: regularisation λ. A larger value keeps factors closer to 0; a smaller value fits the interactions more
            closely, and noise in them too.
        nu: exponent ν: how regularisation grows with the data of a user or item. At 1 it is proportional to the amount
            of data; at 0 it is equal for all (Hu et al. 2008).
        init_sd: norm that initial item factors have on average; a coordinate's deviation is init_sd / √d.
        bound: largest |u_k u_l| and |u_k| of one client, beyond which a coordinate saturates; `auto` is a bound that
            no client can reach, see `largest_factor`.
        scale_bits: contributions are rounded to multiples of 2^-scale_bits. A larger value rounds less; sums may need
            more bytes.
        item_features: columns of the catalog, and how each is read, as for `ease`; `None` scores items that nobody has
            0.
        boost: factor of the scores of items that nobody has, as for `ease`.
        solver: `cholesky` solves every user and item exactly, in one round a sweep; `cg` takes three steps of
            conjugate gradients for users and two for items, in three rounds a sweep. Sums of `cg` are a tenth as large
            at d = 64, and sweeps take less time; `cholesky` needs fewer rounds.

    With w = d (d + 1) / 2 + d equations per item (560 at d = 32, 2,144 at d = 64), a sum has b / 8 · w · items bytes
    under secure aggregation, where 2^(b − 1) is above n_max · bound · 2^scale_bits (38 bits with 1,024 clients);
    unmasked its numbers have the bits of the largest one. Down go 4 · d · items. The coordinator's peak is about three
    sums. Item factors are within 1e-5 of a float64 solve of the pooled data; with `bound=1, scale_bits=16` they are
    within 1e-3 for fewer bytes. With `cg` w is d in each round, besides d² numbers once a sweep, and 8 · d · items go
    down in two of three rounds.

    Example:
        >>> from fedrec.data.identifiers import Identifiers
        >>> model = IALS(embedding_size=32)
        >>> catalog = Catalog(Identifiers.of(list(range(1000))))
        >>> state = model.start(catalog, {}, KeyedSource.from_seed(0))
        >>> {array.name: array.shape for array in model.spec(state.shared, 0).arrays}
        {'equations': (1000, 560), 'counts': (1000, 1), 'everyone': (529,)}
        >>> {array.name: array.shape for array in IALS(embedding_size=32, solver="cg").spec(state.shared, 1).arrays}
        {'errors': (1000, 32), 'counts': (1000, 1)}
    """

    embedding_size: PositiveInt = 64
    rounds: PositiveInt = 8
    unobserved_weight: PositiveFloat = 0.1
    reg: PositiveFloat = 0.01
    nu: NonNegativeFloat = Field(default=1.0, le=1.0)
    init_sd: PositiveFloat = 0.1
    bound: PositiveFloat | Literal["auto"] = "auto"
    scale_bits: int = Field(default=22, ge=8, le=32)
    item_features: ItemColumns | None = None
    boost: Boost = "auto"
    solver: Literal["cholesky", "cg"] = "cholesky"

    name: ClassVar[str] = "ials"
    traits: ClassVar[Traits] = Traits(
        weights=(
            "the squared error of an observed interaction counts as often as it weighs: the confidence of Hu et al. "
            "(2008)."
        ),
        iterative=True,
    )
    unsaid: ClassVar[frozenset[str]] = frozenset({"item_features", "boost", "solver"})

    @model_validator(mode="after")
    def _as_many_sweeps(self) -> Self:
        if self._in_sweeps and "rounds" not in self.model_fields_set:
            self.__dict__["rounds"] = SWEEP * type(self).model_fields["rounds"].default
        return self

    def shapes(self, n_items: int) -> Shapes:
        """Item factors Y, and YᵀY of those that somebody has; with `cg`, its eigenvectors, and what there is during a
        sweep. User factors at the nodes, with `cg`."""
        d = self.embedding_size
        shared: dict[str, Shape] = {"items": Shape((n_items, d)), "gram": Shape((d, d), "float64")}
        shared |= self.cold_shapes(n_items)
        if self.item_features is not None:
            shared[_TRAINED] = Shape((1,), "int64", 1, 1 << 31)
        known = self.feature_shapes(n_items)
        if not self._in_sweeps:
            return Shapes((Form(shared, known), Form(shared)) if known else (Form(shared),))
        shared |= shared_shapes(d)
        rows = {"users": Shape((d,), finite=False), "fitted": Shape((1,), "float64", finite=False)}
        return Shapes((Form(shared, known), Form(shared, {**server_shapes(n_items, d), **known}), Form(shared)), rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item factors."""
        shape = (len(catalog), self.embedding_size)
        table = rng.generator().normal(0.0, self.init_sd / np.sqrt(self.embedding_size), shape)
        state = self._state(table.astype(np.float32))
        return State({**state.shared, **self._none_cold(len(catalog))}, public)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """[Σ vech(u uᵀ), Σ u] and the count of clients that have each item; [Σ vech(u uᵀ), count] of all clients. With
        `cg` a row of d numbers an item, and the last array in the first round of a sweep only."""
        if round >= self.rounds:
            return None
        n_items = len(shared["items"])
        bound = self._largest_product(n_items)
        grid: dict[str, Any] = {"scale_bits": self.scale_bits}
        heaviest = max(1.0, self._heaviest or 1.0)
        if not self._in_sweeps:
            shape = (n_items, self._width)
            everyone = ArraySpec("everyone", "dense", (triangle_size(self.embedding_size) + 1,), bound=bound, **grid)
            equations = ArraySpec("equations", "rank_one", shape, bound=bound * heaviest, **grid)
            return SumSpec((equations, count_spec(n_items), everyone))
        most = largest_sum(self._longest(n_items), round) if self.bound == "auto" else self.bound
        errors = ArraySpec("errors", "rank_one", shared["items"].shape, bound=most * heaviest, **grid)
        return sweep_spec(errors, bound, self._heaviest, round)

    def join(self, given: Given, clients: Clients) -> Private | None:
        """With `cg`, users' factors of 0, fitted to no items yet."""
        if not self._in_sweeps:
            return None
        users = np.zeros((len(clients), self.embedding_size), dtype=np.float32)
        return {"users": users, "fitted": np.full((len(clients), 1), -1.0)}

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """The client's factor, as equations of its items and of everyone; with `cg`, as errors of its items."""
        if self._in_sweeps:
            assert private is not None
            return self._contribute_errors(given, clients, private)
        right = np.empty((len(clients), self._width))
        outer_rows(self._users(given.shared, clients), right)
        size = triangle_size(self.embedding_size)
        everyone = np.ones((len(clients), size + 1), dtype=np.float32)
        everyone[:, :size] = right[:, :size]
        ones = np.ones(len(clients))
        equations = RankOne(clients.indptr, clients.items, ones, clients.n_items, right, clients.values)
        return Contributions(
            {"equations": equations, "counts": counted(clients), "everyone": Dense(everyone, ones)}
        ), None

    def _contribute_errors(
        self, given: Given, clients: Clients, private: Private
    ) -> tuple[Contributions, Private | None]:
        """Errors of the client's items, from its own factor: renewed once a sweep, wherever in it the client comes."""
        place, longest = given.round % SWEEP, self._longest(clients.n_items)
        users, renewed = fitted_users(given.shared, clients, private, self._pulls, longest)
        arrays: dict[str, Contribution] = {"counts": counted(clients)}
        arrays["errors"] = item_sums(given.shared, clients, users, place)
        if place == 0:
            arrays |= everyone_sums(users, self._largest_product(clients.n_items), self.scale_bits)
            if self._heaviest is not None:
                arrays["masses"] = counted(clients, clients.values)
        return Contributions(arrays), renewed

    def step(self, state: State, total: Sum, round: int) -> State:
        """Solve every item's normal equations in float64; with `cg`, take the items' next step.

        An item that no client of the round has goes to zero in round 0, the minimum of the loss, and later keeps the
        factor of an earlier round's cohort.

        Raises:
            FedrecError: if an item's equations have no solution, because contributions saturated.
        """
        if self._in_sweeps:
            return self._step_along(state, total, round)
        everyone = total.value("everyone")
        if everyone[-1] <= 0.0:
            return self._ended(state, round)
        table = np.zeros_like(state.shared["items"]) if round == 0 else state.shared["items"].copy()
        spec = total.spec["equations"]
        base = unpack_triangle(everyone[:-1], self.embedding_size, self.unobserved_weight)
        offset = self.unobserved_weight * float(everyone[-1])
        counts = np.ascontiguousarray(total.value("counts")[:, 0])
        solve_items[spec.word](
            total.integers("equations"), counts, 1.0 / spec.unit, base, offset, self.reg, self.nu, table
        )
        wrong = np.flatnonzero(~np.isfinite(table).all(axis=1))
        if len(wrong):
            raise FedrecError(
                f"ials: round {round}: the equations of {len(wrong)} items, first the one at position {wrong[0]}, are "
                f"not positive definite; {total.saturated} coordinates saturated. Raise bound (now {self.bound}) or "
                f"reg (now {self.reg:g})"
            )
        return self._ended(State({**state.shared, **self._state(table).shared}, state.server), round)

    def _step_along(self, state: State, total: Sum, round: int) -> State:
        """The sweep after a round of it; after its last round, the item factors that it comes to."""
        ends = round % SWEEP == SWEEP - 1
        sweep = Sweep.after(state.shared, state.server, total, self._pulls, round)
        known = {name: state.server[name] for name in state.server if name == "features"}
        shared, server = sweep.arrays()
        if ends:
            table = (state.shared["items"] + sweep.change).astype(np.float32)
            shared, server = dict(self._state(table).shared), {}
        elif round == self.rounds - 1:
            shared, server = shared_of(state.shared["gram"]), {}
        return self._ended(State({**state.shared, **shared}, {**server, **known}), round)

    def _ended(self, state: State, round: int) -> State:
        """The state; after the last round, with factors of items that nobody has."""
        if self.item_features is None or round < self.rounds - 1:
            return state
        cold = np.logical_not(state.shared["items"].any(axis=1))
        return State(self.filled({**state.shared, **self.cold_arrays(cold)}, state.server["features"]))

    def filled(self, arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
        """Factors of cold items."""
        table, cold = arrays["items"].copy(), arrays[COLD]
        table[cold] = arrays[BOOST] * predicted(table, features, cold)
        return {**arrays, "items": table}

    def boosted(self, shared: Arrays, factor: float) -> dict[str, np.ndarray]:
        """Factors of cold items times the factor."""
        return boosted_rows(shared, "items", factor)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Noisy normal equations, see `PrivateIALS`; with `cg` noisy errors, see `PrivateStepsIALS`.

        Raises:
            PlanError: with features of items.
        """
        self.check_not_private()
        return (PrivateIALS if self.solver == "cholesky" else PrivateStepsIALS).of(self, terms)

    def carry(self, fresh: State, earlier: State) -> State:
        """YᵀY of the carried factors, without those that were predicted."""
        table = earlier.shared["items"]
        if COLD in earlier.shared:
            table = np.where(earlier.shared[COLD][:, None], np.float32(0.0), table)
        return State({**self._state(table).shared, **self._none_cold(len(table))}, fresh.server)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """⟨user, item⟩ with the user's factor solved from its history; zeros without one."""
        return factor_scores(self._users(given.shared, clients).astype(np.float32), given.shared, items)

    def ready(self, shared: Arrays) -> Arrays:
        """The item table in the order in which single clients read it."""
        return with_columns(shared, "items")

    def largest_factor(self, n_items: int) -> float:
        """What ‖u‖² of no client can exceed: c n_items / (4 λ (n_items + α₀ n_items)^ν), c the largest weight.

        Where a client's loss is least, its predictions p have Σ c p² + α₀ Σ_all p² + λ (n + α₀ · items)^ν ‖u‖² = Σ c p.
        So λ (n + α₀ · items)^ν ‖u‖² ≤ Σ c p (1 − p) ≤ c n / 4, and the bound on ‖u‖² grows with n up to n = items.

        >>> round(IALS(reg=0.01, unobserved_weight=0.1).largest_factor(1000), 2)
        22.73
        """
        largest = n_items ** (1.0 - self.nu) / (4.0 * self.reg * (1.0 + self.unobserved_weight) ** self.nu)
        return largest if self._heaviest is None else largest * self._heaviest

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the item factors."""
        return cosines(given.shared["items"], items)

    def cost(self, n_items: int) -> Cost:
        """Three sums, and the factors. A client adds one row of equations, in float64 and as integers; with `cg` its
        factor and an error for each of its items, and the coordinator keeps two more rows of an item."""
        if self._in_sweeps:
            memory = n_items * (80 * self.embedding_size + 64) + self.cold_memory(n_items)
            return Cost(memory=memory, per_interaction=6, per_client=6 * self.embedding_size)
        memory = n_items * (24 * self._width + 16 * self.embedding_size) + self.cold_memory(n_items)
        return Cost(memory=memory, per_client=4 * self._width)

    def _none_cold(self, n_items: int) -> dict[str, np.ndarray]:
        """What says that no item is scored from its features yet."""
        none = self.cold_arrays(np.zeros(n_items, dtype=np.bool_))
        return {**none, _TRAINED: np.array([n_items])} if none else {}

    @property
    def _in_sweeps(self) -> bool:
        """Whether a sweep is several rounds, from which clients keep their factors."""
        return self.solver == "cg"

    @property
    def _pulls(self) -> Pulls:
        return Pulls(self.unobserved_weight, self.reg, self.nu)

    def _largest_product(self, n_items: int) -> float:
        """The bound of |u_k u_l| and |u_k| of one client."""
        return max(1.0, self.largest_factor(n_items)) if self.bound == "auto" else self.bound

    def _longest(self, n_items: int) -> float:
        """What ‖u‖ of no client exceeds."""
        return float(np.sqrt(self.largest_factor(n_items)))

    def _state(self, table: np.ndarray) -> State:
        """A state of item factors: they, YᵀY, and with `cg` its eigenvectors."""
        state = _state(table)
        return state if not self._in_sweeps else State({**state.shared, **shared_of(state.shared["gram"])})

    @property
    def _width(self) -> int:
        return triangle_size(self.embedding_size) + self.embedding_size

    def _users(self, shared: Arrays, clients: Clients) -> np.ndarray:
        """Factors [clients, d] float64 that minimise the loss given the item factors, each from its history alone."""
        if COLD in shared:
            clients = clients.where(~shared[COLD][clients.items])
        users = np.empty((len(clients), self.embedding_size))
        base = self.unobserved_weight * shared["gram"]
        n_items = int(shared[_TRAINED][0]) if _TRAINED in shared else clients.n_items
        offset = self.unobserved_weight * n_items
        weights, table = clients.weights, shared["items"]
        solve_users(clients.indptr, clients.items, weights, table, base, offset, self.reg, self.nu, users)
        return users


class PrivateIALS(PrivateRecommender, IALS):
    """Noisy normal equations, see `fedrec.models.factors.noisy_equations`: counts of items, then the sweeps.

    The clip is 2 by default, which is two items of weight 1 in full: most clients are scaled down, so all have about
    the same say. Counts have a clip of their own, √20: a client counts 20 items in full, more of them less each.

    Args:
        embedding_size: small, as noise grows with the number of equations.
        rounds: few sweeps, as each takes its share of the budget; the round of the counts comes before them.
        init_sd: about the length that clients' factors may have, which is 1.
    """

    embedding_size: PositiveInt = 16
    rounds: PositiveInt = 3
    init_sd: PositiveFloat = 1.0

    default_clip: ClassVar[float] = 2.0
    _summed: ClassVar[str] = "equations"

    @property
    def _in_sweeps(self) -> bool:
        return False

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """A tenth for the counts, the rest evenly over the sweeps."""
        return (_COUNT_SHARE, *((1.0 - _COUNT_SHARE) / self.rounds,) * self.rounds)

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """Counts of items; then equations of items, clipped in the weighted norm, and those of everyone, whose norm is
        1 at most."""
        if round == 0:
            return (Query({"counts": PLAIN}, _COUNTED_IN_FULL**0.5),)
        metric = Metric(rows=item_weights(shared["counts"]))
        equations = Query({self._summed: metric}, self.clip, 1.0 - _EVERYONE_SHARE)
        return equations, Query({"everyone": PLAIN}, 1.0, _EVERYONE_SHARE)

    def shapes(self, n_items: int) -> Shapes:
        """Item factors, and noisy counts."""
        (plain,) = super().shapes(n_items).states
        return Shapes((Form({**plain.shared, "counts": Shape((n_items,), "float64")}),))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item factors, and no counts yet."""
        return State({**super().start(catalog, public, rng).shared, "counts": np.zeros(len(catalog))})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The count of clients that have each item; then [Σ vech(u uᵀ), Σ u] of those clients, Σ vech(u uᵀ) of all."""
        if round > self.rounds:
            return None
        n_items = len(shared["items"])
        if round == 0:
            return SumSpec((count_spec(n_items),))
        size = triangle_size(self.embedding_size)
        return SumSpec(
            (
                ArraySpec("equations", "rank_one", (n_items, self._width), bound=max(1.0, self._heaviest or 1.0)),
                ArraySpec("everyone", "dense", (size,), bound=1.0),
            )
        )

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; then the client's factor, no longer than 1, as equations of its items and of everyone."""
        if given.round == 0:
            return Contributions({"counts": counted(clients)}), None
        right, ones = np.empty((len(clients), self._width)), np.ones(len(clients))
        outer_rows(bounded(self._users(given.shared, clients)), right)
        equations = RankOne(clients.indptr, clients.items, ones, clients.n_items, right, clients.values)
        everyone = Dense(right[:, : triangle_size(self.embedding_size)].astype(np.float32), ones)
        return Contributions({"equations": equations, "everyone": everyone}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep the noisy counts; then solve the noisy equations."""
        if round == 0:
            return State({**state.shared, "counts": noisy_counts(total)})
        counts = state.shared["counts"]
        table = noisy_factors(total, counts, total.clients, self.unobserved_weight, self.reg, self.nu)
        return State({**self._state(table).shared, "counts": counts})


class PrivateStepsIALS(PrivateIALS):
    """Noisy errors of items, see `fedrec.models.factors.noisy_errors`; clip, counts and budget as with equations."""

    _summed: ClassVar[str] = "errors"

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The count of clients that have each item; then Σ w (1 − ⟨u, y⟩) u of those, and Σ vech(u uᵀ) of all."""
        plain = super().spec(shared, round)
        if plain is None or round == 0:
            return plain
        shape = shared["items"].shape
        errors = ArraySpec("errors", "rank_one", shape, bound=largest_error(self.clip, len(shared["items"])))
        return SumSpec((errors, plain["everyone"]))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; then the client's factor, no longer than 1, as errors of its items and of everyone."""
        plain, _ = super().contribute(given, clients, private)
        if given.round == 0:
            return plain, None
        users = bounded(self._users(given.shared, clients)).astype(np.float32)
        errors = error_sums(self._before(given.shared, given.round), clients, users)
        return Contributions({"errors": errors, "everyone": plain.arrays["everyone"]}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """Keep the noisy counts; then take a step."""
        if round == 0:
            return super().step(state, total, round)
        counts = state.shared["counts"]
        table = improved(self._before(state.shared, round), total, counts, self._pulls)
        return State({**self._state(table).shared, "counts": counts})

    def _before(self, shared: Arrays, round: int) -> np.ndarray:
        """The factors that a round improves: 0 in the first sweep, as factors were drawn to tell users apart."""
        return np.zeros_like(shared["items"]) if round == 1 else shared["items"]


def _state(table: np.ndarray) -> State:
    gram = np.empty((table.shape[1], table.shape[1]))
    gram_of_rows(table, gram)
    return State({"items": table, "gram": gram})
