"""What a module is handed: histories of some clients as tensors, and draws that belong to each client."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from fedrec.data.clients import Clients
from fedrec.models.networks.devices import device

__all__ = ["Batch", "batch_of", "batches_of", "reseeded", "tensors"]

_REDRAWS = 8


@dataclass(frozen=True, eq=False)
class Batch:
    """Some clients, as a module sees them. A module works on all of them at once, and mixes no two of them.

    Args:
        items: [clients, window] int64 positions in the catalog, oldest first and newest last; `n_items` fills the
            places before a short history.
        n_items: length of the catalog.
        seeds: [clients] int64, of what is drawn for each client.
        common: seed of what is drawn for all clients of a step alike, wherever they live.
        training: whether a module learns from the batch; otherwise it scores.
        values: [clients, window] float32, if the model reads values of interactions; 0 where there is none.
        private: arrays of the clients, [clients, …] float32.
        public: arrays that the model makes from the catalog.
        apart: whether the client is handled beside others that it must not meet, by `torch.func.vmap`; then no shape
            may depend on which items the window holds.
    """

    items: Tensor
    n_items: int
    seeds: Tensor
    common: int = 0
    training: bool = False
    values: Tensor | None = None
    private: Mapping[str, Tensor] = field(default_factory=dict)
    public: Mapping[str, Tensor] = field(default_factory=dict)
    apart: bool = False

    def __len__(self) -> int:
        return len(self.items)

    @property
    def known(self) -> Tensor:
        """Which places hold an item: [clients, window] bool."""
        return self.items < self.n_items

    def rows(self, table: Tensor) -> Tensor:
        """Rows of a table [n_items, d] at the items of the window: [clients, window, d], zeros where there is none."""
        rows = torch.nn.functional.embedding(self.items.clamp(max=self.n_items - 1), table)
        return rows * self.known[..., None]

    @property
    def has(self) -> Tensor:
        """Which items the window of each client holds: [clients, n_items] float32, 1 or 0."""
        return self.held(self.known).to(torch.float32)

    @property
    def dense(self) -> Tensor:
        """The window of each client as a row of the interaction matrix [clients, n_items] float32: the value of each
        item, or 1 if the model reads no values; 0 for items that the window does not hold."""
        if self.values is None:
            return self.has
        wide = torch.zeros((len(self.items), self.n_items + 1), device=self.items.device)
        return wide.scatter(1, self.items, self.values)[:, :-1]

    def held(self, places: Tensor) -> Tensor:
        """Which items stand at some places [clients, window] bool of the window: [clients, n_items] bool."""
        wide = torch.zeros((len(self.items), self.n_items + 1), dtype=torch.bool, device=self.items.device)
        return wide.scatter(1, self.items.masked_fill(~places, self.n_items), True)[:, :-1]

    def uniform(self, name: str, *shape: int) -> Tensor:
        """Draws from [0, 1) that depend on each client's seed, the name and the place in `shape` alone:
        [clients, *shape] float32. Two draws of one name are the same."""
        words = _words(self.seeds, name, math.prod(shape))
        return ((words >> 40) & 0xFFFFFF).to(torch.float32).mul(2.0**-24).reshape(len(self.seeds), *shape)

    def dropout(self, values: Tensor, share: float, name: str) -> Tensor:
        """`values` [clients, …] with a share of them set to 0 and the rest scaled up, in training; the draws of a
        client are its own, unlike those of `torch.nn.Dropout`."""
        if not self.training or share <= 0.0:
            return values
        size = values[0].numel()
        words = _words(self.seeds, name, -(-size // 4))  # each word is four draws of 16 bits
        draws = words.view(torch.int16)[:, :size].reshape(values.shape)
        return values * (draws >= round(share * 2**16) - 2**15) / (1.0 - share)

    def candidates(self, number: int) -> Tensor:
        """Items [number] int64 that are drawn for all clients of the step alike, with replacement."""
        words = _words(torch.tensor([self.common], device=self.items.device), "common", number)[0]
        return (words & (2**62 - 1)) % self.n_items

    def negatives(self, number: int, name: str = "negatives") -> Tensor:
        """Items that the client's window does not hold, drawn for each client: [clients, number] int64. A client that
        has nearly all of the catalog may be given items that it has."""
        has, drawn = self.held(self.known), None
        for again in range(_REDRAWS):
            fresh = (self.uniform(f"{name} {again}", number) * self.n_items).to(torch.int64)
            drawn = fresh if drawn is None else torch.where(has.gather(1, drawn), fresh, drawn)
        assert drawn is not None
        return drawn


def batch_of(
    clients: Clients,
    window: int,
    seeds: np.ndarray,
    *,
    common: int = 0,
    training: bool = False,
    crops: float = 0.0,
    private: Mapping[str, np.ndarray] | None = None,
    public: Mapping[str, Tensor] | None = None,
) -> Batch:
    """Clients as a batch.

    Args:
        clients: with their histories.
        window: most interactions of a client that are taken.
        seeds: [clients] uint64.
        common: seed of the step.
        training: whether a module learns from it.
        crops: share of the clients with a longer history than the window that are given a part of it at random; the
            others are given the newest.
        private: arrays of the clients.
        public: arrays from the catalog, as `tensors` gives them.
    """
    where = device()
    ends = clients.indptr[1:].astype(np.int64)
    words = torch.from_numpy(seeds.view(np.int64).copy())
    if crops > 0.0 and training:
        drawn = (
            Batch(torch.empty((len(clients), 0), dtype=torch.int64), clients.n_items, words).uniform("crop", 2).numpy()
        )
        spare = np.maximum(clients.lengths - window, 0)
        ends = ends - np.where(drawn[:, 0] < crops, np.floor(drawn[:, 1] * (spare + 1)), 0).astype(np.int64)
    places = ends[:, None] + np.arange(-window, 0)
    valid = places >= clients.indptr[:-1, None]
    places = np.where(valid, places, 0)
    empty = len(clients.items) == 0
    items = np.full(places.shape, clients.n_items, np.int64) if empty else clients.items[places].astype(np.int64)
    items[~valid] = clients.n_items
    values = None
    if clients.values is not None:
        taken = np.zeros(places.shape, np.float32) if empty else clients.values[places]
        values = torch.from_numpy(np.where(valid, taken, np.float32(0.0))).to(where)
    return Batch(
        torch.from_numpy(items).to(where),
        clients.n_items,
        words.to(where),
        common,
        training,
        values,
        tensors(private or {}),
        public or {},
    )


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays on the device, copied."""
    return {name: torch.from_numpy(np.array(array)).to(device()) for name, array in arrays.items()}


def batches_of(clients: Clients, size: int) -> Iterator[np.ndarray]:
    """Positions of the clients, `size` at a time."""
    for start in range(0, len(clients), size):
        yield np.arange(start, min(start + size, len(clients)))


def reseeded(batch: Batch, name: str) -> Batch:
    """The batch with other draws."""
    return replace(batch, seeds=_mixed(batch.seeds ^ _word(name)))


def _words(seeds: Tensor, name: str, number: int) -> Tensor:
    """Words of 64 random bits for seeds [n], by the name and place of a draw: [n, number] int64."""
    return _mixed(_mixed(seeds ^ _word(name))[:, None] + torch.arange(number, device=seeds.device))


def _mixed(words: Tensor) -> Tensor:
    """SplitMix64's finaliser on 64-bit words, which torch keeps as signed numbers."""
    words = words + _signed(0x9E3779B97F4A7C15)
    words = (words ^ ((words >> 30) & (2**34 - 1))) * _signed(0xBF58476D1CE4E5B9)
    words = (words ^ ((words >> 27) & (2**37 - 1))) * _signed(0x94D049BB133111EB)
    return words ^ ((words >> 31) & (2**33 - 1))


def _word(name: str) -> int:
    """A word for a name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _signed(word: int) -> int:
    """A word of 64 bits as a signed number."""
    return word - 2**64 if word >= 2**63 else word
