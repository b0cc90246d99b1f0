"""The contract of a recommender: frozen configuration and pure functions that know no engine."""

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
from fedrec.models.shapes import Form, Own, Shape

__all__ = ["Arrays", "Private", "Recommender", "State", "cosines"]

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class State:
    """What the coordinator holds between rounds.

    Args:
        shared: arrays that everyone may see; broadcast to the nodes.
        server: arrays that the coordinator alone needs (optimiser moments and the like).
    """

    shared: Arrays
    server: Arrays = field(default_factory=dict)


Private = Mapping[str, Any]
"""Named arrays [clients, …] with one row per client, or `OwnRows`; they never leave their node."""


class Recommender(BaseModel, ABC):
    """A recommender trained from sums. Subclasses are the hyperparameters; besides, a private form knows its clip.

    Bits (every subclass keeps these): `contribute` is a pure function of the shared arrays, one client's rows and that
    client's key, whatever else is in the batch; `step` is a pure function of state and sums under one BLAS thread.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    """What the plan and the command line call it."""
    reads_history: ClassVar[bool] = True
    """Whether `score` reads the clients' interactions; otherwise it reads private arrays or neither."""
    reads_times: ClassVar[bool] = False
    """Whether it needs more than the order of interactions; `Clients.times` is `None` otherwise."""

    weighs: ClassVar[str] = ""
    """What a weight of an interaction does, in one sentence; empty for a model that counts every interaction once."""

    reads_ratings: ClassVar[bool] = False
    """Whether it is handed the values of interactions as they are, as ratings on its `rating_scale`, and predicts
    them."""

    moves_by_rows: ClassVar[bool] = False
    """Whether each item's row moves along the changes of that row alone, so that a round may sum some rows only."""
    sums_by: ClassVar[frozenset[str]] = frozenset()
    """Hyperparameters that decide what one client adds to the sum of an `additive` model."""

    _heaviest: float | None = PrivateAttr(default=None)
    """Largest weight of an interaction; `None` where all weigh 1."""
    _clip: float | None = PrivateAttr(default=None)
    """Bound on a client's contribution in the private form; `None` in the plain one."""

    if TYPE_CHECKING:  # a hyperparameter of most models, and a property of the others

        @property
        def rounds(self) -> int:
            """Rounds of training."""

    @abstractmethod
    def forms(self, n_items: int) -> tuple[Form, ...]:
        """The arrays of its states for a catalog of `n_items`, in the order of training; the last form scores."""

    def rows(self, n_items: int) -> Mapping[str, Shape | Own]:
        """The private arrays that `join` gives, without the axis of clients; empty where it gives none."""
        return {}

    @abstractmethod
    def start(self, catalog: Catalog, rng: KeyedSource) -> State:
        """The state before round 0."""

    @abstractmethod
    def spec(self, state: State, round: int) -> SumSpec | None:
        """What `round` sums; `None` when training is finished."""

    def join(self, shared: Arrays, clients: Clients, rng: KeyedSource) -> Private | None:
        """Private arrays of clients that the node meets for the first time."""
        return None

    @abstractmethod
    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        """What the clients add in `round`, and their new private arrays."""

    @abstractmethod
    def step(self, state: State, total: Sum, round: int) -> State:
        """The state after the sum of `round`."""

    def fold_in(self, shared: Arrays, clients: Clients) -> Private | None:
        """Private arrays of users that never took part, from their history alone."""
        return None

    @classmethod
    def use_of_values(cls) -> str:
        """What the model does with ratings, counts and other values of interactions, in a sentence."""
        if cls.reads_ratings:
            return "It learns from ratings and predicts them; interactions without a rating are an error."
        if not cls.weighs:
            return "Every interaction counts once: ratings and other values are not used."
        return f"With weights in the plan, {cls.weighs} Without, every interaction counts once."

    @property
    def rating_scale(self) -> tuple[float, float] | None:
        """Lowest and highest rating, for a model that reads ratings."""
        return None

    def weighted(self, heaviest: float) -> Self:
        """The model as it is trained on interactions that weigh up to `heaviest`.

        Raises:
            PlanError: if the model knows no weights.
        """
        if self.reads_ratings:
            raise PlanError(
                f"weights: model {self.name!r} reads values as ratings, not as weights; leave weights out of the plan"
            )
        if not self.weighs:
            raise PlanError(
                f"weights: model {self.name!r} counts every interaction once, whatever its value; leave weights out "
                "(and low ratings too, with cleaning: rating_at_least), or take popularity, ease, itemknn, ials, mf or "
                "fedrecon, which use weights"
            )
        copy = self.model_copy()
        copy._heaviest = heaviest
        return copy

    def privately(self, clip: float | None, clients: int) -> Recommender:
        """The model as it is trained under differential privacy: hyperparameters that were not set take values fit for
        noise, and every round has `queries`.

        Args:
            clip: the plan's bound on a client's contribution, where the model lets people choose it.
            clients: a public number of clients expected in a round.

        Raises:
            PlanError: if the model has no private form.
        """
        raise PlanError(
            f"model {self.name!r} has no form under differential privacy; popularity, ease, itemknn, spectral, ials "
            "and mf have one"
        )

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """How each client's contribution to `round` is measured and clipped, and how noise is spread over the arrays.

        Asked of what `privately` returned only. Depends on public things alone: shared arrays and the round.
        """
        raise NotImplementedError(f"{self.name} has no private form")

    def _private_form(self, clip: float, **defaults: Any) -> Self:
        """A copy with a clip, and with `defaults` for hyperparameters that were not set."""
        unset = {key: value for key, value in defaults.items() if key not in self.model_fields_set}
        copy = self.model_copy(update=unset)
        copy._clip = clip
        return copy

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Share of the privacy budget (of 1 / z²) that each round may use."""
        return (1.0 / self.rounds,) * self.rounds

    @abstractmethod
    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        """Scores [clients, items] float32, made at the node; the same bits for a client in any batch."""

    def similarity(self, shared: Arrays, items: np.ndarray) -> np.ndarray:
        """How near the items at `items` [n] are to every item: [n, items] float32.

        Raises:
            InputError: if the model knows no such thing.
        """
        raise InputError(f"model {self.name!r} does not know similar items; ease, itemknn, ials and mf do")

    @property
    def goes_on(self) -> bool:
        """Whether a training can go on from what another one ended with; otherwise the sums are computed anew."""
        return "rounds" in type(self).model_fields

    def refreshed(self, state: State) -> State:
        """A state with arrays carried over from an earlier training, after computing anew what follows from them."""
        return state

    @property
    def keeps_rows(self) -> bool:
        """Whether nodes may keep private arrays of each client from round to round."""
        return type(self).join is not Recommender.join

    @property
    def additive(self) -> bool:
        """Whether the model follows from one sum over clients of what depends on nothing but their own history.

        Then changed histories can be added to a kept sum, and old ones taken out of it.
        """
        return False

    def memory(self, n_items: int) -> int:
        """Bytes that the coordinator needs at its peak for a catalog of `n_items`, to refuse impossible plans."""
        return 64 * n_items

    @property
    def chunk_floats(self) -> int:
        """Floats that one interaction may add to a chunk of contributions."""
        return 2

    @property
    def client_floats(self) -> int:
        """Floats that one client adds to a chunk of contributions besides those of its interactions."""
        return 0


def cosines(table: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Cosine of the rows at `items` [n] of a table [items, d] with every row: [n, items] float32.

    >>> cosines(np.array([[2.0, 0.0], [3.0, 4.0], [0.0, 0.0]]), np.array([0])).round(2).tolist()
    [[1.0, 0.6000000238418579, 0.0]]
    """
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(unit[items] @ unit.T, dtype=np.float32)
