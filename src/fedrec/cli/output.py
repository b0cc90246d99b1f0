"""What commands print: one JSON object, or tables for people; messages and progress go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from fedrec.data.sources import LoadedSource
    from fedrec.federation.coordinator import Progress

__all__ = ["Output", "rows_table"]


@dataclass(frozen=True)
class Output:
    """Where a command's answer goes.

    Args:
        json: print one JSON object on standard output and nothing else.
        quiet: no progress and no remarks.
    """

    json: bool = False
    quiet: bool = False

    @property
    def talks(self) -> bool:
        """Whether people read along."""
        return not (self.json or self.quiet)

    def answer(self, value: dict[str, Any], *shown: Table | str) -> None:
        """The command's answer: `value` as JSON, or `shown` for people."""
        if self.json:
            print(json.dumps(value, ensure_ascii=False))
            return
        console = _console(error=False)
        for part in shown:
            console.print(part)

    def remark(self, *parts: Table | str) -> None:
        """Something by the way."""
        if self.talks:
            console = _console(error=True)
            for part in parts:
                console.print(part)

    def reading(self, source: LoadedSource) -> None:
        """Which columns were read, what was noticed, and what reading and cleaning left out."""
        self.remark(*(f"{source.report.source}: {remark}" for remark in source.report.remarks))
        if source.report.left_out.height:
            self.remark(source.report.table())
        if source.cleaning is not None and source.cleaning.left_out.height:
            self.remark(source.cleaning.table())

    def warn(self, message: str) -> None:
        """Something that people must hear even beside JSON: it goes to standard error."""
        if not self.quiet:
            print(f"fedrec: {message}", file=sys.stderr)

    @contextmanager
    def rounds(self, title: str) -> Iterator[Callable[[Progress], None]]:
        """A progress bar of rounds, with rate and time left."""
        if not self.talks or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None, note="")

            def watch(progress: Progress) -> None:
                rate = f"{(progress.round + 1) / max(progress.seconds, 1e-9):.1f} rounds/s, {progress.cohort} clients"
                scores = " ".join(f"{name} {value:.4f}" for name, value in list(progress.metrics.items())[:2])
                bar.update(task, completed=progress.round + 1, total=progress.rounds, note=f"{rate} {scores}")

            yield watch


def _console(error: bool) -> Console:
    """Text as it is: titles and ids may hold brackets and colons, which are no markup."""
    wide = None if (sys.stderr if error else sys.stdout).isatty() else 120
    return Console(stderr=error, width=wide, highlight=False, markup=False, emoji=False)


def rows_table(title: str, *columns: str) -> Table:
    """An empty table for people: the first column left, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table
