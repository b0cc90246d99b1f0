"""Several models as one: they are trained together, round by round, and their standardised scores are added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, PositiveFloat, PrivateAttr, field_validator, model_validator

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
from fedrec.models.traits import Cost, Traits

__all__ = ["Blend", "in_batches", "names_in", "parts_of"]

_ANY = Traits(scores_by=frozenset({"shares"}))
"""What holds of every blend."""


class _TraitsOfModels:
    """The traits of the class `Blend` are those of every blend; a blend has what its models have."""

    def __get__(self, blend: Blend | None, kind: type[Blend]) -> Traits:
        return _ANY if blend is None else _together(blend.parts)


class Blend(Recommender):
    """score = Σ over models of share · z, where z is a model's score less its mean, over its deviation, of each user
    over the items that the user does not have.

    The models are trained side by side: a round sums what each of those that are not finished would sum alone. Where
    some models name the cohort of their steps, as sasrec does, the others wait until these are finished, and their
    rounds ask everybody. Each model ends with the arrays that it would end with alone, bit for bit; one that has waited
    and that draws, as autoencoder does, has other draws.

    Args:
        models: names, or names with hyperparameters, as in `[ease, {name: autoencoder, rounds: 100}]`.
        shares: weight of each model; only their ratios matter. Choose them on validation, as with
            `fedrec tune --grid shares=[1,1],[1,2]`.

    Raises:
        PlanError: if there are not as many shares as models, fewer than two models, an unknown one, or one that cannot
            take part: a blend, or one that predicts ratings.

    Example:
        >>> Blend(models=["popularity", {"name": "ease", "rank": 8}], shares=[1, 3]).rounds
        2
    """

    models: tuple[str | dict[str, Any], ...] = Field(({"name": "ease"}, {"name": "autoencoder"}), validate_default=True)
    shares: tuple[PositiveFloat, ...] = (1.0, 2.0)

    name: ClassVar[str] = "blend"
    traits: ClassVar[Traits] = _TraitsOfModels()  # type: ignore[assignment]

    _parts: tuple[Recommender, ...] = PrivateAttr()

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
        each = [dict(settings) for settings in self.models if not isinstance(settings, str)]
        self._parts = tuple(build_model(settings.pop("name"), settings) for settings in each)
        for model in self.parts:
            if isinstance(model, Blend) or model.traits.reads_ratings:
                raise PlanError(
                    f"model {self.name}: {model.name} cannot take part; models of a blend rank items, and none of them "
                    "is a blend"
                )
        return self

    @property
    def parts(self) -> tuple[Recommender, ...]:
        """The models."""
        return self._parts

    @property
    def begins(self) -> tuple[int, ...]:
        """The round in which each model begins."""
        steps = [0 if model.traits.cohort is None else model.rounds for model in self.parts]
        return tuple(0 if own else max(steps) for own in steps)

    @property
    def rounds(self) -> int:
        """Until the model that ends last has ended."""
        return max(begin + model.rounds for begin, model in zip(self.begins, self.parts, strict=True))

    def public(self, catalog: Catalog) -> Arrays:
        """The arrays that the models make."""
        return _joined(model.public(catalog) for model in self.parts)

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
        states = [model.start(catalog, _of(public, place), rng) for place, model in enumerate(self.parts)]
        return State(_joined(state.shared for state in states), _joined(state.server for state in states))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """What all models that have begun and are not finished sum."""
        return _spec(self._specs(shared, round))

    def first_sums(self, shared: Arrays) -> SumSpec:
        """What the models sum in the rounds in which they begin, as if that were one round."""
        firsts = {place: model.spec(_of(shared, place), 0) for place, model in enumerate(self.parts)}
        spec = _spec({place: first for place, first in firsts.items() if first is not None})
        assert spec is not None, "a model has at least one round"
        return spec

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Private rows of all models that keep some."""
        return _rows(
            model.join(_given(given, place), _as_read(clients, model)) for place, model in enumerate(self.parts)
        )

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """What each client adds for all models that are not finished."""
        begins, rows = self.begins, dict(private or {})
        arrays: dict[str, Contribution] = {}
        fewest: np.ndarray | None = None
        for place in self._specs(given.shared, given.round):
            model, own = self.parts[place], _given(given, place, begins[place])
            added, renewed = model.contribute(own, _as_read(clients, model), _of(private, place) or None)
            arrays |= _named(added.arrays, place)
            rows |= _named(renewed or {}, place)
            if added.adding is not None and (fewest is None or added.adding.sum() < fewest.sum()):
                fewest = added.adding
        return Contributions(arrays, fewest), rows or None

    def step(self, state: State, total: Sum, round: int) -> State:
        """A step of each model that is not finished, along its own part of the sum."""
        begins, shared, server = self.begins, dict(state.shared), dict(state.server)
        for place in self._specs(state.shared, round):
            own = State(_of(shared, place), _of(server, place))
            after = self.parts[place].step(own, _part(total, place), round - begins[place])
            for kept, arrays in ((shared, after.shared), (server, after.server)):
                for name in _of(kept, place):
                    del kept[_key(place, name)]
                kept |= _named(arrays, place)
        return State(shared, server)

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """Private rows of all models that make some for strangers."""
        return _rows(
            model.fold_in(_given(given, place), _as_read(clients, model)) for place, model in enumerate(self.parts)
        )

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """The weighted sum of standardised scores."""
        total = np.zeros((len(clients), clients.n_items), dtype=np.float32)
        for place, (model, weight) in enumerate(zip(self.parts, self.shares, strict=True)):
            scores = model.score(_given(given, place), _as_read(clients, model), _of(private, place) or None)
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

    def _specs(self, shared: Arrays, round: int) -> dict[int, SumSpec]:
        """What each model sums, by its place; without those that wait and those that are finished."""
        specs = {
            place: model.spec(_of(shared, place), round - begin)
            for place, (begin, model) in enumerate(zip(self.begins, self.parts, strict=True))
            if round >= begin
        }
        return {place: spec for place, spec in specs.items() if spec is not None}


def names_in(model: Recommender) -> tuple[str, ...]:
    """The name of a model, and of a blend those of its models.

    >>> names_in(Blend())
    ('blend', 'ease', 'autoencoder')
    """
    return tuple(dict.fromkeys((model.name, *(part.name for part in parts_of(model)))))


def parts_of(model: Recommender) -> tuple[Recommender, ...]:
    """The models of a blend; any other model alone."""
    return model.parts if isinstance(model, Blend) else (model,)


def in_batches(model: Recommender, spec: SumSpec) -> bool:
    """Whether a round that sums `spec` is a step of a model that names the cohort of its steps.

    Args:
        model: a blend, or any other model that names its cohort.
        spec: what the round sums.
    """
    if not isinstance(model, Blend):
        return bool(spec.changes)
    stepping = tuple(_key(place, "") for place, part in enumerate(model.parts) if part.traits.cohort is not None)
    return any(name.startswith(stepping) for name in spec.changes)


def _together(models: Sequence[Recommender]) -> Traits:
    """What models that are trained together have in common: they read what any of them reads, but repeats only if all
    do; draw the largest of their cohorts; and their bits depend on nodes if those of any of them do."""
    each = [model.traits for model in models]
    once = frozenset({"repeats"}) - frozenset.intersection(*(traits.reads for traits in each))
    return replace(
        _ANY,
        reads=frozenset.union(*(traits.reads for traits in each)) - once,
        bits="node" if any(traits.bits == "node" for traits in each) else "client",
        cohort=max((traits.cohort for traits in each if traits.cohort is not None), default=None),
    )


def _as_read(clients: Clients, model: Recommender) -> Clients:
    """Clients with what one of the models reads of them."""
    reads = model.traits.reads
    if "times" not in reads and clients.times is not None:
        clients = replace(clients, times=None)
    if "user_features" not in reads and clients.features is not None:
        clients = replace(clients, features=None)
    return clients


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


def _given(given: Given, place: int, begin: int = 0) -> Given:
    """What the model at `place` is given, if it began in round `begin`."""
    round = given.round if given.round < 0 else given.round - begin
    return replace(given, round=round, shared=_of(given.shared, place), public=_of(given.public, place))


def _spec(specs: Mapping[int, SumSpec]) -> SumSpec | None:
    """The sums of all models, by their places, as one; `None` without any."""
    arrays = [replace(array, name=_key(place, array.name)) for place, spec in specs.items() for array in spec.arrays]
    return SumSpec(tuple(arrays)) if arrays else None


def _part(total: Sum, place: int) -> Sum:
    """The sum of one model."""
    prefix = _key(place, "")
    own = [array for array in total.spec.arrays if array.name.startswith(prefix)]
    spec = SumSpec(tuple(replace(array, name=array.name.removeprefix(prefix)) for array in own), total.spec.n_max)
    return replace(total, spec=spec, arrays=_of(total.arrays, place), noise=_of(total.noise, place))
