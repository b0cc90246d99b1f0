"""Options that several commands share, and the plan they make."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.documents import parse_yaml
from fedrec.errors import InputError, PlanError

if TYPE_CHECKING:
    from fedrec.data.catalog import Catalog
    from fedrec.federation.plan import Plan

__all__ = [
    "RENAMED_OPTIONS",
    "agreed_items",
    "assign",
    "assign_settings",
    "build_plan",
    "given",
    "named_model",
    "pair",
    "parsed",
    "split_list",
]

RENAMED_OPTIONS = {"token_normalize_func": lambda name: {"most-clients": "max-clients"}.get(name, name)}
"""Settings of a command whose options may also have the names that older versions had."""
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress bar and no remarks.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A named data set, a file or folder, synthetic:users=2000,items=1000, or a table of a database: "
        "postgresql://user@host/db?table=clicks, sqlite:///file.db?table=clicks.",
    ),
]
Named = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="The data source of the run or plan, given again. Required if the source is a database server, so that a "
        "plan by somebody else cannot connect to a server of its choice.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="leave-last-out, last:5 (each of the last 5 predicted from all before it), temporal:0.8, ratio:0.8, "
        "given, given:0.9, new-users:0.1, cold-items:0.1, cold-items:0.1,0.1 (and a tenth of each user's other "
        "interactions), cross-domain:books or none. Write @rows after leave-last-out, last:5 or none if rows have no "
        "times but are in order.",
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="How to rank held-out items: full (against the whole catalog), sampled:99, cold (among the items that "
        "split cold-items holds out), or known (the others, against the whole catalog). full@0, full@1-5 and full@6- "
        "measure users with so many items in their history.",
    ),
]
Metrics = Annotated[str | None, typer.Option("--metrics", help="Metrics, such as ndcg@10,recall@20.")]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Save a picture of the result: a PNG, SVG or PDF file.")
]


def named_model(value: str | None) -> str | None:
    """The name of a model, which may be given as the place of its class: file.py:Class or package.module:Class.

    Raises:
        PlanError: if there is no such class.
    """
    if value is None or ":" not in value:
        return value
    from fedrec.models.own import remember

    return remember(value)


ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        callback=named_model,
        help="Name of the model: popularity, ease, itemknn, mf, … ('fedrec models' lists all), or your own class: "
        "file.py:Class or package.module:Class.",
    ),
]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", help="A plan in YAML; 'fedrec plan MODEL' prints one. Options override the plan."),
]
WeightsForm = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Weigh interactions by their values: linear, log or value. Set the rule's parameters with --set "
        "weights.alpha=10.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", help="Number of threads, from 1 to the number of cores. Default: all cores."),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Device for networks: cpu, cuda or cuda:1. Default: cpu."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Set a hyperparameter or a plan key: reg=200, rounds=50, cohort=0.1, evaluation.every=5."
    ),
]


def split_list(text: str | None) -> list[str] | None:
    """`a, b` → ["a", "b"].

    >>> split_list("a, b")
    ['a', 'b']
    """
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def given(context: typer.Context) -> dict[str, str]:
    """Options that stand on the command line: how they are written, by parameter."""
    return {
        str(option.name): option.opts[0]
        for option in context.command.params
        if getattr(context.get_parameter_source(str(option.name)), "name", "") == "COMMANDLINE"
    }


def agreed_items(path: Path, on_error: str | None, warn: Callable[[str], None]) -> Catalog:
    """The items in a file; `warn` is told of lines that were left out."""
    import warnings

    from fedrec.data.reading.catalogs import read_catalog

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        items = read_catalog(path, on_error=on_error or "raise")
    for warning in caught:
        warn(str(warning.message))
    return items


def build_plan(
    plan: Path | None, data: dict[str, Any], model: str | None, changes: dict[str, Any], assignments: list[str]
) -> Plan:
    """A plan from a file, options and `--set` assignments; the later wins, and a source of `data` replaces all of it,
    but for the plan's own database named again.

    Raises:
        PlanError: if there is no data or no model, or a key or value is wrong.
    """
    from fedrec.data.reading.files import check_path
    from fedrec.federation.plan import Plan, read_settings

    settings: dict[str, Any] = {} if plan is None else read_settings(check_path(plan, read_once=True))
    if not isinstance(settings, dict):
        raise PlanError(f"{plan}: a plan must be a mapping of keys to values")
    if "source" in data and not _is_named_again(settings.get("data"), data["source"]):
        settings["data"] = {}
    if model is not None:
        settings["model"] = {"name": model}
    for key, value in changes.items():
        if value is not None:
            assign(settings, key.split("."), value, key)
    if "data" not in settings:
        raise PlanError("the data is missing: give --data, or a --plan with the key data")
    for key, value in data.items():
        assign(settings, ["data", key], value, f"data.{key}")
    chosen = settings.get("model")
    if not isinstance(chosen, dict) or "name" not in chosen:
        raise PlanError("the model is missing: give --model, or a --plan with model: {name: …}")
    assign_settings(settings, assignments)
    return Plan.make(settings, "plan" if plan is None else str(plan))


def assign_settings(settings: dict[str, Any], assignments: list[str]) -> None:
    """Put `--set` assignments into the settings of a plan.

    Raises:
        PlanError: if a key is no setting of the model or of a plan.
    """
    from fedrec.federation.plan import Plan
    from fedrec.models.registry import meant, model_class

    chosen = settings["model"]
    own = model_class(str(chosen["name"])).model_fields
    for assignment in assignments:
        key, text = pair(assignment, "--set")
        path, value = key.split("."), parsed(text)
        # Where both have the key, a word is the plan's and a number the model's: negatives=paper-leaky, negatives=4.
        if (
            path[0] in own
            and (len(path) == 1 or path[0] not in Plan.model_fields)
            and not (path[0] in Plan.model_fields and isinstance(value, str))
        ):
            path = ["model", *path]
        elif path[0] not in Plan.model_fields:
            allowed = [*own, *Plan.model_fields]
            raise PlanError(
                f"--set {assignment}: {path[0]!r} is not a setting of {chosen['name']} or of a plan"
                f"{meant(path[0], allowed)} ('fedrec models {chosen['name']}' lists all)"
            )
        assign(settings, path, value, assignment)


def _is_named_again(earlier: Any, source: str) -> bool:
    """Whether a plan's own database was named, and with it how the plan reads it."""
    from fedrec.data.databases.urls import asks_a_server

    return isinstance(earlier, dict) and earlier.get("source") == source and asks_a_server(source)


def pair(text: str, option: str) -> tuple[str, str]:
    """Key and value of `key=value`.

    Raises:
        InputError: naming the option, if the text is written otherwise.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError(f"{option} {text!r}: write it as key=value")
    return key.strip(), value.strip()


def parsed(text: str) -> Any:
    """A value as YAML reads it; text that is no YAML stays as it is.

    >>> parsed("0.5"), parsed("[")
    (0.5, '[')
    """
    try:
        return parse_yaml(text)
    except ValueError:
        return text


def assign(settings: dict[str, Any], path: list[str], value: Any, shown: str) -> None:
    """Put a value at a path of keys.

    Raises:
        PlanError: if something on the path has no keys.
    """
    place = settings
    for key in path[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise PlanError(f"{shown}: {key!r} is a single value and has no keys below it")
    place[path[-1]] = value
