"""What holds of a model whatever its data: what it reads, what its bits depend on, and what training it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Cost", "Reads", "Traits"]

Reads = Literal["items", "order", "times", "values", "repeats", "user_features"]
"""What there is to read of clients: which items they have; in which order, oldest first; when (`Clients.times`); the
values of interactions as they are, as ratings (`Clients.values`); every row of an item that a client took more than
once, where the plan keeps repeats (`data.cleaning.repeats: keep`); and what is known of the client
(`Clients.features`)."""


@dataclass(frozen=True)
class Traits:
    """What holds of a model whatever its hyperparameters. Others decide by these, never by the name of a model.

    Args:
        reads: what the model is handed of clients; what it does not name, it is not handed. A model that reads `values`
            predicts them: it is a `RatingRecommender`. A model that reads `order` is refused data without one.
        order_unless: hyperparameter, and its value with which a model that reads `order` takes all interactions alike.
        bits: what a contribution's bits depend on. `client`: on the shared arrays, the client's rows and key alone, so
            that a model has the same bytes for any number of nodes, threads and chunks. `node`: on who else is in the
            chunk; the same bytes for the same nodes only.
        weights: what a weight of an interaction does, in one sentence that people read; empty for a model that counts
            every interaction once.
        scores_history: whether `score` reads the clients' interactions; otherwise it reads private arrays, or neither.
        iterative: whether rounds move a model from where it is, so that training can go on from a finished model.
        additive: whether the model follows from counts that depend on nothing but each client's own history, if it is
            trained in one round; changed histories can then be added to a kept sum, and old ones taken out of it. No
            effect on a model with public arrays, see `fedrec.models.outline.is_additive`.
        sums_by: hyperparameters that decide what one client adds to a sum of an `additive` model.
        scores_by: hyperparameters that decide how clients are scored and nothing else, so that one training serves all
            their values.
        transfers: whether `step` draws the model towards another one of its kind, where the coordinator was given that:
            towards its item weights, see `fedrec.models.linear.towards`, which `similarity` gives, or towards its item
            factors, see `fedrec.models.factors.following`.
        cohort: clients that a round draws where the plan does not say; `None` for all. A model whose rounds are steps
            of mini-batch training names its batch.
        moves_by_rows: whether each item's row moves along the changes of that row alone, so that a round may sum some
            rows only.

    Example:
        >>> Traits(weights="an item's count is the sum of its weights.").use_of_values
        "With weights in the plan, an item's count is the sum of its weights. Without, every interaction counts once."
    """

    reads: frozenset[Reads] = frozenset({"items"})
    order_unless: tuple[str, float] | None = None
    bits: Literal["client", "node"] = "client"
    weights: str = ""
    scores_history: bool = True
    iterative: bool = False
    additive: bool = False
    sums_by: frozenset[str] = frozenset()
    scores_by: frozenset[str] = frozenset()
    moves_by_rows: bool = False
    transfers: bool = False
    cohort: int | None = None

    @property
    def reads_ratings(self) -> bool:
        """Whether the model reads values as ratings, and predicts them."""
        return "values" in self.reads

    @property
    def use_of_values(self) -> str:
        """What the model does with ratings, counts and other values of interactions, in a sentence."""
        if self.reads_ratings:
            return "It learns from ratings and predicts them; interactions without a rating are an error."
        if not self.weights:
            return "Every interaction counts once: ratings and other values are not used."
        return f"With weights in the plan, {self.weights} Without, every interaction counts once."


@dataclass(frozen=True)
class Cost:
    """What training a model takes for a catalog of some length.

    Args:
        memory: bytes that the coordinator needs at its peak, to refuse impossible plans.
        per_interaction: floats that one interaction may add to a chunk of contributions, at least 1.
        per_client: floats that one client adds to a chunk besides those of its interactions.
    """

    memory: int
    per_interaction: int = 2
    per_client: int = 0
