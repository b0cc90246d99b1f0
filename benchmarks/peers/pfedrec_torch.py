"""PFedRec's model and a client's local training in PyTorch, for the peers that bring a simulator of their own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from task import hit_and_ndcg


class PFedRec(torch.nn.Module):
    """score = sigmoid(⟨head, item⟩ + bias): a shared item table and a private linear head."""

    def __init__(self, n_items: int, d: int) -> None:
        super().__init__()
        self.items = torch.nn.Embedding(n_items, d)
        self.head = torch.nn.Linear(d, 1)

    def forward(self, items: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.head(self.items(items))).squeeze(-1)


def train_batches(
    model: PFedRec, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], settings: dict[str, Any]
) -> None:
    """Batch by batch: a step on the head, then, with the loss computed anew, a step on the items."""
    rate = settings["learning_rate"]
    item_rate = rate * model.items.num_embeddings * settings["item_rate"]
    head_steps = torch.optim.SGD(model.head.parameters(), lr=rate)
    item_steps = torch.optim.SGD(model.items.parameters(), lr=item_rate)
    loss = torch.nn.BCELoss()
    for items, labels in batches:
        for steps in (head_steps, item_steps):
            steps.zero_grad()
            loss(model(items), labels).backward()
            steps.step()


def cut(samples: np.ndarray, labels: np.ndarray, size: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of tensors, without copying."""
    tensors = torch.from_numpy(samples), torch.from_numpy(labels)
    return zip(*(tensor.split(size) for tensor in tensors), strict=True)


@torch.no_grad()
def measure(model: PFedRec, lists: Iterable[np.ndarray]) -> list[tuple[float, float]]:
    """HR@10 and NDCG@10 of a client's candidate lists."""
    return [
        hit_and_ndcg(model(torch.from_numpy(candidates)).numpy()) if candidates[0] >= 0 else (np.nan, np.nan)
        for candidates in lists
    ]
