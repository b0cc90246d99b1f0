"""FedAvg of `sasrec` among silos: accuracy after so many rounds, beside what has been sent.

    python benchmarks/silos.py                                                  # MovieLens 1M as sequences, FEDREC_DATA
    python benchmarks/silos.py --silos 3 10 --partitions hash dirichlet:0.3 --after 10 20 40 --set window=50

Each silo trains on all of its clients, `local_epochs` passes a round, and the coordinator adds the mean of the changes.
The learning rate falls along half a cosine to the last of the rounds; the first four rounds make the spectral start.
Leave-last-out, full ranking over the catalog, history masked; a list for the test item is made from train and
validation. Bytes are what one silo sends, unmasked, the start included; seconds are of the processor, over all threads.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from fedrec.cli.options import pair, parsed
from fedrec.data.sources import load_source
from fedrec.engines.local import LocalEngine
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Coordinator
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run

METRICS = ["hr@10", "ndcg@10"]
FEDAVG: dict[str, Any] = {
    "name": "sasrec",
    "method": "fedavg",
    "local_batch": 128,
    "local_epochs": 2,
    "learning_rate": 2e-3,
    "dropout": 0.1,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-1m-sequences")
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 10])
    parser.add_argument("--partitions", nargs="+", default=["hash", "dirichlet:0.3"])
    parser.add_argument("--after", type=int, nargs="+", default=[10, 20, 40], help="rounds of training")
    parser.add_argument("--set", action="append", default=[], help="a setting of sasrec, as key=value")
    asked = parser.parse_args()
    settings = {key: parsed(text) for key, text in (pair(assigned, "--set") for assigned in asked.set)}
    source = load_source(asked.data)
    data = source.interactions
    model = {**FEDAVG, "rounds": max(asked.after) + 4, **settings}
    plan = Plan.make({"data": {"source": asked.data}, "model": model, "cohort": 1.0})
    plan = plan.resolve(data, source.digest)
    agreement = Agreement.of(plan, data.catalog)
    print("| silos | users by | rounds | valid HR@10 / NDCG@10 | test HR@10 / NDCG@10 | MiB up | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for silos in asked.silos:
        for partition in asked.partitions:
            begun = time.process_time()
            engine, run = LocalEngine.build(data, plan, silos, partition), Run(plan, None)
            coordinator = Coordinator(agreement, engine, run, engine.has_valid)
            for rounds in sorted(asked.after):
                trained = coordinator.train(until=rounds + 4)
                spent = time.process_time() - begun
                sent = sum(line["bytes"]["plain_per_node"]["up"] for line in run.ledger.of_kind("round"))
                cells = []
                for part in ("valid", "test"):
                    found = coordinator.evaluate(trained.state, trained.round, part, METRICS, "full")
                    cells.append(" / ".join(f"{found[metric].value:.4f}" for metric in METRICS))
                words = [silos, partition, rounds, *cells, f"{sent / 2**20:.0f}", f"{spent:.0f}"]
                print(f"| {' | '.join(map(str, words))} |", flush=True)


if __name__ == "__main__":
    main()
