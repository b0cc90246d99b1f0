"""Files that are whole or absent, whatever happens: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fedrec.documents import read_file
from fedrec.errors import DamagedError, InputError, RunError
from fedrec.record.layout import arrays_in, pieces_of
from fedrec.record.mapped import MappedFile

if TYPE_CHECKING:  # processes that only hand messages on load no tables
    import polars as pl

__all__ = [
    "append_line",
    "arrays_digest",
    "check_plain",
    "hold",
    "load_arrays",
    "map_file",
    "named_on_error",
    "remove_unfinished",
    "replace_file",
    "replace_table",
    "save_arrays",
    "whole_lines",
]


def replace_file(path: Path, *data: bytes | memoryview, secret: bool = False) -> None:
    """Put pieces of data at `path`, one after the other: after a crash the file is the old one or the new one whole.

    A `secret` is for its owner's eyes from the first byte on.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)  # what a crash left, or a link to somewhere else
    with _whole(aside, path):
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o666)
        with open(handle, "wb") as file:
            for piece in data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    _sync_folder(path.parent)


def replace_table(path: Path, table: pl.DataFrame) -> None:
    """Put a table at `path` as Parquet, as `replace_file` puts bytes."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    replace_file(path, buffer.getvalue())


@contextmanager
def named_on_error(path: Path) -> Iterator[Path]:
    """Name the file in an error of writing to it, as a full disk does not say which one it is."""
    try:
        yield path
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise


@contextmanager
def _whole(aside: Path, path: Path) -> Iterator[None]:
    """Leave nothing of a file that could not be written whole, and name it: a full disk stays no fuller."""
    with named_on_error(path):
        try:
            yield
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove what a crash left of files that were being written below `folder`."""
    for path in folder.rglob(".*.new"):
        path.unlink()


def check_plain(folder: Path, only: str | None = None) -> None:
    """Check that a folder holds files and folders only: writing there must not write anywhere else.

    Args:
        folder: which may be a link itself.
        only: the one entry that is looked at; all by default.

    Raises:
        DamagedError: naming a link, a named pipe or a device.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if only in (None, entry.name)]
    for entry in found:
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise DamagedError(
                f"{entry.path} is a link or something else than a file; put the file itself there, as fedrec writes it"
            )
        if entry.is_dir():
            check_plain(Path(entry.path))


def hold(path: Path, busy: str) -> int:
    """Hold a lock file for this process, until the descriptor is closed or the process ends.

    Raises:
        RunError: with the words of `busy`, if another process holds it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(busy) from None
    return lock


def append_line(path: Path, line: str) -> None:
    """Append one line and flush it to the disk; after a crash it is there whole, or its torn end has no newline."""
    fresh = not path.exists()
    with named_on_error(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with named_on_error(path), open(handle, "ab", buffering=0) as file:
        before = file.tell()
        try:
            left = memoryview(line.encode() + b"\n")
            while left:  # on a disk that is all but full, a part may be written without an error
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
    if fresh:
        _sync_folder(path.parent)


def whole_lines(path: Path, most: int | None = None) -> bytes:
    """The lines that `append_line` wrote; what a crash cut short at the end never was one, and is removed.

    Args:
        path: of the file.
        most: bytes; as of `read_file`.

    Raises:
        DamagedError: if the file cannot be read.
    """
    try:
        data = read_file(path, most)
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from None
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with open(os.open(path, os.O_RDWR | os.O_NOFOLLOW), "r+b") as file:
            file.truncate(whole)
    return data[:whole]


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Save named arrays as safetensors, without metadata (its order is not stable); returns their digest."""
    pieces = pieces_of(arrays)
    replace_file(path, *pieces)
    return _digest_of(pieces)


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the bytes that `save_arrays` writes."""
    return _digest_of(pieces_of(arrays))


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load named arrays: large ones stay on the disk until they are looked at, see `mapped.MappedFile`.

    Raises:
        InputError: if there is no such file.
        DamagedError: if the file is not whole, or an array is of a type that fedrec has not.
    """
    return arrays_in(map_file(path).data, str(path))


def map_file(path: Path) -> MappedFile:
    """A file to be used where it lies.

    Raises:
        InputError: if there is no such file.
        DamagedError: if it cannot be read.
    """
    try:
        return MappedFile.of(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from None


def _digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    state = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
    return state.hexdigest()


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
