"""What a Flower worker runs for one client; a module of its own, so that workers can import it."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from pfedrec_torch import PFedRec, cut, measure, train_batches
from task import Task, draw_samples


@functools.lru_cache(maxsize=1)
def loaded(folder: str, clients: int) -> tuple[Task, np.ndarray, PFedRec]:
    """The task, the users that take part, and a module, once per worker."""
    torch.set_num_threads(1)
    task = Task(Path(folder))
    return task, task.spread(clients), PFedRec(task.settings["items"], task.settings["d"])


def client_app(folder: str, clients: int) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        task, users, module = loaded(folder, clients)
        user = int(users[int(context.node_config["partition-id"])])
        module.items.load_state_dict(message.content["arrays"].to_torch_state_dict())
        if "head" in context.state:
            module.head.load_state_dict(context.state["head"].to_torch_state_dict())
        rng = np.random.default_rng()
        samples = draw_samples(task.train[user], task.settings["items"], task.settings["negatives"], rng)
        train_batches(module, cut(*samples, task.settings["batch"]), task.settings)
        context.state["head"] = ArrayRecord(module.head.state_dict())
        (hit, gain), (valid_hit, _) = measure(module, [task.candidates[part][user] for part in ("test", "valid")])
        found = {"hr@10": hit, "ndcg@10": gain, "valid hr@10": valid_hit, "num-examples": 1}
        content = {"arrays": ArrayRecord(module.items.state_dict()), "metrics": MetricRecord(found)}
        return Message(content=RecordDict(content), reply_to=message)

    return app
