"""The transformer of `sasrec`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.models.networks.batch import Batch

__all__ = ["Design", "SASRecModule"]

_INIT_SD = 0.02


@dataclass(frozen=True)
class Design:
    """What the transformer looks like; `fedrec.models.networks.sasrec.SASRec` says what each means."""

    size: int
    blocks: int
    heads: int
    dropout: float
    loss: str
    negatives: int
    calibration: float
    rotary: bool
    window: int


class SASRecModule(nn.Module):
    """Causal self-attention over the items of a window."""

    def __init__(self, n_items: int, design: Design) -> None:
        super().__init__()
        size = design.size
        self.design = design
        self.items = nn.Parameter(torch.empty(n_items, size))
        self.bias = nn.Parameter(torch.zeros(n_items))
        nn.init.normal_(self.items, std=_INIT_SD)
        if not design.rotary:
            self.places = nn.Parameter(torch.empty(design.window, size))
            nn.init.normal_(self.places, std=_INIT_SD)
        self.blocks = nn.ModuleList(_Block(design, f"block {number}") for number in range(design.blocks))
        self.norm = nn.LayerNorm(size)

    def scores(self, batch: Batch) -> Tensor:
        """Scores of all items as the next one."""
        return self._states(batch, batch.items)[:, -1] @ self.items.T + self.bias

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Losses of the next item after each place of the window, and the number of places."""
        inputs, targets = batch.items[:, :-1], batch.items[:, 1:]
        known = inputs < batch.n_items
        if batch.apart:  # every place has a loss there, and those without an item count nothing
            states = self._states(batch, inputs).flatten(0, 1)
            losses = self._losses(batch, states, targets.flatten().clamp(max=batch.n_items - 1)).reshape(known.shape)
            return torch.where(known, losses, 0.0).sum(1), known.sum(1).to(torch.float32)
        owners = torch.arange(len(batch), device=inputs.device)[:, None].expand_as(inputs)[known]
        losses = self._losses(batch, self._states(batch, inputs)[known], targets[known])
        nothing = torch.zeros(len(batch), device=inputs.device)
        return nothing.index_add(0, owners, losses), known.sum(1).to(torch.float32)

    def _losses(self, batch: Batch, states: Tensor, targets: Tensor) -> Tensor:
        """Losses of states [terms, d] whose next items are `targets` [terms]."""
        design = self.design
        if design.loss == "softmax":
            return functional.cross_entropy(states @ self.items.T + self.bias, targets, reduction="none")
        drawn = batch.candidates(design.negatives)
        positive = (states * self.items[targets]).sum(1) + self.bias[targets]
        others = states @ self.items[drawn].T + self.bias[drawn]
        same = drawn[None, :] == targets[:, None]
        if design.loss == "sampled-softmax":
            others = others + math.log(max(batch.n_items - 1, 1) / design.negatives)
            others = others.masked_fill(same, -math.inf)
            return torch.logsumexp(torch.cat([positive[:, None], others], 1), 1) - positive
        share = min(design.negatives / max(batch.n_items - 1, 1), 1.0)
        power = share * (design.calibration * (1.0 - 1.0 / share) + 1.0 / share)
        return -power * functional.logsigmoid(positive) - functional.logsigmoid(-others).masked_fill(same, 0.0).sum(1)

    def _states(self, batch: Batch, items: Tensor) -> Tensor:
        """States [clients, places, d] after each place."""
        known = items < batch.n_items
        length = items.shape[1]
        states = functional.embedding(items.clamp(max=batch.n_items - 1), self.items)
        if not self.design.rotary:
            states = states + self.places[-length:]
        states = batch.dropout(states * known[..., None], self.design.dropout, "embedding")
        before = torch.ones((length, length), dtype=torch.bool, device=items.device).tril()
        alone = torch.eye(length, dtype=torch.bool, device=items.device)  # a place without an item looks at itself
        seen = (before & known[:, None, :]) | alone
        for block in self.blocks:
            states = block(batch, states, seen[:, None])
        return self.norm(states)


class _Block(nn.Module):
    """Attention, then a feed-forward layer, each added to what it is given."""

    def __init__(self, design: Design, name: str) -> None:
        super().__init__()
        size = design.size
        self.name, self.dropout, self.heads = name, design.dropout, design.heads
        self.rotary = design.rotary
        self.before_attention, self.before_feed = nn.LayerNorm(size), nn.LayerNorm(size)
        self.asked = nn.Linear(size, 3 * size, bias=False)
        self.joined = nn.Linear(size, size)
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, size)

    def forward(self, batch: Batch, states: Tensor, seen: Tensor) -> Tensor:
        clients, length, size = states.shape
        parts = self.asked(self.before_attention(states)).reshape(clients, length, 3, self.heads, size // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
        if self.rotary:
            queries, keys = _turned(queries), _turned(keys)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        mixed = self.joined(mixed.transpose(1, 2).reshape(clients, length, size))
        states = states + batch.dropout(mixed, self.dropout, f"{self.name} attention")
        fed = self.second(torch.relu(self.first(self.before_feed(states))))
        return states + batch.dropout(fed, self.dropout, f"{self.name} feed")


def _turned(vectors: Tensor) -> Tensor:
    """Vectors [clients, heads, places, d] turned by angles of their places (Su et al. 2021, "RoFormer")."""
    length, half = vectors.shape[2], vectors.shape[3] // 2
    rates = 10_000.0 ** (-torch.arange(half, device=vectors.device) / half)
    angles = torch.arange(length, device=vectors.device)[:, None] * rates
    first, second = vectors[..., :half], vectors[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
