"""The task in Flower's simulation engine: a client app per user, FedAvg over the item table, heads in the context."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # for the workers
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from flwr_client import client_app, loaded
from task import answer, wait


def server_app(folder: str, clients: int) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        _, _, module = loaded(folder, clients)
        arrays = ArrayRecord(module.items.state_dict())
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_available_nodes=clients)
        answer(ready=True)
        while wait() is not None:
            began = time.perf_counter()
            result = strategy.start(grid, arrays, num_rounds=1)
            seconds = time.perf_counter() - began
            arrays = result.arrays
            metrics: Any = result.train_metrics_clientapp[1]
            answer(seconds=seconds, clients=clients, **{"hr@10": float(metrics["hr@10"])})

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("--clients", type=int, required=True)
    given = parser.parse_args()
    run_simulation(
        server_app(str(given.task), given.clients),
        client_app(str(given.task), given.clients),
        num_supernodes=given.clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
