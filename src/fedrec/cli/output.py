"""What commands print: one JSON object, or tables for people; messages and progress go to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from fedrec.bars import bar
from fedrec.cli.devices import on_device
from fedrec.progress import Stopwatch

if TYPE_CHECKING:
    from fedrec.data.sources import LoadedSource
    from fedrec.federation.coordinator import Progress

__all__ = ["Output", "end_work", "rows_table", "seconds_in_words", "with_error"]

_work = ExitStack()
"""What the command of this process has begun."""


@dataclass(frozen=True)
class Output:
    """Where a command's answer goes.

    Args:
        json: print one JSON object on standard output and nothing else.
        quiet: no progress and no remarks.
    """

    json: bool = False
    quiet: bool = False

    def begin(
        self,
        title: str,
        threads: int | None,
        *parts: str,
        base: str = "prepare",
        progress: bool = True,
        device: str | None = None,
    ) -> tuple[Stopwatch, Callable[[Progress], None]]:
        """Measure what follows, up to the answer, keep it to so many threads, and show a bar where it takes long.

        Args:
            title: of the bar.
            threads: as the person said.
            parts, base: of the stopwatch.
            progress: whether there is a bar at all.
            device: for networks, as the person said.

        Returns:
            The stopwatch, and what is to be called after each round of a training.

        Raises:
            InputError: for a number of threads that this process does not have, or a device that this machine does not
                have.
        """
        clock = _work.enter_context(Stopwatch(*parts, base=base))
        if threads is not None:
            from fedrec.threads import check_threads, held_threads

            _work.enter_context(held_threads(check_threads(threads, "--threads")))
        if device is not None:
            _work.enter_context(on_device(device, "--device "))
        return clock, _work.enter_context(bar(title, progress and self.talks))

    @property
    def talks(self) -> bool:
        """Whether people read along."""
        return not (self.json or self.quiet)

    def answer(self, value: dict[str, Any], *shown: Table | str) -> None:
        """The command's answer: `value` as JSON, or `shown` for people. The work is over then."""
        end_work()
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


def end_work() -> None:
    """Take the bar of the running command away, and give threads back; called again, it does nothing."""
    _work.close()


def seconds_in_words(figures: dict[str, Any]) -> str:
    """Seconds in all, and the parts that are worth telling.

    >>> seconds_in_words({"seconds": 3.2, "seconds_of": {"read": 1.0, "prepare": 0.01, "train": 2.19}})
    '3.2 s (read 1.0, train 2.2)'
    """
    long_parts = {part: spent for part, spent in figures["seconds_of"].items() if spent >= 0.05}
    parts = ", ".join(f"{part} {spent:.1f}" for part, spent in long_parts.items())
    return f"{figures['seconds']:.1f} s" + (f" ({parts})" if len(long_parts) > 1 else "")


def with_error(value: float, error: float | None) -> str:
    """A figure and its standard error, if that is known.

    >>> with_error(0.25, 0.0125), with_error(0.25, None)
    ('0.2500 ± 0.0125', '0.2500')
    """
    return f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


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
