"""Commands about data: list, describe, embed, encoder, fetch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fedrec.cli.finished import RunFolder
from fedrec.cli.options import (
    Json,
    Quiet,
    Split,
)
from fedrec.cli.output import Output, rows_table
from fedrec.cli.reading import Reading, reads_data

__all__ = ["app"]

app = typer.Typer(
    help="Data sets: list, describe, fetch; texts of items as vectors: embed, encoder.", no_args_is_help=True
)


@app.command("list")
def list_sets(json_: Json = False, quiet: Quiet = False) -> None:
    """List the named data sets and show which are on this machine."""
    from fedrec.data.datasets import DATASETS, find_folder
    from fedrec.errors import InputError

    table = rows_table("named data sets", "name", "users", "items", "interactions", "here")
    answer = []
    for name, entry in DATASETS.items():
        for domain, layout in entry.layouts.items():
            full = f"{name}/{domain}" if domain else name
            try:
                place: str | None = str(find_folder(entry, layout))
            except InputError:
                place = None
            sizes = dict(zip(("users", "items", "interactions"), entry.sizes[domain], strict=True))
            fetchable = entry.archive is not None
            answer.append({"name": full, **sizes, "folder": place, "fetchable": fetchable, "about": entry.about})
            where = "yes" if place else ("fetch" if fetchable else "no")
            table.add_row(full, *(f"{size:,}" for size in sizes.values()), where)
    Output(json_, quiet).answer(
        {"sets": answer}, table, "fedrec also generates data: synthetic:users=2000,items=1000,seed=0"
    )


@app.command("describe")
@reads_data()
def describe(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A named data set, a file or folder, - (standard input), a database URL, or synthetic:…"
        ),
    ],
    *,
    reading: Reading,
    split: Split = None,
    left_out: Annotated[Path | None, typer.Option("--left-out", help="Write the left-out rows to this file.")] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read data as training does, and show its size, values, times and left-out rows."""
    from fedrec.data.description import describe_data
    from fedrec.data.judging import remark_on_values
    from fedrec.data.keys import KeyedSource
    from fedrec.data.splits import SplitMethod
    from fedrec.federation.data_plan import DataPlan
    from fedrec.runs.training import load_plan_data

    output = Output(json_, quiet)
    method = None if split is None else SplitMethod.parse(split)
    settings = reading.settings(source)
    plan = DataPlan.make(settings)
    loaded = load_plan_data(plan, Path(), named=plan.source)
    facts: dict[str, Any] = describe_data(loaded.interactions)
    report = loaded.report
    facts |= {"columns": dict(report.columns), "not_read": list(report.unread), "notes": list(report.notes)}
    if (remark := remark_on_values(loaded.interactions)) is not None:
        facts["notes"].append(remark)
    facts["digest"] = loaded.digest
    if method is not None:
        facts["split"] = method.apply(loaded.interactions, KeyedSource.from_seed(0)).counts()
    table = rows_table(source, "fact", "value")
    for name, value in facts.items():
        if value not in ({}, []):
            table.add_row(name.replace("_", " "), _shown(value))
    reports = [loaded.report.table()] if loaded.report.left_out.height else []
    if loaded.cleaning is not None:
        facts["left_out"] = loaded.cleaning.counts
        if loaded.cleaning.left_out.height:
            reports.append(loaded.cleaning.table())
    if left_out is not None and loaded.cleaning is not None:
        loaded.cleaning.write_left_out(left_out)
    output.answer({"source": source, **facts}, table, *reports)


@app.command("embed")
def embed(
    items: Annotated[Path, typer.Argument(metavar="ITEMS", help="A file of items: CSV, JSON lines, Parquet, ….")],
    encoder: Annotated[
        str,
        typer.Option("--encoder", help="Folder of a model of language, or an installed package that brings one."),
    ],
    to: Annotated[Path, typer.Option("--to", help="Parquet file to write: the items with their vectors.")],
    column: Annotated[
        str, typer.Option("--column", help="The column to encode; several with + between them, as in title+genres.")
    ] = "title",
    name: Annotated[str, typer.Option("--name", help="Name of the column of vectors.")] = "embedding",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode texts of items as vectors, into a file that nodes without an encoder can read."""
    from fedrec.data.encoded import with_vectors
    from fedrec.data.reading.catalogs import read_catalog
    from fedrec.record.durable import replace_table

    table, digest = with_vectors(read_catalog(items), column, encoder, name)
    replace_table(to, table)
    there = table.height - table[name].null_count()
    width = len(table[name].drop_nulls()[0]) if there else 0
    answer = {
        "items": table.height,
        "encoded": there,
        "width": width,
        "encoder": digest,
        "to": str(to),
    }
    Output(json_, quiet).answer(
        answer,
        f"{to}: {there:,} of {table.height:,} items have {width} numbers in column {name!r}. Train with "
        f"--catalog {to} --set item_features.{name}=vectors",
    )


@app.command("encoder")
def encoder(
    run: RunFolder,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    merged: Annotated[
        bool,
        typer.Option(
            "--merged", help="Write the whole encoder, which text:FOLDER reads, instead of the factors alone."
        ),
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the encoder that a run of lora trained: its factors in the format of peft, or the whole encoder."""
    from fedrec.runs.saved import open_model
    from fedrec.runs.trained_encoders import save_encoder

    numbers = save_encoder(open_model(run), to, merged)
    then = (
        f"Encode with it: fedrec data embed ITEMS --encoder {to}"
        if merged
        else f"Read it with peft.PeftModel.from_pretrained(encoder, {str(to)!r})"
    )
    answer = {"run": str(run), "to": str(to), "factors": numbers, "merged": merged}
    Output(json_, quiet).answer(answer, f"{to}: {numbers:,} numbers of factors. {then}")


@app.command("fetch")
def fetch_set(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A named data set; see 'fedrec data list'.")],
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Download a named data set, check its size and digest, and unpack it into the cache."""
    from fedrec.data.fetch import fetch

    place = fetch(name)
    Output(json_, quiet).answer({"name": name, "folder": str(place)}, f"{name} is in {place}")


def _shown(value: Any) -> str:
    if isinstance(value, bool | str) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(part)}" for key, part in value.items())
    return ", ".join(_shown(part) for part in value)
