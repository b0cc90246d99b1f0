"""A chart of findings with their limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedrec.audit.findings import Finding
from fedrec.errors import InputError

__all__ = ["draw"]

_COLOURS = {"pass": "#2a9d55", "fail": "#c8372d", "out of scope": "#8a8a8a"}


def draw(findings: Sequence[Finding], title: str, path: Path) -> None:
    """Draw a bar per attack, relative to its limit if there is one.

    Raises:
        InputError: if matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise InputError("a chart needs matplotlib; pip install 'fedrec[plots]'") from None
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.5 * len(findings)), layout="constrained")
    for place, finding in enumerate(reversed(findings)):
        value = 1.0 if not np.isfinite(finding.value) else finding.value
        whole = max(value, finding.limit or 0.0, 1e-12)
        axes.barh(place, value / whole, color=_COLOURS[finding.verdict], height=0.6)
        if finding.limit is not None:
            axes.plot([finding.limit / whole] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
        shown = "∞" if not np.isfinite(finding.value) else f"{finding.value:.3g}"
        axes.text(1.02, place, f"{shown} · {finding.verdict}", va="center")
    axes.set_yticks(range(len(findings)), [finding.attack for finding in reversed(findings)])
    axes.set(xlim=(0, 1.35), xticks=[], title=f"{title}\nbar: what the attack reached; line: what the promise allows")
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
