"""Bytes that a node sends for a model that sums pairs of items: in the clear, masked, and what counts of items gain.

    python benchmarks/communication.py                                   # ease on MovieLens 100K, 1M and Gowalla
    python benchmarks/communication.py --data ml-100k --model itemknn --nodes 10

Sets of up to `--trained` items are trained three times (in the clear, masked, masked without counts), and the bytes are
those of the ledgers. Those of larger sets are worked out from how many users have each item, without a training.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fedrec as fr
from fedrec.aggregation.packing import packed_size
from fedrec.aggregation.pairs import width_counts
from fedrec.aggregation.specs import triangle_size
from fedrec.data.interactions import Interactions
from fedrec.data.partitions import partition
from fedrec.federation.agreement import Agreement
from fedrec.federation.counted import counting_spec
from fedrec.federation.masked import layout_of
from fedrec.federation.plan import Plan
from fedrec.models.outline import first_sum
from fedrec.record.ledger import Ledger
from fedrec.runs.loading import Placement
from fedrec.runs.training import train_run


@dataclass(frozen=True)
class Sent:
    """What a node sends, in bytes, and CPU seconds of all; `None` where nothing was trained."""

    plain: int
    exact: int
    none: int
    seconds: tuple[float, float] | None = None
    same: bool | None = None


def plan_of(source: str, model: str, compress: str = "exact") -> Plan:
    """A plan of one round over everybody."""
    settings: dict[str, Any] = {"data": {"source": source}, "model": {"name": model}, "compress": compress}
    return Plan.make(settings)


def trained(source: str, model: str, nodes: int) -> Sent:
    """What ledgers of trainings say."""
    moved, seconds, models = {}, {}, set()
    for name, secure, compress in (("plain", False, "exact"), ("exact", True, "exact"), ("none", True, "none")):
        with tempfile.TemporaryDirectory() as folder:
            run, began = Path(folder) / "run", time.process_time()
            train_run(plan_of(source, model, compress), run, Placement(nodes, "hash", secure=secure))
            seconds[name] = time.process_time() - began
            (line,) = Ledger(run / "ledger.jsonl").of_kind("round")
            models.add((run / "model" / "shared.safetensors").read_bytes())
        moved[name] = line["bytes"]["secure_per_party" if secure else "plain_per_node"]["up"]
    return Sent(**moved, seconds=(seconds["exact"], seconds["none"]), same=len(models) == 1)


def worked_out(data: Interactions, source: str, model: str, nodes: int) -> Sent:
    """What follows from counts of items, without frames around it."""
    agreement = Agreement.of(plan_of(source, model).resolve(data, "0" * 64), data.catalog)
    train = agreement.divided(data).train
    spec = agreement.fitted(first_sum(agreement.model, data.n_items))
    places = partition(train, "hash", nodes, agreement.plan.seed)
    own = (counts_of(train.take_users(np.flatnonzero(places == place))) for place in range(nodes))
    counts, counting = counts_of(train), counting_spec(agreement).nbytes
    exact = sum(block.nbytes for block in layout_of(spec, None, counts)) + counting
    none = sum(block.nbytes for block in layout_of(spec, None))
    return Sent(max(map(pairs_size, own)), exact, none)


def counts_of(data: Interactions) -> np.ndarray:
    """How many users have each item."""
    return np.bincount(data.items, minlength=data.n_items)


def pairs_size(counts: np.ndarray) -> int:
    """Bytes of a triangle of pairs, each with the bits that the counts of its items allow."""
    return sum(packed_size(many, bits) for bits, many in width_counts(counts).items())


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-100k,ml-1m-sequences,gowalla")
    parser.add_argument("--model", default="ease", choices=("ease", "itemknn"))
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--trained", type=int, default=5000, help="most items of a set that is trained")
    asked = parser.parse_args()
    heads = [f"data, {asked.nodes} nodes", "users × items", "in 4 bytes a number", "masked, `compress: none`", "masked",
             "in the clear", "same model", "CPU s, masked (`none`)"]  # fmt: skip
    print(f"| {' | '.join(heads)} |")
    print("|---" * len(heads) + "|")
    for source in asked.data.split(","):
        data = fr.load_data(source)
        if data.n_items <= asked.trained:
            sent = trained(source, asked.model, asked.nodes)
        else:
            sent = worked_out(data, source, asked.model, asked.nodes)
        print(row(source, data, sent), flush=True)


def row(source: str, data: Interactions, sent: Sent) -> str:
    """A row of the table."""
    dense = 4 * triangle_size(data.n_items)
    cells = [source, f"{data.n_users:,} × {data.n_items:,}", f"{dense / 1e6:,.2f} MB"]
    cells += [f"{number / 1e6:,.2f} MB ({dense / number:.1f} ×)" for number in (sent.none, sent.exact, sent.plain)]
    told: Mapping[bool | None, str] = {True: "yes", False: "NO", None: "not trained"}
    cells.append(told[sent.same])
    cells.append("–" if sent.seconds is None else f"{sent.seconds[0]:.1f} ({sent.seconds[1]:.1f})")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
