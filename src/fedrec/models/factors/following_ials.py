"""iALS that follows the item factors of a finished model of other users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Self, TypeVar

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Arrays, Given, Private, Recommender, State
from fedrec.models.factors.following import BothWays, FollowsFactors, pulled_factors
from fedrec.models.factors.ials import IALS
from fedrec.models.linear.towards import PULL, SOURCE
from fedrec.models.shapes import Form, Shapes
from fedrec.models.traits import Cost, Traits

__all__ = ["BothIALS", "FollowingIALS", "following_form"]

_FOLLOWING = "following."
"""Begins the names of the arrays of the model that follows a source."""
_Named = TypeVar("_Named")


class FollowingIALS(IALS, FollowsFactors):
    """Item factors begin as those of a source, and every step draws them back."""

    traits: ClassVar[Traits] = replace(IALS.traits, transfers=True)

    @classmethod
    def of(cls, model: IALS) -> Self:
        """The form of a model with its hyperparameters."""
        form = cls(**{name: getattr(model, name) for name in model.model_fields_set})
        form._heaviest = model._heaviest
        return form

    @property
    def factor_size(self) -> int:
        """Length of an item's factor."""
        return self.embedding_size

    def begun(self, state: State, items: np.ndarray, factors: np.ndarray) -> State:
        """The factors of the source, and YᵀY."""
        table = state.shared["items"].copy()
        table[items] = factors
        return State({**state.shared, **self._state(table).shared}, state.server)

    def step(self, state: State, total: Sum, round: int) -> State:
        """A step as ever; drawn to a source where the coordinator has one, and then without that source."""
        if SOURCE not in state.server:
            return super().step(state, total, round)
        server = {name: array for name, array in state.server.items() if name not in (SOURCE, PULL)}
        if total.value("everyone")[-1] <= 0.0:
            return State(state.shared, server)
        table = pulled_factors(total, self.unobserved_weight, self.reg, self.nu, state, round)
        return State({**state.shared, **self._state(table).shared}, server)


class BothIALS(FollowingIALS, BothWays):
    """Two trainings in the same rounds: one as ever, and one whose item factors follow those of a source. A client adds
    the equations of both; counts are the same."""

    def shapes(self, n_items: int) -> Shapes:
        """The arrays of both; then those of one."""
        (plain,) = super().shapes(n_items).states
        return Shapes((Form({**plain.shared, **_named(plain.shared)}), plain))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Random item factors, the same for both."""
        plain = super().start(catalog, public, rng)
        return State({**plain.shared, **_named(plain.shared)}, plain.server)

    def begun(self, state: State, items: np.ndarray, factors: np.ndarray) -> State:
        """The factors of the source in one of the two."""
        begun = super().begun(State(_of_following(state.shared)), items, factors)
        return State({**state.shared, **_named(begun.shared)}, state.server)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """The sums of both, and the counts once."""
        plain = super().spec(shared, round)
        if plain is None:
            return None
        again = tuple(replace(array, name=_FOLLOWING + array.name) for array in plain.arrays if array.name != "counts")
        return SumSpec((*plain.arrays, *again))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """The equations of both."""
        alone, _ = super().contribute(given, clients, private)
        following, _ = super().contribute(replace(given, shared=_of_following(given.shared)), clients, private)
        again = _named({name: array for name, array in following.arrays.items() if name != "counts"})
        return Contributions({**alone.arrays, **again}), None

    def step(self, state: State, total: Sum, round: int) -> State:
        """A step of both; that of the one which follows with the coordinator's `source` and `pull`."""
        alone = self.alone(State(state.shared), total, round)
        return State({**alone.shared, **_named(self.following(state, total, round).shared)})

    def alone(self, state: State, total: Sum, round: int) -> State:
        """A step as ever."""
        return super().step(State(_of_alone(state.shared), state.server), total, round)

    def following(self, state: State, total: Sum, round: int) -> State:
        """A step of the equations of the one which follows."""
        spec = SumSpec(
            tuple(
                replace(array, name=array.name.removeprefix(_FOLLOWING))
                for array in total.spec.arrays
                if array.name.startswith(_FOLLOWING) or array.name == "counts"
            ),
            total.spec.n_max,
        )
        arrays = {"counts": total.arrays["counts"], **_of_following(total.arrays)}
        return super().step(
            State(_of_following(state.shared), state.server), replace(total, spec=spec, arrays=arrays), round
        )

    def cost(self, n_items: int) -> Cost:
        """Twice that of one."""
        plain = super().cost(n_items)
        return Cost(memory=2 * plain.memory, per_client=2 * plain.per_client)


def following_form(model: Recommender, chooses: bool) -> Recommender:
    """A model without privacy as it is trained where it follows a source: both ways if validation `chooses`; as it is
    where it has no such form."""
    if not isinstance(model, IALS) or model.item_features is not None or model.solver != "cholesky":
        return model
    return BothIALS.of(model) if chooses else FollowingIALS.of(model)


def _named(arrays: Mapping[str, _Named]) -> dict[str, _Named]:
    """Arrays under the names of those of the model that follows a source."""
    return {_FOLLOWING + name: array for name, array in arrays.items()}


def _of_following(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name.removeprefix(_FOLLOWING): array for name, array in arrays.items() if name.startswith(_FOLLOWING)}


def _of_alone(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: array for name, array in arrays.items() if not name.startswith(_FOLLOWING)}
