"""SASRec of RecTools: seconds of every pass, and where it ranks the last item of each user.

Runs in an environment of its own: `rectools_sasrec.py interactions.csv '{"epochs": 3, …}'`; prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

import numpy as np
import pandas as pd
import pytorch_lightning as lightning
import torch
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import SASRecModel

K = 10
SECONDS: list[float] = []
"""Of every pass, outside of the callback, which RecTools copies."""


class Clock(lightning.Callback):
    """Processor seconds of every pass."""

    def on_train_epoch_start(self, trainer: object, module: object) -> None:
        self.began = time.process_time()

    def on_train_epoch_end(self, trainer: object, module: object) -> None:
        SECONDS.append(time.process_time() - self.began)


def table_of(rows: pd.DataFrame) -> Dataset:
    table = rows.rename(columns={"user_id": Columns.User, "item_id": Columns.Item})
    table[Columns.Weight] = 1.0
    table[Columns.Datetime] = pd.to_datetime(table.pop("timestamp"), unit="s")
    return Dataset.construct(table.drop(columns="part"))


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, settings = pd.read_csv(sys.argv[1]), json.loads(sys.argv[2])
    epochs = settings.pop("epochs")

    def trainer() -> lightning.Trainer:
        return lightning.Trainer(
            max_epochs=epochs, min_epochs=epochs, accelerator="cpu", devices=1, logger=False, callbacks=[Clock()],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    model = SASRecModel(get_trainer_func=trainer, recommend_torch_device="cpu", **settings)
    model.fit(table_of(rows[rows.part == "train"]))
    known = table_of(rows[rows.part != "test"])
    wanted = rows[rows.part == "test"]
    lists = model.recommend(wanted.user_id.to_numpy(), known, K, filter_viewed=True, on_unsupported_targets="ignore")
    found = lists.merge(wanted[["user_id", "item_id"]], on=["user_id", "item_id"])
    gains = 1.0 / np.log2(found[Columns.Rank] + 1.0)
    told = {"seconds": SECONDS, "hr@10": len(found) / len(wanted), "ndcg@10": float(gains.sum()) / len(wanted)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
