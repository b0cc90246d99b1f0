"""LoRA inside an encoder of item texts, learned together, with no transformer at any node.

Texts of items are public, so the coordinator runs the encoder (Hu et al. 2022, "LoRA: Low-rank adaptation of large
language models"). Nodes are sent the vectors of items, and return the sum over their clients of the gradients by the
vectors of the items drawn for the round. The coordinator takes that sum back through the encoder:
∂L/∂θ = (∂E/∂θ)ᵀ Σ_u ∂L_u/∂E is the gradient of pooled data, exactly. Qi et al. 2020, "Privacy-preserving news
recommendation model learning", and Yi et al. 2021, "Efficient-FedRec", divide models at the same place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.encoded import encoder_folder, is_encoder, joined_texts, text_mean, text_vectors
from fedrec.data.features import MOST_COLUMNS, ItemColumns, unit_rows
from fedrec.data.keys import KeyedSource
from fedrec.errors import InputError, PlanError, suggestion
from fedrec.language.encoders import LONGEST
from fedrec.models.base import Arrays, Given, Private, State, cosines
from fedrec.models.linear.counts import count_spec, counted
from fedrec.models.networks.installed import check_torch
from fedrec.models.networks.network import Network
from fedrec.models.shapes import Form, Shape, Shapes
from fedrec.models.traits import Cost, Traits

if TYPE_CHECKING:
    import polars as pl
    from torch import nn

    from fedrec.language.lora import LoraEncoder

__all__ = ["Lora"]

_ROWS, _FACTORS = "rows", "factors"
_DRAWS = KeyedSource(b"fedrec lora rows")
"""Of the items of a round, which everybody may know."""
_MOST_NUMBERS = 1 << 28
_NOTHING = -1
"""In the place of tokens behind the last one of a text."""
_USUAL, _USUAL_NUMBERS = 512, 1 << 18
"""More columns, and more numbers in all factors, than most encoders have."""


class Lora(Network):
    """score = ⟨q, z_j⟩ with z the vector of the text of an item, of length 1, and q the sum of z over the history.

    Projections W of the encoder's attention become W + (alpha / rank) B A, and rounds learn A and B. Only the
    coordinator runs the encoder. A round is about drawn items: some of those in a history are to be found, each by the
    others, among all drawn items, by softmax. Vectors of items that are not drawn are not used in the round, and stay
    as they are until a round draws them, or makes all vectors anew. B starts at 0, so that training begins with the
    cosine of the encoder's vectors.

    Args:
        item_features: column of the catalog, or several with `+` between their names, and the encoder that reads its
            texts, as in `{title+genres: text:/models/minilm}`.
        rank: columns of B, rows of A.
        alpha: the share of the change is alpha / rank.
        projections: last parts of the names of the encoder's projections that change; `auto` takes queries and values.
        temperature: what cosines are divided by before the softmax; smaller values look at the nearest items only.
        targets: items of a history that are to be found in a round.
        drawn: items drawn for a round, of those that somebody has; all of them where there are no more. Nodes send
            as many vectors. Few items make noisy steps, which spoil vectors that nobody trains.
        refresh: after as many rounds, and after the last one, the vectors of all items are made anew. Vectors of items
            that nobody has change then only, so measure after as many rounds too (`evaluation.every`).
        checkpointing: whether the coordinator works layers out again for gradients, which takes less memory and more
            time.

    Raises:
        PlanError: with `scaffold` or `method: fedavg`, or if `item_features` is not one column that an encoder reads.

    Example:
        >>> model = Lora(item_features={"title+genres": "text:/models/minilm"}, rank=4)
        >>> {name: str(shape) for name, shape in model.shapes(100).states[1].shared.items()}
        {'vectors': 'float32 [100, width]', 'factors': 'float32 [numbers]', 'drawn': 'int32 [drawn]'}
    """

    item_features: ItemColumns = "auto"
    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    projections: Literal["auto"] | tuple[str, ...] = "auto"
    temperature: PositiveFloat = 0.07
    targets: PositiveInt = 8
    drawn: PositiveInt = 640
    refresh: PositiveInt = 10
    checkpointing: bool = False

    rounds: PositiveInt = 11
    window: PositiveInt = 1000
    learning_rate: PositiveFloat = 5e-4

    name: ClassVar[str] = "lora"
    traits: ClassVar[Traits] = Traits(bits="node", iterative=True, cohort=1024)

    @model_validator(mode="after")
    def _check_lora(self) -> Lora:
        if self.scaffold or self.method == "fedavg":
            setting = "scaffold" if self.scaffold else "method: fedavg"
            raise PlanError(
                f"model {self.name}: {setting} trains parameters at nodes, and those of an encoder are at the "
                "coordinator; leave it out"
            )
        if self.item_features != "auto":
            self._read()
        if self.projections == ():
            raise PlanError(f"model {self.name}: projections names no projection; set it to auto, or to some names")
        return self

    def public(self, catalog: Catalog) -> Arrays:
        """Nothing, as nodes are sent the vectors; texts are part of what all agree on.

        Raises:
            InputError: if the catalog has no such texts.
        """
        self._texts(catalog)
        return {}

    def module(self, n_items: int) -> nn.Module:
        """Vectors for as many columns as a catalog may have; see `_module_for`."""
        drawn = np.arange(min(self.drawn, n_items), dtype=np.int32)
        return self._module_for(n_items, {"vectors": np.zeros((n_items, 1), np.float32), "drawn": drawn})

    def shapes(self, n_items: int) -> Shapes:
        """Vectors and factors with item counts; then with the items of the round, and the moments of the optimiser.
        The coordinator keeps which items are warm, tokens of texts, and the mean vector."""
        check_torch(self.name)
        vectors = Shape((n_items, "width"), longest=MOST_COLUMNS)
        factors = Shape(("numbers",), longest=_MOST_NUMBERS)
        texts = {
            "tokens": Shape((n_items, LONGEST), "int32", _NOTHING, np.iinfo(np.int32).max),
            "centre": Shape(("width",), longest=MOST_COLUMNS),
        }
        moments = {f"{_FACTORS}.{moment}": factors for moment in self._server.forms(())}
        both = {"vectors": vectors, _FACTORS: factors}
        drawn = Shape(("drawn",), "int32", 0, n_items)
        last = Form({**both, "drawn": drawn}, {**texts, **moments, "warm": Shape((n_items,))})
        first = Form({**both, "counts": Shape((n_items,), "float64")}, texts)
        return Shapes((first, last) if self._before else (last,))

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """The encoder's own vectors, A at random and B of zeros; items are counted first.

        Raises:
            InputError: if the encoder is not on this machine, is another than the plan's, or has no such projections.
        """
        texts, kind = self._texts(catalog), self._read()[1]
        encoder = self.encoder
        told = texts.fill_null("").to_list()
        there = [place for place, text in enumerate(told) if text.strip()]
        tokens = np.full((len(told), LONGEST), _NOTHING, dtype=np.int32)
        for place, ids in zip(there, encoder.tokens([told[place] for place in there]), strict=True):
            tokens[place, : len(ids)] = ids
        shared = {
            "vectors": unit_rows(text_vectors(texts, kind)).astype(np.float32),
            _FACTORS: encoder.first(rng.generator()),
        }
        server = {
            "tokens": tokens,
            "centre": text_mean(texts, kind).astype(np.float32),
        }
        if self._before:
            return State({**shared, "counts": np.zeros(len(catalog))}, server)
        return self._trainable(State(shared, server), np.ones(len(catalog)))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """Item counts, then changes of the vectors of the drawn items."""
        if "counts" in shared:
            return SumSpec((count_spec(len(shared["counts"])),))
        return super().spec(_with_rows(shared), round)

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """One for every item, then negative gradients by the vectors of the drawn items."""
        if "counts" in given.shared:
            return Contributions({"counts": counted(clients)}), None
        return super().contribute(replace(given, shared=_with_rows(given.shared)), clients, private)

    def step(self, state: State, total: Sum, round: int) -> State:
        """Items that somebody has are warm; then steps of the optimiser along what the encoder makes of the mean."""
        if "counts" in state.shared:
            warm = total.value("counts")[:, 0] > 0
            return self._trainable(state, warm if warm.any() else np.ones_like(warm))
        terms = float(total.value("terms")[0])
        if terms <= 0.0:
            return state
        return self._stepped(state, total, terms, round, round + 1 - self._before)

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """Cosine of the sum of the history with every item."""
        return super().score(replace(given, shared=_with_rows(given.shared)), clients, private, items)

    def carry(self, fresh: State, earlier: State) -> State:
        """The earlier factors and vectors, and texts as the catalog has them now."""
        return State(earlier.shared, {**earlier.server, "tokens": fresh.server["tokens"]})

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of z."""
        return cosines(given.shared["vectors"], items)

    def cost(self, n_items: int) -> Cost:
        """Vectors of all items with what is sent of the drawn ones, and factors with their moments. Each client has
        gradients of its own with granularity `client`."""
        rows = min(self.drawn, n_items) * _USUAL
        apart = rows if self.granularity == "client" else 0
        memory = 16 * _USUAL * n_items + 64 * (rows + _USUAL_NUMBERS)
        return Cost(memory=memory, per_client=apart + 4 * self.window)

    @property
    def encoder(self) -> LoraEncoder:
        """The encoder with room for the factors.

        Raises:
            InputError: if the encoder is not on this machine, is another than the plan's, or has no such projections.
        """
        from fedrec.models.networks.devices import device

        names = () if self.projections == "auto" else self.projections
        return _read_encoder(self._read()[1], self.rank, self.alpha, names, str(device()), self.checkpointing)

    @property
    def _before(self) -> int:
        """The round that counts items."""
        return 1

    def _read(self) -> tuple[str, str]:
        """Columns of the catalog, and the kind that names the encoder."""
        columns = self.item_features
        if isinstance(columns, dict) and len(columns) == 1:
            ((column, kinds),) = columns.items()
            if len(kinds) == 1 and is_encoder(kind := next(iter(kinds))):
                return column, kind
        raise PlanError(
            f"model {self.name}: item_features must name one column, or several with + between them, and an encoder, "
            "such as item_features.title+genres=text:/models/minilm"
        )

    def _texts(self, catalog: Catalog) -> pl.Series:
        """Texts of the items, null where there is none."""
        column, _ = self._read()
        texts = None if catalog.features is None else joined_texts(catalog.features, column)
        if texts is None:
            names = [] if catalog.features is None else catalog.features.columns
            raise InputError(f"model {self.name}: the catalog has no column {column!r}{suggestion(column, names)}")
        return texts

    def _trainable(self, state: State, warm: np.ndarray) -> State:
        """The state before the first round that trains."""
        shared = {name: state.shared[name] for name in ("vectors", _FACTORS)}
        server = {name: state.server[name] for name in ("tokens", "centre")}
        server |= {"warm": warm.astype(np.float32), **self._moments(shared)}
        return State({**shared, "drawn": self._drawn(warm, self._before)}, server)

    def _drawn(self, warm: np.ndarray, round: int) -> np.ndarray:
        """Positions of the items of a round [drawn] int32, ascending."""
        places = np.flatnonzero(warm)
        rng = _DRAWS.child(round).generator()
        few = rng.choice(places, min(self.drawn, len(places)), replace=False)
        return np.sort(few).astype(np.int32)

    def _stepped(self, state: State, total: Sum, divisor: float, round: int, number: int) -> State:
        """One step of the optimiser along what the encoder makes of the sum over a divisor, and new vectors for the
        items of the next round; every `refresh` rounds, for all items."""
        from fedrec.models.networks.devices import steady

        shared, server, encoder, rule = state.shared, state.server, self.encoder, self._server
        factors, centre, share = shared[_FACTORS], server["centre"], self.rate_share(round)
        if encoder.size != len(factors):
            raise PlanError(
                f"model {self.name}: the run has {len(factors)} numbers in its factors, and rank and projections give "
                f"{encoder.size}; set them as they were"
            )
        moments = {moment: server[f"{_FACTORS}.{moment}"] for moment in rule.forms(())}
        texts = [row[row != _NOTHING].tolist() for row in server["tokens"]]
        said = np.flatnonzero([len(text) for text in texts])
        with steady(0):
            pulled = np.isin(shared["drawn"], said)
            places, pulls = shared["drawn"][pulled], (total.value(_ROWS) / divisor)[pulled]
            change = encoder.gradient(factors, [texts[place] for place in places], centre, pulls)
            moved, renewed = rule.step(factors, change, moments, number, share)
            moved -= (self.learning_rate * share * self.weight_decay * factors).astype(np.float32)
            drawn = self._drawn(server["warm"], round + 1)
            whole = round + 1 >= self.rounds or (round + 1 - self._before) % self.refresh == 0
            anew = said if whole else np.intersect1d(drawn, said)
            vectors = shared["vectors"].copy()
            vectors[anew] = encoder.vectors(moved, [texts[place] for place in anew], centre)
        renewed = {f"{_FACTORS}.{moment}": array for moment, array in renewed.items()}
        return State({"vectors": vectors, _FACTORS: moved, "drawn": drawn}, {**server, **renewed})

    def _moving(self, shared: Collection[str]) -> tuple[str, ...]:
        return (_ROWS,) if _ROWS in shared else (_FACTORS,)

    def _moving_in(self, shared: Collection[str], round: int) -> tuple[str, ...]:
        return (_ROWS,)

    def _module_for(self, n_items: int, shared: Arrays) -> nn.Module:
        from fedrec.models.networks.lora_module import LoraModule

        return LoraModule(shared["vectors"], shared["drawn"], self.temperature, self.targets)


def _with_rows(shared: Arrays) -> Arrays:
    """Shared arrays with the vectors of the drawn items, which nodes have gradients of."""
    return {**shared, _ROWS: shared["vectors"][shared["drawn"]]}


@lru_cache(maxsize=2)
def _read_encoder(
    kind: str, rank: int, alpha: float, names: tuple[str, ...], device: str, checkpointing: bool
) -> LoraEncoder:
    from fedrec.language.folders import transformers_library

    transformers_library()
    from fedrec.language.lora import LoraEncoder

    return LoraEncoder.read(encoder_folder(kind), rank, alpha, names, device, checkpointing)
