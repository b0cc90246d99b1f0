"""The contract of a recommender: frozen configuration and pure functions that know no engine.

To write a model, subclass `Recommender` and say

- what it is: `name`, `traits`, its hyperparameters as fields, and `rounds`, a field or a property;
- what its arrays look like: `shapes`, with `public` where arrays follow from the catalog's features;
- how it trains: `start` makes the shared arrays and `spec` says what a round sums. In every round each client adds its
  part at its node (`contribute`), and the coordinator takes the sum (`step`). A model that keeps arrays of each client
  makes them in `join` and hands the renewed ones back from `contribute`;
- how it recommends: `score`, and `fold_in` where clients' arrays have to be made for users that never took part;
- what it takes: `cost`.

The rest has defaults: `similarity`, `carry` and `privately`, which gives the private form of a model that has one: a
class of its own, derived from `PrivateRecommender` and from the model. Arrays are NumPy arrays by name. Nothing here
has a wire format of its own, and nothing is called that is not below, but for what servers ask (`models.served`).

Bits. `contribute` is a pure function of what is given, one client's rows and that client's key, whatever else is in the
batch (unless `traits.bits` says `node`); so is `score`. `step` is a pure function of state and sum under one BLAS
thread.

Example:
    How many clients have each item, as a whole model:

    >>> from fedrec.aggregation.contributions import RankOne
    >>> from fedrec.aggregation.specs import ArraySpec
    >>> from fedrec.models.shapes import Form, Shape
    >>> class Counts(Recommender):
    ...     name: ClassVar[str] = "counts"
    ...     traits: ClassVar[Traits] = Traits(scores_history=False, additive=True)
    ...     rounds: int = 1
    ...
    ...     def shapes(self, n_items):
    ...         return Shapes(states=(Form({"counts": Shape((n_items,), "float64")}),))
    ...
    ...     def start(self, catalog, public, rng):
    ...         return State({"counts": np.zeros(len(catalog))})
    ...
    ...     def spec(self, shared, round):
    ...         shape = len(shared["counts"]), 1
    ...         counts = ArraySpec("counts", "rank_one", shape, bound=1.0, role="count")
    ...         return SumSpec((counts,)) if round < self.rounds else None
    ...
    ...     def contribute(self, given, clients, private):
    ...         weights, right = np.ones(len(clients)), np.ones((len(clients), 1))
    ...         counts = RankOne(clients.indptr, clients.items, weights, clients.n_items, right)
    ...         return Contributions({"counts": counts}), None
    ...
    ...     def step(self, state, total, round):
    ...         return State({"counts": total.value("counts")[:, 0]})
    ...
    ...     def score(self, given, clients, private, items=None):
    ...         counts = given.shared["counts"].astype(np.float32)
    ...         return of_items(np.tile(counts, (len(clients), 1)), items)
    ...
    ...     def cost(self, n_items):
    ...         return Cost(memory=32 * n_items)
    >>> Counts().spec({"counts": np.zeros(5)}, 0).names
    ('counts',)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, PrivateAttr

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.queries import Query
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError, PlanError
from fedrec.models.shapes import Shapes
from fedrec.models.traits import Cost, Traits

__all__ = [
    "Arrays",
    "Given",
    "Private",
    "PrivateRecommender",
    "PrivateTerms",
    "RatingRecommender",
    "Recommender",
    "State",
    "cosines",
    "of_items",
    "queries_of",
]

_SIMILAR = (
    "adapter, autoencoder, biased-mf, blend, content, ease, fcf, fedncf, fedrecon, ials, itemknn, lightgcn, lora, mf, "
    "neumf, pfedrec, sasrec, slit, spectral or two-tower"
)
_PRIVATE = (
    "adapter, content, ease, ials, itemknn, lora, mf, neumf, popularity, sasrec, slit, spectral, two-tower or a "
    "PyTorch network of yours"
)
"""Models that list similar items, and models that have a private form."""

Arrays = Mapping[str, np.ndarray]

_FIXED = KeyedSource(bytes(16))


@dataclass(frozen=True, eq=False)
class State:
    """What the coordinator holds between rounds.

    Args:
        shared: arrays that everyone may see; broadcast to the nodes.
        server: arrays that the coordinator alone needs (optimiser moments and the like).
    """

    shared: Arrays
    server: Arrays = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Given:
    """What a model is given for a call at a node, besides clients.

    Args:
        round: number of the round, from 0; −1 where no round goes on.
        shared: arrays that the coordinator broadcast.
        public: arrays that the model made from the agreed catalog, see `Recommender.public`.
        rng: the node's draws for this call, keyed by names and clients' keys.
    """

    round: int
    shared: Arrays
    public: Arrays = field(default_factory=dict)
    rng: KeyedSource = _FIXED

    @classmethod
    def to_score(cls, shared: Arrays, public: Arrays) -> Given:
        """For calls that depend on no secret: scores, similar items and folding in are the same at every node."""
        return cls(-1, shared, public)


Private = Mapping[str, Any]
"""Named arrays [clients, …] with one row per client, or `OwnRows`; they never leave their node."""


@dataclass(frozen=True)
class PrivateTerms:
    """What a plan under differential privacy tells its model.

    Args:
        clip: bound on a client's contribution, where the model lets people choose it; `None` for the model's own.
        clients: public number of clients expected in a round.
    """

    clip: float | None
    clients: int


class Recommender(BaseModel, ABC):
    """A recommender trained from sums. Subclasses are the hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    """What the plan and the command line call it."""
    traits: ClassVar[Traits] = Traits()
    """What holds of it whatever its hyperparameters."""

    _heaviest: float | None = PrivateAttr(default=None)
    """Largest weight of an interaction; `None` where all weigh 1."""

    if TYPE_CHECKING:  # a hyperparameter of most models, and a property of the others

        @property
        def rounds(self) -> int:
            """Rounds of training."""

    def public(self, catalog: Catalog) -> Arrays:
        """Arrays that follow from the agreed catalog: features of items, frozen vectors. They do not change and are
        never sent: coordinator and nodes make them alike, each from its own copy of the catalog."""
        return {}

    @abstractmethod
    def shapes(self, n_items: int) -> Shapes:
        """What shared, server and private arrays look like for a catalog of `n_items`; nothing is made to find out."""

    @abstractmethod
    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """The state before round 0, at the coordinator."""

    @abstractmethod
    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """What `round` sums; `None` when training is finished. Coordinator and nodes work it out alike, from what is
        broadcast."""

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Private arrays of clients that the node meets for the first time; `None` for a model that keeps none."""
        return None

    @abstractmethod
    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """What the clients add in a round, and their new private arrays.

        Args:
            given: round, shared and public arrays, and the node's draws of this round.
            clients: some of the round's, with training interactions only.
            private: their private arrays.
        """

    @abstractmethod
    def step(self, state: State, total: Sum, round: int) -> State:
        """The state after the sum of `round`, at the coordinator."""

    @abstractmethod
    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Scores, made at the node; the same bits for a client and an item in any batch.

        Args:
            given: shared and public arrays.
            clients: with the history to recommend from.
            private: their private arrays.
            items: positions [n] of the items to score; `None` for all of the catalog, in its order.

        Returns:
            [clients, n] float32.
        """

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """Private arrays of users that never took part, from their history alone."""
        return None

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """How near the items at `items` [n] are to every item: [n, items] float32.

        Raises:
            InputError: if the model knows no such thing.
        """
        raise InputError(f"model {self.name!r} cannot list similar items; use {_SIMILAR}")

    def carry(self, fresh: State, earlier: State) -> State:
        """The state before round 0 of a training that goes on from another one (`traits.iterative`).

        Args:
            fresh: what `start` made.
            earlier: what the other training ended with, of the same arrays, with the fresh rows for new items. Arrays
                that were shared at its end and are at the server in `fresh` are among the shared ones.
        """
        return earlier

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """The model as it is trained under differential privacy: a `PrivateRecommender` of the same name.

        Raises:
            PlanError: if the model has no private form.
        """
        raise PlanError(f"model {self.name!r} has no form under differential privacy; use {_PRIVATE}")

    @abstractmethod
    def cost(self, n_items: int) -> Cost:
        """What training takes for a catalog of `n_items`."""

    def _weighted(self, heaviest: float) -> Self:
        """The model as it is trained on interactions that weigh up to `heaviest`; see `models.values`."""
        copy = self.model_copy()
        copy._heaviest = heaviest
        return copy


class PrivateRecommender(Recommender):
    """A model as it is trained under differential privacy; `Recommender.privately` makes it.

    A model that has a private form declares it as a class of its own, derived from this one and from the model: the
    hyperparameters are those of the model, with defaults that are fit for noise.
    """

    default_clip: ClassVar[float]
    """Bound on a client's contribution where the plan names none."""

    _clip: float = PrivateAttr()

    @classmethod
    def of(cls, model: Recommender, terms: PrivateTerms, **settings: Any) -> Self:
        """The private form of a model.

        Args:
            model: its hyperparameters that were set are kept; the others take the defaults of this class.
            terms: of the plan; a clip of `None` stands for `default_clip`.
            settings: hyperparameters that this form decides by itself.

        Raises:
            PlanError: if the model is derived from the one that this is the private form of, and is another.
        """
        if not issubclass(cls, type(model)):
            raise PlanError(
                f"model {model.name!r} has no form under differential privacy: {cls.__name__} is the private form of "
                f"{cls.name!r}, and {type(model).__name__} is another model. Derive a class from both, and return it "
                f"from {type(model).__name__}.privately"
            )
        form = cls(**{name: getattr(model, name) for name in model.model_fields_set} | settings)
        form._heaviest = model._heaviest
        form._clip = cls.default_clip if terms.clip is None else terms.clip
        return form

    @property
    def clip(self) -> float:
        """Bound on a client's contribution; for a model that adapts the bound, the one that it begins with."""
        return self._clip

    @abstractmethod
    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """How each client's contribution to `round` is measured and clipped, and how noise is spread over the arrays.

        Depends on public things alone: shared arrays and the round.
        """

    @property
    @abstractmethod
    def budget_shares(self) -> tuple[float, ...]:
        """Share of the privacy budget (of 1 / z²) that each round uses, by round; they add up to 1."""


class RatingRecommender(Recommender):
    """A model that reads values of interactions as ratings, and predicts them: its scores are ratings."""

    @property
    @abstractmethod
    def rating_scale(self) -> tuple[float, float]:
        """Lowest and highest rating."""


def queries_of(model: Recommender, shared: Arrays, round: int) -> tuple[Query, ...]:
    """The queries of a round of a model in its private form; empty for a plain model, whose contributions are not
    clipped."""
    return model.queries(shared, round) if isinstance(model, PrivateRecommender) else ()


def cosines(table: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Cosine of the rows at `items` [n] of a table [items, d] with every row: [n, items] float32.

    >>> cosines(np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 0.0]]), np.array([0])).round(2).tolist()
    [[1.0, 0.6000000238418579, 0.0]]
    """
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(unit[items] @ unit.T, dtype=np.float32)


def of_items(scores: np.ndarray, items: np.ndarray | None) -> np.ndarray:
    """The columns of scores [clients, items of the catalog] that are of the items at `items` [n]; all for `None`."""
    return scores if items is None else np.ascontiguousarray(scores[:, items])
