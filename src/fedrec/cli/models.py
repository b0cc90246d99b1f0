"""Commands that are not about one run: compare, demo, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.differing import compare_runs
from fedrec.cli.options import (
    Device,
    Json,
    Metrics,
    Plot,
    Protocol,
    Quiet,
    Split,
    Threads,
    given,
    named_model,
    split_list,
)
from fedrec.cli.output import Output, rows_table, seconds_in_words
from fedrec.cli.reading import Reading, reads_data
from fedrec.errors import InputError, PlanError

__all__ = ["compare", "demo", "doctor"]

_DEMO = "synthetic"
_OF_RUNS = ("runs", "protocol", "metrics", "threads", "device", "json_", "quiet")
"""Parameters of `compare` that make sense for two finished runs."""


@reads_data()
def compare(
    context: typer.Context,
    runs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN OTHER", help="Folders of two finished runs, instead of --data and --models."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="A named data set, a file or folder, or synthetic:…")
    ] = None,
    models: Annotated[str | None, typer.Option("--models", help="Names of models, such as popularity,ease,mf.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Number of seeds to train each model with.")] = 1,
    split: Split = None,
    protocol: Protocol = None,
    metrics: Metrics = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="reg=200 for all models that have the hyperparameter, mf.rounds=50 for one model; or a plan key.",
        ),
    ] = None,
    nodes: Annotated[
        int, typer.Option("--nodes", min=1, help="Number of nodes to simulate. Does not change the model.")
    ] = 1,
    partition: Annotated[
        str, typer.Option("--partition", help="How to distribute users over nodes: hash, by:COLUMN or dirichlet:0.5.")
    ] = "hash",
    plot: Plot = None,
    *,
    reading: Reading,
    threads: Threads = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train several models on the same split, and compare quality (± sd over seeds), rounds, bytes and seconds.

    With RUN and OTHER, compare two finished runs user by user: how much OTHER is better than RUN, with an interval.
    """
    output = Output(json_, quiet)
    if runs:
        if refused := [option for name, option in given(context).items() if name not in _OF_RUNS]:
            raise InputError(f"two finished runs are compared as they are; remove {', '.join(refused)}")
        clock, _ = output.begin("compare", threads, "read", "prepare", "evaluate", device=device)
        compare_runs(runs, metrics, protocol, output, clock)
        return
    if data is None or models is None:
        raise InputError("compare needs --data and --models, or two finished runs: fedrec compare RUN OTHER")
    clock, _ = output.begin("compare", threads, "read", "prepare", "train", "evaluate", device=device)
    from fedrec.cli.options import build_plan
    from fedrec.evaluation.metrics import DEFAULT_METRICS
    from fedrec.pictures.canvas import check_picture
    from fedrec.pictures.comparison import draw_comparison
    from fedrec.runs.comparing import compare_plans
    from fedrec.runs.loading import Placement

    if plot is not None:
        check_picture(plot)
    settings = reading.settings(data)
    changes = {"split": split, "evaluation.protocol": protocol, "evaluation.metrics": split_list(metrics)}
    names = [str(named_model(name)) for name in split_list(models) or []]
    if not names:
        raise InputError("--models is empty; name at least one model")
    chosen = _by_model(names, set_ or [])
    plans = [build_plan(None, settings, name, changes, chosen[name]) for name in names]
    if len({plan.evaluation.metrics for plan in plans}) > 1:  # some models predict ratings; all of them rank items
        changes["evaluation.metrics"] = list(DEFAULT_METRICS)
        plans = [build_plan(None, settings, name, changes, chosen[name]) for name in names]
    placement = Placement(nodes, partition)

    def told(name: str, seed: int) -> None:
        output.remark(f"{name}, seed {seed}")

    rows = compare_plans(plans, seeds, told, placement, output.reading)
    if plot is not None:
        draw_comparison(f"{data}, {rows[0]['split']}, {rows[0]['protocol']}", rows, plot)
    shown = [comparison_table(data, rows), *([_node_table(rows, partition)] if "per_node" in rows[0] else [])]
    answer = {"data": data, "nodes": nodes, "partition": partition, "models": rows, **clock.figures()}
    output.answer(answer, *shown, f"total time: {seconds_in_words(answer)}")


def comparison_table(data: str, rows: list[dict[str, Any]]) -> Any:
    """A table of models for people."""
    names = list(rows[0]["metrics"])
    table = rows_table(
        f"{data}, {rows[0]['split']}, {rows[0]['protocol']}, test",
        "model",
        *names,
        "rounds",
        "MiB up",
        "MiB down",
        "seconds",
        "training seconds",
    )
    for row in rows:
        cells = [
            f"{row['metrics'][name]:.4f}" + (f" ± {row['sd'][name]:.4f}" if row["seeds"] > 1 else "") for name in names
        ]
        moved = row["bytes"]["plain_per_node"]
        table.add_row(
            row["model"] + (" [LEAKY]" if row["leaky"] else ""),
            *cells,
            f"{row['rounds']:g}",
            f"{moved['up'] / 2**20:.2f}",
            f"{moved['down'] / 2**20:.2f}",
            f"{row['seconds']:.2f}",
            f"{row['seconds_of']['train']:.2f}",
        )
    return table


def _node_table(rows: list[dict[str, Any]], partition: str) -> Any:
    """How quality is spread over nodes, where they are simulated."""
    names = list(rows[0]["metrics"])
    title = (
        f"over {rows[0]['per_node']['nodes']} simulated nodes ({partition}); in a federation, a node's own metrics "
        "never leave the node"
    )
    table = rows_table(title, "model", *(f"{name} {kind}" for name in names for kind in ("mean", "min")))
    for row in rows:
        spread = row["per_node"]
        table.add_row(row["model"], *(f"{spread[kind][name]:.4f}" for name in names for kind in ("mean", "min")))
    return table


def demo(
    loop: Annotated[
        bool,
        typer.Option(
            "--loop",
            help="Show the loop around a model instead: a server, 5,000 simulated users who click, a model trained on "
            "their events; three times.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the run. Default: runs/ease-N, with --loop runs/loop-N.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="With --loop: draw the click rates (PNG, SVG or PDF).")
    ] = None,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the main steps on synthetic data: compare, train, evaluate, recommend."""
    output = Output(json_, quiet)
    output.begin("demo", threads)
    if loop:
        _demo_loop(output, out, plot)
        return
    if plot is not None:
        raise InputError("--plot draws click rates; add --loop, or remove --plot")
    import fedrec as fr
    from fedrec.federation.plan import Plan
    from fedrec.federation.run import next_folder
    from fedrec.runs.comparing import compare_plans
    from fedrec.runs.training import Placement, train_run

    output.remark("2,000 synthetic users at 3 nodes; only sums over users leave a node.", "")
    evaluation = {"protocol": "sampled:99", "metrics": ["hr@10", "ndcg@10"]}
    plans = [
        Plan.make({"data": {"source": _DEMO}, "model": {"name": name}, "evaluation": evaluation})
        for name in ("popularity", "itemknn", "mf", "ease")
    ]
    rows = compare_plans(plans, 1, lambda *_: None)
    folder = out or next_folder(Path("runs"), "ease")
    report = train_run(plans[-1], folder, Placement(3, "by:region"))
    model = fr.load_model(folder)
    same = "the same model, bit for bit" if report["digests"]["model"] in rows[-1]["digests"] else "ANOTHER MODEL"
    table = model.recommend([1], n=5)
    catalog = model.opened.data.catalog
    shown = rows_table("for user 1", "rank", "item", "score")
    shown.columns[1].justify = "left"
    titles = [catalog.title(int(place)) for place in catalog.items.find(table["item_id"])]
    for title, (_, _, score, rank) in zip(titles, table.iter_rows(), strict=True):
        shown.add_row(str(rank), title, f"{score:.3f}")
    output.answer(
        {"models": rows, "run": report, "recommendations": table.to_dicts()},
        comparison_table(_DEMO, rows),
        "",
        f"ease again, now at {report['nodes']} nodes (by region): {same}, in {folder}",
        "",
        shown,
        "",
        "With your own data:  fedrec train --data clicks.csv --model ease",
    )


def _demo_loop(output: Output, out: Path | None, plot: Path | None) -> None:
    """Serve, let users click, train on their events, and serve the newer model; three times."""
    from fedrec.benchmarks.loop import Crowd, play_loop
    from fedrec.cli.serve import check_installed
    from fedrec.federation.run import next_folder
    from fedrec.pictures.canvas import check_picture
    from fedrec.pictures.loop import draw_loop

    check_installed("demo --loop")
    if plot is not None:
        check_picture(plot)
    folder = out or next_folder(Path("runs"), "loop")
    output.remark("fedrec serve in a process of its own; each model has 5,000 visitors who were not there before.", "")
    answer = play_loop(folder, Crowd.make(), tell=output.remark)
    if plot is not None:
        draw_loop(f"{answer['name']}, 5,000 visitors of each model", answer["visits"], plot)
    output.answer(answer, loop_table(answer), f"models, events and data are in {folder}")


def loop_table(answer: dict[str, Any]) -> Any:
    """The visits of the loop for people."""
    table = rows_table(
        f"clicks in 100 items shown, {answer['name']}, policy {answer['policy']}",
        "model",
        "trained on",
        "clicks",
        "click rate",
        "± s.e.",
        "expected",
        "of the model before",
    )
    for number, visit in enumerate(answer["visits"]):
        expected = [f"{100 * visit[key]:.2f}" if key in visit else "" for key in ("expected_after", "expected_before")]
        shown = [f"{100 * visit[key]:.2f}" for key in ("click_rate", "standard_error")]
        table.add_row(f"{number}", f"{visit['trained_on']:,}", f"{visit['clicks']:,}", *shown, *expected)
    return table


def doctor(
    compile_: Annotated[
        bool, typer.Option("--compile", help="First compile all kernels, so that later commands start faster.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check this machine: versions, threads, kernels, memory, data."""
    from fedrec.cli.checkup import checkup

    if compile_:
        from fedrec.kernels.compiling import compile_kernels

        output = Output(json_, quiet)
        output.remark("compiling the kernels that are not cached yet; this takes a few minutes at most")
        compile_kernels(done=lambda name: output.remark(f"{name} is compiled"))
    facts = checkup()
    table = rows_table("fedrec doctor", "check", "result")
    table.columns[1].justify = "left"
    for name, value in facts["facts"].items():
        table.add_row(name, str(value))
    extras = rows_table("extras", "name", "installed", "used for")
    extras.columns[2].justify = "left"
    for extra in facts["extras"]:
        extras.add_row(extra["name"], "yes" if extra["installed"] else f"no: {extra['install']}", extra["what_for"])
    problems = facts["problems"]
    closing = "no problems" if not problems else "\n".join(f"problem: {problem}" for problem in problems)
    Output(json_, quiet).answer(facts, table, "", extras, "", closing)
    if problems:
        raise typer.Exit(1)


def _by_model(models: list[str], assignments: list[str]) -> dict[str, list[str]]:
    """The `--set` assignments of each model: `mf.rounds=5` is for one, `rounds=5` for all that have it.

    Raises:
        PlanError: for an assignment that concerns none of the models.
    """
    from fedrec.federation.plan import Plan
    from fedrec.models.registry import meant, model_class

    settings = {model: set(model_class(model).model_fields) for model in models}
    chosen: dict[str, list[str]] = {model: [] for model in models}
    for assignment in assignments:
        head, _, rest = assignment.partition(".")
        if head.strip() in settings:
            chosen[head.strip()].append(rest)
            continue
        key = assignment.partition("=")[0].split(".")[0].strip()
        concerned = models if key in Plan.model_fields else [model for model in models if key in settings[model]]
        if not concerned:
            allowed = {*Plan.model_fields, *models, *(name for names in settings.values() for name in names)}
            raise PlanError(
                f"--set {assignment}: {key!r} is not a setting of {', '.join(models)} or of a plan{meant(key, allowed)}"
            )
        for model in concerned:
            chosen[model].append(assignment)
    return chosen
