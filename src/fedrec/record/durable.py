"""Files that are whole or absent, whatever happens: written aside, flushed to the disk, then renamed."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrec.documents import read_file
from fedrec.errors import DamagedError, InputError, RunError

__all__ = ["append_line", "arrays_digest", "hold", "load_arrays", "remove_unfinished", "replace_file", "save_arrays"]


def replace_file(path: Path, *data: bytes, secret: bool = False) -> None:
    """Put pieces of data at `path`, one after the other: after a crash the file is the old one or the new one whole.

    A `secret` is for its owner's eyes from the first byte on.
    """
    aside = path.with_name(f".{path.name}.new")
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
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            file.write(line.encode() + b"\n")
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
