"""What a choice of hyperparameters was made from: validation of every candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrec.pictures.canvas import canvas, style

__all__ = ["draw_trials"]

_FAR = 20.0
"""Values whose largest is so many times the smallest are drawn on a logarithmic scale."""


def draw_trials(
    title: str, candidates: Sequence[Mapping[str, Any]], best: Mapping[str, Any], metric: str, path: Path
) -> None:
    """Draw validation against the value, if one number was tried; otherwise a bar for each candidate.

    Args:
        title: of the picture.
        candidates: of `fedrec tune`, with their standard errors.
        best: settings of the chosen one.
        metric: which decided.
        path: of the picture.
    """
    values = [candidate["validation"][metric] for candidate in candidates]
    errors = [candidate["standard_error"] or 0.0 for candidate in candidates]
    places = _numbers(candidates)
    height = 4.5 if places else 1.6 + 0.35 * len(candidates)
    with canvas(path, 8.0, height) as axes:
        axes.set_title(title)
        if places:
            (key,) = candidates[0]["settings"]
            order = sorted(range(len(places)), key=places.__getitem__)
            columns = ([column[place] for place in order] for column in (places, values, errors))
            spots, heights, bars = columns
            axes.errorbar(spots, heights, yerr=bars, capsize=3, label="± standard error", **style(0))
            found = values[[one["settings"] for one in candidates].index(best)]
            axes.plot(best[key], found, "k*", markersize=16, zorder=3, label=f"chosen: {key}={best[key]}")
            if spots[0] > 0 and spots[-1] / spots[0] >= _FAR:
                axes.set_xscale("log")
            axes.set(xlabel=key, ylabel=f"{metric}, validation")
            axes.legend(frameon=False)
            return
        for place, candidate in enumerate(candidates):
            chosen = candidate["settings"] == best
            look = {"color": "#1f4e79", "hatch": "//"} if chosen else {"color": "#c9d3de"}
            axes.barh(place, values[place], xerr=errors[place], height=0.6, capsize=3, edgecolor="black", **look)
        names = [", ".join(f"{key}={value}" for key, value in one["settings"].items()) for one in candidates]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric}, validation ± standard error (hatched: chosen)")


def _numbers(candidates: Sequence[Mapping[str, Any]]) -> list[float]:
    """The values of the only key of all candidates, if they are numbers; else nothing."""
    if any(len(candidate["settings"]) != 1 for candidate in candidates):
        return []
    values = [next(iter(candidate["settings"].values())) for candidate in candidates]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return [float(value) for value in values] if numbers else []
