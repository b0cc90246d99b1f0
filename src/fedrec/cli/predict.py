"""The command that predicts ratings."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.finished import Histories, RunFolder, check_policy, opened_for
from fedrec.cli.options import Json, Quiet, Threads
from fedrec.cli.output import Output, rows_table, seconds_in_words
from fedrec.cli.reading import Columns, Reading
from fedrec.errors import InputError

__all__ = ["predict"]

_SHOWN = 20


def predict(
    run: RunFolder,
    pairs: Annotated[
        Path, typer.Option("--pairs", help="File with a user and an item per row, in any format that --data accepts.")
    ],
    to: Annotated[str | None, typer.Option("--to", help="Output file: .parquet, .csv or .jsonl; - prints CSV.")] = None,
    unknown: Annotated[
        str,
        typer.Option(
            "--unknown", help="For unknown users: raise, or predict as for a user without ratings: warn, ignore."
        ),
    ] = "raise",
    unknown_items: Annotated[
        str,
        typer.Option(
            "--unknown-items", help="For unknown items: raise, or predict as for an item without ratings: warn, ignore."
        ),
    ] = "raise",
    columns: Columns = None,
    data: Histories = None,
    threads: Threads = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Predict the rating of each user and item in --pairs. The output has the same rows in the same order."""
    output = Output(json_, quiet)
    clock, _ = output.begin("predict", threads, "read", "prepare", "predict", base="predict")
    from fedrec.data.reading.files import STANDARD_INPUT
    from fedrec.recommending.tables import write_parquet_stream
    from fedrec.runs.predicting import predict_pairs

    of_users, of_items = check_policy("--unknown", unknown), check_policy("--unknown-items", unknown_items)
    if to == STANDARD_INPUT and json_:
        raise InputError("--to - and --json both write to standard output; remove one of them")
    named = Reading(columns).settings().get("columns")
    opened = opened_for(run, output, data).opened
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = predict_pairs(opened, pairs, of_users, of_items, named)
    if to == STANDARD_INPUT:
        sys.stdout.write(table.write_csv())
    elif to is not None:
        rows = write_parquet_stream(to, [table], table.schema)
        answer = {"run": str(run), "rows": rows, "file": to, **clock.figures()}
        output.answer(answer, f"wrote {rows:,} predicted ratings to {to} in {seconds_in_words(answer)}")
    else:
        shown = rows_table(f"{run}: {opened.model.name}", "user", "item", "rating")
        for user, item, rating in table.head(_SHOWN).iter_rows():
            shown.add_row(str(user), str(item), f"{rating:.2f}")
        more = f"{table.height - _SHOWN:,} more; --to FILE writes all of them" if table.height > _SHOWN else ""
        answer = {"run": str(run), "predictions": table.to_dicts(), **clock.figures()}
        output.answer(answer, shown, *([more] if more else []))
    for warning in caught:
        output.warn(str(warning.message))
