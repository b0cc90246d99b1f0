"""Commands that say what can be set: models, and plans with all their keys."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fedrec.cli.options import Json, Quiet, named_model
from fedrec.cli.output import Output, rows_table
from fedrec.errors import InputError

__all__ = ["models", "plan"]

Model = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", callback=named_model, help="Name of the model, such as ease, or file.py:Class."),
]


def models(model: Model = None, json_: Json = False, quiet: Quiet = False) -> None:
    """List the models, or all hyperparameters of one model: type, default, bounds, meaning."""
    from fedrec.federation.settings import settings_of, summary_of
    from fedrec.models.registry import model_class, model_names

    output = Output(json_, quiet)
    if model is None:
        table = rows_table("models", "name", "values", "description")
        for column in table.columns[1:]:
            column.justify = "left"
        about = [
            {
                "name": name,
                "about": summary_of(kind),
                "values": kind.traits.use_of_values,
                "weights": bool(kind.traits.weights),
                "ratings": kind.traits.reads_ratings,
            }
            for name, kind in ((name, model_class(name)) for name in model_names())
        ]
        for entry in about:
            table.add_row(
                str(entry["name"]),
                "ratings" if entry["ratings"] else "weights" if entry["weights"] else "not used",
                str(entry["about"]),
            )
        answer: dict[str, Any] = {"models": about}
        output.answer(answer, table, "", "'fedrec models NAME' lists the hyperparameters of a model")
        return
    kind = model_class(model)
    settings = settings_of(kind)
    table = rows_table(f"{model}: {summary_of(kind)}", "--set", "type", "default", "bounds", "meaning")
    for column in table.columns[1:]:
        column.justify = "left"
    for setting in settings:
        default = "null" if setting.default is None else str(setting.default)
        table.add_row(setting.name, setting.kind, default, setting.bounds, setting.meaning)
    answer = {
        "model": model,
        "about": summary_of(kind),
        "values": kind.traits.use_of_values,
        "settings": [setting.to_json() for setting in settings],
    }
    closing = (
        f"fedrec train --model {model} --set {settings[0].name}=…" if settings else "this model has no hyperparameters"
    )
    output.answer(answer, *([table] if settings else [table.title]), "", kind.traits.use_of_values, "", closing)


def plan(
    model: Model = None,
    data: Annotated[str, typer.Option("--data", help="The data source to write into the plan.")] = "clicks.csv",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of plans instead.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a plan with every key, its default and its meaning: fedrec plan mf > plan.yaml."""
    from fedrec.federation.settings import commented_plan, plan_schema

    if schema:
        if model is not None:
            raise InputError("--schema covers all models; remove the name of the model")
        print(json.dumps(plan_schema(), indent=None if json_ else 2, ensure_ascii=False))
        return
    text = commented_plan(model or "ease", data)
    if json_:
        Output(json_, quiet).answer({"plan": text})
    else:
        print(text, end="")
