"""NeuMF or LightGCN of RecBole: seconds of every pass, and where it ranks the last item of each user.

Runs in an environment of its own: `recbole_general.py interactions.csv '{"model": "NeuMF", "epochs": 3, …}'`; prints
one line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

ALWAYS: dict[str, Any] = {
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["Hit", "NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "data_path": "",
}


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows, settings = pd.read_csv(sys.argv[1]), json.loads(sys.argv[2])
    name = settings.pop("model")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "task").mkdir()
        types = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
        table = rows[list(types)].rename(columns=types)
        table.to_csv(Path(folder) / "task" / "task.inter", sep="\t", index=False)
        always = ALWAYS | {"data_path": folder, "checkpoint_dir": folder}
        sys.argv = sys.argv[:1]  # RecBole reads the command line
        config = Config(model=name, dataset="task", config_dict=always | settings)
        init_seed(0, True)
        train, _, test = data_preparation(config, create_dataset(config))
        model = get_model(name)(config, train.dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        seconds, train_epoch = [], trainer._train_epoch

        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            loss = train_epoch(*arguments, **named)
            seconds.append(time.process_time() - began)
            return loss

        trainer._train_epoch = timed
        trainer.fit(train, saved=False, verbose=False, show_progress=False)
        found = trainer.evaluate(test, load_best_model=False, show_progress=False)
    print(json.dumps({"seconds": seconds, "hr@10": float(found["hit@10"]), "ndcg@10": float(found["ndcg@10"])}))


if __name__ == "__main__":
    main()
