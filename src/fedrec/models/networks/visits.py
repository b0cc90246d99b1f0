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
from fedrec.models.networks.scaffold import NEWCOMERS, newcomers, renewed_rows, used_drift
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
        rows, names = self._rows(), parameters(module)
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
        if self.terms.local is not None:
            parts, terms, rows = self._changes(module, self.terms.local)
            parts = {name: (part * terms[:, None]).astype(np.float32) for name, part in parts.items()}
        else:
            rows = self._rows()
            parts, terms = client_gradients(module, self._prepared(module, np.arange(len(self.clients)), rows))
        return Contributions(_told(parts, terms)), rows

    def corrected(self, module: nn.Module, private: Private) -> tuple[Contributions, Private]:
        """Each client's own change by SCAFFOLD, and what it keeps; a client that took no step counts for nothing."""
        local = self.terms.local
        assert local is not None
        shared, names = self.given.shared, list(parameters(module))
        drift = used_drift(shared, private, names)
        parts, terms, rows = self._changes(module, local, drift)
        trained = terms > 0.0
        change = np.concatenate([parts[name] for name in names], axis=1)
        kept = renewed_rows(private, drift, change, trained, local.epochs * local.learning_rate)
        arrays = _told(parts, trained.astype(np.float64)) | {NEWCOMERS.name: newcomers(private, trained)}
        return Contributions(arrays), {**(rows or {}), **kept}

    def _changes(
        self, module: nn.Module, local: Local, drift: np.ndarray | None = None
    ) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray] | None]:
        """What each client changes alone, the numbers of terms, and the private arrays after it."""
        rows = self._rows()

        def batch_at(places: np.ndarray, epoch: int, step: int) -> Batch:
            return self._prepared(module, places, rows, epoch, step)

        parts, terms = client_changes(module, batch_at, len(self.clients), local, drift)
        return parts, terms, rows

    def _rows(self) -> dict[str, np.ndarray] | None:
        """Private arrays to write into."""
        return None if self.private is None else {name: array.copy() for name, array in self.private.items()}

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


def _told(parts: dict[str, np.ndarray], terms: np.ndarray) -> dict[str, Contribution]:
    """Each client's part of every parameter, and its number of terms."""
    ones = np.ones(len(terms))
    arrays: dict[str, Contribution] = {name: Dense(part, ones) for name, part in parts.items()}
    arrays["terms"] = Dense(terms.astype(np.float32)[:, None], ones)
    return arrays
