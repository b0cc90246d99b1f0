"""The network of `neumf`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.models.networks.batch import Batch

__all__ = ["NeuMFModule"]

_INIT_SD = 0.1


class NeuMFModule(nn.Module):
    """Vectors of items in two parts, side by side: those that are multiplied, and those that the perceptron is
    given."""

    def __init__(
        self, n_items: int, size: int, hidden: Sequence[int], parts: str, positives: int, negatives: int, history: bool
    ) -> None:
        super().__init__()
        self.size, self.parts, self.positives, self.count = size, parts, positives, negatives
        self.items = nn.Parameter(nn.init.normal_(torch.empty(n_items, 2 * size), std=_INIT_SD))
        self.bias = nn.Parameter(torch.zeros(n_items))
        if history:
            self.histories = nn.Parameter(nn.init.normal_(torch.empty(n_items, 2 * size), std=_INIT_SD))
        widths = [2 * size, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(size + widths[-1], 1)

    def scores(self, batch: Batch) -> Tensor:
        """Scores of all items."""
        users = batch.private["users"] if "users" in batch.private else self._means(batch)[0]
        return self._scores(users[:, None, :], self.items[None], self.bias[None])

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of some items of the window and of drawn ones, and the number of items."""
        places = self._drawn(batch)
        known = batch.known.gather(1, places)
        positives = batch.items.gather(1, places).clamp(max=batch.n_items - 1)
        if "users" in batch.private:
            users = batch.private["users"][:, None, :].expand(-1, places.shape[1], -1)
        else:
            mean, count = self._means(batch)
            own = functional.embedding(positives, self.histories)
            users = (mean[:, None, :] * count[:, None, None] - own) / (count - 1.0).clamp(min=1.0)[:, None, None]
        negatives = batch.negatives(places.shape[1] * self.count).reshape(*places.shape, self.count)
        items = torch.cat([positives[..., None], negatives], -1)
        scores = self._scores(users[:, :, None, :], functional.embedding(items, self.items), self.bias[items])
        losses = functional.softplus(-scores[..., 0]) + functional.softplus(scores[..., 1:]).sum(-1)
        return (losses * known).sum(1), known.sum(1).to(torch.float32)

    def _drawn(self, batch: Batch) -> Tensor:
        """Places of the window whose items are to be predicted [clients, positives], those that hold an item first."""
        draws = batch.uniform("positives", batch.items.shape[1]) - (~batch.known).to(torch.float32)
        return draws.topk(min(self.positives, draws.shape[1]), dim=1).indices

    def _means(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean vector of each client's items [clients, 2 d], and how many there are."""
        has = batch.has
        count = has.sum(1)
        return has @ self.histories / count.clamp(min=1.0)[:, None], count

    def _scores(self, users: Tensor, items: Tensor, biases: Tensor) -> Tensor:
        """Scores [clients, …] of vectors of users and items [clients, …, 2 d] that are stretched over each other."""
        size = self.size
        product, output = self.output.weight[0, :size], self.output.weight[0, size:]
        scores = biases + self.output.bias
        if self.parts != "mlp":
            scores = scores + (users[..., :size] * items[..., :size]) @ product
        if self.parts != "gmf":
            first, *others = self.layers
            assert isinstance(first, nn.Linear)
            of_users, of_items = first.weight[:, :size], first.weight[:, size:]
            values = users[..., size:] @ of_users.T + items[..., size:] @ of_items.T + first.bias
            for layer in others:
                values = layer(torch.relu(values))
            scores = scores + torch.relu(values) @ output
        return scores
