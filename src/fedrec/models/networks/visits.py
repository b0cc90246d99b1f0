"""One round at one node: what its clients of the cohort add, together or each alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor, nn

from fedrec.aggregation.contributions import Contribution, Contributions, Dense
from fedrec.aggregation.pooled import Pooled
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.models.base import Given, Private
from fedrec.models.networks.batch import Batch, batch_of, batches_of, tensors
from fedrec.models.networks.training import (
    Local,
    Pool,
    client_changes,
    client_gradients,
    fit_private,
    parameters,
    train_together,
)
from fedrec.progress import followed

__all__ = ["Terms", "Visit"]

_ROWS = 64
"""Clients whose gradients are formed together."""
_COMMON = KeyedSource(b"fedrec networks.")
"""Of draws that all nodes of a round make alike."""


@dataclass(frozen=True)
class Terms:
    """How the clients of a round are visited.

    Args:
        window: newest interactions of a client that the module is handed.
        crops: share of the visits in which a longer history is cut at random.
        private_steps: steps of the clients' private arrays before the rest.
        private_learning_rate: of these steps.
        local: how parameters are trained at the node; `None` for gradients alone.
    """

    window: int
    crops: float
    private_steps: int
    private_learning_rate: float
    local: Local | None


@dataclass(frozen=True, eq=False)
class Visit:
    """The clients of a cohort at a node, or some of them, in one round.

    Args:
        terms: how they are visited.
        given: round, shared and public arrays, the node's draws.
        clients: the clients.
        private: their private arrays.
    """

    terms: Terms
    given: Given
    clients: Clients
    private: Private | None

    def together(self, module: nn.Module) -> tuple[Contributions, Private | None]:
        """The clients' sum, formed as one."""
        included = np.ones(len(self.clients), dtype=np.bool_)
        rows = None if self.private is None else {name: array.copy() for name, array in self.private.items()}
        names = parameters(module)
        pool = Pool(names)
        if self.terms.local is None:
            for places in followed(list(batches_of(self.clients, _ROWS))):
                batch = self._prepared(module, places, rows)
                included[places] = pool.add_gradients(module, batch)
        else:
            before = {name: value.detach().cpu().numpy().astype(np.float64) for name, value in names.items()}
            order = self.given.rng.child("order").generator()
            pool.weight = train_together(
                module,
                lambda places, epoch, step: self._prepared(module, places, rows, epoch, step),
                len(self.clients),
                order,
                self.terms.local,
            )
            for name, value in names.items():
                pool.sums[name] = (value.detach().cpu().numpy() - before[name]) * pool.weight
        arrays: dict[str, Contribution] = {name: Pooled(total, included) for name, total in pool.sums.items()}
        arrays["terms"] = Pooled(np.array([pool.weight]), included)
        return Contributions(arrays), rows

    def alone(self, module: nn.Module) -> tuple[Contributions, Private | None]:
        """Each client's own part."""
        rows = None if self.private is None else {name: array.copy() for name, array in self.private.items()}
        everyone = np.arange(len(self.clients))
        if self.terms.local is None:
            parts, terms = client_gradients(module, self._prepared(module, everyone, rows))
        else:
            parts, terms = client_changes(
                module,
                lambda places, epoch, step: self._prepared(module, places, rows, epoch, step),
                len(self.clients),
                self.terms.local,
            )
            parts = {name: (part * terms[:, None]).astype(np.float32) for name, part in parts.items()}
        ones = np.ones(len(self.clients))
        arrays: dict[str, Contribution] = {name: Dense(part, ones) for name, part in parts.items()}
        arrays["terms"] = Dense(terms.astype(np.float32)[:, None], ones)
        return Contributions(arrays), rows

    @cached_property
    def _public(self) -> dict[str, Tensor]:
        return tensors(self.given.public)

    def _prepared(
        self,
        module: nn.Module,
        places: np.ndarray,
        rows: dict[str, np.ndarray] | None,
        epoch: int = 0,
        step: int = 0,
    ) -> Batch:
        """The batch of some clients; their private arrays follow their loss first, and are kept in `rows`."""
        clients = self.clients.take(places)
        batch = batch_of(
            clients,
            self.terms.window,
            self.given.rng.child("epoch", epoch).seeds(clients.keys),
            common=_COMMON.child(self.given.round, step).seed,
            training=True,
            crops=self.terms.crops,
            private=None if rows is None else {name: array[places] for name, array in rows.items()},
            public=self._public,
        )
        if rows is not None:
            batch = fit_private(module, batch, self.terms.private_steps, self.terms.private_learning_rate)
            for name, array in batch.private.items():
                rows[name][places] = array.cpu().numpy()
        return batch
