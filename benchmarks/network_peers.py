"""Networks beside the same networks of central libraries: processor seconds of a pass on one thread each, and accuracy.

    python benchmarks/network_peers.py --data ml-100k        # SASRec of RecTools, NeuMF and LightGCN of RecBole
    python benchmarks/network_peers.py --data ml-1m-sequences --passes 2 --peers sasrec
    python benchmarks/network_peers.py --passes 100 --trained  # ours with its own default rounds

Run it with an interpreter that has fedrec and torch. Each peer gets a virtual environment of its own under
`benchmarks/.venvs`, made from `benchmarks/constraints-PEER.txt` the first time.

Leave-last-out; all train on the train part, lists for the test item are made from train and validation, among the whole
catalog without the history. A pass takes as many positives as there are training interactions: of SASRec, the newest 50
of each user; of LightGCN, where ours predicts a part of each history from the rest, users are drawn more than once.
Seconds are the median over passes, of rounds as many as make a pass. Ratios are theirs to ours for seconds, ours to
theirs for accuracy: above 1 is in favour of fedrec.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import fedrec as fr
from fedrec.data.interactions import PARTS
from fedrec.data.splits import Split
from fedrec.models.registry import build_model
from run import HERE, environment, tell

PASSES = 20
METRICS = ["hr@10", "ndcg@10"]
NETWORK = {"n_factors": 64, "n_blocks": 2, "n_heads": 2, "session_max_len": 50, "dropout_rate": 0.2}
TRAINING = {"loss": "softmax", "batch_size": 128, "lr": 1e-3}
PEERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "sasrec": (
        "rectools_sasrec.py",
        NETWORK | TRAINING,
        {"window": 50, "cohort": 128, "loss": "softmax", "start_from": "random", "learning_rate": 2e-3},
    ),
    "neumf": (
        "recbole_general.py",
        {
            "model": "NeuMF",
            "mf_embedding_size": 16,
            "mlp_embedding_size": 16,
            "mlp_hidden_size": [32, 16],
            "train_neg_sample_args": {"distribution": "uniform", "sample_num": 4},
        },
        {"cohort": 64},
    ),
    "lightgcn": (
        "recbole_general.py",
        {"model": "LightGCN", "embedding_size": 64, "n_layers": 2, "reg_weight": 1e-4},
        {"embedding_size": 64, "layers": 2, "cohort": 500},
    ),
}
"""A network: the peer's script, its settings, and ours where they differ from the defaults."""
ESTIMATORS = {"sasrec": fr.SASRec, "neumf": fr.NeuMF, "lightgcn": fr.LightGCN}


def ours(name: str, split: Split, passes: int | None) -> dict[str, Any]:
    """Seconds of a pass, and accuracy, of fedrec's own network after so many passes, or its default rounds."""
    settings = dict(PEERS[name][2])
    lengths = split.train.lengths
    kind, ticks = ESTIMATORS[name], [0.0]
    of_a_pass = len(lengths) / settings["cohort"]
    if name == "lightgcn":
        of_a_pass /= build_model(name, {}).keep
        settings["batch_size"] = settings.pop("cohort")
    if name == "neumf":  # the peer takes all interactions, this one those of a window
        window = build_model(name, {}).window
        of_a_pass *= lengths.sum() / np.minimum(lengths, window).sum()
    rounds = {} if passes is None else {"rounds": max(5, round(passes * of_a_pass))}
    model = kind(**settings, **rounds)
    model.fit(split.train, watch=lambda _: ticks.append(time.process_time()))
    table = fr.evaluate(model, split, METRICS)
    accuracy = dict(zip(table["metric"].to_list(), table["value"].to_list(), strict=True))
    return {"seconds": float(np.median(np.diff(ticks[1:]))) * of_a_pass, **accuracy}


def theirs(name: str, rows: Path, passes: int) -> dict[str, Any]:
    """The same of the peer."""
    script, settings, _ = PEERS[name]
    command = [environment(script.partition("_")[0]), HERE / "peers" / script, rows]
    without = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command), json.dumps(settings | {"epochs": passes})],
        capture_output=True, text=True, env=without | {"OMP_NUM_THREADS": "1"}, cwd=rows.parent,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{script} ended:\n{done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told | {"seconds": float(np.median(told["seconds"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--trained", action="store_true", help="ours trains its default rounds, not as many passes")
    options = parser.parse_args()
    fr.set_threads(1)
    split = fr.leave_last_out(fr.load_data(options.data))
    data = split.data
    table = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(data.n_users), data.lengths),
            "item_id": data.items,
            "timestamp": np.arange(len(data)),
            "part": np.asarray(PARTS)[split.part],
        }
    )
    columns = [
        "data",
        "network",
        "seconds a pass, ours",
        "theirs",
        "ratio",
        "HR@10, ours",
        "theirs",
        "NDCG@10, ours",
        "theirs",
        "ratio",
    ]
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "interactions.csv"
        table.write_csv(rows)
        for name in options.peers.split(","):
            tell(f"{name}: {options.passes} passes of the peer")
            other = theirs(name, rows, options.passes)
            tell(f"{name}: {'the rounds' if options.trained else 'as many'} of ours")
            own = ours(name, split, None if options.trained else options.passes)
            cells = [f"{own['seconds']:.2f}", f"{other['seconds']:.2f}", f"{other['seconds'] / own['seconds']:.2f}"]
            for metric in METRICS:
                cells += [f"{own[metric]:.4f}", f"{other[metric]:.4f}"]
            cells.append(f"{own[METRICS[1]] / other[METRICS[1]]:.2f}")
            print(f"| {options.data} | `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
