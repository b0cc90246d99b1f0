"""Several plans on the same data and split: quality, rounds, bytes and seconds side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.engines.training import load_plan_data, measured_bytes, train_here
from fedrec.errors import InputError
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.record.durable import arrays_digest

__all__ = ["compare_plans"]


def compare_plans(
    plans: Sequence[Plan], seeds: int, told: Callable[[str, int], None] = lambda *_: None
) -> list[dict[str, Any]]:
    """Train every plan with seeds 0, 1, … and measure it on test.

    Args:
        plans: of the same data.
        seeds: how many; drawn splits (`ratio`, `new-users`) change with the seed too.
        told: called with model and seed before each training.

    Returns:
        A row per plan: means over seeds in `metrics`, sample standard deviations in `sd`.
    """
    source = load_plan_data(plans[0].data, Path())
    return [_row(plan, [_trained(plan, seed, source, told) for seed in range(plan.seed, plan.seed + seeds)])
            for plan in plans]  # fmt: skip


@dataclass(frozen=True)
class _Result:
    """One training."""

    metrics: dict[str, float]
    rounds: int
    seconds: float
    bytes: dict[str, dict[str, int]]
    digest: str


def _trained(plan: Plan, seed: int, source: LoadedSource, told: Callable[[str, int], None]) -> _Result:
    told(str(plan.model["name"]), seed)
    resolved = plan.model_copy(update={"seed": seed}).resolve(source.interactions, source.digest)
    began = time.perf_counter()
    engine = LocalEngine.build(source.interactions, resolved)
    run = Run(resolved, None)
    coordinator, trained = train_here(engine, source.interactions, run)
    seconds = time.perf_counter() - began
    measured = resolved.evaluation
    found = coordinator.evaluate(trained.state, trained.round, "test", measured.metrics, measured.protocol)
    if not found:
        raise InputError(f"the split {plan.split!r} leaves nothing in 'test' to compare on")
    metrics = {name: summary.value for name, summary in found.items()}
    return _Result(metrics, trained.rounds, seconds, measured_bytes(run, trained), arrays_digest(trained.state.shared))


def _row(plan: Plan, results: Sequence[_Result]) -> dict[str, Any]:
    values = {name: np.array([result.metrics[name] for result in results]) for name in results[0].metrics}
    spread = {name: round(float(value.std(ddof=1)), 6) if len(value) > 1 else None for name, value in values.items()}
    return {
        "model": plan.model["name"],
        "leaky": plan.leaky,
        "split": plan.split,
        "protocol": plan.evaluation.protocol,
        "seeds": len(results),
        "metrics": {name: round(float(value.mean()), 6) for name, value in values.items()},
        "sd": spread,
        "rounds": float(np.mean([result.rounds for result in results])),
        "seconds": round(float(np.mean([result.seconds for result in results])), 3),
        "bytes": results[-1].bytes,
        "digests": [result.digest for result in results],
    }
