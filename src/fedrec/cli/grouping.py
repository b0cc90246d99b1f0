"""Options and tables of figures for groups of users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedrec.cli.options import split_list
from fedrec.cli.output import Output, rows_table, with_error
from fedrec.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from fedrec.evaluation.groups import Groups
    from fedrec.federation.calls import Part
    from fedrec.runs.finished import OpenedRun

__all__ = ["By", "GroupNames", "Users", "grouped", "groups_table"]

By = Annotated[
    str | None,
    typer.Option(
        "--by",
        help="Measure groups of users too, by this column of theirs, or by interactions: by how many items a history "
        "holds.",
    ),
]
GroupNames = Annotated[
    str | None,
    typer.Option(
        "--groups",
        help="Names of the groups for --by: values, or of a column of numbers also ranges, such as 18-24,25-34,35-. "
        "Default: the values, or three ranges.",
    ),
]
Users = Annotated[
    str | None,
    typer.Option(
        "--users",
        help="File with one row per user for --by: user_id and columns such as age: CSV, JSON lines or Parquet.",
    ),
]


def grouped(
    opened: OpenedRun, part: Part, by: str | None, names: str | None, users: str | None, output: Output
) -> Groups | None:
    """The groups that options ask for; `None` for none.

    Raises:
        InputError: if options lack --by, or users cannot be grouped so.
    """
    if by is None:
        for option, value in (("--groups", names), ("--users", users)):
            if value is not None:
                raise InputError(f"{option} is for --by; add --by COLUMN, or remove {option}")
        return None
    if users is not None:
        from fedrec.data.reading.catalogs import read_user_features

        missing = opened.describe_users(read_user_features(users))
        if missing:
            has = "user of the run has" if missing == 1 else "users of the run have"
            output.warn(f"{users}: {missing:,} {has} no row, and count among the others")
    return opened.groups_by(by, part, split_list(names))


def groups_table(title: str, figures: dict[str, Any]) -> Table:
    """A table of what `fedrec.runs.reports.groups_in_words` says."""
    metrics = list(next(iter(figures["metrics"].values()), {}))
    table = rows_table(title, figures["by"], "users", *metrics)
    for name, values in figures["metrics"].items():
        errors = figures["standard_error"][name]
        cells = [with_error(values[metric], errors[metric]) for metric in metrics]
        table.add_row(name, f"{figures['users'][name]:,}", *cells)
    return table
