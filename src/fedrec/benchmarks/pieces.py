"""Seconds of two parts of every round: adding contributions to a sum, and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedrec.aggregation.contributions import Contributions
from fedrec.aggregation.specs import SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.benchmarks.timing import Timing, repeat
from fedrec.data.clients import Clients
from fedrec.data.keys import KeyedSource
from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.evaluation.metrics import MetricSummary
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.models.base import Given, Recommender
from fedrec.models.linear.ease import EASE
from fedrec.runs.training import train_here

__all__ = ["evaluation_times", "sum_times"]

_ROOM = 1 << 25
_METRICS = ("ndcg@10", "recall@10")


def sum_times(source: LoadedSource, plan: Plan, warmup: int, repeats: int) -> dict[str, Any]:
    """Adding x xᵀ of all users to an item triangle, and changed rows of the plan's model to its sum.

    Contributions are made before; only the adding is timed. If rows of all users would not fit in 128 MiB, only rows of
    the first users are added.
    """
    plan = plan.resolve(source.interactions, source.digest)
    clients = LocalEngine.build(source.interactions, plan).shards[0].clients
    triangle = _contributed(EASE(), source, clients, plan)
    lengths = clients.lengths
    model = plan.build_model()
    cost = model.cost(clients.n_items)
    floats = np.cumsum(lengths * cost.per_interaction + cost.per_client)
    some = clients.take(np.arange(max(1, int(np.searchsorted(floats, _ROOM, side="right")))))
    rows = _contributed(model, source, some, plan)
    return {
        "triangle": _added(triangle, warmup, repeats)
        | {"clients": len(clients), "products": int((lengths * (lengths + 1) // 2).sum())},
        "rows": _added(rows, warmup, repeats) | {"clients": len(some), "interactions": int(some.lengths.sum())},
    }


def evaluation_times(source: LoadedSource, plan: Plan, warmup: int, repeats: int) -> dict[str, Any]:
    """Scoring and ranking all users that have test items, under both protocols."""
    plan = plan.resolve(source.interactions, source.digest)
    engine = LocalEngine.build(source.interactions, plan)
    coordinator, trained = train_here(engine, source.interactions, Run(plan, None))
    return {
        protocol: _evaluated(
            partial(coordinator.evaluate, trained.state, trained.round, "test", _METRICS, protocol), warmup, repeats
        )
        for protocol in ("full", "sampled:99")
    }


def _evaluated(evaluate: Callable[[], dict[str, MetricSummary]], warmup: int, repeats: int) -> dict[str, Any]:
    timing, found = repeat(evaluate, warmup, repeats), evaluate()
    users = next(summary.users for summary in found.values())
    return _facts(timing) | {
        "users": users,
        "users_per_second": round(users / timing.median, 1),
        "metrics": {name: round(summary.value, 6) for name, summary in found.items()},
    }


def _contributed(
    model: Recommender, source: LoadedSource, clients: Clients, plan: Plan
) -> tuple[SumSpec, Contributions]:
    rng = KeyedSource.from_seed(plan.seed)
    public = model.public(source.interactions.catalog)
    state = model.start(source.interactions.catalog, public, rng.child("start"))
    spec = model.spec(state.shared, 0)
    assert spec is not None
    private = model.join(Given(-1, state.shared, public, rng.child("join")), clients)
    given = Given(0, state.shared, public, rng.child("contribute", 0))
    contributions, _ = model.contribute(given, clients, private)
    return spec.fit(plan.n_max or 1 << 20), contributions


def _added(made: tuple[SumSpec, Contributions], warmup: int, repeats: int) -> dict[str, Any]:
    spec, contributions = made
    total = Sum.zeros(spec)

    def add() -> None:
        total.add(contributions)

    facts = _facts(repeat(add, warmup, repeats))
    return facts | {"bytes": spec.nbytes}


def _facts(timing: Timing) -> dict[str, Any]:
    return {"seconds": round(timing.median, 6), "spread": timing.facts()}
