"""Files that are whole or absent, whatever happens: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrec.documents import read_file
from fedrec.errors import DamagedError, InputError, RunError

if TYPE_CHECKING:  # processes that only hand messages on load no tables
    import polars as pl

__all__ = [
    "append_line",
    "arrays_digest",
    "check_plain",
    "hold",
    "load_arrays",
    "named_on_error",
    "remove_unfinished",
    "replace_file",
    "replace_table",
    "save_arrays",
    "unpacked_arrays",
    "whole_lines",
]


def replace_file(path: Path, *data: bytes, secret: bool = False) -> None:
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
    data = _packed(arrays)
    replace_file(path, data)
    return hashlib.sha256(data).hexdigest()


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the bytes that `save_arrays` writes."""
    return hashlib.sha256(_packed(arrays)).hexdigest()


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Load named arrays.

    Raises:
        InputError: if there is no such file.
        DamagedError: if the file is not whole, or an array is of a type that fedrec has not.
    """
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from None
    arrays = unpacked_arrays(data, str(path))
    return {name: np.require(array, requirements=["C", "W", "O"]) for name, array in arrays.items()}


def unpacked_arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Named arrays from the bytes of safetensors.

    Raises:
        DamagedError: naming `where`, if they are not whole, or an array is of a type that fedrec has not.
    """
    try:
        arrays: dict[str, np.ndarray] = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{where} is damaged: {error}") from None
    for name, array in arrays.items():
        # NumPy counts and gathers by the byte of a truth value, and trusts that it is 0 or 1
        if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
            raise DamagedError(f"{where}: array {name!r} holds truth values that are neither 0 nor 1")
    return arrays


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    packed: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return packed


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
