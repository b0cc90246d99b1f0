"""The task that every peer is given, and how a peer answers the driver. Needs NumPy only.

A task is a folder of arrays: `train_indptr`, `train_items` (CSR), `valid`, `test` (item of each user, −1 without one),
`valid_candidates`, `test_candidates` ([users, 100], the held-out item first, then 99 that the user never touched), and
`task.json` with `items`, `d`, `batch`, `negatives`, `learning_rate` and `item_rate`.

The driver writes one JSON object per line to a peer's standard input; the peer does that piece of work, times it by its
own clock, and answers with one line that begins with `ANSWER`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ANSWER = "ANSWER "


@dataclass(frozen=True)
class Task:
    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        return json.loads((self.folder / "task.json").read_text())

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", allow_pickle=False)

    @cached_property
    def train(self) -> list[np.ndarray]:
        """Training items of each user."""
        return np.split(self.array("train_items"), self.array("train_indptr")[1:-1])

    @cached_property
    def candidates(self) -> dict[str, np.ndarray]:
        return {part: self.array(f"{part}_candidates") for part in ("valid", "test")}

    def spread(self, count: int) -> np.ndarray:
        """`count` users at even distances in the order of their number of interactions."""
        order = np.argsort([len(items) for items in self.train], kind="stable")
        return order[np.linspace(0, len(order) - 1, count).round().astype(int)]


def draw_samples(
    items: np.ndarray, n_items: int, negatives: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A client's items and fresh negatives from outside its history, with labels; vectorised over the client."""
    free = np.ones(n_items, dtype=bool)
    free[items] = False
    drawn = rng.choice(np.flatnonzero(free), size=len(items) * negatives)
    samples = np.concatenate([items, drawn]).astype(np.int64)
    labels = np.concatenate([np.ones(len(items)), np.zeros(len(drawn))]).astype(np.float32)
    order = rng.permutation(len(samples))
    return samples[order], labels[order]


def hit_and_ndcg(scores: np.ndarray) -> tuple[float, float]:
    """HR@10 and NDCG@10 of one list of candidates whose first entry is the held-out item; ties count half."""
    above = float(np.sum(scores[1:] > scores[0]) + 0.5 * np.sum(scores[1:] == scores[0]))
    return (1.0, 1.0 / np.log2(above + 2.0)) if above < 10 else (0.0, 0.0)


def answer(**facts: Any) -> None:
    print(ANSWER + json.dumps(facts), flush=True)


def wait() -> dict[str, Any] | None:
    """The driver's next order; `None` at the end."""
    line = sys.stdin.readline()
    return json.loads(line) if line.strip() else None


def serve(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer orders until there are no more."""
    answer(ready=True)
    while (order := wait()) is not None:
        answer(**work(order))
