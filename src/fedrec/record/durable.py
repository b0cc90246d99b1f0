"""Files that are complete or absent even after a crash: written to a temporary file, flushed, then renamed."""

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

if TYPE_CHECKING:  # processes that only pass messages do not load polars
    import polars as pl

__all__ = [
    "UNFINISHED",
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


UNFINISHED = ".*.new"
"""Names of files that are being written; see `replace_file`."""


def replace_file(path: Path, *data: bytes | memoryview, secret: bool = False) -> None:
    """Write pieces of data to `path`. After a crash the file has either its old or its new content, complete.

    A `secret` file is readable by its owner only, from the first byte on.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)  # left by a crash, or a link to another file
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
    """Write a table to `path` as Parquet, in the way of `replace_file`."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    replace_file(path, buffer.getvalue())


@contextmanager
def named_on_error(path: Path) -> Iterator[Path]:
    """Add the file name to an error of writing, as the error of a full disk does not contain it."""
    try:
        yield path
    except OSError as error:
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise


@contextmanager
def _whole(aside: Path, path: Path) -> Iterator[None]:
    """Delete a file that could not be written completely, and name it in the error."""
    with named_on_error(path):
        try:
            yield
        except OSError:
            aside.unlink(missing_ok=True)
            raise


def remove_unfinished(folder: Path) -> None:
    """Remove incomplete files that a crash left below `folder`."""
    for path in folder.rglob(UNFINISHED):
        path.unlink()


def check_plain(folder: Path, only: str | None = None) -> None:
    """Check that a folder contains files and folders only, so that writing there cannot write anywhere else.

    Args:
        folder: the folder, which may be a link itself.
        only: name of the only entry to check; all by default.

    Raises:
        DamagedError: if an entry is a link, a named pipe or a device.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        chosen = [entry for entry in entries if only in (None, entry.name)]
    for entry in chosen:
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise DamagedError(f"{entry.path} is a link, a pipe or a device; replace it by the file itself")
        if entry.is_dir():
            check_plain(Path(entry.path))


def hold(path: Path, busy: str) -> int:
    """Lock a file for this process, until the returned descriptor is closed or the process ends.

    Raises:
        RunError: with the text `busy`, if another process has the lock.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(busy) from None
    return lock


def append_line(path: Path, line: str) -> None:
    """Append one line and flush it to the disk. After a crash the line is complete, or its rest has no newline."""
    fresh = not path.exists()
    with named_on_error(path):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with named_on_error(path), open(handle, "ab", buffering=0) as file:
        before = file.tell()
        try:
            left = memoryview(line.encode() + b"\n")
            while left:  # on an almost full disk a write may be partial without an error
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise
    if fresh:
        _sync_folder(path.parent)


def whole_lines(path: Path, most: int | None = None) -> bytes:
    """The lines that `append_line` wrote. An incomplete last line, left by a crash, is removed from the file.

    Args:
        path: the file.
        most: maximum bytes, see `read_file`.

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
    """Load named arrays; large arrays stay on the disk until they are used, see `mapped.MappedFile`.

    Raises:
        InputError: if there is no such file.
        DamagedError: if the file is incomplete, or an array has an unsupported type.
    """
    return arrays_in(map_file(path).data, str(path))


def map_file(path: Path) -> MappedFile:
    """A file mapped into memory.

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
