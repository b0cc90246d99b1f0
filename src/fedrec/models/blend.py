"""Several models as one: they are trained together, round by round, and their standardised scores are added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat, field_validator, model_validator

from fedrec.aggregation.contributions import Contribution, Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.kernels.blending import add_standardised
from fedrec.models.base import Arrays, Given, Private, Recommender, State, of_items
from fedrec.models.registry import build_model
from fedrec.models.shapes import Form, Shapes
from fedrec.models.traits import Cost, Reads, Traits

__all__ = ["Blend", "names_in", "parts_of"]

_READS: frozenset[Reads] = frozenset({"items", "times"})


class Blend(Recommender):
    """score = Σ over models of share · z, where z is a model's score less its mean, over its deviation, of each user
    over the items that the user does not have.

    The models are trained side by side: a round sums what each of those that are not finished would sum alone. Each
    ends with the arrays that it would end with alone, bit for bit.

    Args:
        models: names, or names with hyperparameters, as in `[ease, {name: autoencoder, rounds: 100}]`.
        shares: weight of each model; only their ratios matter. Choose them on validation, as with
            `fedrec tune --grid shares=[1,1],[1,2]`.

    Raises:
        PlanError: if there are not as many shares as models, fewer than two models, an unknown one, or one that cannot
            take part: a blend, one that predicts ratings, or one that reads more than users' items and times.

    Example:
        >>> Blend(models=["popularity", {"name": "ease", "rank": 8}], shares=[1, 3]).rounds
        2
    """

    models: tuple[str | dict[str, Any], ...] = Field(({"name": "ease"}, {"name": "autoencoder"}), validate_default=True)
    shares: tuple[PositiveFloat, ...] = (1.0, 2.0)

    name: ClassVar[str] = "blend"
    traits: ClassVar[Traits] = Traits(reads=_READS, scores_by=frozenset({"shares"}))

    @field_validator("models", mode="before")
    @classmethod
    def _whole(cls, value: Any) -> Any:
        """Every model with all its settings, so that a plan says which they were."""
        whole = []
        if not isinstance(value, list | tuple):
            raise PlanError(
                f"model {cls.name}: models must be a list, as in [ease, {{name: autoencoder}}], not {value!r}"
            )
        for one in value:
            settings = dict(one) if isinstance(one, Mapping) else {"name": one}
            name = settings.pop("name", None)
            if not isinstance(name, str):
                raise PlanError(f"model {cls.name}: each of models needs a name, as in [ease, {{name: autoencoder}}]")
            whole.append({"name": name, **build_model(name, settings).model_dump(mode="json")})
        return whole

    @model_validator(mode="after")
    def _check(self) -> Blend:
        if len(self.models) < 2 or len(self.shares) != len(self.models):
            raise PlanError(
                f"model {self.name}: {len(self.models)} models and {len(self.shares)} shares; name two models or "
                "more, and a share for each"
            )
        for model in self.parts:
            traits = model.traits
            alike = traits.bits == "client" and traits.reads <= _READS and type(model).public is Recommender.public
            if isinstance(model, Blend) or not alike:
                raise PlanError(
                    f"model {self.name}: {model.name} cannot take part; models of a blend rank items, read nothing but "
                    "users' items and times, and keep users apart"
                )
        return self

    @property
    def parts(self) -> tuple[Recommender, ...]:
        """The models."""
        each = [dict(settings) for settings in self.models if not isinstance(settings, str)]
        return tuple(build_model(settings.pop("name"), settings) for settings in each)

    @property
    def rounds(self) -> int:
        """Those of the model that takes most."""
        return max(model.rounds for model in self.parts)

    def shapes(self, n_items: int) -> Shapes:
        """Arrays of all models, in all forms that they may have side by side."""
        all_shapes = [model.shapes(n_items) for model in self.parts]
        forms = tuple(
            Form(_joined(form.shared for form in together), _joined(form.server for form in together))
            for together in product(*(shapes.states for shapes in all_shapes))
        )
        return Shapes(forms, _joined(shapes.rows for shapes in all_shapes))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """The states that the models begin with alone."""
        states = [model.start(catalog, public, rng) for model in self.parts]
        return State(_joined(state.shared for state in states), _joined(state.server for state in states))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """What all models that are not finished sum."""
        specs = _specs(self.parts, shared, round)
        arrays = [
            replace(array, name=_key(place, array.name)) for place, spec in specs.items() for array in spec.arrays
        ]
        return SumSpec(tuple(arrays)) if arrays else None

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Private rows of all models that keep some."""
        return _rows(model.join(_given(given, place), clients) for place, model in enumerate(self.parts))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """What each client adds for all models that are not finished."""
        parts, rows = self.parts, dict(private or {})
        arrays: dict[str, Contribution] = {}
        fewest: np.ndarray | None = None
        for place in _specs(parts, given.shared, given.round):
            added, renewed = parts[place].contribute(_given(given, place), clients, _of(private, place) or None)
            arrays |= _named(added.arrays, place)
            rows |= _named(renewed or {}, place)
            if added.adding is not None and (fewest is None or added.adding.sum() < fewest.sum()):
                fewest = added.adding
        return Contributions(arrays, fewest), rows or None

    def step(self, state: State, total: Sum, round: int) -> State:
        """A step of each model that is not finished, along its own part of the sum."""
        parts, shared, server = self.parts, dict(state.shared), dict(state.server)
        for place in _specs(parts, state.shared, round):
            own = State(_of(shared, place), _of(server, place))
            after = parts[place].step(own, _part(total, place), round)
            for kept, arrays in ((shared, after.shared), (server, after.server)):
                for name in _of(kept, place):
                    del kept[_key(place, name)]
                kept |= _named(arrays, place)
        return State(shared, server)

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """Private rows of all models that make some for strangers."""
        return _rows(model.fold_in(_given(given, place), clients) for place, model in enumerate(self.parts))

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """The weighted sum of standardised scores."""
        total = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        for place, (model, weight) in enumerate(zip(self.parts, self.shares, strict=True)):
            scores = model.score(_given(given, place), clients, _of(private, place) or None)
            add_standardised(scores, clients.indptr, clients.items, weight, total)
        return of_items(total, items)

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """The weighted sum of standardised similarities to all other items.

        Raises:
            InputError: if one of the models knows no such thing.
        """
        total: np.ndarray | None = None
        each, own = np.arange(len(items) + 1), items.astype(np.int32)
        for place, (model, weight) in enumerate(zip(self.parts, self.shares, strict=True)):
            scores = model.similarity(_given(given, place), items)
            total = np.zeros_like(scores) if total is None else total
            add_standardised(np.ascontiguousarray(scores), each, own, weight, total)
        assert total is not None
        return total

    def cost(self, n_items: int) -> Cost:
        """The costs of all models together."""
        costs = [model.cost(n_items) for model in self.parts]
        return Cost(
            memory=sum(cost.memory for cost in costs),
            per_interaction=sum(cost.per_interaction for cost in costs),
            per_client=sum(cost.per_client for cost in costs),
        )


def names_in(model: Recommender) -> tuple[str, ...]:
    """The name of a model, and of a blend those of its models.

    >>> names_in(Blend())
    ('blend', 'ease', 'autoencoder')
    """
    return tuple(dict.fromkeys((model.name, *(part.name for part in parts_of(model)))))


def parts_of(model: Recommender) -> tuple[Recommender, ...]:
    """The models of a blend; any other model alone."""
    return model.parts if isinstance(model, Blend) else (model,)


def _key(place: int, name: str) -> str:
    """What an array of the model at `place` is called among those of the others."""
    return f"{place}_{name}"


def _named(arrays: Mapping[str, Any], place: int) -> dict[str, Any]:
    return {_key(place, name): array for name, array in arrays.items()}


def _of(arrays: Mapping[str, Any] | None, place: int) -> dict[str, Any]:
    """The arrays of one model, by its own names."""
    prefix = _key(place, "")
    return {name.removeprefix(prefix): array for name, array in (arrays or {}).items() if name.startswith(prefix)}


def _joined(each: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The arrays of all models, or their shapes."""
    return {_key(place, name): array for place, arrays in enumerate(each) for name, array in arrays.items()}


def _rows(each: Iterable[Private | None]) -> Private | None:
    return _joined(rows or {} for rows in each) or None


def _given(given: Given, place: int) -> Given:
    return replace(given, shared=_of(given.shared, place))


def _specs(parts: Sequence[Recommender], shared: Arrays, round: int) -> dict[int, SumSpec]:
    """What each model sums, by its place; without those that are finished."""
    specs = {place: model.spec(_of(shared, place), round) for place, model in enumerate(parts)}
    return {place: spec for place, spec in specs.items() if spec is not None}


def _part(total: Sum, place: int) -> Sum:
    """The sum of one model."""
    prefix = _key(place, "")
    own = [array for array in total.spec.arrays if array.name.startswith(prefix)]
    spec = SumSpec(tuple(replace(array, name=array.name.removeprefix(prefix)) for array in own), total.spec.n_max)
    return replace(total, spec=spec, arrays=_of(total.arrays, place), noise=_of(total.noise, place))
