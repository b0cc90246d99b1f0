"""The items of a round of `lora`: vectors that learn, among vectors that stay."""

from __future__ import annotations

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
        drawn: positions of the drawn items [n].
        temperature, targets: hyperparameters of the model.
    """

    def __init__(self, table: np.ndarray, drawn: np.ndarray, temperature: float, targets: int) -> None:
        super().__init__()
        self.temperature, self.targets = temperature, targets
        self.register_buffer("table", torch.from_numpy(np.array(table)))
        self.register_buffer("drawn", torch.from_numpy(drawn.astype(np.int64)))
        marks = np.zeros(len(table), dtype=np.bool_)
        marks[drawn] = True
        self.register_buffer("marked", torch.from_numpy(marks))
        self.rows = nn.Parameter(torch.from_numpy(table[drawn]))

    def scores(self, batch: Batch) -> Tensor:
        """Cosine of the sum of the history with every item."""
        return functional.normalize(batch.has @ self._whole, dim=1) @ self._whole.T

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean softmax loss of some drawn items of the history among all drawn ones, each left out of it in turn;
        clients with fewer than two items, or without a drawn one, have none."""
        whole = self._whole.index_copy(0, self._drawn, self.rows)
        items = batch.items.clamp(max=batch.n_items - 1)
        drawn = batch.known & self._marked[items]

        def sums() -> Tensor:
            """By whichever way reads fewer rows."""
            few = batch.apart or batch.n_items > batch.items.numel()
            return batch.rows(whole).sum(1) if few else batch.has @ whole

        return left_out_losses(
            batch,
            drawn,
            self.targets,
            self.temperature,
            lambda places: functional.embedding(places, whole),
            sums,
            self._drawn,
        )

    @property
    def _whole(self) -> Tensor:
        return self.get_buffer("table")

    @property
    def _drawn(self) -> Tensor:
        return self.get_buffer("drawn")

    @property
    def _marked(self) -> Tensor:
        return self.get_buffer("marked")
