"""What a round costs where clients are kept apart, as clips and privacy need: together, side by side, one by one.

    python benchmarks/networks_apart.py            # ml-1m-sequences, 500 clients
    python benchmarks/networks_apart.py --data ml-100k --clients 100

Processor seconds of one round of gradients on one thread; the first call of each form is not timed.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch

import fedrec as fr
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.models.base import Given
from fedrec.models.networks import training
from fedrec.models.networks.network import Network
from fedrec.models.networks.neumf import NeuMF
from fedrec.models.networks.sasrec import SASRec
from fedrec.models.networks.two_tower import TwoTower

MODELS: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "neumf": (NeuMF, {}),
    "two-tower": (TwoTower, {"start_from": "random"}),
    "sasrec": (SASRec, {"start_from": "random", "window": 50}),
}
CHUNK = 1 << 23
"""Numbers of contributions that are held at once, as at a node."""


def seconds(model: Network, clients: Clients, data: fr.Interactions) -> float:
    """Processor seconds of the contributions of all clients, chunk by chunk."""
    source, cost = KeyedSource.from_seed(1), model.cost(data.n_items)
    given = Given(0, model.start(data.catalog, {}, source).shared, {}, source)
    size = len(clients) if model.granularity == "node" else max(1, CHUNK // cost.per_client)
    model.contribute(given, clients.take(np.arange(8)), None)
    began = time.process_time()
    for start in range(0, len(clients), size):
        model.contribute(given, clients.take(np.arange(start, min(start + size, len(clients)))), None)
    return time.process_time() - began


def refused(*_: Any) -> Any:
    """Stands in for the form that handles clients side by side, as a module that cannot be handled so."""
    raise RuntimeError("one by one")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ml-1m-sequences")
    parser.add_argument("--clients", type=int, default=500)
    given = parser.parse_args()
    fr.set_threads(1)
    data = fr.load_data(given.data)
    train = fr.leave_last_out(data).train
    everyone = Clients.of(train, client_keys(KeyedSource.from_seed(1), train.users))
    clients = everyone.take(np.linspace(0, len(everyone) - 1, given.clients).astype(np.int64))
    print(f"{given.data}, {given.clients} clients, torch {torch.__version__}: together, side by side, one by one")
    beside = training._side_by_side
    for name, (kind, settings) in MODELS.items():
        figures = [seconds(kind(**settings), clients, data)]
        for form in (beside, refused):
            training._side_by_side = form
            figures.append(seconds(kind(granularity="client", **settings), clients, data))
        print(f"{name:10}" + "".join(f"{figure:8.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
