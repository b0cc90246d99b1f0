"""The list of a run's files: each with its size and SHA-256, written last, when the run is closed.

The list is itself a rooted ledger (`record/files.jsonl`), so that every line of it fits its root or is named. It covers
private files and exact reports too; a random salt in its first line keeps its root from telling anything about them.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedrec.documents import MOST_LINES, read_file
from fedrec.errors import DamagedError
from fedrec.record.durable import replace_file
from fedrec.record.ledger import read_lines, rooted_line
from fedrec.record.merkle import Tree

__all__ = ["FILES", "LEDGER", "check_file", "check_files", "file_digest", "list_files", "read_files"]

LEDGER = "ledger.jsonl"
FILES = "record/files.jsonl"
_FOLDER = "record"
_LOCK = ".lock"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> None:
    """Write the list of all files of a run."""
    tree = Tree()
    entries: list[dict[str, Any]] = [{"kind": "files", "salt": secrets.token_hex(16)}]
    names = sorted(_covered(folder))
    entries += [_entry(folder, name) for name in names]
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
    files = {str(line.get("path")): line for line in lines[1:-1] if line["kind"] == "file"}
    whole = len(lines) >= 2 and lines[0]["kind"] == "files" and lines[-1]["kind"] == "end"
    if not whole or not len(files) == len(lines) - 2 == lines[-1].get("files"):
        raise DamagedError(f"{FILES}, line {len(lines) + 1}: lines are missing; it ends with the number of files")
    return files, leaves


def check_files(folder: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Check every file against the list; returns the files beside the known ones that nobody lists.

    Raises:
        DamagedError: naming the first file that was changed, added to a folder of the run, or is missing.
    """
    for name, line in files.items():
        check_file(folder, name, line.get("sha256"), "the list of files")
        if (folder / name).stat().st_size != line.get("size"):
            raise DamagedError(f"{name}: its size is not the one in the list of files")
    strangers = sorted(set(_covered(folder)) - set(files))
    for name in strangers:
        if "/" in name:
            raise DamagedError(f"{name}: not in the list of files; it was put there after the run was closed")
    if (folder / _LOCK).exists() and (folder / _LOCK).stat().st_size:
        raise DamagedError(f"{_LOCK}: must be empty")
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


def _covered(folder: Path) -> Iterator[str]:
    """Names of all files, but of those of the record itself and the lock."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != _LOCK and not name.startswith(f"{_FOLDER}/"):
            yield name
