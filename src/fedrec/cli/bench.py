"""The command that times fedrec on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fedrec.cli.options import Json, Quiet, Set, Threads, build_plan
from fedrec.cli.output import Output, rows_table

__all__ = ["bench"]


def bench(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The benchmark to run. Default: list all benchmarks.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A named data set, a file or folder, or synthetic:users=100000.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Number of rounds or repetitions to time.")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", min=0, help="Number of rounds or repetitions before timing starts.")
    ] = None,
    evaluation: Annotated[
        bool | None, typer.Option("--evaluation/--no-evaluation", help="Whether the timed rounds include evaluation.")
    ] = None,
    threads: Threads = None,
    set_: Set = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time rounds, trainings, sums and evaluations on this machine: the median after a warm-up, and the spread."""
    from fedrec.benchmarks.catalogue import BENCHMARKS, benchmark, default_source

    output = Output(json_, quiet)
    if name is None:
        table = rows_table("fedrec bench NAME", "benchmark", "times")
        table.columns[1].justify = "left"
        for benchmark_name, entry in BENCHMARKS.items():
            table.add_row(benchmark_name, entry.says)
        output.answer(
            {"benchmarks": {benchmark_name: entry.says for benchmark_name, entry in BENCHMARKS.items()}}, table
        )
        return
    chosen = benchmark(name)
    source, remark = (data, None) if data is not None else default_source(chosen)
    if remark is not None:
        output.warn(remark)
    settings = {key: value for key, value in chosen.settings.items() if key != "model"}
    model = dict(chosen.settings["model"])
    changes = {**_flat(settings), **{f"model.{key}": value for key, value in model.items() if key != "name"}}
    plan = build_plan(None, {"source": source}, model["name"], changes, set_ or [])

    from fedrec.benchmarks.measuring import measure

    output.begin("bench", threads, progress=False)  # a bar would take time from what is timed
    figures = measure(name, plan, warmup, rounds, evaluation, output.remark)
    figures["data"]["stand_in"] = remark
    output.answer(figures, _header(figures), _table(figures))


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Nested settings as paths: {"a": {"b": 1}} → {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return flat


def _header(figures: dict[str, Any]) -> str:
    """Task and machine, for people."""
    data, place = figures["data"], figures["machine"]
    return (
        f"{figures['benchmark']}: {data['users']:,} users, {data['items']:,} items, {data['interactions']:,} "
        f"interactions\n{place['processor']}, threads: {figures['threads']}, load: {place['load']} to "
        f"{figures['load_after']}, peak memory: {figures['peak_rss_mb']:,.0f} MiB\n"
    )


def _table(figures: dict[str, Any]) -> Any:
    """Timings for people, in milliseconds."""
    table = rows_table("", "", "median ms", "min", "25 %", "75 %", "max", "timed")
    table.title = None
    rows = {"whole": figures.get("spread")}
    rows |= {
        part: facts.get("spread", facts) for part, facts in figures.items() if isinstance(facts, dict) and _timed(facts)
    }
    for part, facts in rows.items():
        if facts is not None and part != "spread":
            cells = (f"{1000 * facts[key]:.2f}" for key in ("median", "min", "q25", "q75", "max"))
            table.add_row(part, *cells, str(facts["timed"]))
    for metric, value in figures.get("metrics", {}).items():
        table.add_row(metric, f"{value:.4f}")
    return table


def _timed(facts: dict[str, Any]) -> bool:
    return "median" in facts or "spread" in facts
