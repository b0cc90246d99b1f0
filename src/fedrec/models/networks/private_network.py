"""Networks under user-level differential privacy: DP-FedSGD and DP-FedAvg (McMahan et al. 2018, "Learning
differentially private recurrent language models").

A client adds its negative gradient, or what it changed, per term of its loss; all arrays together are shortened to the
clip. The clip is far below the norm that clients have, so that each of them adds a direction of one length (Bu et al.
2023, "Automatic clipping"): nothing has to be known of the size of gradients, and Adam at the coordinator does not read
it either. The divisor is the public number of clients.

The noise of a round grows with the root of the number of parameters, and most parameters of a recommender are rows of
items. A network with a spectral start does not train these (`PrivateSketchedNetwork`): counts and sketches under the
same budget say where items lie (`fedrec.models.linear.private_sketch`), once, and rounds train the rest of the network.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from types import new_class
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

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
from fedrec.models.linear.private_gram import Found, pass_query, pass_spec
from fedrec.models.linear.private_sketch import pass_forms, sharpened
from fedrec.models.linear.sketch import draw_signs, sketch_contribution
from fedrec.models.networks.network import Network
from fedrec.models.networks.sketched_start import SketchedNetwork
from fedrec.models.shapes import Form, Shape, Shapes

__all__ = ["PrivateNetwork", "PrivateSketchedNetwork", "private_form"]

_ROUNDS = 30
_RANK = 64
_COUNTS, _PASSES, _TRAINING = 0.04, 0.46, 0.5
"""Shares of the budget for item counts, for sketches, and for training."""
_COUNT_CLIP = 20.0**0.5
_BETA = 0.5

if TYPE_CHECKING:

    class _OfNetwork(PrivateRecommender, Network):
        """A private form that is a network."""

    class _OfSketched(_OfNetwork, SketchedNetwork):
        """A private form that is a network with a spectral start."""

else:  # the class of the network comes from `private_form`, with its own hyperparameters
    _OfNetwork = _OfSketched = PrivateRecommender


class PrivateNetwork(_OfNetwork):
    """What every network does under privacy.

    Args:
        granularity: `client`, as single clients are clipped.
        rounds: few, as each takes its share of the budget.
    """

    granularity: Literal["node", "client"] = "client"

    default_clip: ClassVar[float] = 0.1

    @classmethod
    def of(cls, model: Recommender, terms: PrivateTerms, **settings: Any) -> Self:
        """The private form of a network.

        Raises:
            PlanError: with `granularity: node`.
        """
        if "granularity" in model.model_fields_set and getattr(model, "granularity", "") == "node":
            raise PlanError(
                f"model {model.name!r} under privacy: granularity: node adds clients up before they can be clipped; "
                "leave out granularity, or set it to client"
            )
        return super().of(model, terms, **settings)

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Evenly over the rounds."""
        return (1.0 / self.rounds,) * self.rounds

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """All parameters that move, clipped together."""
        return (Query(dict.fromkeys(self._moving(shared), PLAIN), self.clip),)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """A change of every parameter that moves."""
        plain = super().spec(shared, round)
        return None if plain is None else SumSpec(tuple(array for array in plain.arrays if array.role == "change"))

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Each client's mean negative gradient over its terms, or what it changed."""
        contributions, rows = super().contribute(given, clients, private)
        arrays = dict(contributions.arrays)
        terms = arrays.pop("terms")
        assert isinstance(terms, Dense)
        shares = 1.0 / np.maximum(terms.values[:, 0].astype(np.float64), 1.0)
        return Contributions({name: array.scale(shares) for name, array in arrays.items()}), rows

    def step(self, state: State, total: Sum, round: int) -> State:
        """One step along the sum over the public number of clients."""
        number = round + 1 - (self.rounds - self.trained_rounds)
        return self._stepped(state, total, float(max(total.clients, 1)), round, number)


class PrivateSketchedNetwork(PrivateNetwork, _OfSketched):
    """A network whose item table and item biases come from noisy counts and sketches, and stay.

    Args:
        start_from: `spectral`, or `random` to train item table and item biases with the rest.
        passes: rounds of the sketch, after the counts.
    """

    @property
    def budget_shares(self) -> tuple[float, ...]:
        """Item counts, two fifths of what sketches have for the first of two, and training evenly."""
        if not self._before:
            return super().budget_shares
        sketches = (0.4, 0.6) if self.passes == 2 else (1.0 / self.passes,) * self.passes
        training = self.rounds - self._before
        return (_COUNTS, *(_PASSES * part for part in sketches), *(_TRAINING / training,) * training)

    def queries(self, shared: Arrays, round: int) -> tuple[Query, ...]:
        """Counts, the first sketch, passes, then the parameters that move."""
        if "counts" in shared:
            return (Query({"counts": PLAIN}, _COUNT_CLIP),)
        if "table" in shared:
            return (Query({"sketch": PLAIN}, 1.0) if round == 1 else pass_query(1.0),)
        return super().queries(shared, round)

    def shapes(self, n_items: int) -> Shapes:
        """Counts, sketches with what was read of them, and what every network has."""
        plain = super().shapes(n_items)
        if not self._before:
            return plain
        first, _, last = plain.states
        held = {**last.shared, "counts": Shape((n_items,), "float64")}
        passes = [Form(form.shared, {**held, **form.server}) for form in pass_forms(n_items, self.passes)]
        return Shapes((first, *passes, last), plain.rows)

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Counts, sketches, then changes."""
        if "counts" in shared:
            return SumSpec((count_spec(len(shared["counts"])),))
        return pass_spec(shared["table"]) if "table" in shared else super().spec(shared, round)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item; x ⊗ Tᵀx / n; then gradients."""
        if "counts" in given.shared:
            return Contributions({"counts": counted(clients)}), None
        if "table" in given.shared:
            return Contributions({"sketch": sketch_contribution(clients, given.shared["table"], 1.0)}), None
        return super().contribute(given, clients, private)

    def step(self, state: State, total: Sum, round: int) -> State:
        """The first directions, those of the next pass, the item table, and at last steps of training."""
        if "counts" in state.shared:
            held = dict(state.server)
            signs = held.pop("signs")
            counts = np.maximum(total.value("counts")[:, 0], total.noise["counts"])
            return State({"table": (signs / np.sqrt(signs.shape[1])).astype(np.float32)}, {**held, "counts": counts})
        if "table" not in state.shared:
            return super().step(state, total, round)
        found = sharpened(state, total, round - 1, self.passes)
        if isinstance(found, State):
            return found
        counts, names = state.server["counts"], self.shapes(len(state.shared["table"])).states[-1].shared
        held = {name: state.server[name] for name in names}
        shared = {**held, **self._found(found, counts, held)}
        return State(shared, self._moments(shared))

    def _found(self, found: Found, counts: np.ndarray, held: Arrays) -> dict[str, np.ndarray]:
        """Item table and item biases of what the sketches say: as of the plain start, from factors of x xᵀ / n."""
        values, vectors = spectrum(found.factors * degree_weights(counts, _BETA)[:, None])
        return self._begun_from(vectors * np.sqrt(values), counts, held)

    def _moving(self, shared: Collection[str]) -> tuple[str, ...]:
        """All but the item table and the item biases, where noisy sums have told them."""
        stay = {self.item_table, self.item_bias} if self._before else set()
        return tuple(name for name in shared if name not in stay)

    def _width(self, n_items: int) -> int:
        """Columns of the first sketch; few, because noise grows with them."""
        return min(n_items, _RANK)


@lru_cache(maxsize=64)
def private_form(kind: type[Network]) -> type[PrivateNetwork]:
    """The private form of a network: a class derived from `PrivateNetwork` and from that of the network."""
    base = PrivateSketchedNetwork if issubclass(kind, SketchedNetwork) else PrivateNetwork
    body = {"__module__": __name__, "__doc__": kind.__doc__}
    form: type[PrivateNetwork] = new_class(f"Private{kind.__name__}", (base, kind), exec_body=lambda own: own.update(body))
    return form
