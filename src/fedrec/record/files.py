"""The list of a run's files with their sizes and SHA-256 digests, written when the run is closed.

The list is itself a rooted ledger (`record/files.jsonl`), so that a changed line is detected and named. It covers
private files and exact reports too; a random salt in its first line keeps its root from revealing anything about them.
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
"""Incomplete files of the record that a crash may leave; they are ignored."""
_OWN = ("plan.yaml", LEDGER, "report.json", "progress.jsonl")
"""Files of a run that fedrec reads: if one of them is not in the list, somebody added it."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def names_in(folder: Path) -> list[str]:
    """The names of all files of a run folder, in order.

    Raises:
        DamagedError: if there is a link, a pipe or the like, a name that cannot be printed, or an unknown file in the
            folder of the record. They cannot be listed, so they must not exist.
    """
    names, folders = [], [""]
    while folders:
        within = folders.pop()
        try:
            entries = list(os.scandir(folder / within))
        except OSError as error:
            raise DamagedError(f"{within or folder}: cannot be read ({error.strerror})") from None
        for entry in entries:
            name = f"{within}{entry.name}"
            if not name.isprintable():
                raise DamagedError(
                    f"{name!r}: the name has unprintable characters; remove the file, which is not part of a run"
                )
            if entry.is_symlink():
                raise DamagedError(f"{name}: is a link; replace it by the file itself")
            if entry.is_dir():
                folders.append(f"{name}/")
            elif not entry.is_file():
                raise DamagedError(f"{name}: is neither a file nor a folder; remove it, as it is not part of a run")
            elif within.startswith(f"{_FOLDER}/") and name not in (*_RECORD, *_UNFINISHED):
                raise DamagedError(f"{name}: is not a file of the record and was added later; remove it")
            else:
                names.append(name)
    return sorted(names)


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """The entry of every file for the list, by name. Reads all files.

    Raises:
        DamagedError: if the folder contains something that cannot be listed.
    """
    return {name: _entry(folder, name) for name in _covered(names_in(folder))}


def list_files(folder: Path, unchanged: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Write the list of all files of a run.

    Args:
        folder: the run.
        unchanged: entries from `entries_of` of files that have not changed, which are not read again.

    Raises:
        DamagedError: if the folder contains something that cannot be listed.
    """
    tree = Tree()
    entries: list[dict[str, Any]] = [{"kind": "files", "salt": secrets.token_hex(16)}]
    names = _covered(names_in(folder))
    entries += [(unchanged or {}).get(name) or _entry(folder, name) for name in names]
    entries.append({"kind": "end", "files": len(names)})
    lines = [rooted_line(json.dumps(entry, separators=(",", ":")), tree) for entry in entries]
    (folder / FILES).parent.mkdir(exist_ok=True)
    replace_file(folder / FILES, "".join(line + "\n" for line in lines).encode())


def read_files(folder: Path) -> tuple[dict[str, dict[str, Any]], list[bytes]]:
    """The entries of the list by file name, and the hashes of all entries.

    Raises:
        DamagedError: if the list is missing or a line was changed; the text names the line.
    """
    try:
        data = read_file(folder / FILES, MOST_LINES)
    except ValueError as error:
        raise DamagedError(f"{FILES}: {error}") from None
    except OSError:
        raise DamagedError(
            f"{FILES}: missing; the file was removed, or the run did not end. 'fedrec train --resume' ends a run"
        ) from None
    lines, leaves = read_lines(data, FILES, rooted=True)
    files = {line["path"]: line for line in lines[1:-1] if line["kind"] == "file" and isinstance(line.get("path"), str)}
    whole = len(lines) >= 2 and lines[0]["kind"] == "files" and lines[-1]["kind"] == "end"
    if not whole or not len(files) == len(lines) - 2 == lines[-1].get("files"):
        raise DamagedError(
            f"{FILES}, line {len(lines) + 1}: lines are missing: the last line must have the number of files"
        )
    return files, leaves


def check_files(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Check every file against the list; returns other files in the folder that are not in the list.

    Names are compared exactly with the names in the folder. So a name in the list that leads out of the folder, or that
    only some file systems treat as equal, counts as missing.

    Raises:
        DamagedError: if a file was changed, is missing or was added; the text names the first such file.
    """
    present = names_in(folder)
    covered = set(_covered(present))
    for name, line in files.items():
        if name not in covered:
            raise DamagedError(f"{name if name.isprintable() else ascii(name)}: missing")
        check_file(folder, name, line.get("sha256"), "the list of files")
        if (folder / name).stat().st_size != line.get("size"):
            raise DamagedError(f"{name}: its size differs from the size in the list of files")
    strangers = sorted(covered - set(files))
    for name in strangers:
        if "/" in name or name.casefold() in _OWN:
            raise DamagedError(f"{name}: is not in the list of files; it was added after the run was closed")
    strangers += [name for name in present if name in _UNFINISHED]
    if LOCK in present and (folder / LOCK).stat().st_size:
        raise DamagedError(f"{LOCK}: must be an empty file")
    return strangers


def check_file(folder: Path, name: str, digest: object, source: str) -> None:
    """Check one file against its digest, which `source` gives.

    Raises:
        DamagedError: if the file is missing or has another digest.
    """
    path = folder / name
    if not path.is_file():
        raise DamagedError(f"{name}: missing")
    if file_digest(path) != digest:
        raise DamagedError(f"{name}: was changed: its digest differs from the digest in {source}")


def _entry(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    return {"kind": "file", "path": name, "size": path.stat().st_size, "sha256": file_digest(path)}


def _covered(names: list[str]) -> list[str]:
    """The names that the list covers: all except those of the record and the lock."""
    return [name for name in names if name != LOCK and not name.startswith(f"{_FOLDER}/")]
