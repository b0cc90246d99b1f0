"""LightGCN on the graph of items: graph convolution of item vectors, without arrays of users.

He et al. 2020, "LightGCN: Simplifying and powering graph convolution network for recommendation", averages the vectors
of users and items over K layers of the graph of who has what (equations 3, 4 and 7). Here **users are not nodes of the
graph**: they are encodings of their histories, as for `autoencoder`, and layers walk from item over users to item. The
reason is what sums cost. Exact LightGCN needs a round of sums for each layer of a step, forwards and backwards, and
every client in every one of them: 2 K sums of items × d numbers, 63 MB a step of 3 layers on Gowalla, for thousands of
steps. The graph of items is public after the first rounds, and any number of layers over it is then free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from fedrec.data.catalog import Catalog
from fedrec.data.keys import KeyedSource
from fedrec.errors import PlanError
from fedrec.models.base import Arrays, State
from fedrec.models.linear.sketch import Spectrum
from fedrec.models.networks.autoencoder import PASSES, TABLES, Autoencoder
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost

__all__ = ["Convolution", "LightGCN"]

_LAYER_0 = {name: f"{name}_layer_0" for name in TABLES}
"""The tables that are trained, at the coordinator."""


class LightGCN(Autoencoder):
    """score = W u + b, u = Eᵀx / √n for a history x of n items, where [E, W] = P [E₀, W₀] lie in the graph of items.

    P = 3 / (K + 1) · (I + Ã + … + Ãᴷ), Ã = D G D / λ₁: G counts the users who have both of two items, D makes popular
    items count less, and λ₁ is the largest eigenvalue. The first rounds sum sketches of D G D, whose leading
    eigenvectors stand for the graph; the rest of the spectrum is small beside λ₁, and smaller with every layer. E and W
    are broadcast, and rounds sum their gradients as for `autoencoder`. The coordinator alone has E₀ and W₀, and takes
    its step along P times the mean gradient.

    Unlike in LightGCN, users are not nodes of the graph: they are encodings of their histories, so that strangers have
    scores and nothing is kept of users. A layer here is two of LightGCN's, from item over users to item.

    Args:
        layers: K, steps from item to item. More layers draw items closer that many users have together.
        tied: whether one table is trained for E and W both, as in LightGCN; two are more accurate.
        rounds: number of rounds, including the four of the start.
        start_from: `spectral` begins with the leading spectrum of the graph; `random` begins with noise, and needs far
            more rounds.
        alpha, beta: of the graph: how much less users with long histories (user u with n_u items weighs n_u^−2alpha in
            G) and popular items (D is n_i^−beta) count.
        most_candidates: maximum number of items that a softmax ranges over, as for `autoencoder`; rows of other items
            move along the graph.

    The other hyperparameters are those of `autoencoder`.

    Raises:
        PlanError: with fewer rounds than the start takes.

    Example:
        >>> model = LightGCN(embedding_size=32, rounds=50, layers=3)
        >>> {name: shape.axes for name, shape in model.shapes(1000).states[-1].shared.items()}
        {'encoder': (1000, 32), 'decoder': (1000, 33), 'population': (1,)}
    """

    layers: PositiveInt = Field(default=2, le=64)
    tied: bool = False

    name: ClassVar[str] = "lightgcn"

    @model_validator(mode="after")
    def _check(self) -> LightGCN:
        if self.rounds <= PASSES:
            raise PlanError(
                f"model {self.name}: rounds is {self.rounds}, but the graph alone takes {PASSES + 1}; set rounds to "
                f"{PASSES + 1} or more"
            )
        return self

    def shapes(self, n_items: int) -> Shapes:
        """Those of `autoencoder`; at the server the tables of layer 0 and, once it is known, the graph."""
        started, trained = super().shapes(n_items).states
        layers = {layer: trained.shared[name] for name, layer in _LAYER_0.items()}
        graph = {"vectors": Shape((n_items, "rank")), "shares": Shape(("rank",), "float64")}
        first = Form(started.shared, {**started.server, **layers})
        return Shapes((first, Form(trained.shared, {**trained.server, **layers, **graph})))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """Layer 0 at random or, where the graph is to make it, of zeros."""
        state = super().start(catalog, public, rng)
        layers = {layer: state.shared[name] for name, layer in _LAYER_0.items()}
        return State({**state.shared, "stage": np.zeros(1, dtype=np.int64)}, {**state.server, **layers})

    def carry(self, fresh: State, earlier: State) -> State:
        """Layer 0 and moments of the other training, with zeros or noise for new items; the graph is made anew."""
        return State({**earlier.shared, "stage": fresh.shared["stage"]}, earlier.server)

    def cost(self, n_items: int) -> Cost:
        """That of `autoencoder`, and the tables of layer 0 and the graph, three times over in a step."""
        plain, d = super().cost(n_items), self._width(n_items)
        return Cost(plain.memory + 48 * n_items * d, plain.per_interaction, plain.per_client)

    def _begun(self, spectrum: Spectrum, population: float, server: Arrays) -> State:
        """The graph, and tables over it: those of the spectral start, unless layer 0 is there already."""
        begun, graph = super()._begun(spectrum, population, server), Convolution.of(spectrum, self.layers)
        layers = {name: server[layer] for name, layer in _LAYER_0.items()}
        if not any(layer.any() for layer in layers.values()):
            width = begun.shared["encoder"].shape[1]
            layers = {name: graph.undone(begun.shared[name], width) for name in TABLES}
        if self.tied:
            mean = (layers["encoder"] + layers["decoder"][:, :-1]) / np.float32(2)
            layers = {"encoder": mean, "decoder": np.hstack([mean, layers["decoder"][:, -1:]])}
        return self._seen(graph, layers, begun.shared["population"], server)

    def _trained(self, state: State, gradients: Arrays, round: int) -> State:
        """A step of layer 0 along the gradients as they come back through the graph."""
        graph = Convolution(state.server["vectors"], state.server["shares"], self.layers)
        n_items, d = state.shared["encoder"].shape
        decoder = np.zeros((n_items, d + 1))
        decoder[self._candidates(n_items, round)] = gradients["decoder"]
        slopes = {"encoder": graph.over(gradients["encoder"], d), "decoder": graph.over(decoder, d)}
        if self.tied:
            slopes["encoder"] += slopes["decoder"][:, :d]
            slopes["decoder"][:, :d] = slopes["encoder"]
        server, layers = dict(state.server), {}
        pull = 2.0 * self.reg / float(state.shared["population"][0])
        for name in TABLES:
            moments = {key: server[f"{name}_{key}"] for key in self._adam(0).forms(())}
            layers[name], kept = self._moved(server[_LAYER_0[name]], d, slopes[name], pull, moments, round)
            server |= {f"{name}_{key}": moment for key, moment in kept.items()}
        return self._seen(graph, layers, state.shared["population"], server)

    def _seen(self, graph: Convolution, layers: Arrays, population: np.ndarray, server: Arrays) -> State:
        """The state with some tables as layer 0, and what everybody sees of them."""
        width = layers["encoder"].shape[1]
        shared = {name: graph.over(layers[name], width) for name in TABLES}
        kept = {layer: layers[name] for name, layer in _LAYER_0.items()}
        known = {"vectors": graph.vectors, "shares": graph.shares}
        return State({**shared, "population": population}, {**server, **kept, **known})


@dataclass(frozen=True, eq=False)
class Convolution:
    """P = c (I + V diag(Σ_{k=1…K} shares^k) Vᵀ) with c = 3 / (K + 1), from the leading eigenvectors of a graph.

    Args:
        vectors: V [items, r] float32, of length 1.
        shares: eigenvalues over the largest [r] float64.
        layers: K.

    Example:
        >>> graph = Convolution(np.eye(3, 1, dtype=np.float32), np.array([1.0]), layers=2)
        >>> graph.over(np.ones((3, 1)), 1).ravel().tolist()
        [3.0, 1.0, 1.0]
    """

    vectors: np.ndarray
    shares: np.ndarray
    layers: int

    @classmethod
    def of(cls, spectrum: Spectrum, layers: int) -> Convolution:
        """Over the graph of a sketch."""
        plain = np.ones(len(spectrum.values))
        vectors = np.concatenate([spectrum.basis(rows, plain) for rows in spectrum.sketched.tiles()])
        return cls(vectors.astype(np.float32), spectrum.values / spectrum.values[:1], layers)

    def over(self, table: np.ndarray, width: int) -> np.ndarray:
        """P times the first `width` columns of a table [items, columns]; the others stay: float32."""
        return self._applied(table, width, self._whole, self._whole * self._walked)

    def undone(self, table: np.ndarray, width: int) -> np.ndarray:
        """P⁻¹ times the first `width` columns of a table [items, columns]; the others stay: float32."""
        return self._applied(table, width, 1 / self._whole, (1 / (1 + self._walked) - 1) / self._whole)

    @property
    def _whole(self) -> float:
        """c."""
        return 3.0 / (self.layers + 1)

    @property
    def _walked(self) -> np.ndarray:
        """Σ shares^k [r]."""
        return np.sum([self.shares**step for step in range(1, self.layers + 1)], axis=0)

    def _applied(self, table: np.ndarray, width: int, whole: float, gains: np.ndarray) -> np.ndarray:
        """(whole I + V diag(gains) Vᵀ) times some columns."""
        out = table.astype(np.float32)
        columns = out[:, :width]
        spread = self.vectors @ (gains.astype(np.float32)[:, None] * (self.vectors.T @ columns))
        out[:, :width] = np.float32(whole) * columns + spread
        return out
