"""An autoencoder of histories: half of a history predicts the other half, by a softmax over the catalog.

The encoder is linear (Kabbur et al. 2013, "FISM"; Sedhain et al. 2015, "AutoRec"), the loss that of Liang et al. 2018,
"Variational autoencoders for collaborative filtering", equation 2; that input and target never overlap keeps the model
from learning to copy (Steck 2020, "Autoencoders that don't overfit towards the identity").
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions, Dense, RankOne
from fedrec.aggregation.dense_products import DenseProducts
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.features import ItemColumns
from fedrec.data.interactions import offsets
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.autoencoder import softmax_errors, toss_coins
from fedrec.kernels.scoring import dot_items, gather_rows
from fedrec.models.base import Arrays, Given, Private, State, cosines
from fedrec.models.cold_items import USUAL, Boost, ColdItems, boosted_biases, filled_rows, usual_row
from fedrec.models.linear.counts import count_spec, counted, degree_weights
from fedrec.models.linear.sketch import (
    Sketched,
    Spectrum,
    basis_table,
    draw_signs,
    leading_spectrum,
    sketch_contribution,
    sketch_memory,
    sketch_spec,
)
from fedrec.models.networks.spectral_start import start_tables
from fedrec.models.server_optimisers import ServerOptimiser
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["PASSES", "TABLES", "Autoencoder"]

TABLES = ("encoder", "decoder")
"""Tables of item vectors, which gradients are summed for."""
PASSES = 3
"""Rounds of the sketch of the start."""
_COUNTS, _GOES_ON = 0, PASSES + 1
"""Stages of the start: items are counted before the first sketch; sketches 1 to `PASSES`; items are counted before
training begins with the tables as they are."""
_FEW_ITEMS = 2500
_LEFT_BITS, _RIGHT_BITS = 16, 10
_LEFT_BOUND, _RIGHT_BOUND = 8.0, 32.0
_ROW_BITS, _ROW_BOUND = 16, 16.0
_FLOOR = 1e-6
_INIT_SD = 0.1
_DRAWS = 10**6
_IN_PUBLIC = KeyedSource(bytes(16))


class Autoencoder(ColdItems):
    """score = W u + b, u = Eᵀx / √n for a history x of n items: two tables of item vectors and a bias, all shared.

    In a round each client that takes part tosses a coin for each of its items. Heads make x, the input; the others are
    wanted. With the softmax p of the scores over all items that are not in x, and n wanted items y, the loss is
    −Σ_{i∈y} log p_i / √n. Its gradient is δ ⊗ [u, 1] for [W, b], with δ = (n p − y) / √n, and x ⊗ Wᵀδ / √n_x for E: two
    products of a client's vectors, of which only sums leave its node. The coordinator takes one Adam step along the
    mean gradient.

    Nothing is kept of users: whoever has a history has scores. Items that nobody has are scored by their bias; with
    `item_features`, the last round gives them the rows of W and b that features predict from those of other items, see
    `fedrec.models.cold_items`.

    Args:
        embedding_size: length d of the item vectors; larger vectors fit finer differences and need more bytes. By
            default 64 for catalogs of up to 2,500 items and 128 for larger ones.
        rounds: number of rounds, including those of the start: one for item counts and, with the spectral start, three
            for sketches.
        learning_rate: step size of the first step; it falls to 0 along half a cosine.
        batch_size: expected number of clients whose gradients make a step, drawn anew for each round by the clients'
            own coins from those that the plan's cohort has.
        keep: probability that an item of the history is in the input; the other items are predicted.
        reg: L2 regularisation of all item vectors, on the scale of the loss summed over all clients. A larger value
            keeps the vectors closer to 0.
        start_from: `spectral` begins with the leading spectrum of the item Gram matrix, from sketches, and needs far
            fewer rounds; `random` begins with noise.
        alpha, beta: of the spectral start: how much less users with long histories (alpha) and popular items (beta)
            count, as for `spectral`.
        most_candidates: maximum number of items that a softmax ranges over. For a larger catalog each round draws this
            many items, in public and the same for all nodes, and no other rows of W move in that round.
        item_features: columns of the catalog, and how each is read, as for `ease`.
        boost: how often items that nobody has are taken, beside what their scores say: the logarithm is added to these.
            `auto` as for `ease`.

    Raises:
        PlanError: with fewer rounds than the start takes.

    Example:
        >>> model = Autoencoder(embedding_size=32, rounds=50)
        >>> {name: shape.axes for name, shape in model.shapes(1000).states[-1].shared.items()}
        {'encoder': (1000, 32), 'decoder': (1000, 33), 'population': (1,)}
    """

    embedding_size: PositiveInt | None = None
    rounds: PositiveInt = 200
    learning_rate: PositiveFloat = 4e-3
    batch_size: PositiveInt = 500
    keep: float = Field(default=0.5, gt=0.0, lt=1.0)
    reg: NonNegativeFloat = 0.1
    start_from: Literal["spectral", "random"] = "spectral"
    alpha: float = Field(default=0.3, ge=0.0, le=2.0)
    beta: float = Field(default=0.3, ge=0.0, le=2.0)
    most_candidates: PositiveInt = 20_000
    item_features: ItemColumns | None = None
    boost: Boost = "auto"

    name: ClassVar[str] = "autoencoder"
    traits: ClassVar[Traits] = Traits(iterative=True)
    unsaid: ClassVar[frozenset[str]] = frozenset({"item_features", "boost"})

    @model_validator(mode="after")
    def _check(self) -> Autoencoder:
        least = 1 + PASSES if self.start_from == "spectral" else 1
        if self.rounds < least:
            raise PlanError(
                f"model {self.name}: rounds is {self.rounds}, but start_from: {self.start_from} takes {least}; set "
                f"rounds to {least} or more, or start_from to random"
            )
        return self

    def shapes(self, n_items: int) -> Shapes:
        """Two tables, and how far the start has come or, after it, how many clients there are; counts of items and
        moments at the server."""
        d = self._width(n_items)
        axes = {"encoder": (n_items, d), "decoder": (n_items, d + 1)}
        tables = {**{name: Shape(both) for name, both in axes.items()}, **self.row_shapes(n_items, d + 1)}
        server = {"counts": Shape((n_items,), "float64"), "draws": Shape((1,), "int64", 0, _DRAWS)}
        for table, both in axes.items():
            server |= {f"{table}_{name}": form for name, form in self._adam(0).forms(both).items()}
        stage, population = Shape((1,), "int64", _COUNTS, _GOES_ON + 1), Shape((1,), "float64")
        begun, trained = {**tables, "stage": stage}, {**tables, "population": population}
        if not (known := self.feature_shapes(n_items)):
            return Shapes((Form(begun, server), Form(trained, server)))
        before = {**server, **known}
        return Shapes((Form(begun, before), Form(trained, before), Form(trained, server)))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Tables at random or, where sketches are to come, of zeros; a number that the first sketch is drawn with."""
        n_items, d = len(catalog), self._width(len(catalog))
        encoder, decoder = np.zeros((n_items, d), dtype=np.float32), np.zeros((n_items, d + 1), dtype=np.float32)
        if self.start_from == "random":
            encoder[:], decoder[:, :d] = rng.child("tables").generator().normal(0.0, _INIT_SD, (2, n_items, d))
        stage = np.array([_COUNTS if self.start_from == "spectral" else _GOES_ON])
        draws = rng.child("draws").generator().integers(_DRAWS, size=1)
        server = {"counts": np.zeros(n_items), "draws": draws, **public} | self._moments(encoder, decoder)
        return State({"encoder": encoder, "decoder": decoder, "stage": stage, **self.none_cold(n_items, d + 1)}, server)

    def carry(self, fresh: State, earlier: State) -> State:
        """The tables and moments of the other training, with zeros or noise for new items; items are counted anew."""
        server = {**earlier.server, **({"features": fresh.server["features"]} if self.item_features else {})}
        none = self.none_cold(*earlier.shared["decoder"].shape)
        return State({**earlier.shared, "stage": np.array([_GOES_ON]), **none}, server)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Item counts, then sketches, then gradients and how many clients they are of."""
        if round >= self.rounds:
            return None
        n_items, d = shared["encoder"].shape
        if "stage" in shared:
            stage = int(shared["stage"][0])
            if stage in (_COUNTS, _GOES_ON):
                return SumSpec((count_spec(n_items),))
            whole = self.alpha == 0 and self.beta == 0 and stage == 1
            return SumSpec((sketch_spec(_table(shared), 2 * self.alpha, stage == 1, whole),))
        rows = min(n_items, self.most_candidates)
        bound, bits = _LEFT_BOUND * _RIGHT_BOUND, _LEFT_BITS + _RIGHT_BITS
        return SumSpec(
            (
                ArraySpec(
                    "encoder", "rank_one", (n_items, d), _ROW_BOUND, _ROW_BITS, denominator="count", role="change"
                ),
                ArraySpec("decoder", "dense", (rows, d + 1), bound, bits, denominator="count", role="change"),
                ArraySpec("weight", "dense", (1,), bound=1.0, role="count"),
            )
        )

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; then x ⊗ n^−2α Tᵀx; then the gradients of the clients whose coins say so."""
        if "stage" in given.shared:
            if int(given.shared["stage"][0]) in (_COUNTS, _GOES_ON):
                return Contributions({"counts": counted(clients)}), None
            return Contributions({"sketch": sketch_contribution(clients, _table(given.shared), 2 * self.alpha)}), None
        share = min(1.0, self.batch_size / max(float(given.shared["population"][0]), 1.0))
        taking = np.ones(len(clients), dtype=np.bool_)
        if share < 1:
            taking = given.rng.child("batch").seeds(clients.keys) < np.uint64(int(share * 2**64))
        owners = np.flatnonzero(taking)
        gradients = self._gradients(given, clients.take(owners))
        lengths = np.zeros(len(clients), dtype=np.int64)
        lengths[owners] = gradients.shown.lengths
        right = np.zeros((len(clients), gradients.pulls.shape[1]))
        right[owners] = gradients.pulls
        ones = np.ones(len(clients))
        decoder = DenseProducts(owners, gradients.errors, gradients.inputs, ones, _LEFT_BITS, _LEFT_BOUND)
        return Contributions(
            {
                "encoder": RankOne(offsets(lengths), gradients.shown.items, ones, clients.n_items, right),
                "decoder": decoder,
                "weight": Dense(taking.astype(np.float32)[:, None], ones),
            },
            taking,
        ), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """The next sketch, the tables of the start, or one step of Adam along the mean gradient."""
        if "stage" in state.shared:
            return self._ended(self._started(state, total), round)
        weight = float(total.value("weight")[0])
        if weight > 0:
            state = self._trained(state, {name: total.value(name) / weight for name in TABLES}, round)
        return self._ended(state, round)

    def _ended(self, state: State, round: int) -> State:
        """The state; after the last round, with rows of W and b of items that nobody has."""
        if self.item_features is None or round < self.rounds - 1 or "stage" in state.shared:
            return state
        decoder, counts = state.shared["decoder"], state.server["counts"]
        arrays = {**state.shared, **self.cold_arrays(counts <= 0), USUAL: usual_row(decoder, counts)}
        server = {name: array for name, array in state.server.items() if name != "features"}
        return State(self.filled(arrays, state.server["features"]), server)

    def filled(self, arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of W and b of cold items."""
        return filled_rows(arrays, "decoder", features)

    def boosted(self, shared: Arrays, factor: float) -> dict[str, np.ndarray]:
        """Biases of cold items, with the logarithm of the factor added."""
        return boosted_biases(shared, "decoder", factor)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """W u + b from the whole history."""
        decoder = given.shared["decoder"] if items is None else given.shared["decoder"][items]
        scores = np.empty((len(clients), len(decoder)), dtype=np.float32)
        dot_items(self._encoded(given.shared["encoder"], clients), np.ascontiguousarray(decoder), scores)
        return scores

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the items' rows of W."""
        return cosines(given.shared["decoder"][:, :-1], items)

    def cost(self, n_items: int) -> Cost:
        """Tables, moments, sums and the step in float64; the sketches take less. A client has an error for each item
        that its softmax ranges over, and a few vectors."""
        d = self._width(n_items)
        numbers = n_items * (2 * d + 1)
        return Cost(
            memory=72 * numbers + sketch_memory(n_items, 2 * d) + self.cold_memory(n_items),
            per_interaction=2,
            per_client=min(n_items, self.most_candidates) + 6 * d,
        )

    def _width(self, n_items: int) -> int:
        """d."""
        return self.embedding_size or (64 if n_items <= _FEW_ITEMS else 128)

    def _adam(self, learning_rate: float) -> ServerOptimiser:
        return ServerOptimiser("adam", learning_rate, floor=_FLOOR)

    def _trained(self, state: State, gradients: Arrays, round: int) -> State:
        """The state after a step along the mean gradients of the tables; of the decoder's, those of its candidates."""
        shared, server = dict(state.shared), dict(state.server)
        everything, d = np.arange(len(shared["encoder"])), shared["encoder"].shape[1]
        for name, rows in (("encoder", everything), ("decoder", self._candidates(len(everything), round))):
            moments = {key: server[f"{name}_{key}"][rows] for key in self._adam(0).forms(())}
            pull = 2.0 * self.reg / float(shared["population"][0])
            moved, kept = self._moved(shared[name][rows], d, gradients[name], pull, moments, round)
            for key, before, after in ((name, shared, moved), *((f"{name}_{key}", server, kept[key]) for key in kept)):
                before[key] = before[key].copy()
                before[key][rows] = after
        return State(shared, server)

    def _moved(
        self, table: np.ndarray, d: int, gradient: np.ndarray, pull: float, moments: Arrays, round: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Rows of a table and their moments after one step of Adam; the first d columns are pulled towards 0."""
        table = table.astype(np.float64)
        pulled = pull * table
        pulled[:, d:] = 0.0
        adam = self._adam(self.learning_rate * (1.0 + np.cos(np.pi * round / self.rounds)) / 2.0)
        return adam.step(table, -gradient - pulled, moments)

    def _moments(self, encoder: np.ndarray, decoder: np.ndarray) -> dict[str, np.ndarray]:
        tables = {"encoder": encoder, "decoder": decoder}
        return {
            f"{key}_{name}": part for key, table in tables.items() for name, part in self._adam(0).start(table).items()
        }

    def _candidates(self, n_items: int, round: int) -> np.ndarray:
        """The items that a round's softmax ranges over, ascending; the same for everybody."""
        if n_items <= self.most_candidates:
            return np.arange(n_items)
        rng = _IN_PUBLIC.child("candidates", round).generator()
        return np.sort(rng.choice(n_items, self.most_candidates, replace=False))

    def _gradients(self, given: Given, clients: Clients) -> _Gradients:
        """Factors of the gradients of all `clients`."""
        encoder = given.shared["encoder"]
        candidates = self._candidates(clients.n_items, given.round)
        columns = np.full(clients.n_items, -1, dtype=np.int32)
        columns[candidates] = np.arange(len(candidates), dtype=np.int32)
        decoder = np.ascontiguousarray(given.shared["decoder"][candidates])
        seeds = given.rng.child("halves").seeds(clients.keys)
        heads = np.empty(len(clients.items), dtype=np.bool_)
        toss_coins(clients.indptr, seeds, self.keep, heads)
        shown = clients.where(heads)
        inputs = self._encoded(encoder, shown)
        errors = np.empty((len(clients), len(candidates)), dtype=np.float32)
        dot_items(inputs, decoder, errors)
        softmax_errors(clients.histories(seeds), heads, columns, errors)
        pulls = np.empty((len(clients), encoder.shape[1]), dtype=np.float32)
        dot_items(errors, np.ascontiguousarray(decoder[:, :-1].T), pulls)
        return _Gradients(shown, inputs, errors, pulls / _roots(shown)[:, None])

    def _encoded(self, encoder: np.ndarray, clients: Clients) -> np.ndarray:
        """[u, 1] of each client [clients, d + 1] float32."""
        sums = np.empty((len(clients), encoder.shape[1]))
        gather_rows(clients.indptr, clients.items, np.empty(0, dtype=np.float32), encoder, sums)
        encoded = np.ones((len(clients), encoder.shape[1] + 1), dtype=np.float32)
        encoded[:, :-1] = sums / _roots(clients)[:, None]
        return encoded

    def _started(self, state: State, total: Sum) -> State:
        """The state after item counts, or after a pass of the spectral start."""
        stage, server = int(state.shared["stage"][0]), dict(state.server)
        tables, none = {name: state.shared[name] for name in TABLES}, self.none_cold(*state.shared["decoder"].shape)
        if stage == _GOES_ON:
            shared = {**tables, **none, "population": np.array([max(float(total.clients), 1.0)])}
            return State(shared, {**server, "counts": total.value("counts")[:, 0]})
        table = _table(tables)
        encoder, decoder = (np.zeros_like(table) for table in tables.values())
        after = {"encoder": encoder, "decoder": decoder, **none}
        if stage == _COUNTS:
            server["counts"] = total.value("counts")[:, 0]
            signs = draw_signs(KeyedSource.from_seed(int(server["draws"][0])), *table.shape)
            _write_table(signs * degree_weights(server["counts"], self.beta)[:, None], encoder, decoder)
            return State({**after, "stage": np.array([1])}, server)
        sketched = Sketched.of(table, total, degree_weights(server["counts"], self.beta))
        if stage < PASSES:
            _write_table(basis_table(sketched), encoder, decoder)
            return State({**after, "stage": np.array([stage + 1])}, server)
        return self._begun(leading_spectrum(sketched), max(float(total.clients), 1.0), server)

    def _begun(self, spectrum: Spectrum, population: float, server: Arrays) -> State:
        """What training begins with after the last pass of the sketch."""
        n_items = len(server["counts"])
        length = max(float(server["counts"].sum()) / population, 1.0)
        encoder, decoder = start_tables(spectrum, self._width(n_items), population, length, self.alpha)
        biases = np.zeros((n_items, 1), dtype=np.float32)
        shared = {"encoder": encoder, "decoder": np.hstack([decoder, biases]), "population": np.array([population])}
        return State({**shared, **self.none_cold(*shared["decoder"].shape)}, server)


class _Gradients(NamedTuple):
    """Factors of the gradients of some clients.

    Args:
        shown: the clients with their input items only.
        inputs: [u, 1] [clients, d + 1] float32.
        errors: δ [clients, candidates] float32.
        pulls: Wᵀδ / √n_x [clients, d] float64.
    """

    shown: Clients
    inputs: np.ndarray
    errors: np.ndarray
    pulls: np.ndarray


def _roots(clients: Clients) -> np.ndarray:
    """√n of each client, 1 for those without items [clients] float64."""
    return np.sqrt(np.maximum(clients.lengths, 1).astype(np.float64))


def _table(shared: Arrays) -> np.ndarray:
    """The table of a sketch [items, 2 d], which is kept in the two tables until these are made from it."""
    return np.hstack([shared["encoder"], shared["decoder"][:, :-1]])


def _write_table(table: np.ndarray, encoder: np.ndarray, decoder: np.ndarray) -> None:
    """Keep a table of at most 2 d columns in the two tables; what is left of their columns is 0."""
    d = encoder.shape[1]
    encoder[:, : table.shape[1]] = table[:, :d]
    decoder[:, : max(0, table.shape[1] - d)] = table[:, d:]
