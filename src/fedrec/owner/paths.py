"""Paths in `node.toml` are relative to that file, wherever a node is started."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from fedrec.data.datasets import DATASETS

__all__ = ["is_path", "place_at", "place_from", "source_at"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SQLITE = re.compile(r"sqlite:///(?!/)([^?]+)", re.IGNORECASE)


def is_path(source: str) -> bool:
    """Whether a source is a path, and not a registered name, a URL or `synthetic:…`.

    >>> is_path("clicks.csv"), is_path("ml-100k"), is_path("postgresql://db/shop"), is_path("synthetic:users=9")
    (True, False, False, False)
    """
    synthetic = source == "synthetic" or source.startswith("synthetic:")
    return not (synthetic or source.split("/")[0] in DATASETS or _URL.match(source))


def place_at(folder: Path, path: str | os.PathLike[str]) -> Path:
    """The absolute path of a path relative to `folder`; `~` is the home folder of the current user.

    >>> str(place_at(Path("/srv/shop"), "../data/clicks.csv"))
    '/srv/data/clicks.csv'
    """
    return Path(os.path.abspath(folder / os.path.expanduser(path)))


def place_from(folder: Path, path: Path) -> str:
    """A path relative to the working folder, as a path relative to `folder` if it is inside, else absolute."""
    place = place_at(Path(), path)
    return str(place.relative_to(folder)) if place.is_relative_to(folder) else str(place)


def source_at(folder: Path, source: str) -> str:
    """A source with an absolute path, also in a SQLite URL; other sources stay as they are.

    >>> source_at(Path("/srv/shop"), "clicks.csv"), source_at(Path("/srv/shop"), "sqlite:///shop.db?table=clicks")
    ('/srv/shop/clicks.csv', 'sqlite:////srv/shop/shop.db?table=clicks')
    """
    if is_path(source):
        return str(place_at(folder, source))
    return _SQLITE.sub(lambda match: f"sqlite:///{quote(str(place_at(folder, unquote(match[1]))))}", source, count=1)
