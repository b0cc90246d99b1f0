"""Nothing looks at the future: who only counts the negatives of training learns nothing, unless the plan leaks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from chosen_in_test import every
from fedrec.aggregation.contributions import Contributions, RowUpdates
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.federation.plan import Plan
from fedrec.models import registry
from fedrec.models.base import Given, Private
from fedrec.models.factors.mf import MF
from fedrec.runs.comparing import compare_plans

CHANCE = 0.10


class NegativeCounter(MF):
    """Scores an item by how rarely its user drew it as a negative while training `mf`."""

    name: ClassVar[str] = "counter"

    def join(self, given: Given, clients: Clients) -> Private | None:
        joined = dict(super().join(given, clients) or {})
        return joined | {"drawn": np.zeros((len(clients), clients.n_items), dtype=np.float32)}

    def contribute(
        self, given: Given, clients: Clients, private: Private | None
    ) -> tuple[Contributions, Private | None]:
        assert private is not None
        contributions, updated = super().contribute(given, clients, private)
        touched = contributions.arrays["items"]
        assert isinstance(touched, RowUpdates)
        drawn = private["drawn"].copy()
        drawn[np.repeat(np.arange(len(clients)), np.diff(touched.indptr)), touched.rows] += 1
        return contributions, {**(updated or {}), "drawn": drawn}

    def score(
        self, given: Given, clients: Clients, private: Private | None, items: np.ndarray | None = None
    ) -> np.ndarray:
        assert private is not None
        return -private["drawn"]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.MODELS, "counter", f"{__name__}:NegativeCounter")


def hit_rate(source: str, **changes: Any) -> float:
    model = {"name": "counter", "embedding_size": 2, "rounds": 10, **changes.pop("model", {})}
    settings = {"data": {"source": source}, "model": model, "evaluation": {"protocol": "sampled:99"}}
    row = compare_plans([Plan.make(settings | changes)], seeds=1)[0]
    assert row["leaky"] == (changes.get("negatives") == "paper-leaky")
    return float(row["metrics"]["hr@10"])


def ml_100k() -> str:
    if not (Path(os.environ.get("FEDREC_DATA", "")) / "ml-100k" / "u.data").is_file():
        pytest.skip("needs the data set ml-100k in FEDREC_DATA")
    return "ml-100k"


CLEAN: list[dict[str, Any]] = [
    {},
    {"model": {"loss": "bpr"}},
    {"cohort": 0.5},
    {"release": [{"step": "cap", "items": 20, "choose": "random"}, {"step": "weight", "by": "interactions"}]},
    {"refit": True},
    {"model": {"epochs": 3, "negatives": 8}},
]


@pytest.mark.parametrize("changes", every(2, CLEAN), ids=str)
def test_negatives_say_nothing_under_a_clean_plan(changes: dict[str, Any]) -> None:
    assert hit_rate("synthetic:users=1500,items=400,seed=1", **changes) == pytest.approx(CHANCE, abs=0.02)


def test_negatives_tell_the_future_under_the_leaky_plan() -> None:
    assert hit_rate("synthetic:users=1500,items=400,seed=1", negatives="paper-leaky") > 0.45


@pytest.mark.real
@pytest.mark.parametrize("changes", CLEAN[:3], ids=str)
def test_negatives_say_nothing_on_real_data(changes: dict[str, Any]) -> None:
    assert hit_rate(ml_100k(), **changes) == pytest.approx(CHANCE, abs=0.02)


def test_negatives_tell_the_future_on_real_data() -> None:
    assert hit_rate(ml_100k(), negatives="paper-leaky") > 0.45


def test_training_code_is_handed_training_interactions_only() -> None:
    """What a model sees of a client is its training part, and nothing more unless the plan leaks."""
    seen: list[Clients] = []

    class Watching(NegativeCounter):
        def contribute(self, given: Given, clients: Clients, private: Private | None) -> Any:
            seen.append(clients)
            return super().contribute(given, clients, private)

    from fedrec.data.sources import load_data
    from fedrec.data.splits import leave_last_out
    from fedrec.engines.local import LocalEngine
    from fedrec.federation.calls import RoundCall

    data = load_data("synthetic:users=60,items=50,interactions_per_user=8,seed=2")
    split = leave_last_out(data)
    for negatives in ("clean", "paper-leaky"):
        plan = Plan.make({"data": {"source": "memory"}, "model": {"name": "counter", "rounds": 1},
                          "negatives": negatives}).resolve(data, "")  # fmt: skip
        (node,) = LocalEngine.of_split(split, plan).nodes
        (shard,) = node.shards
        shard.model = Watching(rounds=1)
        state = shard.model.start(data.catalog, {}, KeyedSource.from_seed(0))
        spec = shard.model.spec(state.shared, 0)
        assert spec is not None
        node.contribute(RoundCall(0, -1, state.shared, spec.fit(1024), 1.0))
    clean, leaky = seen
    assert np.array_equal(clean.items, split.train.items)
    assert len(clean.excluded_items) == 0
    assert np.array_equal(leaky.items, split.train.items)
    assert sorted(leaky.excluded_items) == sorted([*split.valid.items, *split.test.items])
