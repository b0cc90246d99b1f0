"""The benchmarks by name, with their data and plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fedrec.data.datasets import dataset, find_folder
from fedrec.errors import InputError, suggestion

__all__ = ["BENCHMARKS", "Benchmark", "benchmark", "default_source"]

_SAME_SIZE = "synthetic:users=943,items=1682,interactions_per_user=106"
_MILLION = "synthetic:users=1000000,items=50000,interactions_per_user=100,timestamps=false"
_TEN_THOUSAND = "synthetic:users=5000,items=10000,interactions_per_user=50,timestamps=false"
_SAMPLED = {"protocol": "sampled:99", "metrics": ["hr@10", "ndcg@10"]}


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: the work that is timed.

    Args:
        says: description in one line.
        kind: `round` (rounds one by one), `training` (a whole training), `sum`, `evaluation`, `transport` or `serving`.
        settings: the plan without its data.
        source: own data; `None` for MovieLens 100K or data of this size.
        evaluate: whether a round includes measuring the validation and the test part.
        warmup, repeats: number of repetitions that are not counted, and of those that are counted.
    """

    says: str
    kind: Literal["round", "training", "sum", "evaluation", "transport", "serving"]
    settings: dict[str, Any]
    source: str | None = None
    evaluate: bool = False
    warmup: int = 1
    repeats: int = 5


BENCHMARKS: dict[str, Benchmark] = {
    "ease": Benchmark(
        "training ease: one round, one solve", "training", {"model": {"name": "ease"}, "evaluation": _SAMPLED}
    ),
    "evaluation": Benchmark(
        "measuring the test part under full and sampled:99, with ease",
        "evaluation",
        {"model": {"name": "ease"}},
        repeats=11,
    ),
    "ials": Benchmark("training ials: all sweeps", "training", {"model": {"name": "ials"}, "evaluation": _SAMPLED}),
    "mf-round": Benchmark(
        "one round of mf: 1,000,000 users with 100 interactions each, 50,000 items, 10,000 sampled clients",
        "round",
        {"model": {"name": "mf", "embedding_size": 64}, "split": "none", "cohort": 10_000},
        source=_MILLION,
        repeats=5,
    ),
    "pfedrec-round": Benchmark(
        "one round of pfedrec over all clients: sampling, training, validation and test",
        "round",
        {"model": {"name": "pfedrec"}, "evaluation": _SAMPLED},
        evaluate=True,
        warmup=3,
        repeats=21,
    ),
    "serve": Benchmark(
        "2,000 requests over HTTP at 4 connections: lists of ease, 10,000 items",
        "serving",
        {"model": {"name": "ease"}, "split": "none"},
        source=_TEN_THOUSAND,
        repeats=5,
    ),
    "serve-ials": Benchmark(
        "2,000 requests over HTTP at 4 connections: lists of ials, 10,000 items",
        "serving",
        {"model": {"name": "ials", "embedding_size": 64}, "split": "none"},
        source=_TEN_THOUSAND,
        repeats=5,
    ),
    "serve-spectral": Benchmark(
        "2,000 requests over HTTP at 4 connections: lists of spectral with rank 256, 50,000 items",
        "serving",
        {"model": {"name": "spectral", "rank": 256}, "split": "none"},
        source="synthetic:users=20000,items=50000,interactions_per_user=100,timestamps=false",
        repeats=3,
    ),
    "sum": Benchmark(
        "adding contributions to a sum: an item triangle (ease) and rows of a table (mf)",
        "sum",
        {"model": {"name": "mf", "embedding_size": 64}},
        repeats=11,
    ),
    "transport": Benchmark(
        "a round trip of a 1 MB sum from each of three nodes: processes on this machine, NVFlare, mutual TLS",
        "transport",
        {"model": {"name": "ease"}},
        source="synthetic:users=600,items=1412,interactions_per_user=20",
        warmup=5,
        repeats=31,
    ),
}
"""Every benchmark."""


def benchmark(name: str) -> Benchmark:
    """The benchmark with this name.

    Raises:
        InputError: if there is no such benchmark.

    Example:
        >>> benchmark("mf-round").kind
        'round'
        >>> benchmark("mf-rounds")
        Traceback (most recent call last):
        fedrec.errors.InputError: no benchmark is called 'mf-rounds'. Did you mean 'mf-round'?
    """
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark is called {name!r}{suggestion(name, BENCHMARKS)}")
    return BENCHMARKS[name]


def default_source(chosen: Benchmark) -> tuple[str, str | None]:
    """The default data of a benchmark, and a remark on it for people."""
    if chosen.source is not None:
        return chosen.source, None
    try:
        find_folder(dataset("ml-100k"))
    except InputError:
        return _SAME_SIZE, "ml-100k is not on this machine; the benchmark uses synthetic data of the same size"
    return "ml-100k", None
