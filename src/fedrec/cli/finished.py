"""Commands about a finished run: evaluate, recommend, similar."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.grouping import By, GroupNames, Users, grouped, groups_table
from fedrec.cli.options import (
    Device,
    Json,
    Metrics,
    Protocol,
    Quiet,
    Threads,
    split_list,
)
from fedrec.cli.output import Output, rows_table, seconds_in_words
from fedrec.cli.reading import Reading, reads_data
from fedrec.cli.reranking import (
    TOP,
    USERS,
    WEIGHT,
    RerankModel,
    RerankTop,
    RerankUsers,
    RerankWeight,
    compared,
    rerank_of,
)
from fedrec.cli.runs import stamp
from fedrec.errors import InputError, suggestion
from fedrec.record.mapped import hashed_ahead

if TYPE_CHECKING:
    from fedrec.data.identifiers import Identifiers
    from fedrec.estimators.estimator import Estimator
    from fedrec.runs.visitors import Unknown

__all__ = ["Histories", "RunFolder", "check_policy", "evaluate", "ids_in_file", "opened_for", "recommend", "similar"]

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Histories = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Read users' histories from this source, instead of the histories that the run keeps.",
    ),
]
UnknownItems = Annotated[
    str,
    typer.Option(
        "--unknown-items",
        help="For items of --data or --history that the model does not know: raise, or leave them out: warn, ignore.",
    ),
]

_ITEM_COLUMNS = ("item_id", "item", "itemId")
_SHARED = Path("model", "shared.safetensors")


@reads_data("catalog", "clean", "users", "events")
def evaluate(
    run: RunFolder,
    protocol: Protocol = None,
    metrics: Metrics = None,
    part: Annotated[str, typer.Option("--part", help="Part of the split to evaluate: test or valid.")] = "test",
    by: By = None,
    groups: GroupNames = None,
    users: Users = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="Judge what this policy would have earned: greedy, epsilon:0.1 or plackett-luce:0.5. Needs --events.",
        ),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            help="Log of 'fedrec serve --explore' (events.db or a URL), or a file of logged events: user_id, item_id, "
            "reward (0 to 1), propensity (how likely the item was).",
        ),
    ] = None,
    largest_weight: Annotated[
        float | None,
        typer.Option("--largest-weight", help="Bound on the weight of an event, for --policy. Default: 20."),
    ] = None,
    data: Histories = None,
    unknown_items: UnknownItems = "raise",
    rerank: RerankModel = None,
    rerank_top: RerankTop = TOP,
    rerank_weight: RerankWeight = WEIGHT,
    rerank_users: RerankUsers = USERS,
    *,
    reading: Reading,
    threads: Threads = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run on held-out interactions: those that the run keeps, or those in --data, split by the run's plan.

    With --policy, estimate what lists drawn from the run's scores would have earned, from events of another policy.
    --columns, --format and the other reading options describe --data, as for training.
    """
    output = Output(json_, quiet)
    clock, _ = output.begin("evaluate", threads, "read", "prepare", "evaluate", device=device)
    how = reading.settings()
    of_items = check_policy("--unknown-items", unknown_items)
    if (policy is None) != (events is None):
        raise InputError("--policy and --events are used together; give both, or neither")
    asked = rerank_of(rerank, rerank_top, rerank_weight, rerank_users)
    if largest_weight is not None and policy is None:
        raise InputError("--largest-weight is for --policy; add --policy, or remove --largest-weight")
    if policy is not None and (protocol or metrics or by):
        raise InputError("--policy has estimates of its own; remove --protocol, --metrics and --by")
    model = opened_for(run, output, data, None, of_items, how)
    if policy is not None and events is not None:
        from fedrec.evaluation.off_policy import LARGEST_WEIGHT
        from fedrec.recommending.exploring import Exploration
        from fedrec.runs.off_policy import judged

        bound = LARGEST_WEIGHT if largest_weight is None else largest_weight
        judgement = judged(model.opened, Exploration.parse(policy), events, bound)
        if judgement.left_out:
            output.warn(f"{judgement.left_out:,} events about users or items that the run does not know are left out")
        shown = rows_table(f"{run}: {policy}, {judgement.events:,} events", "estimate", "value", "± s.e.")
        for name, estimate in judgement.estimates.items():
            error = "" if estimate.standard_error is None else f"{estimate.standard_error:.4f}"
            shown.add_row(name, f"{estimate.value:.4f}", error)
        shown.add_row("effective events", f"{judgement.effective:.1f}", "")
        figures = {
            "run": str(run),
            "model": model.opened.model.name,
            "policy": policy,
            "events": judgement.events,
            "cut": judgement.cut,
            "left_out": judgement.left_out,
            "effective_events": judgement.effective,
            "estimates": {name: estimate.value for name, estimate in judgement.estimates.items()},
            "standard_error": {name: estimate.standard_error for name, estimate in judgement.estimates.items()},
            **clock.figures(),
        }
        output.answer(figures, shown)
        return
    from fedrec.federation.calls import HELD_OUT

    chosen = next((name for name in HELD_OUT if name == part), None)
    if chosen is None:
        raise InputError(f"--part {part!r} is not known{suggestion(part, HELD_OUT)}")
    opened = model.opened
    protocol = protocol or opened.plan.evaluation.protocol
    if opened.origin is not None and (caution := opened.warning_of(opened.measured, chosen)):
        output.warn(caution)
    of_groups = grouped(opened, chosen, by, groups, users, output)
    wanted = split_list(metrics) or opened.plan.evaluation.metrics
    found = opened.measure_groups(wanted, protocol, chosen, groups=of_groups)
    summaries = found.everyone
    table = rows_table(f"{run}: {part}, {protocol}" + stamp(opened.plan.leaky), "metric", "value", "± s.e.", "users")
    for name, summary in summaries.items():
        error = "" if summary.standard_error is None else f"{summary.standard_error:.4f}"
        table.add_row(name, f"{summary.value:.4f}", error, f"{summary.users:,}")
    answer = {
        "run": str(run),
        "model": opened.model.name,
        "part": part,
        "protocol": protocol,
        "metrics": {name: summary.value for name, summary in summaries.items()},
        "standard_error": {name: summary.standard_error for name, summary in summaries.items()},
        "users": max(summary.users for summary in summaries.values()),
        "leaky": opened.plan.leaky,
        **clock.figures(),
    }
    tables: list[Any] = [table]
    if of_groups is not None:
        from fedrec.runs.reports import groups_in_words, merged_in_words

        answer["groups"] = groups_in_words(of_groups.column, opened.plan.min_clients, found)
        tables.append(groups_table(f"by {of_groups.column}", answer["groups"]))
        tables += [said] if (said := merged_in_words(answer["groups"])) else []
    if asked is not None:
        answer["rerank"], reranked = compared(asked, opened, list(summaries), chosen, rerank_users)
        tables.append(reranked)
    output.answer(answer, *tables, seconds_in_words(answer))


@reads_data("catalog", "clean", "users", "events")
def recommend(
    run: RunFolder,
    user: Annotated[
        list[str] | None, typer.Option("--user", help="A user id. Repeat the option for several users.")
    ] = None,
    all_users: Annotated[bool, typer.Option("--all-users", help="Recommend to all users; needs --to.")] = False,
    to: Annotated[Path | None, typer.Option("--to", help="Write to this .parquet, .csv or .jsonl file.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Length of each list.")] = 10,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Also recommend items that the user already has.")
    ] = False,
    only: Annotated[str | None, typer.Option("--only", help="Recommend only these item ids: a,b,c or @FILE.")] = None,
    block: Annotated[
        str | None, typer.Option("--block", help="Never recommend these item ids: a,b,c or @FILE.")
    ] = None,
    unknown: Annotated[str, typer.Option("--unknown", help="For unknown users: raise, warn or ignore.")] = "raise",
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            help="File with interactions of new users, whom the model folds in. Default: all its users.",
        ),
    ] = None,
    unknown_items: UnknownItems = "raise",
    rerank: RerankModel = None,
    rerank_top: RerankTop = TOP,
    rerank_weight: RerankWeight = WEIGHT,
    *,
    reading: Reading,
    data: Histories = None,
    threads: Threads = None,
    device: Device = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Recommend items to users of a run, or to new users in --history.

    --columns, --format and the other reading options describe --data or --history, as for training.
    """
    output = Output(json_, quiet)
    clock, _ = output.begin("recommend", threads, "read", "prepare", "recommend", device=device)
    of_users, of_items = check_policy("--unknown", unknown), check_policy("--unknown-items", unknown_items)
    if user and all_users:
        raise InputError("--user and --all-users cannot be used together; remove one of them")
    if not user and not all_users and history is None:
        raise InputError(
            "no user is named: give --user ID, --history FILE for all users in the file, or --all-users --to FILE"
        )
    if all_users and to is None and history is None:
        raise InputError("--all-users needs --to FILE, such as --to recs.parquet")
    how = reading.settings()
    model = opened_for(run, output, data, history, of_items, how)
    from fedrec.runs.visitors import Visitors

    catalog = model.opened.catalog
    options: dict[str, Any] = {
        "n": n,
        "include_seen": include_seen,
        "only": _item_ids(only, catalog.items, "--only"),
        "block": _item_ids(block, catalog.items, "--block"),
        "unknown": of_users,
        "rerank": rerank_of(rerank, rerank_top, rerank_weight),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if history is not None:
            options["history"] = Visitors.read(history, catalog, of_items, **how)
        if to is not None:
            rows = model.save_recommendations(to, user, **options)
            answer = {"run": str(run), "rows": rows, "file": str(to), **clock.figures()}
            output.answer(answer, f"wrote {rows:,} recommendations to {to} in {seconds_in_words(answer)}")
        else:
            table = model.recommend(user, **options)
            shown = rows_table(
                f"{run}: {model.model_name}" + stamp(model.plan.leaky), "user", "rank", "item", "title", "score"
            )
            shown.columns[3].justify = "left"
            for user_id, item_id, score, rank in table.iter_rows():
                title = catalog.title(int(catalog.items.find([item_id])[0])) if catalog.has_titles else ""
                shown.add_row(str(user_id), str(rank), str(item_id), title, f"{score:.4f}")
            answer = {"run": str(run), "recommendations": table.to_dicts(), **clock.figures()}
            output.answer(answer, shown if table.height else "no recommendations")
    for warning in caught:
        output.warn(str(warning.message))


def similar(
    run: RunFolder,
    item: Annotated[list[str], typer.Option("--item", help="An item id. Repeat the option for several items.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of similar items.")] = 10,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the items most similar to each given item."""
    output = Output(json_, quiet)
    clock, _ = output.begin("similar", threads, "read", "prepare")
    model = opened_for(run, output)
    catalog = model.opened.catalog
    wanted = [catalog.items.parse(text) for text in item]
    shown, answers = [], []
    for item_id in wanted:
        table = model.similar(item_id, n)
        title = catalog.title(int(catalog.items.find([item_id])[0]))
        shown.append(rows_table(f"similar to {title}", "item", *table.columns[1:]))
        for row in table.iter_rows():
            shown[-1].add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row))
        answers.append({"item": item_id, "similar": table.to_dicts()})
    answer = answers[0] if len(answers) == 1 else {"items": answers}
    output.answer({"run": str(run), **answer, **clock.figures()}, *shown)


def opened_for(
    run: Path,
    output: Output,
    data: str | None = None,
    history: Path | None = None,
    unknown_items: Unknown = "raise",
    reading: dict[str, Any] | None = None,
) -> Estimator:
    """Open a run, whose model is hashed while the program is still being loaded; a history is left to who asks."""
    if data is not None and history is not None:
        raise InputError("--data and --history cannot be used together; remove one of them")
    if data is None and history is None and reading:
        raise InputError(
            f"{', '.join(reading)}: these options need --history FILE or --data SRC; give one of the two, or remove "
            "these options"
        )
    with hashed_ahead(run / _SHARED):
        import fedrec as fr

        if data is None:
            return fr.load_model(run)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = fr.load_model(run, data, unknown_items=unknown_items, **(reading or {}))
    for warning in caught:
        output.warn(str(warning.message))
    return model


def check_policy(option: str, policy: str) -> Unknown:
    """The policy for unknown users or items that an option names.

    Raises:
        InputError: naming the option, if there is no such policy.
    """
    policies: dict[str, Unknown] = {"raise": "raise", "warn": "warn", "ignore": "ignore"}
    if policy not in policies:
        raise InputError(f"{option} {policy!r} is not known{suggestion(policy, policies)}")
    return policies[policy]


def _item_ids(text: str | None, items: Identifiers, option: str) -> list[int | str] | None:
    """Ids in an option: `a,b,c` with CSV's quotes, or `@FILE`, see `ids_in_file`; `None` without the option."""
    if text is None:
        return None
    if text.startswith("@"):
        return ids_in_file(Path(text[1:]), items, f"{option} {text}", _ITEM_COLUMNS)
    return [items.parse(part) for part in _parts([text], f"{option} {text}")]


def ids_in_file(path: Path, known: Identifiers, where: str, columns: Sequence[str]) -> list[int | str]:
    """Ids in a file with one id, or several with commas, on each line.

    Args:
        path: of the file.
        known: ids of the type that these have.
        where: option and file, for errors.
        columns: names that the first line may have as a header.

    Raises:
        InputError: if the file cannot be read, or an id is of another type.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{where}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{where}: the file is not UTF-8 text; write one id per line in UTF-8") from None
    listed = _parts(lines, where)
    if listed and listed[0] in columns and known.look_up(listed[:1])[0] < 0:
        del listed[0]  # a header
    return [known.parse(part) for part in listed]


def _parts(lines: Sequence[str], where: str) -> list[str]:
    """The fields of lines of CSV that hold something."""
    try:
        rows = list(csv.reader(lines, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(f"{where}: {error}; write a double quote inside an id twice") from None
    return [part.strip() for row in rows for part in row if part.strip()]
