"""One figure of docs/literature.md: `python benchmarks/literature.py DATA MODEL [key=value …] [--leaky]`.

MODEL is a model of fedrec, `constant` (every item scores the same: chance), or `leak` (learns nothing, and ranks items
by how rarely the user drew them as a negative in so many `rounds`). Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, ClassVar

import numpy as np

from fedrec.aggregation.contributions import Contributions, RowUpdates
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.federation.plan import Plan
from fedrec.models import registry
from fedrec.models.base import Arrays, Private
from fedrec.models.factors.mf import MF
from fedrec.models.linear.popularity import Popularity
from fedrec.runs.comparing import compare_plans


class Constant(Popularity):
    """Scores every item alike."""

    name: ClassVar[str] = "constant"

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        return np.zeros((len(clients), clients.n_items), dtype=np.float32)


class Leak(MF):
    """Counts how often each user drew each item as a negative."""

    name: ClassVar[str] = "leak"
    embedding_size: int = 2

    def join(self, shared: Arrays, clients: Clients, rng: KeyedSource) -> Private | None:
        joined = dict(super().join(shared, clients, rng) or {})
        return joined | {"drawn": np.zeros((len(clients), clients.n_items), dtype=np.float32)}

    def contribute(
        self, shared: Arrays, private: Private | None, clients: Clients, round: int, rng: KeyedSource
    ) -> tuple[Contributions, Private | None]:
        assert private is not None
        contributions, updated = super().contribute(shared, private, clients, round, rng)
        touched = contributions.arrays["items"]
        assert isinstance(touched, RowUpdates)
        drawn = private["drawn"].copy()
        drawn[np.repeat(np.arange(len(clients)), np.diff(touched.indptr)), touched.rows] += 1
        return contributions, {**(updated or {}), "drawn": drawn}

    def score(self, shared: Arrays, private: Private | None, clients: Clients) -> np.ndarray:
        assert private is not None
        return -private["drawn"]


def main(data: str, model: str, *rest: str) -> None:
    leaky = "--leaky" in rest
    settings: dict[str, Any] = {"name": model}
    for setting in rest:
        if setting != "--leaky":
            key, _, value = setting.partition("=")
            settings[key] = json.loads(value) if value[:1] in "0123456789-[" else value
    evaluation = {"protocol": "sampled:99", "metrics": ["hr@10", "ndcg@10"]}
    plan = {"data": {"source": data}, "model": settings, "evaluation": evaluation}
    row = compare_plans([Plan.make(plan | ({"negatives": "paper-leaky"} if leaky else {}))], seeds=1)[0]
    shown = {key: row[key] for key in ("model", "leaky", "metrics", "rounds", "seconds")}
    print(json.dumps({"data": data, "settings": settings, **shown, "load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    registry.MODELS |= {"constant": f"{__name__}:Constant", "leak": f"{__name__}:Leak"}
    main(*sys.argv[1:])
