"""An adapter of frozen item features: a low-rank map, learned together, that needs no history of an item.

The map is that of Hu et al. 2022, "LoRA: Low-rank adaptation of large language models", put behind a frozen encoder, so
that no node runs a transformer: what an encoder says of items is public, and is worked out once. Sums of gradients of
both factors are those of pooled data, exactly. `rolora` moves one factor a round, which halves the bytes, and is exact
for averaged factors too (Chen et al. 2025, "Robust federated finetuning of LLMs via alternating optimization of LoRA").
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.features import MOST_COLUMNS, ItemColumns, feature_matrix
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, State, cosines
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.networks.installed import check_torch
from fedrec.models.networks.network import Network
from fedrec.models.networks.private_network import PrivateNetwork
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Adapter", "PrivateAdapter"]

_DOWN, _UP = _FACTORS = ("down", "up")
_USUAL = 512
"""More features than most catalogs have."""


class Adapter(Network):
    """score = ⟨q, z_j⟩ with z = e (I + A B) of length 1 for item features e, and q the sum of z over the history.

    Some items of a history are to be found, each by the others, among items that all clients of a round share, by
    softmax. A starts at random and B at 0, so that training begins with the cosine of the features. Nothing is kept of
    users or items: whoever has a history has scores, and so has an item that nobody has.

    Args:
        item_features: columns of the catalog, and how each is read, as in `{title+genres: text:/models/minilm}` or
            `{genres: categories, title: [year, text]}`. `auto` takes lists of text as categories, lists of numbers as
            vectors and dates as years.
        rank: columns of A, rows of B. More of them learn more, and need more data and bytes.
        temperature: what cosines are divided by before the softmax; smaller values look at the nearest items only.
        targets: items of a history that are to be found in a round.
        negatives: items drawn for a round, of those that somebody has; all of them where there are no more.
        rolora: whether a round moves one factor alone, B first, then A, in turn.

    Raises:
        PlanError: with `scaffold`.

    Example:
        >>> model = Adapter(item_features={"genres": "categories"}, rank=4)
        >>> {name: str(shape) for name, shape in model.shapes(100).states[0].shared.items()}
        {'down': 'float32 [features, 4]', 'up': 'float32 [4, features]', 'counts': 'float64 [100]'}
    """

    item_features: ItemColumns = "auto"
    rank: PositiveInt = 16
    temperature: PositiveFloat = 0.07
    targets: PositiveInt = 4
    negatives: PositiveInt = 4096
    rolora: bool = False

    rounds: PositiveInt = 41
    window: PositiveInt = 1000
    learning_rate: PositiveFloat = 3e-3
    weight_decay: NonNegativeFloat = 10.0

    name: ClassVar[str] = "adapter"
    traits: ClassVar[Traits] = Traits(bits="node", iterative=True, cohort=512)

    @model_validator(mode="after")
    def _check_adapter(self) -> Adapter:
        if self.scaffold:
            raise PlanError(f"model {self.name}: scaffold is for networks with tables of items; leave scaffold out")
        return self

    def public(self, catalog: Catalog) -> Arrays:
        """e [items, features]."""
        return {"features": feature_matrix(catalog, self.item_features)}

    def module(self, n_items: int) -> nn.Module:
        """The factors for as many features as a catalog may have; see `_module_for`."""
        return self._of_width(MOST_COLUMNS, np.arange(n_items))

    def shapes(self, n_items: int) -> Shapes:
        """Both factors with item counts; then with which items are warm, and the moments of the optimiser."""
        check_torch(self.name)
        axes: dict[str, tuple[int | str, ...]] = {_DOWN: ("features", self.rank), _UP: (self.rank, "features")}
        factors = {name: Shape(both, longest=MOST_COLUMNS) for name, both in axes.items()}
        moments = {f"{name}.{moment}": factors[name] for name in factors for moment in self._server.forms(())}
        last = Form({**factors, "warm": Shape((n_items,))}, moments)
        first = Form({**factors, "counts": Shape((n_items,), "float64")})
        return Shapes((first, last) if self._before else (last,))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """A at random, B of zeros; items are counted first."""
        width = public["features"].shape[1]
        down = rng.generator().normal(0.0, width**-0.5, (width, self.rank)).astype(np.float32)
        factors = {_DOWN: down, _UP: np.zeros((self.rank, width), dtype=np.float32)}
        if self._before:
            return State({**factors, "counts": np.zeros(len(catalog))})
        return self._trainable(factors, np.ones(len(catalog)))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Item counts, then changes of the factors."""
        if "counts" in shared:
            return SumSpec((count_spec(len(shared["counts"])),))
        return super().spec(shared, round)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item, then what every network sums."""
        if "counts" in given.shared:
            return Contributions({"counts": counted(clients)}), None
        return super().contribute(given, clients, private)

    def step(self, state: State, total: Sum, round: int) -> State:
        """Items that somebody has are warm; then steps of the optimiser."""
        if "counts" in state.shared:
            warm = total.value("counts")[:, 0] > 0
            return self._trainable(state.shared, warm if warm.any() else np.ones_like(warm))
        return super().step(state, total, round)

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of z."""
        features = given.public["features"].astype(np.float64)
        return cosines(features + features @ given.shared[_DOWN] @ given.shared[_UP], items)

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Clipped gradients of single clients with noise, see `PrivateAdapter`."""
        return PrivateAdapter.of(self, terms)

    def cost(self, n_items: int) -> Cost:
        """Features, twice, and both factors with their sums and moments. Each client has gradients of its own with
        granularity `client`."""
        factors = 2 * self.rank * _USUAL
        apart = factors if self.granularity == "client" else 0
        return Cost(memory=16 * _USUAL * n_items + 64 * factors, per_client=apart + 4 * self.window)

    @property
    def _before(self) -> int:
        """The round that counts items."""
        return 1

    def _trainable(self, factors: Arrays, warm: np.ndarray) -> State:
        shared = {name: factors[name] for name in _FACTORS}
        return State({**shared, "warm": warm.astype(np.float32)}, self._moments(shared))

    def _moving(self, shared: Collection[str]) -> tuple[str, ...]:
        return _FACTORS

    def _moving_in(self, shared: Collection[str], round: int) -> tuple[str, ...]:
        return (_FACTORS[(round - self._before + 1) % 2],) if self.rolora else _FACTORS

    def _module_for(self, n_items: int, shared: Arrays) -> nn.Module:
        return self._of_width(len(shared[_DOWN]), np.flatnonzero(shared["warm"]))

    def _of_width(self, width: int, warm: np.ndarray) -> nn.Module:
        from fedrec.models.networks.adapter_module import AdapterModule

        return AdapterModule(width, self.rank, self.temperature, self.targets, self.negatives, warm)


class PrivateAdapter(PrivateNetwork, Adapter):
    """Clipped gradients of single clients, with noise that grows with the number of features times the rank.

    Args:
        rank: few, as noise grows with the root of the number of parameters.
        rounds: few, as each takes its share of the budget.
    """

    rank: PositiveInt = 8
    rounds: PositiveInt = 30

    @property
    def _before(self) -> int:
        """None: noise would hide which items nobody has, so negatives are drawn from all."""
        return 0
