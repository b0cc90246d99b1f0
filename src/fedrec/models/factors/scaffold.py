"""SCAFFOLD's control variates over sparse item rows (Karimireddy et al. 2020, "SCAFFOLD", algorithm 1, option II).

A client with control variate cᵢ trains K steps along gradient + c − cᵢ, c the average of all, and then sets
cᵢ ← cᵢ − c + (x − y) / (K · rate), the mean of its gradients, from the shared rows x and its own y. Here

- cᵢ lives on at most `rows` rows of a client: its newest interactions of its latest round, then (if there is room) its
  negatives. Whichever rows those are, c is the average of just these cᵢ, so corrections still cancel over all clients.
- c is the average over clients that ever took part; for the others cᵢ = 0, and the paper divides by all clients.
- On rows that a client does not hold its change would be −K · rate · c. That is the same for all but K, so a client
  sends what its rows differ from it, and the coordinator adds −rate · c · ΣK: sums stay sparse, and nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedrec.data.clients import Clients
from fedrec.data.interactions import offsets
from fedrec.models.base import Arrays, Private
from fedrec.models.factors.local_training import Drawn
from fedrec.models.shapes import Shape

__all__ = ["Controls", "control_rows", "first_controls", "stored_rows", "used_controls"]


def first_controls(clients: Clients, rows: int, width: int) -> dict[str, np.ndarray]:
    """Private arrays of clients that have not taken part: no rows (−1), zeros, and a mark that says so."""
    return {
        "control_items": np.full((len(clients), rows), -1, dtype=np.int32),
        "controls": np.zeros((len(clients), rows, width), dtype=np.float32),
        "took_part": np.zeros((len(clients), 1), dtype=np.float32),
    }


def control_rows(rows: int, width: int, n_items: int) -> dict[str, Shape]:
    """What the private arrays of `first_controls` look like, without the axis of clients."""
    return {
        "control_items": Shape((rows,), "int32", -1, n_items),
        "controls": Shape((rows, width), finite=False),
        "took_part": Shape((1,)),
    }


def stored_rows(private: Private) -> tuple[np.ndarray, np.ndarray]:
    """Rows on which each client's control variate lives: indptr [clients + 1] int64 and items int32."""
    items = private["control_items"]
    held = items >= 0
    return offsets(held.sum(axis=1)), items[held]


@dataclass(frozen=True, eq=False)
class Controls:
    """Control variates at the touched rows of some clients, and what follows from a round of training.

    Args:
        own: [touched, w] float32, cᵢ.
        drift: [touched, w] float32, c − cᵢ.
        shared: [touched, w] float32, c.
    """

    own: np.ndarray
    drift: np.ndarray
    shared: np.ndarray

    def sent(self, change: np.ndarray, steps: np.ndarray, rate: float) -> np.ndarray:
        """The change [touched, w] less −K · rate · c; `steps` [touched]."""
        factors = (rate * steps).astype(np.float32)[:, None]
        return np.asarray(change + factors * self.shared)

    def renewed(
        self, drawn: Drawn, clients: Clients, private: Private, change: np.ndarray, steps: np.ndarray, rate: float
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """New private arrays, and the difference cᵢ new − old [touched, w] float32."""
        rows = private["control_items"].shape[1]
        counts = np.diff(drawn.indptr)
        owner = np.repeat(np.arange(len(counts)), counts)
        slot = np.arange(len(owner)) - np.repeat(drawn.indptr[:-1], counts)
        place = slot - np.repeat(np.maximum(clients.lengths - rows, 0), counts)
        kept = (place >= 0) & (place < rows) & (slot < drawn.sampled[owner]) & (steps[owner] > 0)
        divisors = (rate * np.maximum(steps, 1)).astype(np.float32)[owner][:, None]
        fresh = np.where(kept[:, None], -self.drift - change / divisors, np.float32(0.0))
        items = np.full_like(private["control_items"], -1)
        items[owner[kept], place[kept]] = drawn.rows[kept]
        controls = np.zeros_like(private["controls"])
        controls[owner[kept], place[kept]] = fresh[kept]
        took_part = np.ones_like(private["took_part"])
        return {"control_items": items, "controls": controls, "took_part": took_part}, fresh - self.own


def used_controls(shared: Arrays, private: Private, drawn: Drawn, stored: np.ndarray) -> Controls:
    """Control variates of clients whose `stored` rows (indptr) were given to `draw`."""
    items = private["control_items"]
    own = np.zeros((len(drawn.rows), private["controls"].shape[2]), dtype=np.float32)
    own[np.repeat(drawn.indptr[:-1], np.diff(stored)) + drawn.more_slots] = private["controls"][items >= 0]
    common = shared["control"][drawn.rows]
    return Controls(own, common - own, common)
