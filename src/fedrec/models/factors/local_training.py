"""Local training of factors in a round: what is drawn for each client, and what its training is like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.kernels.factor_batches import ADAGRAD, ADAM, MOMENTUM, SGD, Pace, local_batches
from fedrec.kernels.factor_draws import Slots, compact_rows, draw_samples
from fedrec.kernels.factors import BCE, BPR, SOFTMAX, SQUARED, Samples, local_sgd

__all__ = ["Drawn", "LocalOptimiser", "LocalTraining", "Loss", "draw"]

Loss = Literal["bce", "bpr", "softmax", "squared"]
LocalOptimiser = Literal["sgd", "momentum", "adam", "adagrad"]
_LOSSES = {"bce": BCE, "squared": SQUARED, "bpr": BPR, "softmax": SOFTMAX}
_OPTIMISERS = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM, "adagrad": ADAGRAD}


@dataclass(frozen=True, eq=False)
class Drawn:
    """What some clients train on in a round.

    Args:
        for_kernels: samples as kernels take them.
        sampled: [clients] int64, how many of a client's rows samples may name; the others follow them.
        more_slots: int32 places of the `more` items given to `draw`.
    """

    for_kernels: Samples
    sampled: np.ndarray
    more_slots: np.ndarray

    @property
    def indptr(self) -> np.ndarray:
        """Ranges of the clients in `rows` [clients + 1] int64."""
        return self.for_kernels.indptr

    @property
    def rows(self) -> np.ndarray:
        """Each client's touched items [touched] int32: its history in order, then its negatives, then any others."""
        return self.for_kernels.rows


def draw(
    clients: Clients,
    seeds: np.ndarray,
    epochs: int,
    negatives: int,
    more: tuple[np.ndarray, np.ndarray] | None = None,
) -> Drawn:
    """Draw each client's order of interactions and negatives from outside its history and its excluded items.

    Args:
        clients: histories.
        seeds: [clients] uint64.
        epochs: passes.
        negatives: drawn per interaction and epoch.
        more: (indptr, items) of further rows that each client's training is to hold.
    """
    lengths = clients.lengths
    if more is None:
        more = np.zeros(len(clients) + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    most = np.minimum(lengths * (1 + epochs * negatives) + np.diff(more[0]), clients.n_items)
    room = offsets(most)
    rows = np.empty(room[-1], dtype=np.int32)
    sampled, counts = np.zeros(len(clients), dtype=np.int64), np.zeros(len(clients), dtype=np.int64)
    sample_indptr = (clients.indptr - clients.indptr[0]) * (epochs * (1 + negatives))
    samples = np.empty(sample_indptr[-1], dtype=np.int32)
    more_slots = np.empty(len(more[1]), dtype=np.int32)
    slots = Slots(room, rows, sampled, counts)
    draw_samples(clients.histories(seeds), *more, clients.n_items, epochs, negatives, slots, samples, more_slots)
    indptr = offsets(counts)
    compact = np.empty(indptr[-1], dtype=np.int32)
    compact_rows(room, rows, indptr, compact)
    width = 1 + negatives
    drawn = Samples(indptr, compact, sample_indptr, samples, width, epochs, clients.weights)
    return Drawn(drawn, sampled, more_slots)


@dataclass(frozen=True)
class LocalTraining:
    """How a client trains.

    Args:
        loss: of scores; see `fedrec.kernels.factors`.
        learning_rate: of the optimiser.
        reg: L2 pull on the factors of every term.
        batch_size: terms of a step, which follows the mean of their gradients. A term is a labelled item (`bce`,
            `squared`), a pair (`bpr`), or a positive with all its negatives (`softmax`).
        optimiser: its state lives for one round.
        momentum: of `momentum`, and first decay of `adam`.
        proximal: μ of FedProx.
    """

    loss: Loss
    learning_rate: float
    reg: float
    batch_size: int = 1
    optimiser: LocalOptimiser = "sgd"
    momentum: float = 0.9
    proximal: float = 0.0

    def run(
        self,
        drawn: Drawn,
        table: np.ndarray,
        users: np.ndarray,
        *,
        learn_users: bool = True,
        learn_items: bool = True,
        drift: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Train every client on what was drawn for it.

        Args:
            drawn: of the clients.
            table: [items, d + 1] float32, item factors and biases.
            users: [clients, d] float32, changed in place.
            learn_users, learn_items: what moves.
            drift: [touched, d + 1] float32, added to the gradient of each row in every step.

        Returns:
            The change of each touched row [touched, d + 1] float32, and the number of steps [clients] int64.
        """
        values = np.empty((len(drawn.rows), table.shape[1]), dtype=np.float32)
        rate, reg = np.float32(self.learning_rate), np.float32(self.reg)
        keep = np.float32(1.0 / (1.0 + self.learning_rate * self.proximal))
        loss = _LOSSES[self.loss]
        steps = np.zeros(len(users), dtype=np.int64)
        if self.batch_size == 1 and self.optimiser == "sgd" and self.proximal == 0 and drift is None:
            local_sgd(drawn.for_kernels, table, users, rate, reg, loss, learn_users, learn_items, values)
            return values, steps
        optimiser = _OPTIMISERS[self.optimiser]
        pace = Pace(self.batch_size, optimiser, rate, np.float32(self.momentum), reg, keep)
        drift = np.empty((0, table.shape[1]), dtype=np.float32) if drift is None else drift
        local_batches(drawn.for_kernels, table, users, pace, loss, learn_users, learn_items, drift, values, steps)
        return values, steps
