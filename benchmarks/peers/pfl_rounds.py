"""The task in pfl: its simulated backend, its federated averaging, its PyTorch model, and private heads beside them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pfedrec_torch import PFedRec, measure, train_batches
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, StringMetricName, Weighted
from pfl.model.pytorch import PyTorchModel
from task import Task, answer, draw_samples, wait


class Scored(PFedRec):
    def loss(self, items: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy(self(items.long()), labels)  # pfl makes floats of everything

    @torch.no_grad()
    def metrics(self, items: torch.Tensor, labels: torch.Tensor) -> dict[str, Any]:
        return {"loss": Weighted(float(self.loss(items, labels)) * len(items), len(items))}


class PersonalHeads(FederatedAveraging):
    """Federated averaging of the item table; each user's head is put in before training and taken out after."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.heads: dict[Any, dict[str, torch.Tensor]] = {}

    def train_one_user(self, initial_model_state: Any, model: Any, user_dataset: Any, central_context: Any) -> Any:
        module, user = model.pytorch_model, user_dataset.user_id
        if user in self.heads:
            module.head.load_state_dict(self.heads[user])
        size = central_context.model_train_params.get("local_batch_size")
        batches = ((torch.from_numpy(items), torch.from_numpy(labels)) for items, labels in user_dataset.iter(size))
        train_batches(module, batches, self.task.settings)
        self.heads[user] = {name: tensor.clone() for name, tensor in module.head.state_dict().items()}
        metrics = Metrics()
        parts = ("test", "valid")
        lists = [self.task.candidates[part][user] for part in parts]
        for part, (hit, gain) in zip(parts, measure(module, lists), strict=True):
            if not np.isnan(hit):
                metrics[StringMetricName(f"{part} hr@10")] = Weighted(hit, 1)
                metrics[StringMetricName(f"{part} ndcg@10")] = Weighted(gain, 1)
        return model.get_model_difference(initial_model_state), metrics


class ByOrder(TrainingProcessCallback):
    """Answers after every round and goes on when the driver says so."""

    def __init__(self, clients: int) -> None:
        self.clients = clients
        self.began = self.cpu = 0.0

    def on_train_begin(self, *, model: Any) -> Metrics:
        answer(ready=True)
        wait()
        self.began, self.cpu = time.perf_counter(), time.process_time()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        seconds = time.perf_counter() - self.began
        cpu = time.process_time() - self.cpu
        found = {str(name): value.overall_value for name, value in aggregate_metrics if "test hr@10" in str(name)}
        answer(seconds=seconds, cpu=cpu, clients=self.clients, **{"hr@10": next(iter(found.values()), None)})
        go_on = wait()
        self.began, self.cpu = time.perf_counter(), time.process_time()
        return go_on is None, Metrics()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    task = Task(parser.parse_args().task)
    settings = task.settings
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tensors of one client are small: a second thread costs more than it brings
    module = Scored(settings["items"], settings["d"])
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    rng = np.random.default_rng(0)
    users = list(range(len(task.train)))

    def user_dataset(user: int) -> Dataset:
        raw = draw_samples(task.train[user], settings["items"], settings["negatives"], rng)
        return Dataset(raw_data=raw, user_id=user)

    data = FederatedDataset(user_dataset, get_user_sampler("minimize_reuse", users))
    PersonalHeads(task).run(
        NNAlgorithmParams(10**6, 10**6, len(users), 0),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(local_batch_size=settings["batch"], local_num_epochs=1, local_learning_rate=0.1),
        NNEvalHyperParams(local_batch_size=None),
        [ByOrder(len(users))],
        send_metrics_to_platform=False,
    )


if __name__ == "__main__":
    main()
