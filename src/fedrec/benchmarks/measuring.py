"""Runs a benchmark: loads data, repeats the work, and reports what a reader needs beside the figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedrec.benchmarks.catalogue import benchmark
from fedrec.benchmarks.pieces import evaluation_times, sum_times
from fedrec.benchmarks.rounds import Rounds
from fedrec.benchmarks.timing import Timing, machine, repeat
from fedrec.data.sources import LoadedSource
from fedrec.engines.local import LocalEngine
from fedrec.federation.coordinator import Coordinator, Trained
from fedrec.federation.plan import Plan
from fedrec.federation.run import Run
from fedrec.kernels.threads import thread_count
from fedrec.runs.loading import load_plan_data
from fedrec.runs.reports import peak_rss_mb
from fedrec.runs.training import train_here

__all__ = ["measure", "train_once"]

_Tell = Callable[[str], None]


def measure(
    name: str,
    plan: Plan,
    warmup: int | None = None,
    repeats: int | None = None,
    evaluate: bool | None = None,
    tell: _Tell = lambda _: None,
) -> dict[str, Any]:
    """Run a benchmark.

    Args:
        name: one of `BENCHMARKS`.
        plan: data, model and the rest; see `Benchmark.settings`.
        warmup, repeats, evaluate: values to use instead of the benchmark's own.
        tell: called with the name of the present work, for people who wait.

    Returns:
        `seconds_per_round` (median) and `spread` for rounds, `seconds` and `spread` for a training, a timing per part
        for sums and evaluations; and the task, threads, peak memory and machine.

    Raises:
        InputError: if there is no such benchmark.
    """
    chosen = benchmark(name)
    warmup = chosen.warmup if warmup is None else warmup
    repeats = chosen.repeats if repeats is None else repeats
    before = machine()
    tell(f"loading {plan.data.source}")
    source = load_plan_data(plan.data, Path(), named=plan.data.source)
    tell(f"{name}: {warmup} times to warm up, {repeats} timed")
    if chosen.kind == "round":
        measured = _rounds(source, plan, warmup, repeats, chosen.evaluate if evaluate is None else evaluate)
    elif chosen.kind == "training":
        measured = _training(source, plan, warmup, repeats)
    elif chosen.kind == "sum":
        measured = sum_times(source, plan, warmup, repeats)
    elif chosen.kind == "transport":
        from fedrec.benchmarks.transport import transport_times  # NVFlare is an extra

        measured = transport_times(source, plan, warmup, repeats)
    elif chosen.kind == "serving":
        from fedrec.benchmarks.serving import serving_times  # FastAPI is an extra

        measured = serving_times(source, plan, warmup, repeats)
    else:
        measured = evaluation_times(source, plan, warmup, repeats)
    data = source.interactions
    return {
        "benchmark": name,
        "says": chosen.says,
        **measured,
        "data": {
            "source": plan.data.source,
            "users": data.n_users,
            "items": data.n_items,
            "interactions": len(data),
        },
        "model": {"name": plan.model["name"], **plan.build_model().model_dump(mode="json")},
        "split": plan.split,
        "threads": thread_count(),
        "peak_rss_mb": peak_rss_mb(),
        "machine": before,
        "load_after": machine()["load"],
    }


def train_once(source: LoadedSource, built: LocalEngine, plan: Plan) -> tuple[Coordinator, Trained]:
    """Train a resolved plan in memory on the users of `built`, with new nodes."""
    return train_here(built.under(plan), source.interactions, Run(plan, None))


def _rounds(source: LoadedSource, plan: Plan, warmup: int, repeats: int, evaluate: bool) -> dict[str, Any]:
    rounds = Rounds(source, plan, evaluate, warmup + repeats)
    times = [rounds.next() for _ in range(warmup + repeats)][warmup:]
    whole = Timing(tuple(time.seconds for time in times), warmup)
    cohort = float(np.mean([time.cohort for time in times]))
    clients = sum(len(shard.active) for shard in rounds.engine.shards)
    return {
        "seconds_per_round": round(whole.median, 6),
        "spread": whole.facts(),
        "training": Timing(tuple(time.training for time in times), warmup).facts(),
        "evaluation": Timing(tuple(time.evaluation for time in times), warmup).facts() if evaluate else None,
        "cpu_seconds_per_round": round(float(np.median([time.cpu for time in times])), 6),
        "rounds_timed": repeats,
        "clients": clients,
        "cohort": round(cohort, 1),
        "microseconds_per_interaction": round(1e6 * whole.median / (rounds.interactions() * cohort / clients), 4),
        "metrics": rounds.metrics() if evaluate else {},
    }


def _training(source: LoadedSource, plan: Plan, warmup: int, repeats: int) -> dict[str, Any]:
    plan = plan.resolve(source.interactions, source.digest)
    built = LocalEngine.build(source.interactions, plan)
    timing = repeat(lambda: train_once(source, built, plan), warmup, repeats)
    coordinator, trained = train_once(source, built, plan)
    measured = plan.evaluation
    found = coordinator.evaluate(trained.state, trained.round, "test", measured.metrics, measured.protocol)
    return {
        "seconds": round(timing.median, 6),
        "spread": timing.facts(),
        "rounds": trained.rounds,
        "metrics": {name: round(summary.value, 6) for name, summary in found.items()},
    }
