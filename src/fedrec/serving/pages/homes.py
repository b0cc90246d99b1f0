"""What is in a folder that pages show: runs, budgets and the federation of a coordinator. Nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fedrec.deploy.folder import FederationFolder
from fedrec.documents import MOST_SETTINGS, read_file
from fedrec.errors import InputError
from fedrec.record.files import LEDGER
from fedrec.serving.refusals import RefusalError

__all__ = ["Home", "Place"]

_DEEPEST = 3
_MOST_RUNS = 500
_FEDERATION = "federation.toml"


@dataclass(frozen=True)
class Place:
    """A folder or file, with its name on pages: the path from the home."""

    name: str
    path: Path


@dataclass(frozen=True)
class Home:
    """A folder of runs: one that `fedrec train` filled, the home of a node, or the folder of a federation.

    Args:
        folder: the folder, or a single run.

    Raises:
        InputError: if it is not a folder.
    """

    folder: Path

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise InputError(f"{self.folder} is not a folder; name a folder with runs, such as runs")

    def runs(self) -> list[Place]:
        """Runs up to three folders below, newest first, 500 at most. Links are not followed."""
        if _is_run(self.folder):
            return [Place(_shown(self.folder.resolve().name), self.folder.resolve())]
        found = [path for path in self._folders(self.folder, _DEEPEST) if _is_run(path)]
        found.sort(key=lambda path: (-_changed(path), str(path)))
        return [self._place(path) for path in found[:_MOST_RUNS]]

    def run(self, name: str) -> Place:
        """The run of a name.

        Raises:
            RefusalError: with status 404, if there is none.
        """
        for place in self.runs():
            if place.name == name:
                return place
        raise RefusalError(404, f"there is no run {name!r} here; it may have been removed")

    def budgets(self) -> list[Place]:
        """Journals of privacy budgets up to three folders below."""
        files = [*self.folder.glob("*.jsonl")]
        for path in self._folders(self.folder, _DEEPEST):
            if not _is_run(path):
                files += path.glob("*.jsonl")
        return [self._place(path) for path in sorted(files) if _is_budget(path)]

    def federation(self) -> FederationFolder | None:
        """The federation of a coordinator, in the folder or one below.

        Raises:
            FedrecError: if its settings are damaged.
        """
        for path in (self.folder, *self._folders(self.folder, 1)):
            if (path / _FEDERATION).is_file():
                return FederationFolder.open(path)
        return None

    def _place(self, path: Path) -> Place:
        return Place(_shown(path.relative_to(self.folder)), path)

    def _folders(self, folder: Path, deep: int) -> Iterator[Path]:
        """Folders below, those of runs without what is in them."""
        try:
            with os.scandir(folder) as entries:
                names = sorted(
                    entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
                )
        except OSError:  # not ours to read
            return
        for name in names:
            path = folder / name
            yield path
            if deep > 1 and not _is_run(path):
                yield from self._folders(path, deep - 1)


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, be it damaged, or a saved model."""
    return (path / "plan.yaml").is_file() and ((path / LEDGER).is_file() or (path / "model").is_dir())


def _shown(path: str | Path) -> str:
    """A path as text that a page can have, whatever bytes it is of."""
    return os.fsencode(path).decode("utf-8", "replace")


def _changed(path: Path) -> float:
    try:
        return (path / "plan.yaml").stat().st_mtime
    except OSError:
        return 0.0


def _is_budget(path: Path) -> bool:
    try:
        if path.stat().st_size > MOST_SETTINGS:
            return False
        line = json.loads(read_file(path, MOST_SETTINGS).partition(b"\n")[0])
    except (OSError, ValueError):
        return False
    return isinstance(line, dict) and line.get("kind") == "limits"
