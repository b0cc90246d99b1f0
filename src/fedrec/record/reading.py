"""Files that somebody else may have made: only regular files are read, JSON is bounded, and folders that are written to
hold nothing that leads elsewhere."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

from fedrec.errors import DamagedError

__all__ = ["check_plain", "parse_json", "read_file", "read_json"]

_MOST_JSON = 1 << 24


def read_file(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file; a named pipe or a device is not waited for, and nothing of it is read.

    Args:
        path: of the file.
        most: most bytes that it may have; any number by default.

    Raises:
        DamagedError: if it is something else than a file, or longer.
        OSError: if it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    with open(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise DamagedError(f"{path} is not a regular file")
        if most is not None and found.st_size > most:
            raise DamagedError(f"{path} has {found.st_size} bytes; it should have {most} at most")
        return file.read()


def read_json(path: Path) -> Any:
    """What a small JSON file holds.

    Raises:
        DamagedError: if it is not JSON, or longer than such files are.
        OSError: if it cannot be opened.
    """
    return parse_json(read_file(path, _MOST_JSON), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """What JSON text holds: no numbers that are not finite, and nothing nested too deeply.

    Raises:
        DamagedError: naming `where`, if it is not that.

    >>> parse_json(b'{"a": [1, 2.5]}', "here")
    {'a': [1, 2.5]}
    """
    try:
        return json.loads(data, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{where} is not valid JSON: {str(error)[:200]}") from None


def check_plain(folder: Path) -> None:
    """Check that a folder holds files and folders only: writing there must not write anywhere else.

    Raises:
        DamagedError: naming a link, a named pipe or a device.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise DamagedError(
                f"{entry.path} is a link or something else than a file; put the file itself there, as fedrec writes it"
            )
        if entry.is_dir():
            check_plain(Path(entry.path))


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return value
