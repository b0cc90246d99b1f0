"""Central trainings on the same data: implicit's ALS and BPR, and EASE in a few lines of NumPy."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from implicit.als import AlternatingLeastSquares
from implicit.bpr import BayesianPersonalizedRanking
from scipy import sparse
from task import Task, serve
from threadpoolctl import threadpool_limits

Spent = tuple[float, float]
"""Seconds by the clock and of the processor."""


class Central:
    def __init__(self, task: Task) -> None:
        self.task = task
        indptr, items = task.array("train_indptr"), task.array("train_items")
        shape = (len(indptr) - 1, task.settings["items"])
        self.train = sparse.csr_matrix((np.ones(len(items), dtype=np.float32), items, indptr), shape)
        valid = task.array("valid")
        users = np.flatnonzero(valid >= 0)
        extra = sparse.csr_matrix((np.ones(len(users), dtype=np.float32), (users, valid[users])), shape)
        self.history = (self.train + extra).tocsr()

    def train_one(self, order: dict[str, Any]) -> dict[str, Any]:
        kind, settings = order["do"], order.get("settings", {})
        (seconds, cpu), scores = getattr(self, kind)(**settings)
        path = self.task.folder / f"scores-{kind}.npy"
        np.save(path, scores.astype(np.float32))
        return {"seconds": seconds, "cpu": cpu, "scores": str(path)}

    def als(self, **settings: Any) -> tuple[Spent, np.ndarray]:
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(random_state=0, **settings)
            began, cpu = time.perf_counter(), time.process_time()
            model.fit(self.train, show_progress=False)
            spent = time.perf_counter() - began, time.process_time() - cpu
            users = model.recalculate_user(np.arange(self.history.shape[0]), self.history)
        return spent, users @ model.item_factors.T

    def bpr(self, **settings: Any) -> tuple[Spent, np.ndarray]:
        model = BayesianPersonalizedRanking(random_state=0, **settings)
        began, cpu = time.perf_counter(), time.process_time()
        model.fit(self.train, show_progress=False)
        spent = time.perf_counter() - began, time.process_time() - cpu
        return spent, model.user_factors @ model.item_factors.T

    def ease(self, count_factor: float, threads: int) -> tuple[Spent, np.ndarray]:
        with threadpool_limits(threads, "blas"):
            began, cpu = time.perf_counter(), time.process_time()
            gram = (self.train.T @ self.train).toarray().astype(np.float64)
            gram[np.diag_indices_from(gram)] += count_factor * self.train.nnz / self.train.shape[1]
            inverse = np.linalg.inv(gram)
            weights = inverse / -np.diag(inverse)
            weights[np.diag_indices_from(weights)] = 0.0
            spent = time.perf_counter() - began, time.process_time() - cpu
        return spent, self.history @ weights


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    serve(Central(Task(parser.parse_args().task)).train_one)
