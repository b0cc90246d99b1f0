"""One client after the other in PyTorch, the way published code of personalised federated recommenders does it.

Written from the published recipe: negatives drawn in Python from a fresh copy of the user's untouched items for every
interaction, a data loader of single samples, a copy of the whole model for every client, two optimisers, the upload as
a copy of the state, an average key by key, and an evaluation that copies the model for every user again, loads the
user's parameters, strings scores together and ranks them in a pandas table. With `--lean` the untouched items are
copied once per user and round, and evaluation scores with the models that training left and ranks with `heapq`.
"""

from __future__ import annotations

import argparse
import copy
import heapq
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from pfedrec_torch import PFedRec, train_batches
from task import Task, serve
from torch.utils.data import DataLoader, Dataset


class Samples(Dataset):
    def __init__(self, items: list[int], labels: list[float]) -> None:
        self.items, self.labels = torch.LongTensor(items), torch.FloatTensor(labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.items[index], self.labels[index]

    def __len__(self) -> int:
        return len(self.items)


class Loop:
    def __init__(self, task: Task, lean: bool) -> None:
        self.task, self.settings, self.lean = task, task.settings, lean
        torch.manual_seed(0)
        torch.set_num_threads(1)  # tensors of one client are small: a second thread costs more than it brings
        self.model = PFedRec(self.settings["items"], self.settings["d"])
        self.heads: dict[int, dict[str, torch.Tensor]] = {}
        self.states: dict[int, dict[str, torch.Tensor]] = {}
        everything = set(range(self.settings["items"]))
        self.train = [[int(item) for item in items] for items in task.train]
        self.pools = [everything - set(items) for items in self.train]
        self.lists = {part: lists.tolist() for part, lists in task.candidates.items()}

    def round(self, order: dict[str, Any]) -> dict[str, Any]:
        began, cpu = time.perf_counter(), time.process_time()
        samples = [self.draw(user) for user in range(len(self.train))]
        drawn = time.perf_counter()
        uploads, devices = {}, {}
        for user, (items, labels) in enumerate(samples):
            device = copy.deepcopy(self.model)
            if user in self.heads:
                state = device.state_dict()
                state.update({name: tensor.data for name, tensor in self.heads[user].items()})
                device.load_state_dict(state)
            loader = DataLoader(Samples(items, labels), batch_size=self.settings["batch"], shuffle=True)
            train_batches(device, loader, self.settings)
            state = device.state_dict()
            self.heads[user] = {name: state[name].clone() for name in state if name.startswith("head.")}
            if not self.lean:
                self.states[user] = copy.deepcopy(state)
            uploads[user] = {"items.weight": state["items.weight"].clone()}
            devices[user] = device
        mean = torch.zeros_like(self.model.items.weight.data)
        for upload in uploads.values():
            mean += upload["items.weight"]
        self.model.items.weight.data = mean / len(uploads)
        trained = time.perf_counter()
        if self.lean:
            metrics = {part: self.evaluate(devices, self.lists[part]) for part in ("test", "valid")}
        else:
            metrics = {part: self.evaluate_as_published(self.lists[part]) for part in ("test", "valid")}
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        parts = {"sampling": drawn - began, "training": trained - drawn, "evaluation": ended - trained}
        return {
            "seconds": ended - began,
            "cpu": cpu,
            "parts": parts,
            "clients": len(samples),
            "hr@10": metrics["test"][0],
        }

    def draw(self, user: int) -> tuple[list[int], list[float]]:
        items: list[int] = []
        labels: list[float] = []
        pool = list(self.pools[user])
        for item in self.train[user]:
            items.append(item)
            labels.append(1.0)
            for negative in random.sample(pool if self.lean else list(self.pools[user]), self.settings["negatives"]):
                items.append(negative)
                labels.append(0.0)
        return items, labels

    @torch.no_grad()
    def evaluate(self, devices: dict[int, PFedRec], lists: list[list[int]]) -> tuple[float, float]:
        hits, gains = [], []
        for user, candidates in enumerate(lists):
            if candidates[0] < 0:
                continue
            device = devices[user]
            device.eval()
            wanted = device(torch.LongTensor(candidates[:1]))
            others = device(torch.LongTensor(candidates[1:]))
            scores = {item: float(score) for item, score in zip(candidates[1:], others, strict=True)}
            scores[candidates[0]] = float(wanted[0])
            best = heapq.nlargest(10, scores, key=scores.get)
            hits.append(float(candidates[0] in best))
            gains.append(math.log(2) / math.log(best.index(candidates[0]) + 2) if candidates[0] in best else 0.0)
        return float(np.mean(hits)), float(np.mean(gains))

    @torch.no_grad()
    def evaluate_as_published(self, lists: list[list[int]]) -> tuple[float, float]:
        loss, ratings = torch.nn.BCELoss(), torch.FloatTensor([1.0] + [0.0] * 99)
        wanted, others, losses = torch.zeros(0), torch.zeros(0), {}
        users = [user for user, candidates in enumerate(lists) if candidates[0] >= 0]
        for user in users:
            device = copy.deepcopy(self.model)
            device.load_state_dict(copy.deepcopy(self.states[user]))
            device.eval()
            first, rest = device(torch.LongTensor(lists[user][:1])), device(torch.LongTensor(lists[user][1:]))
            wanted, others = torch.cat((wanted, first)), torch.cat((others, rest))
            losses[user] = loss(torch.cat((first, rest)), ratings).item()
        many = [user for user in users for _ in range(99)]
        chosen = pandas.DataFrame({"user": users, "test_item": [lists[user][0] for user in users]})
        full = pandas.DataFrame({
            "user": many + users,
            "item": [item for user in users for item in lists[user][1:]] + [lists[user][0] for user in users],
            "score": others.tolist() + wanted.tolist(),
        })  # fmt: skip
        full = pandas.merge(full, chosen, on="user", how="left")
        full["rank"] = full.groupby("user")["score"].rank(method="first", ascending=False)
        full.sort_values(["user", "rank"], inplace=True)
        top = full[full["rank"] <= 10]
        hits = top[top["item"] == top["test_item"]]
        gains = hits["rank"].apply(lambda rank: math.log(2) / math.log(1 + rank))
        return len(hits) / len(users), float(gains.sum()) / len(users)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    parser.add_argument("--lean", action="store_true")
    given = parser.parse_args()
    serve(Loop(Task(given.task), given.lean).round)
