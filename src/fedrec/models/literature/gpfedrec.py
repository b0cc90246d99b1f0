"""Graph-guided personalisation (GPFedRec, Zhang et al., KDD 2024), its graph made of sums."""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from fedrec.aggregation.contributions import Contributions, RowUpdates
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.data.keys import KeyedSource
from fedrec.kernels.gpfedrec import graph_round, graph_scores, network_size
from fedrec.kernels.records import Rows
from fedrec.models.base import Arrays, Given, Private, Recommender, State, of_items
from fedrec.models.private_state import OwnRows
from fedrec.models.shapes import Form, Own, Shape, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["GPFedRec"]

_SCALE_BITS = 12


class GPFedRec(Recommender):
    """score = network(private user vector, item row), item rows pulled to the mean row of users like oneself.

    As published, every client sends its whole item table, with its name, to the server, which compares all pairs of
    users and hands each the mean table of its neighbours. That is no sum and cannot be made one, so this is **not** the
    published algorithm but the nearest one that sums allow. Users fall into `groups`. A client chooses its group at
    home, the one towards whose mean table its own rows moved most, and adds its table to that group's sum; what pulls
    its rows is the mean table of the group. Figures of this model are not figures of GPFedRec.

    What the authors' code does and this does only on request: its cosine *distance* is used as if it were a similarity,
    so that the neighbours are the users most unlike oneself (`neighbours: unlike` pulls to the mean of the other
    groups); negatives avoid the held-out items (plan key `negatives: paper-leaky`). Its Laplace noise has no clipping
    and so no ε; there is none here. As in the authors' code, a client ranks with its own copy of the table from before
    averaging.

    Args:
        embedding_size: length d of user vectors and item rows, a multiple of 4; layers are 2d, d, d / 2, d / 4, 1.
        rounds: rounds of training.
        learning_rate: step size of SGD on the network.
        item_rate: η, which sets the other step sizes: SGD on the user vector is `learning_rate` · (η − 1), on the items
            `learning_rate` · (items · η − 1). Larger values move both faster.
        epochs: passes over a client's interactions in a round.
        negatives: number of items drawn for each interaction, distinct within it.
        batch_size: samples per step; the loss is their mean.
        pull: weight of the mean squared distance to the neighbours' table. Larger values keep a client's rows closer to
            those of its neighbours.
        groups: number of groups that users fall into.
        neighbours: `alike` pulls a client to its own group's table, `unlike` to that of all other groups.
        bound: largest change of one coordinate by one client; beyond it saturates.
    """

    embedding_size: int = Field(default=32, ge=4, multiple_of=4)
    rounds: PositiveInt = 100
    learning_rate: PositiveFloat = 0.1
    item_rate: PositiveFloat = Field(default=80.0, gt=1.0)
    epochs: PositiveInt = 1
    negatives: PositiveInt = 4
    batch_size: PositiveInt = 256
    pull: NonNegativeFloat = 1.0
    groups: PositiveInt = 8
    neighbours: Literal["alike", "unlike"] = "alike"
    bound: PositiveFloat = Field(default=16384.0, le=2.0**24)

    name: ClassVar[str] = "gpfedrec"
    traits: ClassVar[Traits] = Traits(scores_history=False, iterative=True)

    def shapes(self, n_items: int) -> Shapes:
        """The item table, a mean table of every group, and the first user vector and network. At the nodes user
        vectors, networks, groups, and own rows."""
        d, network = self.embedding_size, network_size(self.embedding_size)
        shared = {"items": Shape((n_items, d)), "centres": Shape((self.groups, n_items, d)), "user": Shape((d,))}
        rows: dict[str, Shape | Own] = {
            "users": Shape((d,), finite=False),
            "networks": Shape((network,), finite=False),
            "groups": Shape((), "int64", 0, self.groups),
            "pulls": Shape((), finite=False),
            "own": Own(d),
        }
        return Shapes((Form(shared | {"network": Shape((network,))}),), rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """A random item table that is every group's, and the user vector and network that all clients begin with."""
        draws, d = rng.generator(), self.embedding_size
        items = draws.normal(size=(len(catalog), d)).astype(np.float32)
        widths = (2 * d, d, d // 2, d // 4, 1)
        layers = [
            draws.uniform(-1.0, 1.0, (before + 1) * after) / np.sqrt(before) for before, after in pairwise(widths)
        ]
        shared = {"items": items, "centres": np.repeat(items[None], self.groups, axis=0)}
        shared |= {"user": draws.normal(size=d).astype(np.float32)}
        return State(shared | {"network": np.concatenate(layers).astype(np.float32)})

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Group by group: changes of item rows, members, and the way that rows were pulled."""
        if round >= self.rounds:
            return None
        n, d = shared["items"].shape
        rows = (self.groups * n, d)
        changes = ArraySpec("items", "rows", rows, self.bound, _SCALE_BITS, denominator="per_row", role="change")
        members = ArraySpec("members", "rows", (self.groups, 1), bound=1.0, role="count")
        pulls = ArraySpec("pulls", "rows", (self.groups, 1), bound=1.0, scale_bits=20, role="change")
        return SumSpec((changes, members, pulls))

    def join(self, given: Given, clients: Clients) -> Private | None:
        """The common first vector and network, and a group drawn from each client's own key."""
        n = len(clients)
        return {
            "users": np.repeat(given.shared["user"][None], n, axis=0),
            "networks": np.repeat(given.shared["network"][None], n, axis=0),
            "groups": (given.rng.seeds(clients.keys) % np.uint64(self.groups)).astype(np.int64),
            "pulls": np.zeros(n, dtype=np.float32),
            "own": OwnRows.none(n, self.embedding_size),
        }

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Local SGD: the new private arrays; to the client's group, what rows changed besides being pulled."""
        assert private is not None
        changes, updated = self._train(given.shared, private, clients, given.rng.seeds(clients.keys))
        ones, each = np.ones(len(clients)), np.arange(len(clients) + 1)
        group = private["groups"].astype(np.int32)
        rows = changes.items + np.repeat(group, changes.lengths) * np.int32(clients.n_items)
        moved = RowUpdates(np.append(changes.starts, len(rows)), rows, changes.values, ones)
        members = RowUpdates(each, group, np.ones((len(group), 1), dtype=np.float32), ones)
        pulls = RowUpdates(each, group, updated["pulls"][:, None], ones)
        return Contributions({"items": moved, "members": members, "pulls": pulls}), updated

    def step(self, state: State, total: Sum, round: int) -> State:
        """The mean table of every group, the table that pulls each, and the mean over all clients."""
        items, centres = state.shared["items"].astype(np.float64), state.shared["centres"].astype(np.float64)
        members = total.value("members")[:, :, None]
        if members.sum() == 0:
            return state
        sums = members * items + total.value("pulls")[:, :, None] * (centres - items)
        sums += total.value("items").reshape(centres.shape)
        everyone = sums.sum(axis=0) / members.sum()
        if self.neighbours == "unlike":
            sums, counts = sums.sum(axis=0) - sums, members.sum() - members
        else:
            counts = members
        fresh = np.where(counts > 0, sums / np.maximum(counts, 1e-12), everyone)
        table = (members * fresh).sum(axis=0) / members.sum()
        changed = {"items": table.astype(np.float32), "centres": fresh.astype(np.float32)}
        return State({**state.shared, **changed})

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """One round of local training from the beginning."""
        first = self.join(given, clients)
        assert first is not None
        return self._train(given.shared, first, clients, clients.keys)[1]

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Logits under each client's own network and rows."""
        assert private is not None
        own = private["own"]
        scores = np.empty((len(clients), len(given.shared["items"])), dtype=np.float32)
        users, networks = (np.ascontiguousarray(private[name]) for name in ("users", "networks"))
        ranges = own.starts, own.lengths, own.items, own.values
        groups, pulls = private["groups"], private["pulls"]
        graph_scores(given.shared["items"], given.shared["centres"], users, networks, groups, pulls, *ranges, scores)
        return of_items(scores, items)

    def cost(self, n_items: int) -> Cost:
        """A sum and a mean table for every group, and the step in float64. Every sample may touch a row; a client has
        its network."""
        d = self.embedding_size
        samples = 2 * self.epochs * (1 + self.negatives)
        memory = 64 * n_items + 56 * self.groups * n_items * d
        return Cost(memory, per_interaction=samples * (d + 1), per_client=network_size(d))

    def _train(self, shared: Arrays, private: Private, clients: Clients, seeds: np.ndarray) -> tuple[OwnRows, Private]:
        """Changes of the touched rows, and the new private arrays."""
        table, d = shared["items"], self.embedding_size
        pools = clients.n_items - clients.lengths - np.diff(clients.excluded_indptr)
        samples = clients.lengths * (1 + np.clip(pools, 0, self.negatives))
        room = offsets(np.minimum(samples * self.epochs, clients.n_items))
        items, counts = np.empty(room[-1], dtype=np.int32), np.zeros(len(clients), dtype=np.int64)
        rows, changes = (np.empty((room[-1], d), dtype=np.float32) for _ in range(2))
        updated = {name: private[name].copy() for name in ("users", "networks", "groups", "pulls")}
        rate_items = self.learning_rate * (len(table) * self.item_rate - 1.0)
        settings = [self.learning_rate, self.learning_rate * (self.item_rate - 1.0), rate_items]
        settings.append(min(1.0, 2.0 * self.pull * rate_items / (len(table) * d)))
        graph_round(
            clients.histories(seeds),
            table,
            shared["centres"],
            updated["users"],
            updated["networks"],
            updated["groups"],
            np.array(settings, dtype=np.float32),
            self.epochs,
            self.batch_size,
            offsets(samples),
            Rows(room, items, rows, counts),
            changes,
            updated["pulls"],
        )
        own = OwnRows.of(room, items, rows, counts)
        return OwnRows.of(room, items, changes, counts).packed(), {**updated, "own": own}
