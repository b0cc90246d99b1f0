"""A chart of findings with their limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fedrec.audit.findings import Finding
from fedrec.pictures.canvas import canvas

__all__ = ["draw"]

_COLOURS = {"pass": "#2a9d55", "fail": "#c8372d", "out of scope": "#8a8a8a"}


def draw(findings: Sequence[Finding], title: str, path: Path) -> None:
    """Draw a bar per attack, relative to its limit if there is one.

    Raises:
        InputError: if the picture cannot be saved; see `fedrec.pictures.canvas.check_picture`.
    """
    with canvas(path, 8.0, 0.6 + 0.5 * len(findings)) as axes:
        axes.grid(visible=False)
        for place, finding in enumerate(reversed(findings)):
            value = 1.0 if not np.isfinite(finding.value) else finding.value
            whole = max(value, finding.limit or 0.0, 1e-12)
            axes.barh(place, value / whole, color=_COLOURS[finding.verdict], height=0.6)
            if finding.limit is not None:
                axes.plot([finding.limit / whole] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
            shown = "∞" if not np.isfinite(finding.value) else f"{finding.value:.3g}"
            axes.text(1.02, place, f"{shown} · {finding.verdict}", va="center")
        axes.set_yticks(range(len(findings)), [finding.attack for finding in reversed(findings)])
        axes.set(
            xlim=(0, 1.35), xticks=[], title=f"{title}\nbar: what the attack reached; line: what the promise allows"
        )
        axes.spines["bottom"].set_visible(False)
