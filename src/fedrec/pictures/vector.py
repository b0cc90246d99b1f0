"""Small drawings as SVG text, made without a library: curves and bars for pages.

A drawing has its colours in attributes and no style or script, so that pages may forbid both. Series differ in marks
and dashes as well as in colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "bars", "curves"]

_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 48
_COLOURS = ("#1f4e79", "#b3261e", "#1b7a43", "#6b3fa0")
_DASHES = ("none", "7 4", "2 3", "9 3 2 3")
_TICKS = 4
_TEXT = 'font-family="sans-serif" font-size="12" fill="#333333"'


@dataclass(frozen=True)
class Series:
    """A curve.

    Args:
        name: for the legend.
        x, y: of its points, `x` ascending.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]


def curves(title: str, x_label: str, y_label: str, series: Sequence[Series]) -> str:
    """Curves over one axis; nothing where no point is finite.

    Args:
        title: said to who cannot see the drawing.
        x_label, y_label: of the axes.
        series: four at most are drawn.

    Example:
        >>> svg = curves("Accuracy", "round", "ndcg@10", [Series("ndcg@10", [1, 2], [0.1, 0.2])])
        >>> svg.startswith("<svg"), "<path" in svg
        (True, True)
    """
    drawn = [(one.name, _finite(one.x, one.y)) for one in series[: len(_COLOURS)]]
    points = [point for _, found in drawn for point in found]
    if not points:
        return ""
    low, high = min(x for x, _ in points), max(x for x, _ in points)
    frame = _Frame(low, high if high > low else low + 1.0, max(0.0, *(y for _, y in points)) * 1.2 or 1.0)
    parts = frame.axes(x_label, y_label, _nice(low, frame.x_high))
    for place, (name, found) in enumerate(drawn):
        colour, spots = _COLOURS[place], [frame.at(x, y) for x, y in found]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(
            f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{_DASHES[place]}"/>'
            if len(spots) > 1
            else ""
        )
        if len(spots) <= 60:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        x, y = _LEFT + 12 + 130 * place, _TOP + 10
        parts.append(
            f'<path d="M{x} {y}h26" stroke="{colour}" stroke-width="2" stroke-dasharray="{_DASHES[place]}"/>'
            f'<text x="{x + 32}" y="{y + 4}" {_TEXT}>{escape(name[:14])}</text>'
        )
    return _svg(title, parts)


def bars(
    title: str, x_label: str, y_label: str, labels: Sequence[str], heights: Sequence[float], errors: Sequence[float]
) -> str:
    """Bars with their errors; nothing where there is no bar.

    Args:
        title: said to who cannot see the drawing.
        x_label, y_label: of the axes.
        labels: of the bars.
        heights: of the bars, 0 or more.
        errors: half the length of the line on each bar.
    """
    if not heights:
        return ""
    top = max(height + error for height, error in zip(heights, errors, strict=True))
    frame = _Frame(-0.5, len(heights) - 0.5, top * 1.08 or 1.0)
    parts = frame.axes(x_label, y_label, [])
    width = min(48.0, 0.7 * (_WIDTH - _LEFT - _RIGHT) / len(heights))
    for place, (label, height, error) in enumerate(zip(labels, heights, errors, strict=True)):
        x, y = frame.at(place, height)
        base = frame.at(place, 0.0)[1]
        (_, low), (_, high) = frame.at(place, max(0.0, height - error)), frame.at(place, height + error)
        parts.append(
            f'<rect x="{x - width / 2:.1f}" y="{y:.1f}" width="{width:.1f}" height="{base - y:.1f}" fill="#7fa3c7"/>'
            f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="#1f4e79" stroke-width="2"/>'
            f'<text x="{x:.1f}" y="{base + 16:.1f}" text-anchor="middle" {_TEXT}>{escape(label[:12])}</text>'
        )
    return _svg(title, parts)


@dataclass(frozen=True)
class _Frame:
    """Where numbers are on a drawing; heights begin at 0."""

    x_low: float
    x_high: float
    y_high: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return (
            _LEFT + wide * (x - self.x_low) / (self.x_high - self.x_low),
            _TOP + high * (1.0 - y / self.y_high),
        )

    def axes(self, x_label: str, y_label: str, x_ticks: Sequence[float]) -> list[str]:
        left, bottom = self.at(self.x_low, 0.0)
        parts = []
        for value in _nice(0.0, self.y_high):
            y = self.at(self.x_low, value)[1]
            parts.append(
                f'<path d="M{left} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#dddddd"/>'
                f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" {_TEXT}>{value:g}</text>'
            )
        for value in x_ticks:
            x = self.at(value, 0.0)[0]
            parts.append(f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle" {_TEXT}>{value:g}</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<path d="M{left} {bottom}H{_WIDTH - _RIGHT}" stroke="#333333"/>')
        parts.append(f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle" {_TEXT}>{escape(x_label)}</text>')
        centre = (_TOP + _HEIGHT - _BOTTOM) / 2
        turned = f'transform="rotate(-90 16 {centre})"'
        parts.append(f'<text x="16" y="{centre}" text-anchor="middle" {turned} {_TEXT}>{escape(y_label)}</text>')
        return parts


def _finite(x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float]]:
    return [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]


def _nice(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, five at most."""
    raw = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * number for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
