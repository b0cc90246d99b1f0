"""The items of a round of `lora`: vectors that learn, among vectors that stay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedrec.models.networks.adapter_module import left_out_losses
from fedrec.models.networks.batch import Batch

__all__ = ["LoraModule"]


class LoraModule(nn.Module):
    """Vectors of all items, of which a round learns those of the drawn ones.

    Args:
        table: vectors of all items [items, width].
        drawn: positions of the drawn items [n], ascending.
        temperature, targets: hyperparameters of the model.
    """

    def __init__(self, table: np.ndarray, drawn: np.ndarray, temperature: float, targets: int) -> None:
        super().__init__()
        self.temperature, self.targets = temperature, targets
        self.register_buffer("table", torch.from_numpy(np.array(table)))
        places = np.full(len(table) + 1, len(drawn), dtype=np.int64)
        places[drawn] = np.arange(len(drawn))
        self.register_buffer("places", torch.from_numpy(places))
        self.rows = nn.Parameter(torch.from_numpy(table[drawn]))

    def scores(self, batch: Batch) -> Tensor:
        """Cosine of the sum of the history with every item."""
        table = self.get_buffer("table")
        return functional.normalize(batch.has @ table, dim=1) @ table.T

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean softmax loss of some drawn items of the history among all drawn ones, each found by the others that are
        drawn; clients with fewer than two drawn items have none. Vectors of other items are older, and are not used."""
        few = replace(batch, items=self.get_buffer("places")[batch.items], n_items=len(self.rows))

        def sums() -> Tensor:
            """By whichever way reads fewer rows."""
            apart = few.apart or few.n_items > few.items.numel()
            return few.rows(self.rows).sum(1) if apart else few.has @ self.rows

        return left_out_losses(
            few,
            few.known,
            self.targets,
            self.temperature,
            lambda places: functional.embedding(places, self.rows),
            sums,
            torch.arange(len(self.rows), device=batch.items.device),
        )
