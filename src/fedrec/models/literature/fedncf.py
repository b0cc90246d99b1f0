"""The matrix half of FedNCF (Perifanis & Efraimidis 2022): generalised matrix factorisation, averaged."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, Dense, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.data.keys import KeyedSource
from fedrec.kernels.fedncf import gmf_round
from fedrec.kernels.keyed import normal_rows
from fedrec.kernels.records import Rows
from fedrec.kernels.scoring import dot_items
from fedrec.models.base import Arrays, Given, Private, Recommender, State, cosines
from fedrec.models.private_state import OwnRows
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["FedNCF"]

_SCALE_BITS = 18


class FedNCF(Recommender):
    """score = ⟨output, user vector ⊙ item row⟩ + output bias: the GMF half of neural collaborative filtering.

    User vectors are private; item rows and the output layer are shared. In a round each client runs SGD on all three
    with its interactions and freshly drawn negatives. As published, an item row moves by the mean over the clients that
    touched it, the output layer by the mean over all. The MLP half of FedNCF is a network and not this model; where the
    paper trains with Adam, this is plain SGD, sample by sample.

    Args:
        embedding_size: length d of user vectors and item rows. Larger ones fit finer differences; they need more data
            and bytes.
        rounds: rounds of training.
        learning_rate: step size of the clients' SGD.
        epochs: passes over a client's interactions in a round.
        negatives: number of items drawn for each interaction, distinct within it.
        reg: L2 regularisation of every touched factor. A larger value keeps factors closer to 0.
        bound: largest change of one coordinate by one client; beyond it saturates.
        init_sd: standard deviation of first user vectors and item rows.
    """

    embedding_size: PositiveInt = 32
    rounds: PositiveInt = 60
    learning_rate: PositiveFloat = 0.05
    epochs: PositiveInt = 2
    negatives: PositiveInt = 4
    reg: NonNegativeFloat = 0.001
    bound: PositiveFloat = Field(default=4.0, le=1024.0)
    init_sd: PositiveFloat = 0.1

    name: ClassVar[str] = "fedncf"
    traits: ClassVar[Traits] = Traits(scores_history=False, iterative=True, moves_by_rows=True)

    def shapes(self, n_items: int) -> Shapes:
        """Item rows and the output layer; user vectors at the nodes."""
        d = self.embedding_size
        shared = {"items": Shape((n_items, d)), "output": Shape((d + 1,))}
        return Shapes((Form(shared),), {"users": Shape((d,), finite=False)})

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item rows; an output layer that begins as a plain inner product."""
        items = rng.generator().normal(0.0, self.init_sd, (len(catalog), self.embedding_size)).astype(np.float32)
        return State({"items": items, "output": np.append(np.ones(self.embedding_size), 0.0).astype(np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Changes of item rows and how many clients touched each; change of the output layer and number of clients."""
        if round >= self.rounds:
            return None
        n, d = shared["items"].shape
        return SumSpec(
            (
                ArraySpec("items", "rows", (n, d), self.bound, _SCALE_BITS, denominator="per_row", role="change"),
                ArraySpec("touched", "rows", (n, 1), bound=1.0, role="count"),
                ArraySpec("output", "dense", (d + 1,), self.bound, _SCALE_BITS, denominator="count", role="change"),
                ArraySpec("weight", "dense", (1,), bound=1.0, role="count"),
            )
        )

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Random user vectors from each client's own key."""
        users = np.empty((len(clients), self.embedding_size), dtype=np.float32)
        normal_rows(given.rng.seeds(clients.keys), self.init_sd, users)
        return {"users": users}

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Local SGD, then the change of every touched row and of the output layer."""
        assert private is not None
        users = private["users"].copy()
        rows, output = self._train(given.shared, users, clients, given.rng.seeds(clients.keys), self.epochs, True)
        ones = np.ones(len(clients))
        indptr = np.append(rows.starts, len(rows.items))
        touched = np.ones((len(rows.items), 1), dtype=np.float32)
        arrays = {
            "items": RowUpdates(indptr, rows.items, rows.values, ones),
            "touched": RowUpdates(indptr, rows.items, touched, ones),
            "output": Dense(output, ones),
            "weight": Dense(np.ones((len(clients), 1), dtype=np.float32), ones),
        }
        return Contributions(arrays), {"users": users}

    def step(self, state: State, total: Sum, round: int) -> State:
        """Add the mean changes."""
        items, output = state.shared["items"], state.shared["output"]
        touched, weight = total.value("touched"), float(total.value("weight")[0])
        if weight == 0:
            return state
        change = np.divide(total.value("items"), touched, out=np.zeros(items.shape), where=touched > 0)
        moved = output + total.value("output") / weight
        return State({"items": (items + change).astype(np.float32), "output": moved.astype(np.float32)})

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """A user vector from the history alone, all that is shared held still."""
        users = np.full((len(clients), self.embedding_size), self.init_sd, dtype=np.float32)
        self._train(given.shared, users, clients, clients.keys, 20, False)
        return {"users": users}

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """⟨output ⊙ user vector, item row⟩ + output bias."""
        assert private is not None
        table, output = given.shared["items"], given.shared["output"]
        table = table if items is None else table[items]
        bias = np.full((len(clients), 1), output[-1], dtype=np.float32)
        left = np.hstack([private["users"] * output[:-1], bias])
        scores = np.empty((len(clients), len(table)), dtype=np.float32)
        dot_items(left, np.hstack([table, np.ones((len(table), 1), dtype=np.float32)]), scores)
        return scores

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the item rows."""
        return cosines(given.shared["items"], items)

    def cost(self, n_items: int) -> Cost:
        """Table, sum, and the step in float64. Every sample may touch a row; a client has the change of the output
        layer."""
        d = self.embedding_size
        samples = self.epochs * (1 + self.negatives)
        return Cost(memory=40 * n_items * (d + 1), per_interaction=samples * (d + 2), per_client=d + 2)

    def _train(
        self, shared: Arrays, users: np.ndarray, clients: Clients, seeds: np.ndarray, epochs: int, learn_shared: bool
    ) -> tuple[OwnRows, np.ndarray]:
        """Train `users` in place: changes of the touched rows, and of the output layer [clients, d + 1]."""
        table, d = shared["items"], self.embedding_size
        pools = clients.n_items - clients.lengths - np.diff(clients.excluded_indptr)
        samples = clients.lengths * (1 + np.clip(pools, 0, self.negatives))
        room = offsets(np.minimum(samples * epochs, clients.n_items) * learn_shared)
        rows, values = np.empty(room[-1], dtype=np.int32), np.empty((room[-1], d), dtype=np.float32)
        counts = np.zeros(len(clients), dtype=np.int64)
        output = np.zeros((len(clients) * learn_shared, d + 1), dtype=np.float32)
        gmf_round(
            clients.histories(seeds),
            table,
            shared["output"],
            users,
            np.float32(self.learning_rate),
            np.float32(self.reg),
            epochs,
            offsets(samples),
            learn_shared,
            Rows(room, rows, values, counts),
            output,
        )
        return OwnRows.of(room, rows, values, counts).packed(), output
