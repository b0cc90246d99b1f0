"""Networks under user-level differential privacy: DP-FedSGD and DP-FedAvg (McMahan et al. 2018, "Learning
differentially private recurrent language models").

A client adds its negative gradient, or what it changed, per term of its loss; all arrays together are shortened to the
clip. The clip is far below the norm that clients have, so that each of them adds a direction of one length (Bu et al.
2023, "Automatic clipping"): nothing has to be known of the size of gradients, and Adam at the coordinator does not read
it either. The divisor is the public number of clients.

The noise of a round grows with the root of the number of parameters, and most parameters of a recommender are rows of
items. A network that names its item biases begins with noisy item counts. One with a spectral start does not train the
rows of items at all: sketches under the same budget say where items lie (`fedrec.models.linear.private_sketch`), and
the rounds after them train the rest of the network.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions, Dense
from fedrec.aggregation.queries import PLAIN, Query
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, Given, Private, PrivateRecommender, PrivateTerms, Recommender, State
from fedrec.models.linear.counts import count_spec, counted, degree_weights
from fedrec.models.linear.denoising import spectrum
from fedrec.models.linear.private_gram import pass_query, pass_spec
from fedrec.models.linear.private_sketch import pass_forms, sharpened
from fedrec.models.linear.sketch import sketch_contribution
from fedrec.models.networks.network import Network
from fedrec.models.networks.sketched_start import SketchedNetwork
from fedrec.models.shapes import Form, Shape, Shapes

__all__ = ["PrivateNetwork", "PrivateSketchedNetwork", "private_form"]

_RANK = 64
_COUNTS, _SKETCHES = 0.04, 0.76
"""Shares of the budget for item counts and for sketches; the rest is for training."""
_COUNT_CLIP = 20.0**0.5
_BETA = 0.5

if TYPE_CHECKING:

    class _OfNetwork(PrivateRecommender, Network):
        """A private form of a network."""

    class _OfSketched(PrivateRecommender, SketchedNetwork):
        """A private form of a network with a spectral start."""

else:  # the network itself is the other base of every private form; its hyperparameters are not to be those of Network
    _OfNetwork = _OfSketched = PrivateRecommender


class PrivateNetwork(_OfNetwork):
    """What every network does under privacy.

    The clip is 0.1 by default, which is below the norm of nearly every client.

    Args:
        granularity: `client`, as single clients are clipped.
        rounds: few, as each takes its share of the budget; with item biases the first counts items.
    """

    granularity: Literal["node", "client"] = "client"
    rounds: PositiveInt = 30

    default_clip: ClassVar[float] = 0.1

    @classmethod
    def of(cls, model: Recommender, terms: PrivateTerms, **settings: Any) -> Self:
        """The private form of a network.

        Raises:
            PlanError: with `granularity: node`, or with control variates.
        """
        if "granularity" in model.model_fields_set and getattr(model, "granularity", "") == "node":
            raise PlanError(
                f"model {model.name!r} under privacy: granularity: node adds clients up before they can be clipped; "
                "leave out granularity, or set it to client"
            )
        if getattr(model, "scaffold", False):
            raise PlanError(f"model {model.name!r} under privacy: clients keep no control variates; leave scaffold out")
        return super().of(model, terms, **settings)

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.rounds <= self._before:
            raise PlanError(
                f"model {self.name} under privacy: rounds is {self.rounds}, but the start takes {self._before}; set "
                f"rounds to {self._before + 1} or more"
            )
        return self

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Item counts, then training, evenly over its rounds."""
        first = (_COUNTS,) if self.item_bias else ()
        return (*first, *self._evenly(1.0 - sum(first)))

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """Counts, or all parameters that move, clipped together."""
        if "counts" in shared:
            return (Query({"counts": PLAIN}, _COUNT_CLIP),)
        return (Query(dict.fromkeys(self._moving_in(shared, round), PLAIN), self.clip),)

    def shapes(self, n_items: int) -> Shapes:
        """Counts, with the first parameters held back; then what every network has."""
        plain = super().shapes(n_items)
        if not self.item_bias:
            return plain
        *_, last = plain.states
        return Shapes((Form({"counts": Shape((n_items,), "float64")}, dict(last.shared)), last), plain.rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """The module's own first parameters; held back until items are counted."""
        state = super().start(catalog, public, rng)
        if "counts" in state.shared or not self.item_bias:
            return state
        return State({"counts": np.zeros(len(catalog))}, state.shared)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Counts, then a change of every parameter that moves."""
        if round >= self.rounds:
            return None
        if "counts" in shared:
            return SumSpec((count_spec(len(shared["counts"])),))
        plain = super().spec(shared, round)
        return None if plain is None else SumSpec(tuple(array for array in plain.arrays if array.role == "change"))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; then each client's mean negative gradient over its terms, or what it changed."""
        if "counts" in given.shared:
            return Contributions({"counts": counted(clients)}), None
        contributions, rows = super().contribute(given, clients, private)
        arrays = dict(contributions.arrays)
        terms = arrays.pop("terms")
        assert isinstance(terms, Dense)
        shares = 1.0 / np.maximum(terms.values[:, 0].astype(np.float64), 1.0)
        return Contributions({name: array.scale(shares) for name, array in arrays.items()}), rows

    def step(self, state: State, total: Sum, round: int) -> State:
        """Item biases of the counts, then steps along the sum over the public number of clients."""
        if "counts" in state.shared:
            shared = {**state.server, **self._biases(_told(total))}
            return State(shared, self._moments(shared))
        number = round + 1 - self._before
        return self._stepped(state, total, float(max(total.clients, 1)), round, number)

    @property
    def _before(self) -> int:
        """The round that counts items."""
        return 1 if self.item_bias else 0

    def _evenly(self, share: float) -> tuple[float, ...]:
        """A share of the budget over the rounds that train."""
        return (share / self.trained_rounds,) * self.trained_rounds


class PrivateSketchedNetwork(PrivateNetwork, _OfSketched):
    """A network whose item table and item biases come from noisy counts and sketches, and stay.

    Args:
        start_from: `spectral`, or `random` to train the item table with the rest.
        passes: rounds of the sketch, after the one that counts items.
        start_sd: standard deviation of the item rows; large, as they stay.
    """

    passes: PositiveInt = 2
    start_sd: PositiveFloat = 0.25

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Item counts, sketches with two fifths of theirs for the first of two, and training evenly."""
        if not self._sketched:
            return super().budget_shares
        parts = (0.4, 0.6) if self.passes == 2 else (1.0 / self.passes,) * self.passes
        first = (_COUNTS, *(_SKETCHES * part for part in parts))
        return (*first, *self._evenly(1.0 - _COUNTS - _SKETCHES))

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """Counts, the first sketch, passes, then the parameters that move."""
        if "table" in shared:
            return (Query({"sketch": PLAIN}, 1.0) if round == 1 else pass_query(1.0),)
        return super().queries(shared, round)

    def shapes(self, n_items: int) -> Shapes:
        """Counts, sketches with what was read of them, and what every network has."""
        plain = super().shapes(n_items)
        if not self._sketched:
            return plain
        counting, last = plain.states
        held = {**counting.server, **counting.shared}
        signs = Shape((n_items, self._width(n_items)), "int8", -1, 2)
        first = Form(counting.shared, {**counting.server, "signs": signs})
        passes = [Form(form.shared, {**held, **form.server}) for form in pass_forms(n_items, self.passes)]
        return Shapes((first, *passes, last), plain.rows)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Counts, sketches, then changes."""
        sketching = "table" in shared and round < self.rounds
        return pass_spec(shared["table"]) if sketching else super().spec(shared, round)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; x ⊗ Tᵀx / n; then gradients."""
        if "table" in given.shared:
            return Contributions({"sketch": sketch_contribution(clients, given.shared["table"], 1.0)}), None
        return super().contribute(given, clients, private)

    def step(self, state: State, total: Sum, round: int) -> State:
        """The first directions, those of the next pass, the item table, and at last steps of training."""
        if "counts" in state.shared and self._sketched:
            held = dict(state.server)
            signs = held.pop("signs")
            table = (signs / np.sqrt(signs.shape[1])).astype(np.float32)
            return State({"table": table}, {**held, "counts": _told(total)})
        if "table" not in state.shared:
            return super().step(state, total, round)
        found = sharpened(state, total, round - 1, self.passes)
        if isinstance(found, State):
            return found
        counts, names = state.server["counts"], self.shapes(len(state.shared["table"])).states[-1].shared
        values, vectors = spectrum(found.factors * degree_weights(counts, _BETA)[:, None])
        held = {name: state.server[name] for name in names}
        shared = {**held, **self._begun_from(vectors * np.sqrt(values), counts, held)}
        return State(shared, self._moments(shared))

    @property
    def _before(self) -> int:
        """The round that counts items, and sketches."""
        return 1 + self.passes if self._sketched else 1

    def _width(self, n_items: int) -> int:
        """Columns of the first sketch; few, because noise grows with them."""
        return min(n_items, _RANK)

    def _moving(self, shared: Collection[str]) -> tuple[str, ...]:
        """All but the item table and the item biases, where noisy sums have told them."""
        stay = {self.item_table, self.item_bias} if self._sketched else set()
        return tuple(name for name in shared if name not in stay)


def _told(total: Sum) -> np.ndarray:
    """Item counts [items] of a noisy sum; none is below the deviation of its noise."""
    counts: np.ndarray = np.maximum(total.value("counts")[:, 0], total.noise["counts"])
    return counts


@lru_cache(maxsize=64)
def private_form(kind: type[Network]) -> type[PrivateNetwork]:
    """The private form of a network: a class derived from `PrivateNetwork` and from that of the network."""
    base = PrivateSketchedNetwork if issubclass(kind, SketchedNetwork) else PrivateNetwork
    body = {"__module__": __name__, "__doc__": kind.__doc__}
    form: type[PrivateNetwork] = new_class(f"Private{kind.__name__}", (base, kind), {}, lambda own: own.update(body))
    return form
