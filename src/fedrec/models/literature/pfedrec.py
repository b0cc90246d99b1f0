"""Personalised federated recommendation by dual personalisation (PFedRec, Zhang et al., IJCAI 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.products import Products
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.data.keys import KeyedSource
from fedrec.kernels.lanes import LANES
from fedrec.kernels.pfedrec import Moves, overwrite_scores, personal_round
from fedrec.kernels.records import Rows
from fedrec.kernels.scoring import dot_items
from fedrec.models.base import Arrays, Given, Private, Recommender, State, cosines, of_items
from fedrec.models.private_state import OwnRows
from fedrec.models.shapes import Form, Own, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["PFedRec"]

_WEIGHT_BITS, _VECTOR_BITS = 20, 14
_WEIGHT_BOUND, _VECTOR_BOUND = 2.0, 64.0


class PFedRec(Recommender):
    """score = ⟨private head, item row⟩ + private bias; items are ranked by the client's own copy of the table.

    In a round a client takes the shared table, runs SGD on its head and then on the items, batch by batch, on its
    interactions and freshly drawn negatives, and contributes what it changed; the table moves by the unweighted mean.
    Until the next round the client ranks with the rows as *it* left them, before averaging, which override the shared
    ones (`scores_with: shared` ranks with the averaged table). The item step is so large that each round overwrites
    every row that it touches: after it, the negatives of the last round are at the bottom of the client's list.

    What the authors' code does and this does only on request: it draws negatives from the items that the user never
    touched *in any part*, so the held-out item alone is never a negative (plan key `negatives: paper-leaky`); it ranks
    by probabilities in single precision, which tie at 0 and 1 (`ranks_by: probability`). It reports the test
    metrics of the round that is best on validation (plan: `evaluation: {every: 1, keep: best}`). It averages the
    private biases and never uses them; its "local differential privacy" is not in the code. Rows that a client did
    not touch are read here from the newest shared table, there from the one before.

    Args:
        embedding_size: length d of item rows and heads.
        rounds: rounds of training.
        learning_rate: step size of SGD on the head.
        item_rate: step size of SGD on the items, which is `learning_rate` · items · `item_rate`. Larger values move
            items faster.
        epochs: passes over a client's interactions in a round.
        negatives: number of items drawn for each interaction, distinct within it.
        batch_size: samples per step; the loss is their mean.
        scores_with: `personal` scores with the client's own rows where it has some, `shared` with the shared table
            alone.
        ranks_by: what items are ranked by: the `logit`, or its sigmoid in single precision (`probability`).
    """

    embedding_size: PositiveInt = 32
    rounds: PositiveInt = 100
    learning_rate: PositiveFloat = 0.1
    item_rate: PositiveFloat = 80.0
    epochs: PositiveInt = 1
    negatives: PositiveInt = 4
    batch_size: PositiveInt = 256
    scores_with: Literal["personal", "shared"] = "personal"
    ranks_by: Literal["logit", "probability"] = "logit"

    name: ClassVar[str] = "pfedrec"
    traits: ClassVar[Traits] = Traits(scores_history=False, iterative=True)

    def shapes(self, n_items: int) -> Shapes:
        """The item table and the first head. At the nodes heads, and logits of the client's own rows."""
        d = self.embedding_size
        form = Form({"items": Shape((n_items, d)), "head": Shape((d + 1,))})
        heads: dict[str, Shape | Own] = {"heads": Shape((d + 1,), finite=False)}
        return Shapes((form,), heads | {"own": Own(1)} if self.scores_with == "personal" else heads)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """A random item table, and the head that all clients begin with."""
        draws, d = rng.generator(), self.embedding_size
        table = draws.normal(size=(len(catalog), d)).astype(np.float32)
        head = draws.uniform(-1.0, 1.0, d + 1) / np.sqrt(d)
        return State({"items": table, "head": head.astype(np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Changes of the item table in units of the item rate, and the number of clients."""
        if round >= self.rounds:
            return None
        shape, bits = shared["items"].shape, _WEIGHT_BITS + _VECTOR_BITS
        bound = _WEIGHT_BOUND * _VECTOR_BOUND
        changes = ArraySpec(
            "items", "rank_one", shape, bound=bound, scale_bits=bits, denominator="count", role="change"
        )
        return SumSpec((changes, ArraySpec("weight", "dense", (1,), bound=1.0, role="count")))

    def join(self, given: Given, clients: Clients) -> Private | None:
        """The common first head, and no own rows."""
        heads = np.repeat(given.shared["head"][None, :], len(clients), axis=0)
        return {"heads": heads, **self._own(OwnRows.none(len(clients), 1))}

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Local SGD: the heads after it, the logits of the rows that clients overwrote, and the change of the table."""
        assert private is not None
        heads = private["heads"].copy()
        moves, own = self._train(
            given.shared["items"], clients, given.rng.seeds(clients.keys), heads, self.epochs, True
        )
        assert moves is not None
        weight = Dense(np.ones((len(clients), 1), dtype=np.float32), np.ones(len(clients)))
        return Contributions({"items": moves, "weight": weight}), {"heads": heads, **self._own(own)}

    def step(self, state: State, total: Sum, round: int) -> State:
        """Move the table by the mean change."""
        items, weight = state.shared["items"], float(total.value("weight")[0])
        if weight > 0:
            rate = self._rate(len(items)) / weight
            items = (items - rate * total.value("items")).astype(np.float32)
        return State({"items": items, "head": state.shared["head"]})

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """A head from the history alone, the items held still, then one round to overwrite the rows that it touches."""
        heads = np.repeat(given.shared["head"][None, :], len(clients), axis=0)
        self._train(given.shared["items"], clients, clients.keys, heads, 20, False)
        _, own = self._train(given.shared["items"], clients, clients.keys, heads, self.epochs, True)
        return {"heads": heads, **self._own(own)}

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Logits under the shared table, and the client's own where it overwrote rows."""
        assert private is not None
        table = given.shared["items"]
        ones = np.ones((len(table), 1), dtype=np.float32)
        scores = np.empty((len(clients), len(table)), dtype=np.float32)
        dot_items(np.ascontiguousarray(private["heads"]), np.hstack([table, ones]), scores)
        if self.scores_with == "personal":
            own = private["own"]
            overwrite_scores(own.starts, own.lengths, own.items, own.values, scores)
        if self.ranks_by == "probability":
            with np.errstate(over="ignore"):
                scores = np.float32(1.0) / (np.float32(1.0) + np.exp(-scores))
        return of_items(scores, items)

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the item rows."""
        return cosines(given.shared["items"], items)

    def cost(self, n_items: int) -> Cost:
        """Table, sum, and the step in float64. Every sample is an item, a weight and, in the client's own rows, an item
        and a logit."""
        return Cost(
            memory=40 * n_items * (self.embedding_size + 1), per_interaction=4 * self.epochs * (1 + self.negatives)
        )

    def _rate(self, n_items: int) -> float:
        return self.learning_rate * n_items * self.item_rate

    def _own(self, rows: OwnRows) -> Private:
        return {"own": rows} if self.scores_with == "personal" else {}

    def _train(
        self, table: np.ndarray, clients: Clients, seeds: np.ndarray, heads: np.ndarray, epochs: int, learn_items: bool
    ) -> tuple[Products | None, OwnRows]:
        """Train `heads` in place: what the clients did to the table, and their own logits."""
        pools = clients.n_items - clients.lengths - np.diff(clients.excluded_indptr)
        samples = clients.lengths * (1 + np.clip(pools, 0, self.negatives))
        batches = -(-samples // self.batch_size)
        sample_indptr, batch_indptr = offsets(samples * epochs), offsets(batches * epochs)
        room = offsets(np.minimum(samples * epochs, clients.n_items) * (learn_items and self.scores_with == "personal"))
        entries = int(sample_indptr[-1]) if learn_items else 0
        items, weights = np.empty(entries, dtype=np.int32), np.empty(entries, dtype=np.float32)
        vectors = np.empty((int(batch_indptr[-1]) if learn_items else 0, self.embedding_size), dtype=np.float32)
        lanes = np.pad(table, ((0, 0), (0, -table.shape[1] % LANES))) if table.shape[1] % LANES else table
        own_items, own_logits = np.empty(room[-1], dtype=np.int32), np.empty((room[-1], 1), dtype=np.float32)
        counts = np.zeros(len(clients), dtype=np.int64)
        personal_round(
            clients.histories(seeds),
            lanes,
            heads,
            np.float32(self.learning_rate),
            np.float32(self._rate(len(table))),
            epochs,
            self.batch_size,
            learn_items,
            sample_indptr,
            batch_indptr,
            Moves(items, weights, vectors),
            Rows(room, own_items, own_logits, counts),
        )
        own = OwnRows.of(room, own_items, own_logits, counts)
        if not learn_items:
            return None, own
        first = np.arange(batch_indptr[-1]) - np.repeat(batch_indptr[:-1], np.diff(batch_indptr))
        epoch, place = np.divmod(first, np.repeat(np.maximum(batches, 1), np.diff(batch_indptr)))
        starts = np.repeat(sample_indptr[:-1], np.diff(batch_indptr)) + place * self.batch_size
        starts += epoch * np.repeat(samples, np.diff(batch_indptr))
        indptr = np.append(starts, entries)
        ones = np.ones(len(clients))
        return Products(batch_indptr, indptr, items, weights, vectors, ones, _WEIGHT_BITS, _WEIGHT_BOUND), own
