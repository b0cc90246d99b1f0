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
    "hold",
    "load_arrays",
    "named_on_error",
    "remove_unfinished",
    "replace_file",
    "replace_table",
    "save_arrays",
]


def replace_file(path: Path, *data: bytes, secret: bool = False) -> None:
    """Put pieces of data at `path`, one after the other: after a crash the file is the old one or the new one whole.

    A `secret` is for its owner's eyes from the first byte on.
    """
    aside = path.with_name(f".{path.name}.new")
    with _whole(aside, path):
        if secret:
            aside.unlink(missing_ok=True)
            aside.touch(mode=0o600)
        with aside.open("wb") as file:
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


def hold(path: Path, busy: str) -> int:
    """Hold a lock file for this process, until the descriptor is closed or the process ends.

    Raises:
        RunError: with the words of `busy`, if another process holds it.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(busy) from None
    return lock


def append_line(path: Path, line: str) -> None:
    """Append one line and flush it to the disk; after a crash it is there whole, or its torn end has no newline."""
    fresh = not path.exists()
    with named_on_error(path), path.open("ab", buffering=0) as file:
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
        DamagedError: if the file is not whole.
    """
    try:
        data = read_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DamagedError(f"{path} cannot be read: {error}") from None
    try:
        return {name: np.require(array, requirements=["C", "W", "O"]) for name, array in load(data).items()}
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(f"{path} is damaged: {error}") from None


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    packed: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return packed


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
