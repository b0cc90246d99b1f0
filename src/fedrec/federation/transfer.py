"""What a training takes over from a finished run about other users: weights or factors of the items that both have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveFloat

from fedrec.data.catalog import Catalog
from fedrec.data.matching import Matching, match_items
from fedrec.errors import DamagedError, InputError, PlanError
from fedrec.models.base import Given, Recommender, State
from fedrec.models.factors.following import FollowsFactors
from fedrec.models.linear.gram import unpack_triangle
from fedrec.models.linear.towards import POOL, PULL, SOURCE
from fedrec.models.outline import first_sum, is_additive
from fedrec.record.durable import arrays_digest

__all__ = ["FACTOR_STRENGTH", "STRENGTH", "WEIGHT", "Taken", "Transfer", "TransferSource", "taken_from"]

STRENGTH, FACTOR_STRENGTH, WEIGHT = 100.0, 10.0, 0.03


class Transfer(BaseModel):
    """A finished run about other users, towards whose item weights or factors the model is drawn.

    Args:
        run: folder of the run.
        how: `ridge` draws the model towards the source; `auto` does so only if that is better on validation by more
            than two standard errors; `pool` adds the sums that the source kept, times a small weight.
        strength: how strongly, in mean item counts of the data: more follows the source, less the data. Without one,
            `auto` tries 20, 100 and 500, and `ridge` takes 100. With `pool`, how much each user of the source counts;
            0.03 without one. Of `ials`, how many times the usual ridge draws an item to its factor in the source:
            `auto` tries 3, 10 and 30, and `ridge` takes 10.
        match: which items are the same: `id`, `title` (title and year), or a CSV file with the columns `source_item`
            and `target_item`.
        digest: SHA-256 of the shared arrays of the source; the first run fills it in, and every later run checks it.
        taken: SHA-256 of what is taken over, with the items they are of; filled in likewise.
        epsilon, delta: what the source promised its users; filled in, `None` if it promised nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    run: str
    how: Literal["auto", "ridge", "pool"] = "auto"
    strength: PositiveFloat | None = None
    match: str = "id"
    digest: str | None = None
    taken: str | None = None
    epsilon: float | None = None
    delta: float | None = None


@dataclass(frozen=True, eq=False)
class TransferSource:
    """The model of a source.

    Args:
        name: for messages.
        model: its recommender.
        catalog: its items.
        state: its arrays.
        public: its public arrays.
        promise: its ε and δ; `None` each without privacy.
        kept: the integers of the upper triangle of its Gram matrix, if it kept them.
    """

    name: str
    model: Recommender
    catalog: Catalog
    state: State
    public: Mapping[str, np.ndarray]
    promise: tuple[float | None, float | None]
    kept: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Taken:
    """Weights of a source among the items that the target has too, or its Gram matrix of them, or its factors.

    Args:
        items: positions [matched] int64 in the target's catalog, ascending.
        weights: [matched, matched] float32; weights have a zero diagonal. Factors: [matched, d].
    """

    items: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], where: str, size: int | None = None) -> Taken:
        """From the arrays of a file: weights between items, or factors of a `size`.

        Raises:
            DamagedError: if they are others.
        """
        items, weights = arrays.get("items"), arrays.get("weights")
        if (
            items is None
            or weights is None
            or set(arrays) != {"items", "weights"}
            or [str(items.dtype), str(weights.dtype)] != ["int64", "float32"]
            or weights.shape != (len(items), len(items) if size is None else size)
        ):
            raise DamagedError(f"{where} does not hold weights of matched items")
        return cls(items, weights)

    def nothing(self) -> Taken:
        """The same of weights of 0."""
        return Taken(self.items, np.zeros_like(self.weights))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """As a file holds them."""
        return {"items": self.items, "weights": self.weights}

    @property
    def digest(self) -> str:
        """SHA-256 of both."""
        return arrays_digest(self.arrays)

    def server(self, n_items: int, strength: float) -> dict[str, np.ndarray]:
        """What the coordinator's model reads before the first round: weights over the whole catalog, 0 for items that
        did not match, and the strength."""
        return {SOURCE: self._placed(n_items), PULL: np.array([strength])}

    def drawing(self, n_items: int, strength: float) -> dict[str, np.ndarray]:
        """What the coordinator's model reads before every round, where factors are taken over: those of all items, 0
        where an item did not match, and what the ridge of each item is multiplied by, 1 where it did not."""
        factors = np.zeros((n_items, self.weights.shape[1]), dtype=np.float32)
        factors[self.items] = self.weights
        pull = np.ones(n_items)
        pull[self.items] = strength
        return {SOURCE: factors, PULL: pull}

    def pooled(self, n_items: int, weight: float) -> dict[str, np.ndarray]:
        """What the coordinator's model adds to its sum: the Gram matrix over the whole catalog, times a weight."""
        return {POOL: self._placed(n_items) * np.float32(weight)}

    def _placed(self, n_items: int) -> np.ndarray:
        placed = np.zeros((n_items, n_items), dtype=np.float32)
        placed[np.ix_(self.items, self.items)] = self.weights
        return placed


def taken_from(
    source: TransferSource, model: Recommender, target: Catalog, by: str, pooled: bool = False
) -> tuple[Taken, Matching]:
    """What is taken over from a source for the items of a target: weights, or the sums that it kept if they are pooled;
    factors for a model that follows those.

    Raises:
        PlanError: if the source has no weights between items, or no factors of such a length, or none of the sums that
            are asked for, or no item matches.
    """
    _check_kind(source, model, pooled)
    try:
        matching = match_items(source.catalog, target, by)
    except InputError as error:
        raise PlanError(f"transfer: {error}") from None
    if pooled:
        return Taken(matching.target, _kept_gram(source)[np.ix_(matching.source, matching.source)]), matching
    if isinstance(model, FollowsFactors):
        return Taken(matching.target, np.ascontiguousarray(source.state.shared["items"][matching.source])), matching
    rows = source.model.similarity(Given.to_score(source.state.shared, source.public), matching.source)
    weights = np.ascontiguousarray(rows[:, matching.source], dtype=np.float32)
    np.fill_diagonal(weights, 0.0)
    return Taken(matching.target, weights), matching


def _check_kind(source: TransferSource, model: Recommender, pooled: bool) -> None:
    """Check that a model can follow a source.

    Raises:
        PlanError: saying what it could follow.
    """
    if source.model.name != model.name:
        raise PlanError(f"transfer: {source.name} is a run of model {source.model.name!r}, which {model.name} cannot "
                        f"follow; take a run of model {model.name}")  # fmt: skip
    if not isinstance(model, FollowsFactors):
        return
    if pooled:
        raise PlanError(f"transfer: {model.name} keeps no sums that could be pooled; set how: auto or how: ridge")
    size = source.state.shared["items"].shape[1]
    if size != model.factor_size:
        raise PlanError(
            f"transfer: the items of {source.name} have factors of {size} numbers, and those of this plan "
            f"{model.factor_size}; set embedding_size: {size}"
        )


def _kept_gram(source: TransferSource) -> np.ndarray:
    """The Gram matrix [items, items] float32 that a run kept.

    Raises:
        PlanError: if it kept none.
    """
    kept, first = source.kept, first_sum(source.model)
    if kept is None or not is_additive(source.model):
        raise PlanError(
            f"transfer: {source.name} kept no sums that could be pooled; train it as model ease without rank and with "
            "keep_sums: true, or set how: ridge, which needs the model alone"
        )
    return unpack_triangle(kept, len(source.catalog), 1.0 / first["gram"].unit).astype(np.float32)
