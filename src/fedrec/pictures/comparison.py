"""Models beside each other: accuracy, and accuracy against bytes and seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrec.pictures.canvas import canvas, style

__all__ = ["draw_comparison"]


def draw_comparison(title: str, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the first metric of each model on the test part, alone, against what a node sends, and against seconds.

    Args:
        title: of the picture.
        rows: of `fedrec compare`; standard deviations over seeds are drawn where there are several.
        path: of the picture.
    """
    metric = next(iter(rows[0]["metrics"]))
    with canvas(path, 12.0, 1.6 + 0.32 * max(len(rows), 8), 3) as (bars, sent, spent):
        for place, row in enumerate(rows):
            value, off, look = row["metrics"][metric], row["sd"][metric], style(place)
            bars.barh(place, value, xerr=off, color=look["color"], height=0.6, alpha=0.8, capsize=3)
            bars.text(value + (off or 0.0), place, f"  {value:.3f}", va="center", fontsize=8)
            for axes, where in ((sent, row["bytes"]["plain_per_node"]["up"] / 2**20), (spent, row["seconds"])):
                axes.errorbar(where, value, yerr=off, label=row["model"], capsize=3, **(look | {"linestyle": "none"}))
        bars.set_yticks(range(len(rows)), [row["model"] for row in rows])
        bars.invert_yaxis()
        bars.margins(x=0.15)
        bars.set_xlabel(f"{metric}, test")
        for axes, label in ((sent, "MiB sent by a node"), (spent, "seconds")):
            axes.set_xscale("log")
            axes.set_xlabel(label)
            axes.set_ylabel(f"{metric}, test")
        spent.legend(frameon=False, fontsize=8)
        sent.set_title(title)
