"""Several plans on the same data and split: quality, rounds, bytes and seconds side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.errors import InputError
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.federation.values import values_remark
from fedrec.progress import Stopwatch
from fedrec.record.durable import arrays_digest
from fedrec.runs.reports import measured_bytes
from fedrec.runs.training import Placement, load_plan_data, train_here

__all__ = ["SECONDS", "compare_on", "compare_plans"]

_ALONE = Placement()
SECONDS = ("prepare", "train", "evaluate")
"""Parts of the seconds of one of several trainings: reading is done once for all of them."""


def compare_plans(
    plans: Sequence[Plan],
    seeds: int,
    told: Callable[[str, int], None] = lambda *_: None,
    placement: Placement = _ALONE,
    loaded: Callable[[LoadedSource], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Train every plan with seeds 0, 1, … and measure it on test.

    Args:
        plans: of the same data.
        seeds: how many; drawn splits (`ratio`, `new-users`) change with the seed too.
        told: called with model and seed before each training.
        placement: nodes and partition. They do not change the model, but show how quality is spread over nodes.
        loaded: called with the data before the first training.

    Returns:
        A row per plan: means over seeds in `metrics`, sample standard deviations in `sd`; `seconds` to build the nodes,
        train and measure, means over seeds, and `seconds_of` each of the three. With several nodes also
        `per_node`: of each metric the `mean` and the `min` over nodes, means over seeds. Only a simulation can tell
        these: in a federation a node's own figures do not leave it.
    """
    source = load_plan_data(plans[0].data, Path(), named=plans[0].data.source)
    data = source.interactions
    loaded(source.noting(values_remark(plans, data)))

    def engine(plan: Plan) -> LocalEngine:
        return LocalEngine.build(data, plan, placement.nodes, placement.partition)

    return compare_on(plans, seeds, data, source.digest, engine, told)


def compare_on(
    plans: Sequence[Plan],
    seeds: int,
    data: Interactions,
    digest: str,
    engine: Callable[[Plan], LocalEngine],
    told: Callable[[str, int], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """`compare_plans` on data that is loaded: its `digest`, and the `engine` that has the nodes of a resolved plan."""
    rows = []
    for plan in plans:
        results = []
        for seed in range(plan.seed, plan.seed + seeds):
            told(str(plan.model["name"]), seed)
            resolved = plan.model_copy(update={"seed": seed}).resolve(data, digest)
            results.append(_trained(resolved, data, engine))
        rows.append(_row(plan, results))
    return rows


@dataclass(frozen=True)
class _Result:
    """One training."""

    metrics: dict[str, float]
    rounds: int
    seconds_of: dict[str, float]
    bytes: dict[str, dict[str, int]]
    digest: str
    nodes: dict[str, list[float]]


def _trained(resolved: Plan, data: Interactions, build: Callable[[Plan], LocalEngine]) -> _Result:
    run = Run(resolved, None)
    with Stopwatch(*SECONDS, base="prepare") as clock:
        engine = build(resolved)
        coordinator, trained = train_here(engine, data, run)
        measured = resolved.evaluation
        found = coordinator.evaluate(trained.state, trained.round, "test", measured.metrics, measured.protocol)
        nodes = _by_node(coordinator, trained, engine)
    if not found:
        raise InputError(f"the split {resolved.split!r} leaves nothing in 'test' to compare on")
    metrics = {name: summary.value for name, summary in found.items()}
    digest = arrays_digest(trained.state.shared)
    return _Result(metrics, trained.rounds, clock.seconds_of, measured_bytes(run, trained), digest, nodes)


def _by_node(coordinator: Coordinator, trained: Trained, engine: LocalEngine) -> dict[str, list[float]]:
    """Each metric on test at every node that holds something out; nothing for a single node."""
    found: dict[str, list[float]] = {}
    measured = coordinator.plan.evaluation
    for node in engine.nodes if len(engine.nodes) > 1 else []:
        alone = Coordinator(coordinator.agreement, LocalEngine([node]), coordinator.run, engine.has_valid)
        values = alone.evaluate(trained.state, trained.round, "test", measured.metrics, measured.protocol)
        for name, summary in values.items():
            found.setdefault(name, []).append(summary.value)
    return found


def _row(plan: Plan, results: Sequence[_Result]) -> dict[str, Any]:
    values = {name: np.array([result.metrics[name] for result in results]) for name in results[0].metrics}
    spread = {name: round(float(value.std(ddof=1)), 6) if len(value) > 1 else None for name, value in values.items()}
    seconds_of = {
        part: round(float(np.mean([result.seconds_of[part] for result in results])), 3)
        for part in results[0].seconds_of
    }
    return {
        "model": plan.model["name"],
        "leaky": plan.leaky,
        "split": plan.split,
        "protocol": plan.evaluation.protocol,
        "seeds": len(results),
        "metrics": {name: round(float(value.mean()), 6) for name, value in values.items()},
        "sd": spread,
        "rounds": float(np.mean([result.rounds for result in results])),
        "seconds": round(sum(seconds_of.values()), 3),
        "seconds_of": seconds_of,
        **({"per_node": _spread(results)} if results[0].nodes else {}),
        "bytes": results[-1].bytes,
        "digests": [result.digest for result in results],
    }


def _spread(results: Sequence[_Result]) -> dict[str, Any]:
    return {
        "simulated": True,
        "nodes": len(next(iter(results[0].nodes.values()))),
        "mean": {name: _mean([np.mean(result.nodes[name]) for result in results]) for name in results[0].nodes},
        "min": {name: _mean([np.min(result.nodes[name]) for result in results]) for name in results[0].nodes},
    }


def _mean(values: Sequence[np.floating[Any]]) -> float:
    return round(float(np.mean(values)), 6)
