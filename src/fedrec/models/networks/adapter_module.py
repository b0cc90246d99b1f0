"""The adapter of `adapter`: item features moved by two factors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.models.networks.batch import Batch

__all__ = ["AdapterModule", "left_out_losses"]

_NEVER = -1e9
"""A score that no softmax sees; its gradient is finite."""


class AdapterModule(nn.Module):
    """z = e (I + A B), of length 1, for item features e.

    Args:
        width: of e.
        rank, temperature, targets, negatives: hyperparameters of the model.
        warm: positions [n] of the items that negatives are drawn from.
    """

    def __init__(
        self, width: int, rank: int, temperature: float, targets: int, negatives: int, warm: np.ndarray
    ) -> None:
        super().__init__()
        self.warm = torch.from_numpy(warm)
        self.temperature, self.targets, self.drawn = temperature, targets, negatives
        self.down = nn.Parameter(nn.init.normal_(torch.empty(width, rank), std=width**-0.5))
        self.up = nn.Parameter(torch.zeros(rank, width))
        self.table: Tensor | None = None

    def scores(self, batch: Batch) -> Tensor:
        """Cosine of the sum of the history with every item."""
        if self.table is None or self.training:
            self.table = self.adapted(batch.public["features"])
        return functional.normalize(batch.has @ self.table, dim=1) @ self.table.T

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean softmax loss of some items of the history, each left out of it in turn; clients with fewer than two
        items have none."""
        features = batch.public["features"]
        drawn = self.warm.to(batch.items.device)
        if self.drawn < len(drawn):
            drawn = drawn[batch.candidates(self.drawn) % len(drawn)]
        return left_out_losses(
            batch,
            batch.known,
            self.targets,
            self.temperature,
            lambda wanted: self.adapted(functional.embedding(wanted, features)),
            lambda: self._sums(batch, features),
            drawn,
        )

    def adapted(self, features: Tensor) -> Tensor:
        """z of features […, width]."""
        return functional.normalize(features + features @ self.down @ self.up, dim=-1)

    def _sums(self, batch: Batch, features: Tensor) -> Tensor:
        """Sums of z over histories [clients, width], by whichever way adapts fewer items."""
        if not batch.apart and batch.n_items <= batch.items.numel():
            return batch.has @ self.adapted(features)
        rows = functional.embedding(batch.items.clamp(max=batch.n_items - 1), features)
        return (self.adapted(rows) * batch.known[..., None]).sum(1)


def left_out_losses(
    batch: Batch,
    choice: Tensor,
    targets: int,
    temperature: float,
    vectors_of: Callable[[Tensor], Tensor],
    sums: Callable[[], Tensor],
    candidates: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean softmax loss of some items of each history, each left out of it in turn and found among candidates.

    Args:
        batch: of clients; those with fewer than two items have no loss.
        choice: places of the window [clients, window] bool that hold items which may be left out.
        targets: how many are, drawn for each client.
        temperature: what cosines are divided by.
        vectors_of: vectors of length 1 at positions […] of the catalog: […, width].
        sums: of the vectors of each history: gives [clients, width].
        candidates: positions [n]; those of the client's own items are passed over.

    Returns:
        Losses and numbers of terms, 1 or 0: two tensors [clients].
    """
    draws = batch.uniform("target", batch.items.shape[1]).masked_fill(~choice, -1.0)
    values, places = draws.topk(min(targets, draws.shape[1]), dim=1)
    wanted = (values >= 0.0) & (batch.known.sum(1, keepdim=True) > 1)
    items = batch.items.clamp(max=batch.n_items - 1)
    own = vectors_of(items.gather(1, places))
    users = functional.normalize(sums()[:, None, :] - own, dim=2)
    found = (users * own).sum(2) / temperature
    others = users @ vectors_of(candidates).T / temperature
    others = others.masked_fill(batch.held(batch.known)[:, candidates][:, None, :], _NEVER)
    parts = found - torch.logaddexp(found, torch.logsumexp(others, 2))
    total = torch.where(wanted, parts, torch.zeros_like(parts)).sum(1)
    terms = wanted.sum(1)
    return -total / terms.clamp(min=1), (terms > 0).to(total.dtype)
