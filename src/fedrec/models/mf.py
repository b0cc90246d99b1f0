"""Matrix factorisation by federated averaging (McMahan et al. 2017; federated MF: Chai et al. 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, Dense, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.kernels.factors import local_sgd
from fedrec.kernels.keyed import normal_rows
from fedrec.kernels.scoring import dot_rows
from fedrec.kernels.threads import thread_count
from fedrec.models.base import Arrays, Private, Recommender, State

__all__ = ["MF"]

_SCALE_BITS = 20


class MF(Recommender):
    """score = ⟨user factor, item factor⟩ + item bias. User factors are private; the item table is shared.

    In a round each client of the cohort runs SGD on its own interactions and freshly drawn negatives from outside its
    training history, and contributes the change of the item rows it touched.

    Args:
        embedding_size: length d of the factors.
        rounds: rounds of training.
        learning_rate: of the clients' SGD.
        epochs: passes over a client's interactions in a round.
        negatives: drawn per interaction.
        loss: `bce` (Rendle et al. 2020) or `bpr` (Rendle et al. 2009).
        reg: L2 pull on every touched factor.
        server_learning_rate: factor on the averaged change.
        denominator: average over all clients of the round (`count`), or at each row over the clients that touched it
            (`per_row`).
        bound: largest change of one coordinate by one client; beyond it saturates.
        init_sd: standard deviation of initial factors.
    """

    embedding_size: PositiveInt = 64
    rounds: PositiveInt = 60
    learning_rate: PositiveFloat = 0.05
    epochs: PositiveInt = 1
    negatives: PositiveInt = 4
    loss: Literal["bce", "bpr"] = "bce"
    reg: NonNegativeFloat = 0.002
    server_learning_rate: PositiveFloat = 1.0
    denominator: Literal["count", "per_row"] = "per_row"
    bound: PositiveFloat = Field(default=1.0, le=1024.0)
    init_sd: PositiveFloat = 0.1

    name: ClassVar[str] = "mf"
    reads_history: ClassVar[bool] = False

    def start(self, catalog: Catalog, rng: KeyedSource) -> State:
        """Random item factors, biases of zero."""
        table = rng.generator().normal(0.0, self.init_sd, (len(catalog), self.embedding_size + 1)).astype(np.float32)
        table[:, -1] = 0.0
        return State({"items": table})

    def spec(self, state: State, round: int) -> SumSpec | None:
        """Changes of item rows, and what they are divided by."""
        if round >= self.rounds:
            return None
        shape = state.shared["items"].shape
        changes = ArraySpec(
            "items", "rows", shape, bound=self.bound, scale_bits=_SCALE_BITS, denominator=self.denominator
        )
        if self.denominator == "count":
            return SumSpec((changes, ArraySpec("weight", "dense", (1,), bound=1.0)))
        return SumSpec((changes, ArraySpec("weight", "rows", (shape[0], 1), bound=1.0)))

    def join(self, shared: Arrays, clients: Clients, rng: KeyedSource) -> Private | None:
        """Random user factors from each client's own key."""
        factors = np.empty((len(clients), self.embedding_size), dtype=np.float32)
        normal_rows(rng.seeds(clients.keys), self.init_sd, factors)
        return {"users": factors}

    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        """Local SGD, then the change of every touched row."""
        assert private is not None
        users = private["users"].copy()
        table = shared["items"]
        most = np.minimum(clients.lengths * (1 + self.epochs * self.negatives), clients.n_items)
        indptr = np.concatenate([[0], np.cumsum(most)])
        rows = np.empty(indptr[-1], dtype=np.int32)
        values = np.empty((indptr[-1], table.shape[1]), dtype=np.float32)
        counts = np.zeros(len(clients), dtype=np.int64)
        self._train(clients, rng.seeds(clients.keys), table, users, self.epochs, (indptr, rows, values, counts))
        touched = np.concatenate([[0], np.cumsum(counts)])
        kept = np.arange(touched[-1]) + np.repeat(indptr[:-1] - touched[:-1], counts)
        ones = np.ones(len(clients))
        changes = RowUpdates(touched, rows[kept], values[kept], ones)
        weight: RowUpdates | Dense
        if self.denominator == "count":
            weight = Dense(np.ones((len(clients), 1), dtype=np.float32), ones)
        else:
            weight = RowUpdates(touched, changes.rows, np.ones((len(kept), 1), dtype=np.float32), ones)
        return Contributions({"items": changes, "weight": weight}), {"users": users}

    def step(self, state: State, total: Sum, round: int) -> State:
        """Add the averaged change to the item table."""
        weight = total.value("weight")
        change = np.divide(total.value("items"), weight, out=np.zeros(state.shared["items"].shape), where=weight > 0)
        items = state.shared["items"] + self.server_learning_rate * change
        return State({"items": items.astype(np.float32)})

    def fold_in(self, shared: Arrays, clients: Clients) -> Private | None:
        """A factor from the history alone: SGD on the user's side with the item table fixed."""
        users = np.zeros((len(clients), self.embedding_size), dtype=np.float32)
        none = (np.zeros(1, np.int64), np.empty(0, np.int32), np.empty((0, 1), np.float32), np.zeros(1, np.int64))
        self._train(clients, clients.keys, shared["items"], users, 10, none)
        return {"users": users}

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        """⟨user, item⟩ + bias."""
        assert private is not None
        table = np.ascontiguousarray(shared["items"].T)
        scores = np.empty((len(clients), table.shape[1]), dtype=np.float32)
        dot_rows(private["users"], table[:-1], table[-1], scores)
        return scores

    def similarity(self, shared: Arrays, items: np.ndarray) -> np.ndarray:
        """Cosine of the item factors."""
        factors = shared["items"][:, :-1]
        unit = factors / np.maximum(np.linalg.norm(factors, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(unit[items] @ unit.T, dtype=np.float32)

    @property
    def chunk_floats(self) -> int:
        """Every positive and negative may touch a row."""
        return (1 + self.epochs * self.negatives) * (self.embedding_size + 1)

    def _train(
        self,
        clients: Clients,
        seeds: np.ndarray,
        table: np.ndarray,
        users: np.ndarray,
        epochs: int,
        out: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    ) -> None:
        workers = thread_count()
        bounds = np.searchsorted(clients.indptr, np.linspace(0, clients.indptr[-1], workers + 1)).astype(np.int64)
        bounds[0], bounds[-1] = 0, len(clients)
        local_sgd(
            clients.indptr,
            clients.items,
            clients.excluded_indptr,
            clients.excluded_items,
            seeds,
            table,
            users,
            np.float32(self.learning_rate),
            np.float32(self.reg),
            epochs,
            self.negatives,
            self.loss == "bpr",
            len(out[1]) > 0,
            bounds,
            *out,
        )
