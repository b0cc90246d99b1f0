"""Start a network's item table from the leading spectrum of the item graph, and item biases from item counts.

The first rounds sum item counts, then a sketch of D G D in some passes (`fedrec.models.linear.sketch`), with G_ij the
number of clients that have both items, clients weighted by n_u^−2α, and D = n_i^−β. Rows of the table are eigenvectors
times the square root of their eigenvalues, without the first eigenvector, which is popularity: that is what the bias is
for. Training begins where items that go together lie together, and takes several times fewer rounds from there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, Given, Private, State
from fedrec.models.linear.counts import count_spec, counted, degree_weights
from fedrec.models.linear.sketch import (
    Sketched,
    basis_table,
    draw_signs,
    leading_spectrum,
    sketch_contribution,
    sketch_spec,
)
from fedrec.models.networks.network import Network, parameter_axes
from fedrec.models.shapes import Form, Shape, Shapes

__all__ = ["SketchedNetwork"]

_OVERSAMPLED = 32
_ALPHA = 0.3
_BETA = 0.5


class SketchedNetwork(Network):
    """A network whose item table may begin with the spectrum of the item graph.

    Args:
        start_from: `spectral`, or `random` for the module's own first parameters.
        passes: rounds of the sketch; with the item counts before them they are the first of `rounds`.
        start_sd: standard deviation of the first item rows.
    """

    start_from: Literal["spectral", "random"] = "spectral"
    passes: PositiveInt = 3
    start_sd: PositiveFloat = 0.05

    @model_validator(mode="after")
    def _check_rounds(self) -> SketchedNetwork:
        if self._sketched and self.rounds <= self._before:
            raise PlanError(
                f"model {self.name}: the first {self._before} rounds make the spectral start, so rounds must be more "
                f"than {self._before}; raise rounds, or set start_from to random"
            )
        return self

    def shapes(self, n_items: int) -> Shapes:
        """Counts, then sketches, with the first parameters held back; then what every network has."""
        plain = super().shapes(n_items)
        if not self._sketched:
            return plain
        (last,) = plain.states
        counts = Shape((n_items,), "float64")
        signs = Shape((n_items, self._width(n_items)), "int8", -1, 2)
        first = Form({"counts": counts}, {**last.shared, "signs": signs})
        sketch = Form({"sketch": Shape((n_items, "rank"))}, {**last.shared, "counts": counts})
        return Shapes((first, sketch, last), plain.rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """The module's own first parameters; held back until the sketch is made."""
        state = super().start(catalog, public, rng)
        if not self._sketched:
            return state
        signs = draw_signs(rng, len(catalog), self._width(len(catalog)))
        return State({"counts": np.zeros(len(catalog))}, {**state.shared, "signs": signs})

    def carry(self, fresh: State, earlier: State) -> State:
        """The parameters of the other training, which need no sketch; moments of the optimiser begin anew."""
        if not self._sketched:
            return earlier
        shared = {name: earlier.shared[name] for name in fresh.server if name != "signs"}
        return State(shared, self._moments(shared))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Counts, sketches, then changes of the parameters."""
        if "counts" in shared:
            return SumSpec((count_spec(len(shared["counts"])),))
        if "sketch" in shared:
            return SumSpec((sketch_spec(shared["sketch"], 2 * _ALPHA, round == 1, False),))
        return super().spec(shared, round)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item, then x_u ⊗ n_u^−2α Tᵀx_u, then what every network sums."""
        if "counts" in given.shared:
            return Contributions({"counts": counted(clients)}), None
        if "sketch" in given.shared:
            sketch = sketch_contribution(clients, given.shared["sketch"], 2 * _ALPHA)
            return Contributions({"sketch": sketch}), None
        return super().contribute(given, clients, private)

    def step(self, state: State, total: Sum, round: int) -> State:
        """Weigh the signs by item counts, sharpen the basis, at last set the item table and begin to train."""
        if "counts" in state.shared:
            counts = total.value("counts")[:, 0]
            held = dict(state.server)
            table = (held.pop("signs") * degree_weights(counts, _BETA)[:, None]).astype(np.float32)
            return State({"sketch": table}, {**held, "counts": counts})
        if "sketch" not in state.shared:
            return super().step(state, total, round)
        held = dict(state.server)
        counts = held["counts"]
        sketched = Sketched.of(state.shared["sketch"], total, degree_weights(counts, _BETA))
        if round < self.passes:
            return State({"sketch": basis_table(sketched)}, held)
        del held["counts"]
        shared = {**held, **self._begun(sketched, counts, held)}
        return State(shared, self._moments(shared))

    @property
    def _sketched(self) -> bool:
        return self.start_from == "spectral"

    @property
    def _before(self) -> int:
        """Rounds before the first that trains."""
        return 1 + self.passes if self._sketched else 0

    def _width(self, n_items: int) -> int:
        """Columns of the sketch."""
        return min(n_items, parameter_axes(self, n_items)[self.item_table][1] + _OVERSAMPLED)

    def _begun(self, sketched: Sketched, counts: np.ndarray, held: Arrays) -> dict[str, np.ndarray]:
        """The first item table and item biases."""
        spectrum = leading_spectrum(sketched)
        scales = np.sqrt(spectrum.values)
        scales[:1] = 0.0
        return self._begun_from(
            np.concatenate([spectrum.basis(rows, scales) for rows in sketched.tiles()]), counts, held
        )

    def _begun_from(self, spectrum: np.ndarray, counts: np.ndarray, held: Arrays) -> dict[str, np.ndarray]:
        """Item table and item biases of columns of a spectrum [items, …], of which the first is left out."""
        first = held[self.item_table]
        table = spectrum[:, 1 : 1 + first.shape[1]]
        made = first.copy()
        deviation = float(table.std())
        if deviation > 0.0:
            made[:, : table.shape[1]] = table * (self.start_sd / deviation)
        return {self.item_table: made, **self._biases(counts)}
