"""A recommender that is a torch module: the class to derive from, for fedrec's networks and for anybody's.

    import torch
    import fedrec as fr

    class Bag(torch.nn.Module):
        def __init__(self, n_items, size):
            super().__init__()
            self.items = torch.nn.Embedding(n_items, size)
            self.out = torch.nn.Linear(size, n_items)

        def scores(self, batch):
            return self.out(batch.rows(self.items.weight).sum(1))

        def loss(self, batch):
            return -(torch.log_softmax(self.scores(batch), 1) * batch.has).sum(1)

    class BagOfItems(fr.Network):
        name = "bag"
        size: int = 16

        def module(self, n_items):
            return Bag(n_items, self.size)

A module has `loss(batch)`, which gives the loss of each client [clients], or a pair of the losses and of how many terms
each is a sum of; and `scores(batch)`, which gives [clients, n_items]. `fedrec.models.networks.batch.Batch` says what a
batch is. Parameters are the shared arrays, by their names in the module. The code of a module is never sent: every
party has it installed.

**A round** is one of two things (McMahan et al. 2017):

- `fedsgd`: clients of the cohort add up the gradients of their losses, and the coordinator takes one step of its
  optimiser along the mean. That is training on pooled data in mini-batches, with the cohort as the batch.
- `fedavg`: each node trains the parameters on its clients of the cohort for some epochs, and the coordinator moves by
  the mean of the nodes' changes, weighted by their terms. Few rounds, for few nodes.

**Granularity.** With `node`, a node adds its clients up in one batch before it rounds: as fast as training on pooled
data, and the bits depend on which clients live together. With `client`, each client's gradient or change is formed
alone, which takes several times as long; then clients can be clipped and weighted, as robust and private plans ask.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.data.catalog import Catalog
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.errors import FedrecError, PlanError
from fedrec.kernels.keyed import normal_rows
from fedrec.models.base import (
    Arrays,
    Given,
    Private,
    PrivateRecommender,
    PrivateTerms,
    Recommender,
    State,
    cosines,
    of_items,
)
from fedrec.models.networks.installed import check_torch
from fedrec.models.networks.scaffold import (
    NEWCOMERS,
    control_forms,
    control_rows,
    first_controls,
    first_rows,
    first_sums,
    is_control,
    stepped_controls,
)
from fedrec.models.server_optimisers import ServerOptimiser, ServerRule
from fedrec.models.shapes import Form, Own, Shape, Shapes
from fedrec.models.traits import Cost, Traits

if TYPE_CHECKING:
    from torch import nn

    from fedrec.models.networks.visits import Terms

__all__ = ["Network", "parameter_axes"]

_SCALE_BITS = 20
_TERM_BITS = 10
_SCORED = 64
_FOLD_IN = 20
"""Times as many steps as in a round, for private arrays that begin anew."""
_FOLDED = KeyedSource(b"fedrec folded in")
_PRIVATE_SD = 0.1
_PRIVATE_FORMS = "fedrec.models.networks.private_network"
_ADAM_FLOOR = 1e-8
_SERVER_FLOOR = 1e-3


class Network(Recommender):
    """A recommender that is a torch module; see the module for how to write one.

    Args:
        rounds: rounds of training.
        method: `fedsgd` or `fedavg`.
        granularity: `node` or `client`.
        window: newest interactions of a client that the module is handed.
        crops: share of the visits in which a client with more interactions than the window is handed a part of its
            history at random instead of the newest; for modules that read order.
        learning_rate: of the optimiser: the coordinator's with `fedsgd`, the nodes' with `fedavg`.
        optimiser: `adam` (Kingma & Ba 2015) or `sgd`.
        warmup: rounds in which the learning rate rises to its value.
        schedule: `constant`, or `cosine` down to a tenth by the last round.
        first_decay: β₁ of the optimisers: how long they remember the direction.
        second_decay: β₂ of the optimisers: how long they remember the size of changes.
        weight_decay: share of every parameter that is taken off it per unit of learning rate, at the coordinator.
        local_epochs: of `fedavg`: passes over a node's clients in a round.
        local_batch: of `fedavg`: clients of a step.
        proximal: of `fedavg`: μ of FedProx (Li et al. 2020).
        scaffold: of `fedavg` with granularity `client` and local `sgd`: correct clients' drift by control variates
            (`fedrec.models.networks.scaffold`). A client keeps as many numbers as the module has parameters.
        server_optimiser: of `fedavg`: what the coordinator does with the mean change; `sgd`, `momentum`, `adam`, `yogi`
            or `adagrad` (`fedrec.models.server_optimisers`).
        server_learning_rate: of `fedavg`.
        private_steps: steps in which a client's private arrays follow its loss before it takes part in a round.
        private_learning_rate: of these steps.
        bound: largest value of one coordinate by one client; beyond it saturates.
    """

    rounds: PositiveInt = 200
    method: Literal["fedsgd", "fedavg"] = "fedsgd"
    granularity: Literal["node", "client"] = "node"
    window: PositiveInt = 200
    crops: float = Field(default=0.0, ge=0.0, le=1.0)
    learning_rate: PositiveFloat = 2e-3
    optimiser: Literal["adam", "sgd"] = "adam"
    warmup: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"
    first_decay: float = Field(default=0.9, ge=0.0, lt=1.0)
    second_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    weight_decay: NonNegativeFloat = 0.0
    local_epochs: PositiveInt = 1
    local_batch: PositiveInt = 64
    proximal: NonNegativeFloat = 0.0
    scaffold: bool = False
    server_optimiser: ServerRule = "sgd"
    server_learning_rate: PositiveFloat = 1.0
    private_steps: PositiveInt = 2
    private_learning_rate: PositiveFloat = 0.05
    bound: PositiveFloat = Field(default=64.0, le=1024.0)

    traits: ClassVar[Traits] = Traits(reads=frozenset({"items", "order"}), bits="node", iterative=True)
    """A module is taken to read the order of its window. One that adds its items up says so, with traits of its own
    that do not read `order`; of a history longer than the window it is then handed any part, where there is no order.
    """
    item_table: ClassVar[str] = ""
    """The parameter [items, d] whose rows say how near items are to each other; empty where there is none."""
    item_bias: ClassVar[str] = ""
    """The parameter [items] that is added to items' scores; empty where there is none."""
    most_terms: ClassVar[str] = ""
    """The hyperparameter that is the largest number of terms of a client's loss; empty for 1."""

    @model_validator(mode="after")
    def _check_scaffold(self) -> Self:
        wanted = {"method": "fedavg", "granularity": "client", "optimiser": "sgd", "proximal": 0.0}
        unlike = [f"{key} to {value}" for key, value in wanted.items() if getattr(self, key) != value]
        if self.scaffold and unlike:
            raise PlanError(
                f"model {self.name}: scaffold corrects the plain SGD of single clients; set {' and '.join(unlike)}"
            )
        return self

    @abstractmethod
    def module(self, n_items: int) -> nn.Module:
        """The torch module for a catalog of `n_items`, with parameters as they are before training: a pure function of
        the hyperparameters, `n_items` and torch's seed."""

    def private_lengths(self) -> dict[str, int]:
        """Vectors of each client that never leave its node, by name, and how long they are; `batch.private` has
        them."""
        return {}

    def shapes(self, n_items: int) -> Shapes:
        """The module's parameters; moments of the optimiser."""
        all_axes = parameter_axes(self, n_items)
        shared = {name: Shape(axes) for name, axes in all_axes.items()}
        moments = {
            f"{name}.{moment}": shape
            for name in self._moving(shared)
            for moment, shape in self._server.forms(all_axes[name]).items()
        }
        rows: dict[str, Shape | Own] = {
            name: Shape((length,), finite=False) for name, length in self.private_lengths().items()
        }
        if self.scaffold:
            controls, sums = control_forms(shared)
            rows |= control_rows(self._size(n_items))
            shared, moments = shared | controls, moments | sums
        return Shapes((Form(shared, moments),), rows)

    def start(self, catalog: Catalog, public: Arrays, rng: KeyedSource) -> State:
        """The module's own first parameters, from draws of the plan's seed."""
        from fedrec.models.networks.devices import steady
        from fedrec.models.networks.training import parameters

        with steady(rng.seed):
            module = self.module(len(catalog))
        shared = {name: value.detach().cpu().numpy().astype(np.float32) for name, value in parameters(module).items()}
        return State(shared | first_controls(shared) if self.scaffold else shared, self._moments(shared))

    def spec(self, shared: Arrays, round: int) -> SumSpec | None:
        """A change of every parameter, in the order of their names, in which they are sent; and the number of terms."""
        if round >= self.rounds:
            return None
        pooled = self.granularity == "node"
        terms = float(getattr(self, self.most_terms)) if self.most_terms else 1.0
        changes = [
            ArraySpec(name, "dense", shared[name].shape, self.bound * terms, _SCALE_BITS, 0, "count", "change", pooled)
            for name in sorted(self._moving_in(shared, round))
        ]
        weight = ArraySpec("terms", "dense", (1,), terms, _TERM_BITS, role="count", pooled=pooled)
        return SumSpec((*changes, weight, NEWCOMERS) if self.scaffold else (*changes, weight))

    def join(self, given: Given, clients: Clients) -> Private | None:
        """Small random private arrays from each client's own key; control variates of zero."""
        rows = self._fresh(given.rng.seeds(clients.keys), given.rng)
        if self.scaffold:
            rows |= first_rows(len(clients), self._size(clients.n_items))
        return rows or None

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        """Negative gradients of the cohort, or what it learned, times the terms; and the number of terms."""
        from fedrec.models.networks.devices import steady
        from fedrec.models.networks.training import loaded, parameters
        from fedrec.models.networks.visits import Visit

        together = self.granularity == "node"
        at_once = len(clients) if together else _SCORED  # threads must not depend on who else is there
        with steady(given.rng.child("torch").seed, at_once * self.window):
            module = loaded(self._module_for(clients.n_items, given.shared), given.shared)
            module.train()
            moving = self._moving_in(given.shared, given.round)
            for name, parameter in parameters(module).items():
                parameter.requires_grad_(name in moving)
            visit = Visit(self._terms(given.round), given, clients, self._of_batches(private))
            if together:
                return visit.together(module)
            if not self.scaffold:
                return visit.alone(module)
            assert private is not None
            return visit.corrected(module, private)

    def step(self, state: State, total: Sum, round: int) -> State:
        """One step of the optimiser along the mean, at this round's learning rate."""
        terms = float(total.value("terms")[0])
        if terms <= 0.0:
            return state
        stepped = self._stepped(state, total, terms, round, round + 1)
        if not self.scaffold:
            return stepped
        distance = self.local_epochs * self.learning_rate * self.rate_share(round)
        controls, sums = stepped_controls(state, total, self._moving(state.shared), terms, distance)
        return State({**stepped.shared, **controls}, {**stepped.server, **sums})

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        """The module's scores; always of the same number of clients at once, so that a client's do not depend on the
        others."""
        import torch

        from fedrec.models.networks.batch import batch_of, batches_of, tensors
        from fedrec.models.networks.devices import steady
        from fedrec.models.networks.training import loaded

        scores, private = np.empty((len(clients), clients.n_items), dtype=np.float32), self._of_batches(private)
        with steady(0, _SCORED * self.window), torch.no_grad():
            module = loaded(self._module_for(clients.n_items, given.shared), given.shared)
            module.eval()
            public = tensors(given.public)
            for places in batches_of(clients, _SCORED):
                filled = np.resize(places, _SCORED)
                rows = None if private is None else {name: array[filled] for name, array in private.items()}
                batch = batch_of(
                    clients.take(filled), self.window, np.zeros(_SCORED, np.uint64), private=rows, public=public
                )
                told = module.scores(batch)  # type: ignore[operator]
                if tuple(told.shape) != (_SCORED, clients.n_items):
                    raise FedrecError(
                        f"{type(module).__name__}.scores must give [clients, items] = "
                        f"[{_SCORED}, {clients.n_items}], not {list(told.shape)}"
                    )
                scores[places] = told[: len(places)].cpu().numpy()
        return of_items(scores, items)

    def fold_in(self, given: Given, clients: Clients) -> Private | None:
        """Private arrays that follow each client's loss from where new clients begin; shared arrays stay."""
        if not self.private_lengths():
            return None
        from fedrec.models.networks.batch import batch_of, batches_of, tensors
        from fedrec.models.networks.devices import steady
        from fedrec.models.networks.training import fit_private, loaded

        fitted = {name: array.copy() for name, array in self._fresh(clients.keys, _FOLDED).items()}
        with steady(0, len(clients) * self.window):
            module = loaded(self._module_for(clients.n_items, given.shared), given.shared)
            module.train()
            public = tensors(given.public)
            for places in batches_of(clients, _SCORED):
                rows = {name: array[places] for name, array in fitted.items()}
                batch = batch_of(
                    clients.take(places),
                    self.window,
                    clients.keys[places],
                    training=True,
                    private=rows,
                    public=public,
                )
                found = fit_private(module, batch, _FOLD_IN * self.private_steps, self.private_learning_rate)
                for name, array in found.private.items():
                    fitted[name][places] = array.cpu().numpy()
        return fitted

    def similarity(self, given: Given, items: np.ndarray) -> np.ndarray:
        """Cosine of the rows of the module's item table.

        Raises:
            InputError: if the model names no item table.
        """
        if not self.item_table:
            return super().similarity(given, items)
        return cosines(given.shared[self.item_table], items)

    def cost(self, n_items: int) -> Cost:
        """Parameters, their sums, moments and the step in float64. Each client has a gradient of its own with
        granularity `client`."""
        all_axes = parameter_axes(self, n_items)
        floats = sum(math.prod(axes) for axes in all_axes.values())
        apart = (1 + 4 * self.scaffold) * self._size(n_items) if self.granularity == "client" else 0
        return Cost(memory=(64 + 40 * self.scaffold) * floats, per_interaction=2, per_client=apart + 4 * self.window)

    def rate_share(self, round: int) -> float:
        """The share of the learning rate that a round's step has, by `warmup` and `schedule`, from the first round that
        trains."""
        round = max(round - self._before, 0)  # a training that goes on from another one trains from the first round
        share = min(1.0, (round + 1) / (self.warmup + 1)) if self.warmup else 1.0
        if self.schedule == "cosine":
            done = min(1.0, round / max(self.trained_rounds - 1, 1))
            share *= 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))
        return share

    def privately(self, terms: PrivateTerms) -> PrivateRecommender:
        """Clipped gradients of single clients with noise, see `fedrec.models.networks.private_network`.

        Raises:
            PlanError: with `granularity: node`, where nobody can be clipped, or with control variates.
        """
        forms = import_module(_PRIVATE_FORMS)  # by name, as private forms are derived from networks
        private: PrivateRecommender = forms.private_form(type(self)).of(self, terms)
        return private

    @property
    def trained_rounds(self) -> int:
        """Rounds in which the parameters move."""
        return self.rounds - self._before

    @property
    def _before(self) -> int:
        """Rounds before the first that trains."""
        return 0

    def _biases(self, counts: np.ndarray) -> dict[str, np.ndarray]:
        """Item biases that follow item counts, if the module has any."""
        if not self.item_bias:
            return {}
        shares = np.maximum(counts, 0.5) / max(float(counts.mean()), 1e-12)
        return {self.item_bias: np.log(shares).astype(np.float32)}

    def _moving(self, shared: Collection[str]) -> tuple[str, ...]:
        """Names of the parameters that rounds move; the others stay as they begin."""
        return tuple(name for name in shared if not is_control(name, shared))

    def _size(self, n_items: int) -> int:
        """Numbers in all parameters that rounds move."""
        all_axes = parameter_axes(self, n_items)
        return sum(math.prod(all_axes[name]) for name in self._moving(all_axes))

    def _of_batches(self, private: Private | None) -> Private | None:
        """The private arrays that batches are handed."""
        return {name: private[name] for name in self.private_lengths()} or None if private is not None else None

    def _moving_in(self, shared: Collection[str], round: int) -> tuple[str, ...]:
        """Names of the parameters that one round moves."""
        return self._moving(shared)

    def _module_for(self, n_items: int, shared: Arrays) -> nn.Module:
        """The module whose parameters the shared arrays are."""
        return self.module(n_items)

    def _stepped(self, state: State, total: Sum, divisor: float, round: int, number: int) -> State:
        """One step of the optimiser, the one of this number, along the sum over a divisor."""
        shared, server = dict(state.shared), dict[str, np.ndarray]()
        rule, share = self._server, self.rate_share(round)
        decayed = self.learning_rate * share * self.weight_decay
        kept = self._moving(shared)
        server |= {moment: array for moment, array in state.server.items() if moment.rpartition(".")[0] in kept}
        for name in self._moving_in(shared, round):
            array = shared[name]
            moments = {moment: state.server[f"{name}.{moment}"] for moment in rule.forms(())}
            moved, renewed = rule.step(array, total.value(name) / divisor, moments, number, share)
            server |= {f"{name}.{moment}": value for moment, value in renewed.items()}
            if decayed:
                moved -= (decayed * array).astype(np.float32)
            shared[name] = moved
        return State(shared, server)

    def _terms(self, round: int) -> Terms:
        """How clients are visited in a round."""
        from fedrec.models.networks.training import Local
        from fedrec.models.networks.visits import Terms

        rate, decays = self.learning_rate * self.rate_share(round), (self.first_decay, self.second_decay)
        local = Local(rate, self.optimiser, decays, self.local_epochs, self.local_batch, self.proximal)
        return Terms(
            self.window,
            self.crops,
            self.private_steps,
            self.private_learning_rate,
            local if self.method == "fedavg" else None,
        )

    @property
    def _server(self) -> ServerOptimiser:
        if self.method == "fedavg":
            rule, rate, floor = self.server_optimiser, self.server_learning_rate, _SERVER_FLOOR
            return ServerOptimiser(rule, rate, self.first_decay, self.second_decay, floor)
        return ServerOptimiser(
            self.optimiser, self.learning_rate, self.first_decay, self.second_decay, _ADAM_FLOOR, corrected=True
        )

    def _moments(self, shared: Arrays) -> dict[str, np.ndarray]:
        """Moments of the optimiser, and sums of control variates, before the first step."""
        moving = {name: shared[name] for name in self._moving(shared)}
        moments = {
            f"{name}.{moment}": value
            for name, array in moving.items()
            for moment, value in self._server.start(array).items()
        }
        return moments | first_sums(moving) if self.scaffold else moments

    def _fresh(self, seeds: np.ndarray, source: KeyedSource) -> dict[str, np.ndarray]:
        """Private arrays of clients before they take part."""
        fresh = {}
        for name, length in self.private_lengths().items():
            fresh[name] = np.empty((len(seeds), length), dtype=np.float32)
            normal_rows(source.child(name).seeds(seeds), _PRIVATE_SD, fresh[name])
        return fresh


@lru_cache(maxsize=64)
def _axes(kind: type[Network], settings: str, n_items: int) -> dict[str, tuple[int, ...]]:
    check_torch(kind.name)
    from fedrec.models.networks.training import parameters
    from fedrec.models.networks.unfilled import unfilled

    model = kind.model_validate_json(settings)
    try:
        with unfilled():
            module = model.module(n_items)
    except Exception as error:  # whatever the code of a module raises
        said = str(error).partition("\n")[0]
        raise PlanError(
            f"model {kind.name!r}: its module cannot be made for {n_items} items with these settings: "
            f"{type(error).__name__}: {said}"
        ) from error
    return {name: tuple(parameter.shape) for name, parameter in parameters(module).items()}


def parameter_axes(model: Network, n_items: int) -> dict[str, tuple[int, ...]]:
    """Lengths of the axes of a module's parameters, by name; nothing is allocated to find out.

    Raises:
        InputError: if torch is not installed.
        PlanError: if the module cannot be made.
    """
    return _axes(type(model), model.model_dump_json(), n_items)
