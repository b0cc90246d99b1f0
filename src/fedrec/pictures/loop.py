"""The loop around a model: what users clicked, model by model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrec.pictures.canvas import canvas, style

__all__ = ["draw_loop"]


def draw_loop(title: str, visits: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the click rate of each model, with 95 % intervals, and what newer models change for the same visitors.

    Args:
        title: of the picture.
        visits: of `fedrec.benchmarks.loop.play_loop`.
        path: of the picture.
    """
    numbers = list(range(len(visits)))
    rates = [100 * visit["click_rate"] for visit in visits]
    errors = [196 * visit["standard_error"] for visit in visits]
    with canvas(path, 11.0, 4.2, 2) as (seen, changed):
        seen.errorbar(numbers, rates, yerr=errors, capsize=4, **style(0))
        for number, rate, error, visit in zip(numbers, rates, errors, visits, strict=True):
            words = f"{rate:.1f} %\n{visit['trained_on']:,} interactions"
            spot, look = (number, rate - error), {"ha": "center", "va": "top", "fontsize": 8}
            seen.annotate(words, spot, (0, -5), textcoords="offset points", **look)
        seen.set(xticks=numbers, xlabel="model", ylabel="clicks in 100 items shown", title=title)
        seen.margins(x=0.15)
        seen.set_ylim(0.0, 1.25 * max(map(sum, zip(rates, errors, strict=True))))
        later = [number for number in numbers if "expected_before" in visits[number]]
        for place, (key, label) in enumerate(
            (("expected_before", "the model before"), ("expected_after", "the model"))
        ):
            heights = [100 * visits[number][key] for number in later]
            look = {"color": ("#c9d3de", "#1f4e79")[place], "hatch": ("", "//")[place], "edgecolor": "black"}
            bars = changed.bar([number + 0.4 * place - 0.2 for number in later], heights, 0.38, label=label, **look)
            changed.bar_label(bars, fmt="%.1f", fontsize=8)
        changed.set(xticks=later, xlabel="model", title="expected for the same visitors, without exploration")
        changed.set_ylim(0.0, 1.3 * max(100 * visits[number]["expected_after"] for number in later))
        changed.legend(frameon=False, ncols=2, loc="upper left")
