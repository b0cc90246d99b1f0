"""The list of a run's files: each with its size and SHA-256, written last, when the run is closed.

The list is itself a rooted ledger (`record/files.jsonl`), so that every line of it fits its root or is named. It covers
private files and exact reports too; a random salt in its first line keeps its root from telling anything about them.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedrec.documents import MOST_LINES, read_file
from fedrec.errors import DamagedError
from fedrec.record.durable import replace_file
from fedrec.record.ledger import read_lines, rooted_line
from fedrec.record.merkle import Tree

__all__ = [
    "FILES",
    "LEDGER",
    "LOCK",
    "check_file",
    "check_files",
    "entries_of",
    "file_digest",
    "list_files",
    "names_in",
    "read_files",
]

LEDGER = "ledger.jsonl"
FILES = "record/files.jsonl"
LOCK = ".lock"
_FOLDER = "record"
_RECORD = (FILES, "record/files.note", "record/ledger.note", "record/keys")
_UNFINISHED = tuple(f"record/.{name.removeprefix('record/')}.new" for name in _RECORD)
"""What a crash leaves of them; nothing reads it."""
_OWN = ("plan.yaml", LEDGER, "report.json", "progress.jsonl")
"""Files at the top of a run that fedrec reads: one of them that nobody lists is not a person's own."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_in(folder: Path) -> list[str]:
    """The names of all files of a run folder, in order.

    Raises:
        DamagedError: naming a link, a pipe or the like, a name that cannot be printed, or what is not of the record
            among its files. None of them can be listed, so none of them may be there.
    """
    names, folders = [], [""]
    while folders:
        within = folders.pop()
        try:
            entries = list(os.scandir(folder / within))
        except OSError as error:
            raise DamagedError(f"{within or folder}: cannot be looked into ({error.strerror})") from None
        for entry in entries:
            name = f"{within}{entry.name}"
            if not name.isprintable():
                raise DamagedError(f"{name!r}: a name that cannot be printed; no file of a run has one")
            if entry.is_symlink():
                raise DamagedError(f"{name}: a link; a run holds its own files, so put what it points to in its place")
            if entry.is_dir():
                folders.append(f"{name}/")
            elif not entry.is_file():
                raise DamagedError(f"{name}: neither a file nor a folder; no run holds one")
            elif within.startswith(f"{_FOLDER}/") and name not in (*_RECORD, *_UNFINISHED):
                raise DamagedError(f"{name}: not a file of the record; it was put there")
            else:
                names.append(name)
    return sorted(names)


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What the list says of every file by name; it takes the longer the larger they are.

    Raises:
        DamagedError: if something is there that cannot be listed.
    """
    return {name: _entry(folder, name) for name in _covered(names_in(folder))}


def list_files(folder: Path, known: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Write the list of all files of a run.

    Args:
        folder: the run.
        known: `entries_of` files that have not changed since, which are not read again.

    Raises:
        DamagedError: if something is there that cannot be listed.
    """
    tree = Tree()
    entries: list[dict[str, Any]] = [{"kind": "files", "salt": secrets.token_hex(16)}]
    names = _covered(names_in(folder))
    entries += [(known or {}).get(name) or _entry(folder, name) for name in names]
    entries.append({"kind": "end", "files": len(names)})
    lines = [rooted_line(json.dumps(entry, separators=(",", ":")), tree) for entry in entries]
    (folder / FILES).parent.mkdir(exist_ok=True)
    replace_file(folder / FILES, "".join(line + "\n" for line in lines).encode())


def read_files(folder: Path) -> tuple[dict[str, dict[str, Any]], list[bytes]]:
    """The list by name, and the hashes of its entries.

    Raises:
        DamagedError: naming the line that does not fit, or what is missing.
    """
    try:
        data = read_file(folder / FILES, MOST_LINES)
    except ValueError as error:
        raise DamagedError(f"{FILES}: {error}") from None
    except OSError:
        raise DamagedError(
            f"{FILES}: missing; it was taken away, or the run was stopped before it was closed, which 'fedrec train "
            "--resume' does"
        ) from None
    lines, leaves = read_lines(data, FILES, rooted=True)
    files = {line["path"]: line for line in lines[1:-1] if line["kind"] == "file" and isinstance(line.get("path"), str)}
    whole = len(lines) >= 2 and lines[0]["kind"] == "files" and lines[-1]["kind"] == "end"
    if not whole or not len(files) == len(lines) - 2 == lines[-1].get("files"):
        raise DamagedError(f"{FILES}, line {len(lines) + 1}: lines are missing; it ends with the number of files")
    return files, leaves


def check_files(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Check every file against the list; returns the files beside the known ones that nobody lists.

    A name of the list is looked for among the names that are there, letter by letter: one that leads out of the folder,
    or that only some file systems take for another, is missing.

    Raises:
        DamagedError: naming the first file that was changed, added to a folder of the run, or is missing.
    """
    there = names_in(folder)
    covered = set(_covered(there))
    for name, line in files.items():
        if name not in covered:
            raise DamagedError(f"{name if name.isprintable() else ascii(name)}: missing")
        check_file(folder, name, line.get("sha256"), "the list of files")
        if (folder / name).stat().st_size != line.get("size"):
            raise DamagedError(f"{name}: its size is not the one in the list of files")
    strangers = sorted(covered - set(files))
    for name in strangers:
        if "/" in name or name.casefold() in _OWN:
            raise DamagedError(f"{name}: not in the list of files; it was put there after the run was closed")
    strangers += [name for name in there if name in _UNFINISHED]
    if LOCK in there and (folder / LOCK).stat().st_size:
        raise DamagedError(f"{LOCK}: must be empty")
    return strangers


def check_file(folder: Path, name: str, digest: object, known_from: str) -> None:
    """Check one file.

    Raises:
        DamagedError: if it is missing or is not the one that is known.
    """
    path = folder / name
    if not path.is_file():
        raise DamagedError(f"{name}: missing")
    if file_digest(path) != digest:
        raise DamagedError(f"{name}: changed; it is not the file that {known_from} knows")


def _entry(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return {"kind": "file", "path": name, "size": path.stat().st_size, "sha256": file_digest(path)}


def _covered(names: list[str]) -> list[str]:
    """The names that the list covers: all but those of the record itself and the lock."""
    return [name for name in names if name != LOCK and not name.startswith(f"{_FOLDER}/")]
