"""The towers of `two-tower`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.models.networks.batch import Batch

__all__ = ["TwoTowerModule"]

_INIT_SD = 0.05


class TwoTowerModule(nn.Module):
    """Item vectors, and a perceptron on top of them for either side."""

    def __init__(self, n_items: int, size: int, hidden: int, keep: float, dropout: float, negatives: int) -> None:
        super().__init__()
        self.keep, self.dropout, self.drawn = keep, dropout, negatives
        self.items = nn.Parameter(nn.init.normal_(torch.empty(n_items, size), std=_INIT_SD))
        self.bias = nn.Parameter(torch.zeros(n_items))
        self.user_in, self.user_out = nn.Linear(size, hidden), nn.Linear(hidden, size)
        self.item_in, self.item_out = nn.Linear(size, hidden, bias=False), nn.Linear(hidden, size, bias=False)
        self.scale = nn.Parameter(torch.tensor([math.log(10.0)]))
        for last in (self.user_out, self.item_out):
            nn.init.normal_(last.weight, std=_INIT_SD)

    def scores(self, batch: Batch) -> Tensor:
        """Scores of all items."""
        return self._users(batch, batch.known) @ self._items(self.items).T + self.bias

    def loss(self, batch: Batch) -> Tensor:
        """Softmax of the half of the history that is to be found, over √n of its items."""
        heads = batch.uniform("coin", batch.items.shape[1]) < self.keep
        given, wanted = batch.known & heads, batch.known & ~heads
        users = self._users(batch, given)
        if self.drawn >= batch.n_items:
            logits = users @ self._items(self.items).T + self.bias
            logits = logits.masked_fill(batch.held(given), -math.inf)
            parts = torch.log_softmax(logits, 1).gather(1, batch.items.clamp(max=batch.n_items - 1))
        else:
            drawn = batch.candidates(self.drawn)
            shift = math.log(batch.n_items / self.drawn)
            others = users @ self._items(self.items[drawn]).T + self.bias[drawn] + shift
            others = others.masked_fill(batch.held(batch.known)[:, drawn], -math.inf)
            places = batch.items.clamp(max=batch.n_items - 1)
            vectors = self._items(functional.embedding(places, self.items))
            found = (users[:, None, :] * vectors).sum(-1) + self.bias[places]
            parts = found - torch.logaddexp(found, torch.logsumexp(others, 1)[:, None])
        parts = torch.where(wanted, parts, torch.zeros_like(parts))
        return -parts.sum(1) / wanted.sum(1).clamp(min=1).sqrt()

    def _users(self, batch: Batch, given: Tensor) -> Tensor:
        """User tower [clients, d] of the items that are given."""
        sums = (batch.rows(self.items) * given[..., None]).sum(1)
        means = functional.normalize(sums, dim=1) * self.scale.exp()
        inner = batch.dropout(torch.relu(self.user_in(means)), self.dropout, "user")
        return means + self.user_out(inner)

    def _items(self, vectors: Tensor) -> Tensor:
        """Item tower of item vectors […, d]."""
        return vectors + self.item_out(torch.relu(self.item_in(vectors)))
