"""Matrix factorisation by federated averaging (McMahan et al. 2017; federated MF: Chai et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contribution, Contributions, Dense, RowUpdates
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.features import ItemColumns
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.keyed import normal_rows
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, State, cosines
from fedrec.models.cold_items import USUAL, Boost, ColdItems, boosted_biases, filled_rows, usual_row
from fedrec.models.factors.adaptive_clip import BIT_SHARE, adapted
from fedrec.models.factors.local_training import LocalOptimiser, LocalTraining, Loss, draw
from fedrec.models.factors.scaffold import control_rows, first_controls, stored_rows, used_controls
from fedrec.models.factors.scoring import factor_scores
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.served import with_columns
from fedrec.models.server_optimisers import ServerOptimiser, ServerRule
from fedrec.models.shapes import Form, Own, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["MF", "PrivateMF"]

_SCALE_BITS = 20
_CONTROL_BITS = 30
_COUNTS = "counts"
"""Name of the server array that says how many clients took part that have each item."""
_FOLD_IN_EPOCHS = 10
_FITTED_FLOATS = 1 << 24


class MF(ColdItems):
    """score = ⟨user factor, item factor⟩ + item bias. User factors are private; the item table is shared.

    In a round each client of the cohort trains on its own interactions and freshly drawn negatives from outside its
    training history, and contributes the change of the item rows it touched. The coordinator averages the changes and
    steps along the average. Every array and what leaves a node is in docs/mf.md.

    Args:
        embedding_size: length d of the factors. Larger factors fit finer differences between items; they need more
            data, memory and bytes.
        rounds: rounds of training.
        learning_rate: step size of the clients' optimiser. Larger steps learn faster, and diverge when too large.
        epochs: passes over a client's interactions in a round.
        negatives: number of items without an interaction that are drawn for each interaction.
        loss: `bce` (Rendle et al. 2020), `bpr` (Rendle et al. 2009), `softmax` over a positive and its negatives, or
            `squared`, half the squared error of 1 and 0.
        reg: L2 regularisation of every factor that a training step touches. A larger value keeps factors closer to 0; a
            smaller value fits the interactions more closely.
        batch_size: number of loss terms of a local step, which goes along the mean of their gradients; 1 is plain SGD.
        local_optimiser: `sgd`, `momentum`, `adam` or `adagrad` on the rows that a client touches; nothing of its state
            outlives the round.
        local_momentum: share of the earlier steps' direction that a step of `momentum` keeps; first decay of `adam`.
            Larger values smooth the steps more.
        proximal: μ of FedProx (Li et al. 2020). A larger value keeps a client's rows closer to the shared ones: after
            every step they go back towards them, implicitly, by the factor 1 / (1 + learning_rate · μ). 0 is no such
            pull.
        scaffold: correct clients' drift by control variates (Karimireddy et al. 2020;
            `fedrec.models.factors.scaffold`).
        control_rows: number of rows on which a client keeps its control variate, with `scaffold`.
        server_optimiser: `sgd`, `momentum`, `adam`, `yogi` or `adagrad` (`fedrec.models.server_optimisers`).
        server_learning_rate: step size of the coordinator on the average change. Over all clients (`count`) an item's
            average is small where few clients have it, so steps are far above 1; with `per_row` about 1 is right.
        server_momentum: β₁: share of earlier rounds' direction that the coordinator's step keeps, for every optimiser
            but `sgd`. Larger values smooth more.
        server_decay: β₂: share of earlier rounds' squared changes that is kept, for `adam` and `yogi`. Larger values
            adapt step sizes more slowly.
        server_floor: τ, which is added to the root of the squared changes in `adam`, `yogi` and `adagrad`. Larger
            values make small changes count less.
        denominator: average over all clients of the round (`count`), at each row over the clients that touched it
            (`per_row`), or divide by `expected_clients` (`fixed`), so that nothing but the changes is summed.
        expected_clients: the divisor of `fixed`.
        bound: largest change of one coordinate by one client; beyond it saturates.
        init_sd: standard deviation of initial factors.
        item_features: columns of the catalog, and how each is read, as for `ease`. With them, clients count their items
            too, and the last round gives items that nobody has the rows that features predict from those of others, see
            `fedrec.models.cold_items`.
        boost: how often items that nobody has are taken, beside what their scores say: the logarithm is added to these.
            `auto` as for `ease`.

    Raises:
        PlanError: for a mix of settings that has no meaning.

    Example:
        >>> MF(loss="bpr", server_optimiser="adam", server_learning_rate=0.01).cost(100).per_interaction
        325
    """

    embedding_size: PositiveInt = 64
    rounds: PositiveInt = 60
    learning_rate: PositiveFloat = 0.1
    epochs: PositiveInt = 1
    negatives: PositiveInt = 4
    loss: Loss = "bce"
    reg: NonNegativeFloat = 0.005
    batch_size: PositiveInt = 1
    local_optimiser: LocalOptimiser = "sgd"
    local_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    proximal: NonNegativeFloat = 0.0
    scaffold: bool = False
    control_rows: PositiveInt = 128
    server_optimiser: ServerRule = "sgd"
    server_learning_rate: PositiveFloat = 20.0
    server_momentum: float = Field(default=0.9, ge=0.0, lt=1.0)
    server_decay: float = Field(default=0.99, ge=0.0, lt=1.0)
    server_floor: PositiveFloat = 1e-3
    denominator: Literal["count", "per_row", "fixed"] = "count"
    expected_clients: PositiveInt | None = None
    bound: PositiveFloat = Field(default=1.0, le=1024.0)
    init_sd: PositiveFloat = 0.03
    item_features: ItemColumns | None = None
    boost: Boost = "auto"

    name: ClassVar[str] = "mf"
    traits: ClassVar[Traits] = Traits(
        weights=(
            "the gradients of an interaction and of the negatives drawn for it are multiplied by its weight; keep "
            "weights near 1, as steps grow with them."
        ),
        scores_history=False,
        iterative=True,
        moves_by_rows=True,
    )
    unsaid: ClassVar[frozenset[str]] = frozenset({"item_features", "boost"})

    @model_validator(mode="after")
    def _check(self) -> MF:
        where = f"model {self.name}"
        if (self.denominator == "fixed") != (self.expected_clients is not None):
            raise PlanError(f"{where}: expected_clients is the divisor of denominator: fixed; set both or neither")
        if self.scaffold and (self.local_optimiser != "sgd" or self.proximal > 0):
            raise PlanError(f"{where}: scaffold corrects plain SGD; set local_optimiser to sgd and proximal to 0")
        if self.scaffold and self.denominator != "count":
            raise PlanError(f"{where}: scaffold averages over all clients of a round; set denominator to count")
        return self

    def shapes(self, n_items: int) -> Shapes:
        """Item factors; moments and control variates where there are any. User factors at the nodes."""
        table = Shape((n_items, self.embedding_size + 1))
        shared = {"items": table, **self.row_shapes(n_items, self.embedding_size + 1)}
        server = self._server.forms((n_items, self.embedding_size + 1))
        if self.scaffold:
            shared["control"] = table
            server |= {"control_sum": Shape(table.axes, "float64"), "control_clients": Shape((1,), "float64")}
        rows: dict[str, Shape | Own] = {"users": Shape((self.embedding_size,), finite=False)}
        if self.scaffold:
            rows |= control_rows(self.control_rows, self.embedding_size + 1, n_items)
        if not (known := self.feature_shapes(n_items)):
            return Shapes((Form(shared, server),), rows)
        known = {**known, _COUNTS: Shape((n_items,), "float64")}
        return Shapes((Form(shared, {**server, **known}), Form(shared, server)), rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item factors, biases of zero; moments and control variates of zero."""
        table = rng.generator().normal(0.0, self.init_sd, (len(catalog), self.embedding_size + 1)).astype(np.float32)
        table[:, -1] = 0.0
        shared = {"items": table, **self.none_cold(*table.shape)}
        server = {**self._server.start(table), **self._known(public, len(table))}
        if not self.scaffold:
            return State(shared, server)
        sums = {"control_sum": np.zeros(table.shape), "control_clients": np.zeros(1)}
        return State({**shared, "control": np.zeros_like(table)}, server | sums)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Changes of item rows, and what they are divided by."""
        if round >= self.rounds:
            return None
        shape = shared["items"].shape
        changes = ArraySpec(
            "items", "rows", shape, self.bound, _SCALE_BITS, denominator=self.denominator, role="change"
        )
        arrays = [changes]
        if self.denominator == "count":
            arrays.append(ArraySpec("weight", "dense", (1,), bound=1.0, role="count"))
        elif self.denominator == "per_row":
            arrays.append(ArraySpec("weight", "rows", (shape[0], 1), bound=1.0, role="count"))
        if self.scaffold:
            longest = float(shape[0] * self.epochs * (1 + self.negatives))
            arrays.append(ArraySpec("controls", "rows", shape, bound=self.bound, scale_bits=_CONTROL_BITS))
            arrays.append(ArraySpec("steps", "dense", (1,), bound=longest, role="count"))
            arrays.append(ArraySpec("newcomers", "dense", (1,), bound=1, role="count"))
        if self.item_features is not None:
            arrays.append(count_spec(shape[0]))
        return SumSpec(tuple(arrays))

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Random user factors from each client's own key."""
        factors = np.empty((len(clients), self.embedding_size), dtype=np.float32)
        normal_rows(given.rng.seeds(clients.keys), self.init_sd, factors)
        if not self.scaffold:
            return {"users": factors}
        return {"users": factors} | first_controls(clients, self.control_rows, self.embedding_size + 1)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Local training, then the change of every touched row."""
        assert private is not None
        users = private["users"].copy()
        seeds = given.rng.seeds(clients.keys)
        ones = np.ones(len(clients))
        if not self.scaffold:
            drawn = draw(clients, seeds, self.epochs, self.negatives)
            changes, _ = self._local.run(drawn, given.shared["items"], users)
            sent = self._weighed(drawn.indptr, drawn.rows, changes) | self._counted(clients)
            return Contributions(sent), {"users": users}
        stored = stored_rows(private)
        drawn = draw(clients, seeds, self.epochs, self.negatives, stored)
        controls = used_controls(given.shared, private, drawn, stored[0])
        changes, steps = self._local.run(drawn, given.shared["items"], users, drift=controls.drift)
        renewed, difference = controls.renewed(drawn, clients, private, changes, steps, self.learning_rate)
        moved = controls.sent(changes, np.repeat(steps, np.diff(drawn.indptr)), self.learning_rate)
        arrays = self._weighed(drawn.indptr, drawn.rows, moved) | self._counted(clients)
        arrays |= {
            "controls": RowUpdates(drawn.indptr, drawn.rows, difference, ones),
            "steps": Dense(steps.astype(np.float32)[:, None], ones),
            "newcomers": Dense(1 - private["took_part"], ones),
        }
        return Contributions(arrays), {"users": users} | renewed

    def step(self, state: State, total: Sum, round: int) -> State:
        """One step of the server's optimiser along the average change."""
        change = self._average(total)
        moments = {name: array for name, array in state.server.items() if name.endswith("_moment")}
        shared = {name: state.shared[name] for name in self.none_cold(1, 1)}
        server = {name: array for name, array in state.server.items() if name in (_COUNTS, "features")}
        if server:
            server[_COUNTS] = server[_COUNTS] + total.value(_COUNTS)[:, 0]
        if self.scaffold and total.clients:
            mean_steps = float(total.value("steps")[0]) / float(total.value("weight")[0])
            change -= self.learning_rate * mean_steps * state.shared["control"].astype(np.float64)
            server["control_sum"] = state.server["control_sum"] + total.value("controls")
            server["control_clients"] = state.server["control_clients"] + total.value("newcomers")
            shared["control"] = (server["control_sum"] / server["control_clients"]).astype(np.float32)
        elif self.scaffold:
            return self._ended(state, round)
        shared["items"], moved = self._server.step(state.shared["items"], change, moments)
        return self._ended(State(shared, server | moved), round)

    def _ended(self, state: State, round: int) -> State:
        """The state; after the last round, with rows of items that nobody has."""
        if self.item_features is None or round < self.rounds - 1:
            return state
        server = dict(state.server)
        counts, features = server.pop(_COUNTS), server.pop("features")
        cold = {**self.cold_arrays(counts <= 0), USUAL: usual_row(state.shared["items"], counts)}
        return State(self.filled({**state.shared, **cold}, features), server)

    def filled(self, arrays: Arrays, features: np.ndarray) -> dict[str, np.ndarray]:
        """Rows of cold items."""
        return filled_rows(arrays, "items", features)

    def boosted(self, shared: Arrays, factor: float) -> dict[str, np.ndarray]:
        """Biases of cold items, with the logarithm of the factor added."""
        return boosted_biases(shared, "items", factor)

    def carry(self, fresh: State, earlier: State) -> State:
        """The table of the other training; items are counted anew."""
        known = {name: fresh.server[name] for name in self._known(fresh.server, 0)}
        shared = {**earlier.shared, **self.none_cold(*earlier.shared["items"].shape)}
        return State(shared, {**earlier.server, **known})

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """DP-FedAvg with adaptive clipping, see `PrivateMF`.

        Raises:
            PlanError: with settings whose sums have no bound or a divisor that depends on who takes part.
        """
        if self.scaffold:
            raise PlanError(f"model {self.name}: scaffold sums control variates that no clip bounds; leave it out")
        if self.denominator == "per_row" or ("denominator" in self.model_fields_set and self.denominator == "count"):
            raise PlanError(f"model {self.name}: under privacy the divisor is fixed; leave denominator out")
        self.check_not_private()
        return PrivateMF.of(self, terms, expected_clients=self.expected_clients or terms.clients)

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """A factor from the history alone: training of the user's side with the item table fixed."""
        return {"users": self._fitted(self._local, _FOLD_IN_EPOCHS, given.shared, clients, clients.keys)}

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """⟨user, item⟩ + bias."""
        assert private is not None
        return factor_scores(private["users"], given.shared, items)

    def ready(self, shared: Arrays) -> Arrays:
        """The item table in the order in which single clients read it."""
        return with_columns(shared, "items")

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the item factors."""
        return cosines(given.shared["items"][:, :-1], items)

    def cost(self, n_items: int) -> Cost:
        """Table, sum, weights and the step in float64; moments and control variates where there are any. Every positive
        and negative may touch a row; a client has its factor, and the rows of its control variate."""
        width = self.embedding_size + 1
        copies = 40 + 24 * (self.server_optimiser != "sgd") + 40 * self.scaffold
        return Cost(
            memory=n_items * width * copies + self.cold_memory(n_items),
            per_interaction=(1 + self.epochs * self.negatives) * width * (6 if self.scaffold else 1),
            per_client=self.embedding_size + 3 * self.scaffold * self.control_rows * width,
        )

    @property
    def _local(self) -> LocalTraining:
        return LocalTraining(
            self.loss,
            self.learning_rate,
            self.reg,
            self.batch_size,
            self.local_optimiser,
            self.local_momentum,
            self.proximal,
        )

    @property
    def _server(self) -> ServerOptimiser:
        return ServerOptimiser(
            self.server_optimiser,
            self.server_learning_rate,
            self.server_momentum,
            self.server_decay,
            self.server_floor,
        )

    def _known(self, public: Arrays, n_items: int) -> dict[str, np.ndarray]:
        """What the coordinator knows of items: features, and how many clients have each; nothing without features."""
        if self.item_features is None:
            return {}
        return {"features": public["features"], _COUNTS: np.zeros(n_items)}

    def _counted(self, clients: Clients) -> dict[str, Contribution]:
        """One for every item of a client, where features say something of items that nobody has."""
        return {} if self.item_features is None else {_COUNTS: counted(clients)}

    def _weighed(self, indptr: np.ndarray, rows: np.ndarray, changes: np.ndarray) -> dict[str, Contribution]:
        """The changes of touched rows, and what they are divided by."""
        ones = np.ones(len(indptr) - 1)
        arrays: dict[str, Contribution] = {"items": RowUpdates(indptr, rows, changes, ones)}
        if self.denominator == "count":
            arrays["weight"] = Dense(np.ones((len(ones), 1), dtype=np.float32), ones)
        elif self.denominator == "per_row":
            arrays["weight"] = RowUpdates(indptr, rows, np.ones((len(rows), 1), dtype=np.float32), ones)
        return arrays

    def _average(self, total: Sum) -> np.ndarray:
        change = total.value("items")
        if self.expected_clients is not None:
            return change / self.expected_clients
        weight = total.value("weight")
        return np.divide(change, weight, out=np.zeros_like(change), where=weight > 0)

    def _fitted(
        self, training: LocalTraining, epochs: int, shared: Arrays, clients: Clients, seeds: np.ndarray
    ) -> np.ndarray:
        """User factors [clients, d] float32, trained from zero with the items fixed; in groups that fit in memory."""
        users = np.zeros((len(clients), self.embedding_size), dtype=np.float32)
        most = np.minimum(clients.lengths * (1 + epochs * self.negatives), clients.n_items)
        ends = np.cumsum(most * (self.embedding_size + 1))
        start = 0
        while start < len(clients):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + _FITTED_FLOATS, side="right")))
            drawn = draw(clients.take(np.arange(start, stop)), seeds[start:stop], epochs, self.negatives)
            training.run(drawn, shared["items"], users[start:stop], learn_items=False)
            start = stop
        return users


class PrivateMF(PrivateRecommender, MF):
    """DP-FedAvg with adaptive clipping (McMahan et al. 2018; Andrew et al. 2021): a fixed divisor, and a clip that
    follows the median norm of what clients add, as told by noisy bits that are paid for.

    The clip begins at 1 by default.

    Args:
        embedding_size: small, as noise grows with the length of the rows.
        rounds: few, as each takes its share of the budget.
        denominator: `fixed`, as who takes part must not decide the divisor.
        expected_clients: the public number of clients expected in a round, unless it was set.
    """

    embedding_size: PositiveInt = 16
    rounds: PositiveInt = 20
    denominator: Literal["count", "per_row", "fixed"] = "fixed"

    default_clip: ClassVar[float] = 1.0

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Evenly over the rounds."""
        return (1.0 / self.rounds,) * self.rounds

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """The item rows, clipped to the current clip; and a bit about it."""
        clip = float(shared["clip"][0])
        return (Query({"items": PLAIN}, clip, 1.0 - BIT_SHARE), Query({"within": PLAIN}, 0.5, BIT_SHARE))

    def shapes(self, n_items: int) -> Shapes:
        """Those of the plain form, and the clip."""
        plain = super().shapes(n_items)
        (form,) = plain.states
        return Shapes((Form({**form.shared, "clip": Shape((1,), "float64")}, form.server),), plain.rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item factors, and the first clip."""
        state = super().start(catalog, public, rng)
        return State({**state.shared, "clip": np.array([self.clip])}, state.server)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Changes of item rows, and how many clients are within the clip, less half of all."""
        plain = super().spec(shared, round)
        return None if plain is None else SumSpec((*plain.arrays, ArraySpec("within", "dense", (1,), bound=0.5)))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Local training, then the change of every touched row, and whether it is within the clip."""
        contributions, users = super().contribute(given, clients, private)
        within = np.sqrt(contributions.arrays["items"].sq_norms()) <= float(given.shared["clip"][0])
        bits = (within[:, None] - 0.5).astype(np.float32)
        return Contributions({**contributions.arrays, "within": Dense(bits, np.ones(len(bits)))}), users

    def step(self, state: State, total: Sum, round: int) -> State:
        """A step along the average change, and the next clip."""
        stepped = super().step(state, total, round)
        return State({"clip": adapted(state.shared["clip"], total), **stepped.shared}, stepped.server)
