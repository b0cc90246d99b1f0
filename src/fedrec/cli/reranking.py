"""The options of commands that put lists into the order of a causal model of language."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from fedrec.cli.output import rows_table
from fedrec.errors import InputError

if TYPE_CHECKING:
    from fedrec.federation.calls import Part
    from fedrec.recommending.reranking import Rerank
    from fedrec.runs.finished import OpenedRun

__all__ = ["TOP", "USERS", "WEIGHT", "RerankModel", "RerankTop", "RerankUsers", "RerankWeight", "compared", "rerank_of"]

RerankModel = Annotated[
    str | None,
    typer.Option(
        "--rerank",
        help="Reorder the best items by a causal model of language that runs here: its folder, or a package with one.",
    ),
]
RerankTop = Annotated[int, typer.Option("--rerank-top", help="Candidates of each user for --rerank.")]
RerankWeight = Annotated[
    float,
    typer.Option("--rerank-weight", help="Weight of the order of --rerank beside that of the recommender, 0 to 1."),
]
RerankUsers = Annotated[
    int, typer.Option("--rerank-users", min=1, help="Number of users, drawn from all, to measure --rerank on.")
]


TOP, WEIGHT, USERS = 20, 0.5, 100
"""What the options are where nobody gives them."""


def rerank_of(model: str | None, top: int, weight: float, users: int = USERS) -> Rerank | None:
    """What the options ask for; `None` without --rerank.

    Raises:
        InputError: if a number cannot be used, or is given without --rerank.
    """
    from fedrec.recommending.reranking import Rerank

    if model is None and (top, weight, users) != (TOP, WEIGHT, USERS):
        raise InputError(
            "--rerank-top, --rerank-weight and --rerank-users are for --rerank; add --rerank, or remove them"
        )
    return None if model is None else Rerank(model, top, weight)


def compared(how: Rerank, opened: OpenedRun, metrics: list[str], part: Part, users: int) -> tuple[list[Any], Table]:
    """Metrics before and after, for JSON and as a table.

    Raises:
        InputError: if there is no such model, or nothing to measure.
    """
    from fedrec.recommending.reranking import Reranker
    from fedrec.runs.reranked import measure_reranked

    rows = measure_reranked(opened, Reranker.of(how, opened.catalog), metrics, part, users)
    title = f"{how.top} candidates reordered by {how.model}, {rows[0].users:,} users, {rows[0].seconds:.2f} s a user"
    table = rows_table(title, "metric", "before", "after", "gain", "± s.e.")
    for row in rows:
        numbers = (row.before, row.after, row.gain, row.standard_error)
        table.add_row(row.name, *(f"{number:.4f}" for number in numbers))
    return [asdict(row) for row in rows], table
