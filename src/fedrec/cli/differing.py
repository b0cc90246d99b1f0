"""Two finished runs on the same users, side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.cli.finished import opened_for
from fedrec.cli.options import split_list
from fedrec.cli.output import Output, rows_table, seconds_in_words
from fedrec.cli.runs import stamp
from fedrec.errors import InputError
from fedrec.progress import Stopwatch

if TYPE_CHECKING:
    from fedrec.runs.differing import Difference

__all__ = ["compare_runs"]


def compare_runs(runs: list[Path], metrics: str | None, protocol: str | None, output: Output, clock: Stopwatch) -> None:
    """Answer how much the second run is better than the first.

    Raises:
        InputError: if there are not two, or they are not measured on the same users.
    """
    from fedrec.runs.differing import differences, differences_in_words

    if len(runs) != 2:
        raise InputError(f"compare takes two runs, not {len(runs)}: fedrec compare RUN OTHER")
    first, other = (opened_for(run, output).opened for run in runs)
    found = differences(first, other, split_list(metrics), protocol)
    protocol = protocol or first.plan.evaluation.protocol
    leaky = first.plan.leaky or other.plan.leaky
    title = f"{runs[1]} against {runs[0]}: test, {protocol}, {found[0].users:,} users{stamp(leaky)}"
    table = rows_table(title, "metric", str(runs[0]), str(runs[1]), "difference", "95 % interval", "")
    for each in found:
        low, high = each.interval()
        between = f"{low:+.4f} to {high:+.4f}" if math.isfinite(low) else "unknown"
        cells = (f"{each.first:.4f}", f"{each.other:.4f}", f"{each.difference:+.4f}", between, each.verdict)
        table.add_row(str(each.metric), *cells)
    answer: dict[str, Any] = {
        "runs": [str(run) for run in runs],
        "models": [first.model.name, other.model.name],
        "protocol": protocol,
        "users": found[0].users,
        "differences": [_figures(each) for each in found],
        "leaky": leaky,
        **clock.figures(),
    }
    output.answer(answer, table, differences_in_words(found, str(runs[0]), str(runs[1])), seconds_in_words(answer))


def _figures(found: Difference) -> dict[str, Any]:
    low, high = found.interval()
    return {
        "metric": str(found.metric),
        "first": found.first,
        "other": found.other,
        "difference": found.difference,
        "standard_error": found.standard_error,
        "interval": [low, high] if math.isfinite(low) else None,
        "verdict": found.verdict,
        "holds_together": found.holds_together,
    }
