"""The command that trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.grouping import groups_table
from fedrec.cli.options import (
    Data,
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
    WeightsForm,
    build_plan,
    given,
    split_list,
)
from fedrec.cli.output import Output, rows_table, seconds_in_words
from fedrec.cli.reading import Reading, reads_data
from fedrec.errors import InputError
from fedrec.progress import RUN

__all__ = ["stamp", "train"]


_READING = ("data", "columns", "format", "encoding", "on_error", "header", "time_format", "decimal", "where", "kinds",
            "catalog", "users", "events")  # fmt: skip
_IN_ONE_PROCESS = ("nodes", "partition", "clock", "from_", "budget")


@reads_data()
def train(
    context: typer.Context,
    data: Data = None,
    model: ModelName = None,
    set_: Set = None,
    plan: PlanFile = None,
    split: Split = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of all random draws.")] = None,
    nodes: Annotated[
        int,
        typer.Option(
            "--nodes",
            min=1,
            help="Number of nodes to simulate. Does not change the model, unless training is asynchronous.",
        ),
    ] = 1,
    partition: Annotated[
        str, typer.Option("--partition", help="How to distribute users over nodes: hash, by:COLUMN or dirichlet:0.5.")
    ] = "hash",
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Secure aggregation: nodes mask their sums. Needs at least three nodes; does not change the model.",
        ),
    ] = False,
    clock: Annotated[
        str,
        typer.Option(
            "--clock",
            help="Simulate how long nodes take, in virtual seconds. slow:0.5x10 makes half of the nodes ten times "
            "slower; 1000,100 gives each node its interactions per second; latency:0.1 delays each message by "
            "0.1 s; there:600/300 connects nodes for 600 s and disconnects them for 300 s, on average. Separate parts "
            "by commas; see docs/asynchronous.md.",
        ),
    ] = "",
    threads: Threads = None,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the run. Default: runs/MODEL-N.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Warm start: begin with the model of this finished run. With --transfer: the run to transfer from.",
        ),
    ] = None,
    transfer: Annotated[
        str | None,
        typer.Option(
            "--transfer",
            metavar="HOW",
            help="Draw the model towards the items of the run in --from, which may be about other users: auto, "
            "if that is better on validation; ridge, always; pool, by the sums that it kept; off, not at all.",
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            "--match",
            metavar="HOW",
            help="Which items of both runs are the same, for --transfer: id (default), title, or a CSV file with the "
            "columns source_item and target_item.",
        ),
    ] = None,
    weights: WeightsForm = None,
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit", help="Train on the validation interactions too. The report then has test metrics only."
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option("--epsilon", help="Differential privacy: maximum privacy loss of a user.")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            "--delta",
            help="Probability that the privacy loss of a user is larger than --epsilon. Required with --epsilon; a "
            "good value is a tenth of 1 / users or less.",
        ),
    ] = None,
    budget: Annotated[
        Path | None,
        typer.Option("--budget", help="File of the owner's privacy budget over all runs; see 'fedrec privacy budget'."),
    ] = None,
    federation: Annotated[
        Path | None,
        typer.Option(
            "--federation", help="Train over the nodes of this federation, on the data of the nodes (without --data)."
        ),
    ] = None,
    protocol: Protocol = None,
    metrics: Metrics = None,
    plot: Plot = None,
    track: Annotated[
        str | None,
        typer.Option(
            "--track",
            metavar="WHERE",
            help="Tell each round to a tracker: tensorboard:FOLDER, mlflow:URI or wandb:PROJECT. It is told what the "
            "ledger says, and no more.",
        ),
    ] = None,
    *,
    reading: Reading,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, evaluate it, and save the run in a folder."""
    output = Output(json_, quiet)
    stopwatch, watch = output.begin("train", threads, *RUN, device=device)
    from fedrec.cli.resuming import check_resumed, resumable
    from fedrec.federation.coordinator import Progress
    from fedrec.federation.run import is_run, next_folder, read_plan
    from fedrec.pictures.canvas import check_picture
    from fedrec.pictures.training import draw_training
    from fedrec.privacy.budget import Budget
    from fedrec.runs.tracking import Tracked, rounds_of, tracker
    from fedrec.runs.training import Placement, read_placement, train_run

    taken_over = _transfer_settings(from_, transfer, match)
    following = None if track is None else tracker(track)
    if plot is not None:
        check_picture(plot)
    if resume and out is None:
        raise InputError("--resume needs --out RUN, the folder of the run to continue")
    options = given(context)
    if federation is not None:
        _refuse(
            options,
            _READING,
            "with --federation each node reads its own data, as its owner's node.toml describes; remove",
        )
        _refuse(
            options,
            [name for name in _IN_ONE_PROCESS if name != "from_" or transfer is None],
            "these options simulate nodes in one process, or are set in each owner's node.toml; with --federation "
            "remove",
        )
    source = "federation" if federation is not None and plan is None else data
    settings = reading.settings(source)
    changes: dict[str, dict[str, Any]] = {
        "split": {"split": split},
        "seed": {"seed": seed},
        "weights": {"weights.form": weights},
        "refit": {"refit": refit},
        "from_": {"warm_start": None if from_ is None or transfer is not None else str(from_)},
        **taken_over,
        "epsilon": {"privacy.epsilon": epsilon},
        "delta": {"privacy.delta": delta},
        "protocol": {"evaluation.protocol": protocol},
        "metrics": {"evaluation.metrics": split_list(metrics)},
    }
    if resume and out is not None and (is_run(out) or not (data or plan)):
        chosen = read_plan(out)
        placement = None if federation is not None else read_placement(out, Placement())
        placed = {"nodes": nodes, "partition": partition, "secure": secure, "clock": clock, "plan": plan}
        source_changes = {"data": {"data.source": data}, "model": {"model.name": model}}
        source_changes |= {name: {f"data.{name}": settings.get(name)} for name in _READING[1:]}
        source_changes["clean"] = {f"data.cleaning.{key}": value for key, value in settings.get("cleaning", {}).items()}
        check_resumed(out, chosen, placement, options, placed, {**changes, **source_changes}, set_ or [])
    else:
        merged = {key: value for part in changes.values() for key, value in part.items()}
        chosen = build_plan(plan, settings, model, merged, set_ or [])
    if plot is not None and not chosen.evaluation.every:
        raise InputError(
            "--plot draws the validations of a training, and this plan has none; add --set evaluation.every=1"
        )
    folder = out or next_folder(Path("runs"), str(chosen.model["name"]))
    tracked = None if following is None else Tracked(following, folder, output.warn)

    def watched(round: Progress) -> None:
        watch(round)
        if tracked is not None:
            tracked.follow()

    def done(report: dict[str, Any]) -> None:
        if tracked is not None:
            tracked.end(report)
        if plot is not None:
            draw_training(f"{report['model']} on {report['data']['source']}", *rounds_of(folder), plot)
        shown = [_report_table(report), *_groups_tables(report)] if report["metrics"] else []
        output.answer(report, *shown, _closing(report))

    if federation is not None:
        from fedrec.deploy.training import train_over

        with resumable(folder, chosen, federation):
            report = train_over(federation, chosen, folder, secure, resume, watched, output.warn, stopwatch)
        done(report)
        return
    with resumable(folder, chosen):
        owned = None if budget is None else Budget.open(budget)
        report = train_run(
            chosen,
            folder,
            Placement(nodes, partition, secure=secure, clock=clock),
            resume,
            watched,
            output.reading,
            budget=owned,
            named=data,
            clock=stopwatch,
        )
    done(report)


def _transfer_settings(source: Path | None, how: str | None, match: str | None) -> dict[str, dict[str, str | None]]:
    """Changes of the plan by --transfer and --match.

    Raises:
        InputError: if one of them lacks the other or --from, or is not known.
    """
    if how is None:
        if match is not None:
            raise InputError("--match is for --transfer; add --transfer auto, or remove --match")
        return {}
    if source is None:
        raise InputError("--transfer needs --from RUN, the finished run to transfer from")
    if how not in ("auto", "ridge", "pool", "off"):
        raise InputError(f"--transfer {how} is not known; give auto, ridge, pool or off")
    if how == "off":
        return {}
    return {"transfer": {"transfer.run": str(source), "transfer.how": how}, "match": {"transfer.match": match}}


def _refuse(options: Mapping[str, str], unwanted: Collection[str], words: str) -> None:
    """Refuse options that would change nothing, by name."""
    refused = [option for name, option in options.items() if name in unwanted]
    if refused:
        raise InputError(f"{words} {', '.join(refused)}")


def _report_table(report: dict[str, Any]) -> Any:
    parts = list(report["metrics"])
    table = rows_table(
        f"{report['model']} on {report['data']['source']}, {report['split']['method']}, {report['protocol']}"
        + stamp(report["leaky"]),
        "metric",
        *[label for part in parts for label in (part, "± s.e.")],
    )
    for name in next(iter(report["metrics"].values()), {}):
        cells = []
        for part in parts:
            error = report["standard_error"][part][name]
            cells += [f"{report['metrics'][part][name]:.4f}", "" if error is None else f"{error:.4f}"]
        table.add_row(name, *cells)
    return table


def _groups_tables(report: dict[str, Any]) -> list[Any]:
    """Figures of groups of users, where the plan groups them."""
    from fedrec.runs.reports import merged_in_words

    shown: list[Any] = []
    for part, figures in report.get("groups", {}).items():
        shown.append(groups_table(f"{part}, by {figures['by']}", figures))
        shown += [said] if (said := merged_in_words(figures)) else []
    return shown


def _closing(report: dict[str, Any]) -> str:
    moved = report["bytes"]["secure_per_party" if report["secure"] else "plain_per_node"]
    rounds = f"{report['rounds']} round{'s' if report['rounds'] > 1 else ''} in {seconds_in_words(report)}"
    if report["went_on_at_round"] is not None:
        rounds += f" since the run was resumed after {report['went_on_at_round']} of them"
    sent = "sent, masked," if report["secure"] else "sent"
    traffic = f"a node {sent} {moved['up'] / 2**20:.2f} MiB and received {moved['down'] / 2**20:.2f} MiB"
    lines = [f"{rounds}; {traffic}; peak memory {report['peak_rss_mb']:.0f} MiB"]
    if not report["reproducible"]:
        lines.append(
            f"reproducible: false: solved on {report['step_threads']} threads; training the same plan again gives the "
            "same model up to rounding errors, not the same bits"
        )
    if "virtual" in report:
        lines.append(_virtual(report))
    if report.get("weights", {}).get("cut"):
        weights = report["weights"]
        lines.append(f"{weights['cut']:,} weights were above weights.most = {weights['most']:g} and were reduced to it")
    if "transfer" in report:
        lines.append(_transferred(report["transfer"]))
    if "boost" in report:
        lines.append(_boosted(report["boost"]))
    if "worth" in report:
        lines.append(report["worth"])
    if report["saturated"] or report["left_out_clients"]:
        lines.append(
            f"{report['saturated']} values were clipped to their bound, and {report['left_out_clients']} contributions "
            "were left out because they were not finite"
        )
    if "privacy" in report:
        cost = report["privacy"]["epsilons"]
        lines.append(
            f"privacy loss of a user at delta {cost['delta']:g}: epsilon {_short(cost['release'])} if only the model "
            f"is seen, {_short(cost['cohort'])} if all noised sums are seen, {_short(cost['server'])} towards the "
            "coordinator; "
            + (
                "no metrics were computed; fedrec evaluate computes them without noise"
                if report["secure"] and not report["metrics"]
                else "the metrics above have no noise and are not covered by epsilon"
            )
            + f" (fedrec privacy show {report['run']})"
        )
    if "federation" in report:
        lines.append(f"run: {report['run']}    next, at each node: fedrec recommend HOME/models/latest --user ID")
    else:
        lines.append(f"run: {report['run']}    next: fedrec recommend {report['run']} --user ID")
    return "\n".join(lines)


def _transferred(said: dict[str, Any]) -> str:
    """What a transfer found and did, in a sentence."""
    share = "" if said["interactions"] is None else f", which have {said['interactions']:.0%} of the interactions"
    unclear = f" ({said['ambiguous']} titles name several items)" if said["ambiguous"] else ""
    found = f"transfer from {said['run']}: {said['matched']:,} of {said['of_target']:,} items match{share}{unclear}; "
    tried = [each for each in said.get("tried", ()) if each["gain"] is not None]
    if said["how"] == "ridge":
        return f"{found}the source is followed with strength {said['strength']:g}"
    if said["how"] == "pool":
        return f"{found}each user of the source counts {said['strength']:g}"
    if not tried:
        return f"{found}the source is left out, as nothing could be measured on validation"
    best = max(tried, key=lambda each: float(each["gain"]))
    gain = f"{said['metric']} on validation changes by {best['gain']:+.4f} ± {best['standard_error']:.4f}"
    if said["source"] is None:
        return f"{found}{gain}, not a gain of more than two standard errors, so the source is left out"
    if said["strength"] is None:
        return (
            f"{found}{gain}, but by {said['source']['gain']:+.4f} ± {said['source']['standard_error']:.4f} against a "
            "model that is regularised as strongly without the source, so the source is left out; try a larger reg"
        )
    return f"{found}{gain}, so the source is followed with strength {said['strength']:g}"


def _boosted(said: dict[str, Any]) -> str:
    """Which boost validation chose, in a sentence."""
    if not said["tried"]:
        return f"items that nobody has: boost {said['boost']:g}, as nothing could be measured on validation"
    tried = ", ".join(f"{each['boost']:g}" for each in said["tried"])
    return (
        f"items that nobody has: boost {said['boost']:g} is best on validation by {said['metric']}, of {tried} too; "
        f"set boost={said['boost']:g} where nothing is held out"
    )


def _virtual(report: dict[str, Any]) -> str:
    virtual, asynchronous = report["virtual"], report.get("asynchronous")
    text = f"virtual time {virtual['seconds']:,.1f} s on {report['nodes']} nodes"
    if virtual["clock"]:
        text += f", {virtual['clock']}"
    if asynchronous is None:
        return text
    text += f"; {asynchronous['sums']:,} sums, {asynchronous['mean_staleness']:.1f} versions old on average"
    text += f", {asynchronous['max_staleness']} at most"
    if asynchronous["late"]:
        text += f", {asynchronous['late']:,} came too late"
    if asynchronous["nodes_without_a_sum"]:
        text += f"; {len(asynchronous['nodes_without_a_sum'])} nodes contributed no sum"
    return text


def _short(epsilon: float | str) -> str:
    return epsilon if isinstance(epsilon, str) else f"{epsilon:.3g}"


def stamp(leaky: bool) -> str:
    """What every table says of a run that knew the future."""
    return "  [LEAKY: trained knowing held-out items]" if leaky else ""
