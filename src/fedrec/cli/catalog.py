"""Commands about the catalog of a finished run: add."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedrec.cli.finished import RunFolder
from fedrec.cli.options import Json, Quiet
from fedrec.cli.output import Output

__all__ = ["app"]

app = typer.Typer(help="The catalog of a finished run: add items to it.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `add` a command of its own."""


@app.command("add")
def add(
    run: RunFolder,
    items: Annotated[
        Path,
        typer.Argument(
            metavar="ITEMS", help="File of the new items: a column item_id, and columns as in the catalog of the run."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the run with the new items.")],
    agreed: Annotated[
        Path | None,
        typer.Option(
            "--agreed",
            help="catalog_added.json of another party that added the same items, such as the coordinator of a "
            "federation; the command stops if that party made another model.",
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let a finished run recommend items that came into the catalog later, without training: what the catalog says of
    them decides who gets them.

    For models that learn from the catalog: content, and autoencoder, ease, ials, mf and spectral with item_features.
    The run is not changed: --out becomes a run of its own, with the same users, whose other scores are as they were.
    """
    from fedrec.data.reading.catalogs import read_catalog
    from fedrec.runs.new_items import add_items

    output = Output(json_, quiet)
    made = add_items(run, read_catalog(items), out, agreed)
    record = made.record
    facts = {"run": str(out), "added": len(made.added), "known": made.known, "left_out_columns": list(made.left_out)}
    lines = [f"{len(made.added):,} items added; the catalog now has {len(made.run.catalog):,}"]
    if made.known:
        lines.append(f"{made.known:,} items of {items} were in it already and stay as they were agreed")
    if made.left_out:
        lines.append(f"left out, as the catalog has no such columns: {', '.join(made.left_out)}")
    lines.append(
        f"model {record['from']['model'][:12]}… became {record['to']['model'][:12]}…, see {out}/catalog_added.json"
    )
    lines.append(f"run: {out}    next: fedrec recommend {out} --user ID")
    output.answer({**facts, "record": record}, "\n".join(lines))
