"""The command that chooses hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.options import (
    Device,
    Json,
    Metrics,
    ModelName,
    PlanFile,
    Plot,
    Protocol,
    Quiet,
    Set,
    Split,
    Threads,
    build_plan,
    split_list,
)
from fedrec.cli.output import Output, rows_table, seconds_in_words, with_error
from fedrec.cli.reading import Reading, reads_data
from fedrec.documents import parse_yaml
from fedrec.errors import InputError, suggestion
from fedrec.progress import RUN

__all__ = ["tune"]


@reads_data()
def tune(
    model: ModelName = None,
    grid: Annotated[
        list[str] | None,
        typer.Option("--grid", help="Values to try: reg=10,100. Several --grid options try all combinations."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A named data set, a file or folder, or synthetic:…")
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy", help="grid (train all candidates fully), or halving (stop the worse candidates early)."
        ),
    ] = "grid",
    metric: Annotated[
        str | None,
        typer.Option(
            "--metric",
            help="Metric on validation that decides. Default: ndcg@10, or rmse if the model predicts ratings.",
        ),
    ] = None,
    seeds: Annotated[
        int,
        typer.Option(
            "--seeds", min=1, help="Number of trainings per candidate, with different seeds; their mean decides."
        ),
    ] = 1,
    set_: Set = None,
    plan: PlanFile = None,
    split: Split = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all random draws.")] = None,
    nodes: Annotated[
        int, typer.Option("--nodes", min=1, help="Number of nodes to simulate. Does not change the model.")
    ] = 1,
    partition: Annotated[
        str, typer.Option("--partition", help="How to distribute users over nodes: hash, by:COLUMN or dirichlet:0.5.")
    ] = "hash",
    threads: Threads = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the chosen run. Default: runs/MODEL-N.")] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train the chosen plan on the training and the validation interactions."),
    ] = False,
    protocol: Protocol = None,
    metrics: Metrics = None,
    plot: Plot = None,
    *,
    reading: Reading,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose hyperparameters on validation, then train the chosen plan and evaluate it on test once."""
    output = Output(json_, quiet)
    clock, watch = output.begin("tune", threads, *RUN, device=device)
    from fedrec.cli.resuming import resumable
    from fedrec.engines.local import LocalEngine
    from fedrec.evaluation.metrics import deciding_metric
    from fedrec.federation.run import check_free, next_folder
    from fedrec.federation.values import values_remark
    from fedrec.pictures.canvas import check_picture
    from fedrec.pictures.trials import draw_trials
    from fedrec.runs.training import Placement, load_plan_data, train_run
    from fedrec.runs.tuning import STRATEGIES, choose, refit_plan

    if plot is not None:
        check_picture(plot)
    named = next((name for name in STRATEGIES if name == strategy), None)
    if named is None:
        raise InputError(f"--strategy {strategy!r} is not known{suggestion(strategy, STRATEGIES)}")
    base = build_plan(
        plan,
        reading.settings(data),
        model,
        {
            "split": split,
            "seed": seed,
            "evaluation.protocol": protocol,
            "evaluation.metrics": split_list(metrics),
        },
        set_ or [],
    )
    metric = metric or deciding_metric(base.build_model().traits.reads_ratings)
    values = read_grid(grid or [])
    folder = out or next_folder(Path("runs"), str(base.model["name"]))
    check_free(folder)
    source = load_plan_data(base.data, folder, named=data)
    users = source.interactions
    output.reading(source.noting(values_remark([base], users)))
    tuned = choose(
        base,
        values,
        users,
        source.digest,
        lambda chosen: LocalEngine.build(users, chosen, nodes, partition),
        metric,
        named,
        seeds,
        lambda settings, rounds, value: output.remark(
            f"{shown(settings)}: {rounds} round{'s' if rounds > 1 else ''}, {metric} {value:.4f}"
        ),
    )
    chosen = refit_plan(tuned.chosen) if refit else tuned.chosen.plan
    with resumable(folder, chosen):
        report = train_run(chosen, folder, Placement(nodes, partition), watch=watch, source=source, named=data)
    if tuned.remark:
        output.warn(tuned.remark)
    answer = {
        "model": base.model["name"],
        "leaky": base.leaky,
        "strategy": tuned.strategy,
        "remark": tuned.remark,
        "metric": tuned.metric,
        "split": chosen.split,
        "protocol": chosen.evaluation.protocol,
        "seeds": seeds,
        "rungs": tuned.rungs,
        "candidates": [candidate.row() for candidate in tuned.candidates],
        "best": tuned.chosen.settings,
        "refit": refit,
        "run": report,
        **clock.figures(),
    }
    if plot is not None:
        title = f"{answer['model']} on {base.data.source}, {answer['split']}, {answer['protocol']}"
        draw_trials(title, answer["candidates"], tuned.chosen.settings, tuned.metric, plot)
    output.answer(answer, _table(base.data.source, answer, tuned.best), _closing(answer))


def read_grid(texts: list[str]) -> dict[str, list[Any]]:
    """`["reg=10,100", "rank=null,[64]"]` → values by key, read as in YAML.

    Raises:
        InputError: for anything that is not key=v1,v2, or a key given twice.

    >>> read_grid(["reg=10,1e3,auto", "rank=null,64"])
    {'reg': [10, 1000.0, 'auto'], 'rank': [None, 64]}
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or not key or not rest:
            raise InputError(f"--grid {text!r}: write the option as key=v1,v2")
        if key in grid:
            raise InputError(f"--grid {text!r}: {key!r} is given twice; put all its values in one --grid")
        try:
            values = parse_yaml(f"[{rest}]")
        except ValueError:
            raise InputError(f"--grid {text!r}: the values cannot be read; write the option as key=v1,v2") from None
        grid[key] = [_number(value) for value in values]
    return grid


def shown(settings: dict[str, Any]) -> str:
    """Settings as they are written on the command line."""
    return " ".join(f"{key}={'null' if value is None else value}" for key, value in settings.items())


def _number(value: Any) -> Any:
    """YAML reads 1e3 as text; people mean a number."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value[:1] in "0123456789.+-" else value
    except ValueError:
        return value


def _table(data: str, answer: dict[str, Any], best: int) -> Any:
    metric, keys = answer["metric"], list(answer["best"])
    title = f"{answer['model']} on {data}, {answer['split']}, {answer['protocol']}, validation"
    stamp = "  [LEAKY: trained knowing held-out items]" if answer["leaky"] else ""
    columns = [metric, "± s.e.", *(["sd"] if answer["seeds"] > 1 else []), "rounds", "seconds", ""]
    table = rows_table(title + stamp, *keys, *columns)
    for place, row in enumerate(answer["candidates"]):
        figures = [row["standard_error"], *([row["sd"]] if answer["seeds"] > 1 else [])]
        table.add_row(
            *("null" if row["settings"][key] is None else str(row["settings"][key]) for key in keys),
            f"{row['validation'][metric]:.4f}",
            *("" if figure is None else f"{figure:.4f}" for figure in figures),
            str(row["rounds"]),
            f"{row['seconds']:.2f}",
            "chosen" if place == best else "",
        )
    return table


def _closing(answer: dict[str, Any]) -> str:
    settings, report = answer["best"], answer["run"]
    test = report["metrics"].get("test", {})
    error = report["standard_error"].get("test", {})
    figures = ", ".join(f"{name} {with_error(value, error[name])}" for name, value in test.items())
    return (
        f"chosen: {shown(settings)}\ntest: {figures or 'the split has no test part'}\nrun: {report['run']}\n"
        f"total time: {seconds_in_words(answer)}"
    )
