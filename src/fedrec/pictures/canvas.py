"""Where pictures are drawn and saved: the only module that knows matplotlib.

Pictures are read in black and white too: series differ in their marks and dashes as well as in their colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrec.errors import InputError

__all__ = ["canvas", "check_picture", "style"]

_FORMATS = (".png", ".svg", ".pdf")
_COLOURS = ("#1f4e79", "#c8372d", "#2a9d55", "#8a5fb0", "#b8860b", "#5a5a5a")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", "--", "-.", ":")


def check_picture(path: Path) -> None:
    """Refuse a picture that could not be saved, before the work whose result it shows.

    Raises:
        InputError: if the name has no known ending, the folder does not exist, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path}: the name of a picture ends with {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}")
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else f"cannot be saved, as there is no folder {path.parent}"
        raise InputError(f"{path} {what}; name a file in a folder that exists")
    _pyplot()


@contextmanager
def canvas(path: Path, width: float = 8.0, height: float = 4.5, columns: int = 1) -> Iterator[Any]:
    """Axes to draw on, one or a row of several; they are saved at the end.

    Args:
        path: of the picture; its ending says the format.
        width, height: in inches.
        columns: number of axes.

    Raises:
        InputError: as `check_picture`.
    """
    check_picture(path)
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(1, columns, figsize=(width, height), layout="constrained")
    try:
        for one in [axes] if columns == 1 else axes:
            one.spines[["top", "right"]].set_visible(False)
            one.grid(alpha=0.25, linewidth=0.6)
            one.set_axisbelow(True)
        yield axes
        figure.savefig(path, dpi=120)
    finally:
        pyplot.close(figure)


def style(place: int) -> dict[str, Any]:
    """Colour, mark and dashes of the series at a place."""
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKS[place % len(_MARKS)],
        "linestyle": _DASHES[place % len(_DASHES)],
        "markersize": 6,
    }


def _pyplot() -> Any:
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError:
        raise InputError("a picture needs matplotlib; pip install 'fedrec[plots]'") from None
    return pyplot
