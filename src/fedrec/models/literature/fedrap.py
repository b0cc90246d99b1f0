"""Federated recommendation with additive personalisation (FedRAP, Li et al., ICLR 2024)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, Dense, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.data.keys import KeyedSource
from fedrec.kernels.fedrap import Ranges, add_own_rows, pair_round
from fedrec.kernels.lanes import LANES
from fedrec.kernels.records import Rows
from fedrec.kernels.scoring import dot_items
from fedrec.models.base import Arrays, Given, Private, Recommender, State, of_items
from fedrec.models.private_state import OwnRows
from fedrec.models.shapes import Form, Own, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["FedRAP"]

_SCALE_BITS = 14


class FedRAP(Recommender):
    """score = ⟨private head, private item row + common item row⟩ + private bias.

    In a round a client trains its head, its own item table and a copy of the common one together, on
    BCE − λ · mean (own − common)² + μ · mean |common| over the rows of a batch, and contributes what it changed in the
    common table, which moves by the unweighted mean. Its own table stays at home for good, and all of it, not only rows
    of the last round, ranks its items.

    What the authors' code does and this does only on request: negatives avoid the held-out items (plan key
    `negatives: paper-leaky`). Since own rows stay, this leak grows from round to round, until every unseen item but the
    held-out ones was trained down. The schedule of λ and μ (`tanh(round / 10)`) is computed there and then not read
    (`schedule: none`). The best round is chosen on test there; a plan can only choose on validation. As there, weight
    decay shrinks whole tables at every step, touched or not. There, local training also ends early when the loss
    changes by less than 10⁻⁴ between epochs; here every epoch runs. There, each epoch is shuffled; here too, but where
    a client's samples are one batch the order means nothing and is left alone.

    Args:
        embedding_size: length d of rows and heads.
        rounds: rounds of training.
        learning_rate: step size of SGD on the head.
        item_rate: step size of SGD on both tables.
        batch_decay, round_decay: what both step sizes are multiplied by: the first after each batch (anew in each
            round), the second after each round.
        epochs: passes over a client's samples in a round; negatives are drawn once per round.
        negatives: number of items drawn for each interaction, distinct within it.
        batch_size: samples per step; the loss is their mean.
        apart: λ, how strongly own and common rows are driven apart. 0 is no such force.
        sparse: μ, how strongly common rows are pulled to zero. Larger values leave less to the common table.
        schedule: `tanh` multiplies λ and μ by tanh(round / 10), so that they grow from 0; `none` leaves them unchanged.
        weight_decay: L2 regularisation of head and tables. A larger value keeps them closer to 0.
        bound: largest change of one coordinate by one client; beyond it saturates.
    """

    embedding_size: PositiveInt = 32
    rounds: PositiveInt = 100
    learning_rate: PositiveFloat = 0.5
    item_rate: PositiveFloat = 200.0
    batch_decay: float = Field(default=0.95, gt=0, le=1)
    round_decay: float = Field(default=0.97, gt=0, le=1)
    epochs: PositiveInt = 10
    negatives: PositiveInt = 4
    batch_size: PositiveInt = 2048
    apart: NonNegativeFloat = 0.1
    sparse: NonNegativeFloat = 0.1
    schedule: Literal["tanh", "none"] = "tanh"
    weight_decay: NonNegativeFloat = 1e-4
    bound: PositiveFloat = Field(default=64.0, le=65536.0)

    name: ClassVar[str] = "fedrap"
    traits: ClassVar[Traits] = Traits(scores_history=False, iterative=True)

    def shapes(self, n_items: int) -> Shapes:
        """The common table, the first private one and the first head. At the nodes heads, own rows, and how far all
        others have shrunk."""
        d = self.embedding_size
        table, head = Shape((n_items, d)), Shape((d + 1,))
        rows: dict[str, Shape | Own] = {
            "heads": Shape((d + 1,), finite=False),
            "own": Own(d),
            "shrunk": Shape((), finite=False),
        }
        return Shapes((Form({"items": table, "first": table, "head": head}),), rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """A random common table, the private table and the head that all clients begin with."""
        draws, d = rng.generator(), self.embedding_size
        common, first = draws.normal(size=(2, len(catalog), d)).astype(np.float32)
        head = draws.uniform(-1.0, 1.0, d + 1) / np.sqrt(d)
        return State({"items": common, "first": first, "head": head.astype(np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Changes of common rows, the shrinking of the others, and the number of clients."""
        if round >= self.rounds:
            return None
        shape = shared["items"].shape
        changes = ArraySpec("items", "rows", shape, self.bound, _SCALE_BITS, denominator="count", role="change")
        shrinking = ArraySpec("shrinking", "dense", (1,), 1.0, 20, denominator="count", role="change")
        return SumSpec((changes, shrinking, ArraySpec("weight", "dense", (1,), bound=1.0, role="count")))

    def join(self, given: Given, clients: Clients) -> Private | None:
        """The common first head and no own rows: all are as everybody's."""
        n = len(clients)
        heads = np.repeat(given.shared["head"][None, :], n, axis=0)
        return {"heads": heads, "own": OwnRows.none(n, self.embedding_size), "shrunk": np.ones(n, dtype=np.float32)}

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Local SGD: the new private rows, and the change of the common table."""
        assert private is not None
        changes, updated = self._train(given.shared, private, clients, given.round, given.rng.seeds(clients.keys))
        ones = np.ones(len(clients))
        before = np.where(private["shrunk"] > 0, private["shrunk"], np.float32(1.0))
        shrinking = Dense((updated["shrunk"] / before - np.float32(1.0))[:, None], ones)
        weight = Dense(np.ones((len(clients), 1), dtype=np.float32), ones)
        return Contributions({"items": changes, "shrinking": shrinking, "weight": weight}), updated

    def step(self, state: State, total: Sum, round: int) -> State:
        """Move the common table by the mean change."""
        weight = float(total.value("weight")[0])
        if weight == 0:
            return state
        items = state.shared["items"].astype(np.float64)
        items = items + (total.value("items") + items * float(total.value("shrinking")[0])) / weight
        return State({**state.shared, "items": items.astype(np.float32)})

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """One round of local training from the beginning, at the rates of round 0."""
        first = self.join(given, clients)
        assert first is not None
        return self._train(given.shared, first, clients, 0, clients.keys)[1]

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Logits under own and common rows; own rows that a client never touched are the first ones, shrunk."""
        assert private is not None
        heads, own = np.ascontiguousarray(private["heads"]), private["own"]
        common, first = given.shared["items"], given.shared["first"]
        scores = np.empty((len(clients), len(common)), dtype=np.float32)
        d = self.embedding_size
        left = np.hstack([heads, private["shrunk"][:, None] * heads[:, :d]])
        dot_items(left, np.hstack([common, np.ones((len(common), 1), dtype=np.float32), first]), scores)
        add_own_rows(own.starts, own.lengths, own.items, own.values, private["shrunk"], first, heads, scores)
        return of_items(scores, items)

    def cost(self, n_items: int) -> Cost:
        """The common table, its sum and step in float64, and the private table that all begin with. Every sample may
        touch a row of both tables; a client has own rows of earlier rounds."""
        width = self.embedding_size + 1
        samples = 2 * (1 + self.negatives)
        return Cost(memory=112 * n_items * width, per_interaction=samples * width, per_client=32 * self.embedding_size)

    def _train(
        self, shared: Arrays, private: Private, clients: Clients, round: int, seeds: np.ndarray
    ) -> tuple[RowUpdates, Private]:
        """Changes of the common rows, besides their shrinking, and the new private rows."""
        d, own = self.embedding_size, private["own"]
        pools = clients.n_items - clients.lengths - np.diff(clients.excluded_indptr)
        samples = clients.lengths * (1 + np.clip(pools, 0, self.negatives))
        touched = np.minimum(samples, clients.n_items)
        new_indptr = offsets(np.minimum(own.lengths + touched, clients.n_items))
        change_indptr = offsets(touched)
        new_items, new_values = np.empty(new_indptr[-1], np.int32), np.empty((new_indptr[-1], d), np.float32)
        items, values = np.empty(change_indptr[-1], np.int32), np.empty((change_indptr[-1], d), np.float32)
        new_counts, counts = np.zeros(len(clients), np.int64), np.zeros(len(clients), np.int64)
        heads, shrunk = private["heads"].copy(), private["shrunk"].copy()
        strength = math.tanh(round / 10) if self.schedule == "tanh" else 1.0
        slower = self.round_decay**round
        settings = [self.learning_rate * slower, self.item_rate * slower, self.batch_decay]
        settings += [self.apart * strength, self.sparse * strength, self.weight_decay]
        pad = ((0, 0), (0, -d % LANES))
        pair_round(
            clients.histories(seeds),
            np.pad(shared["items"], pad),
            np.pad(shared["first"], pad),
            heads,
            shrunk,
            Ranges(own.starts, own.lengths, own.items, own.values),
            np.array(settings, dtype=np.float32),
            self.epochs,
            self.batch_size,
            offsets(samples),
            Rows(new_indptr, new_items, new_values, new_counts),
            Rows(change_indptr, items, values, counts),
        )
        rows = OwnRows.of(change_indptr, items, values, counts).packed()
        changes = RowUpdates(np.append(rows.starts, len(rows.items)), rows.items, rows.values, np.ones(len(clients)))
        return changes, {
            "heads": heads,
            "own": OwnRows.of(new_indptr, new_items, new_values, new_counts),
            "shrunk": shrunk,
        }
