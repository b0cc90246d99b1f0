"""A finished run of a federation, kept at a node as a run of its own, so that the node's users can be served."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from fedrec.engines.local import LocalEngine
from fedrec.federation.coordinator import Trained
from fedrec.node.host import Served
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import is_saved_in, save_run

__all__ = ["save_served"]


def save_served(served: Served) -> None:
    """Save the model with the node's own users and private rows; `fedrec recommend` and the like open it.

    `latest`, beside the folder, is a whole run whenever it is looked at: the folder is made aside, put beside the one
    of an earlier save where that holds something else, and only then does `latest` point to it and the earlier one go.
    A model that is there already stays as it is.
    """
    home, name = served.folder.parent, served.folder.name
    home.mkdir(parents=True, exist_ok=True)
    _clear(home)
    trained = Trained(served.state, served.kept, served.kept + 1)
    run = OpenedRun.here(served.agreement, trained, LocalEngine([served.node]), served.data)
    before = _saved(home, name)
    folder = next((path for number, path in sorted(before.items(), reverse=True) if is_saved_in(run, path)), None)
    if folder is None:
        number = max(before, default=0) + 1
        folder = served.folder if number == 1 else home / f"{name}-{number}"
        aside = home / f".{folder.name}.new"
        save_run(run, aside)
        aside.rename(folder)
    _point(home / "latest", folder.name)
    for path in before.values():
        if path != folder:
            shutil.rmtree(path)


def _saved(home: Path, name: str) -> dict[int, Path]:
    """The folders of a run by number; the first one has the run's own name."""
    names = {path: re.fullmatch(rf"{re.escape(name)}(?:-(\d+))?", path.name) for path in home.iterdir()}
    return {int(match[1] or 1): path for path, match in names.items() if match}


def _point(link: Path, name: str) -> None:
    """Make `link` point to `name`, in one step."""
    if link.is_symlink() and os.readlink(link) == name:
        return
    aside = link.with_name(f".{link.name}.new")
    aside.symlink_to(name)
    os.replace(aside, link)


def _clear(home: Path) -> None:
    """Remove what a crash left of folders and links that were being made."""
    for path in home.glob(".*.new"):
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
