"""A bar for people who wait, on standard error where that is a terminal or a notebook; taken away at the end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fedrec.progress import Step, following, is_followed

if TYPE_CHECKING:
    from rich.console import Console

    from fedrec.federation.coordinator import Progress

__all__ = ["bar", "is_watched"]

_PATIENCE = 1.0
"""Seconds before a bar is drawn: what ends sooner shows none."""
_EVERY = 0.1
_STANDSTILL = 0.5
"""Seconds for which something of unknown length may last before the bar shows that it does."""


@contextmanager
def bar(title: str, shown: bool = True) -> Iterator[Callable[[Progress], None]]:
    """A bar of what is done inside the block, where somebody sees it and it takes longer than a second.

    Args:
        title: of it all.
        shown: `False` for none.

    Yields:
        What is to be called after each round of a training.
    """
    if not shown or is_followed() or not is_watched():
        yield lambda _: None
        return
    drawn = _Drawn(title)
    with following(drawn.tell), drawn:
        yield drawn.note


def is_watched() -> bool:
    """Whether standard error is a terminal or a notebook."""
    return _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class _Drawn:
    """A thread that draws the newest step now and then; telling it costs next to nothing."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._note = ""
        self._newest = Step(""), time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="progress bar", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def tell(self, step: Step) -> None:
        """Take in the newest step."""
        self._newest = step, time.monotonic()

    def note(self, progress: Progress) -> None:
        """Take in a committed round."""
        rate = f"{(progress.round + 1) / max(progress.seconds, 1e-9):.1f} rounds/s, {progress.cohort:,} clients"
        scores = " ".join(f"{name} {value:.4f}" for name, value in list(progress.metrics.items())[:2])
        self._note = f"{rate} {scores}".rstrip()

    def _draw(self) -> None:
        began = time.monotonic()
        if self._ended.wait(_PATIENCE):
            return
        from rich.errors import LiveError
        from rich.progress import BarColumn, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
        from rich.table import Column

        def text(field: str) -> ProgressColumn:
            return TextColumn(field, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))

        columns = (
            text("{task.description}"),
            BarColumn(20),
            TaskProgressColumn(),
            text("{task.fields[note]}"),
            text("{task.fields[waited]}"),
            TimeRemainingColumn(),
        )
        drawing = Bar(
            *columns, console=_console(), transient=True, auto_refresh=False, redirect_stdout=sys.stdout.isatty()
        )
        try:
            with drawing:
                task = drawing.add_task(self._title, total=None, note="", waited="")
                while not self._ended.wait(_EVERY):
                    step, since = self._newest
                    said = ": ".join(filter(None, (self._title, step.says)))
                    note = ", ".join(filter(None, (step.count, self._note)))
                    waited = f"{time.monotonic() - began:.0f} s"
                    if step.share is not None:
                        drawing.update(
                            task, description=said, completed=step.share, total=1.0, note=note, waited=waited
                        )
                    elif time.monotonic() - since > _STANDSTILL:
                        drawing.update(task, description=said, note=note, waited=waited)
                        drawing.tasks[0].total = None
                    else:
                        drawing.update(task, note=note, waited=waited)
                    drawing.refresh()
        except LiveError:
            return  # somebody else draws on this terminal


def _console() -> Console:
    """Standard error. A notebook gets the same line, redrawn in place: Rich's own way there takes a widget library."""
    from rich.console import Console

    if _in_notebook():
        return Console(stderr=True, force_jupyter=False, force_terminal=True, width=110)
    return Console(stderr=True)
