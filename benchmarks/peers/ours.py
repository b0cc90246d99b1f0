"""fedrec at the same orders as the peers: rounds, whole trainings, and the metrics of anybody's scores."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from task import serve

from fedrec.benchmarks.measuring import train_once
from fedrec.benchmarks.rounds import Rounds
from fedrec.data.splits import TRAIN
from fedrec.engines.local import LocalEngine
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import parse_protocol
from fedrec.evaluation.ranks import user_metrics
from fedrec.federation.plan import Plan
from fedrec.runs.loading import load_plan_data

EVALUATION = {"protocol": "sampled:99", "metrics": ["hr@10", "ndcg@10"]}
RECIPE = {"d": 32, "batch": 256, "negatives": 4, "learning_rate": 0.1, "item_rate": 80.0}
MOST_ROUNDS = 10_000


class Ours:
    def __init__(self, source: str, folder: Path) -> None:
        self.plan({"name": "popularity"}, source)
        self.name = source
        self.source = load_plan_data(self.plan({"name": "popularity"}, source).data, Path())
        self.engine = LocalEngine.build(self.source.interactions, self.resolved({"name": "popularity"}))
        self.rounds: Rounds | None = None
        export(self.engine, folder)

    def plan(self, model: dict[str, Any], source: str) -> Plan:
        return Plan.make({"data": {"source": source}, "model": model, "evaluation": EVALUATION})

    def resolved(self, model: dict[str, Any]) -> Plan:
        return self.plan(model, self.name).resolve(self.source.interactions, self.source.digest)

    def do(self, order: dict[str, Any]) -> dict[str, Any]:
        return {"round": self.round, "train": self.train, "measure": self.measure}[order.pop("do")](**order)

    def round(self) -> dict[str, Any]:
        if self.rounds is None:
            settings = {
                "embedding_size": RECIPE["d"],
                "batch_size": RECIPE["batch"],
                "negatives": RECIPE["negatives"],
                "learning_rate": RECIPE["learning_rate"],
                "item_rate": RECIPE["item_rate"],
            }
            plan = self.plan({"name": "pfedrec", **settings}, self.name)
            self.rounds = Rounds(self.source, plan, True, MOST_ROUNDS)
        times = self.rounds.next()
        parts = {"training": times.training, "evaluation": times.evaluation}
        return {
            "seconds": times.seconds,
            "cpu": times.cpu,
            "parts": parts,
            "clients": times.cohort,
            **self.rounds.metrics(),
        }

    def train(self, model: dict[str, Any]) -> dict[str, Any]:
        plan = self.resolved(model)
        began, cpu = time.perf_counter(), time.process_time()
        coordinator, trained = train_once(self.source, self.engine, plan)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        measured = plan.evaluation
        found = coordinator.evaluate(trained.state, trained.round, "test", measured.metrics, measured.protocol)
        return {"seconds": seconds, "cpu": cpu, "rounds": trained.rounds, **{name: found[name].value for name in found}}

    def measure(self, scores: str) -> dict[str, Any]:
        """HR@10 and NDCG@10 of scores [users, items] by the same exact protocol."""
        split = self.engine.shards[0].split
        lists = [(part.indptr, part.items) for part in (split.history("test"), split.test, split.data)]
        metrics = parse_metrics(EVALUATION["metrics"])
        table = np.load(scores, allow_pickle=False)
        found = user_metrics(table, *lists, metrics, parse_protocol(EVALUATION["protocol"]))
        means = found.values[found.valid].mean(axis=0)
        return {str(metric): float(mean) for metric, mean in zip(metrics, means, strict=True)}


def export(engine: LocalEngine, folder: Path) -> None:
    """Write the task that the peers read."""
    folder.mkdir(parents=True, exist_ok=True)
    split = engine.shards[0].split
    data = split.data
    rng = np.random.default_rng(0)
    train = data.where(split.part == TRAIN)
    np.save(folder / "train_indptr.npy", train.indptr)
    np.save(folder / "train_items.npy", train.items)
    draws = np.full((data.n_users, 198), -1, dtype=np.int64)
    for user in range(data.n_users):
        free = np.ones(data.n_items, dtype=bool)
        free[data.items[data.indptr[user] : data.indptr[user + 1]]] = False
        draws[user] = rng.choice(np.flatnonzero(free), 198, replace=False)
    for number, part in enumerate(("valid", "test")):
        held = split.relevant(part)
        first = np.full(data.n_users, -1, dtype=np.int64)
        first[held.lengths > 0] = held.items[held.indptr[:-1][held.lengths > 0]]
        np.save(folder / f"{part}.npy", first)
        lists = np.concatenate([first[:, None], draws[:, 99 * number : 99 * (number + 1)]], axis=1)
        np.save(folder / f"{part}_candidates.npy", lists)
    facts = {"items": data.n_items, "users": data.n_users, "interactions": len(train), **RECIPE}
    (folder / "task.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("--data", required=True)
    given = parser.parse_args()
    serve(Ours(given.data, given.task).do)
