"""Files that are mapped into memory instead of being read, and hashed in the background."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from fedrec.documents import open_file

__all__ = ["MappedFile", "hashed_ahead"]

_SMALL = 1 << 20
"""Smaller files are read: that is as quick, and later changes of the file do not change the data."""
_BLOCK = 1 << 26
"""Bytes that are hashed at a time; between two blocks other threads can run Python."""
_ahead: dict[tuple[int, ...], MappedFile] = {}


class MappedFile:
    """The bytes of a file in the memory of this process; changes of the bytes are not written to the disk.

    Files of a run are replaced as a whole, so the bytes stay as they were. If another program shortens the file in
    place, this process ends (SIGBUS), as for every program that maps files.

    Args:
        path: a regular file, or a link to one.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        DocumentError: if it is a device, a pipe or a socket.
    """

    def __init__(self, path: Path) -> None:
        self._thread: Thread | None = None
        self._digest = ""
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            self.key = _key(status)
            self.data: mmap.mmap | bytearray
            if status.st_size < _SMALL:
                self.data = bytearray(file.read(status.st_size))
            else:
                # Private and writable, as kernels require writable arrays; they do not change them.
                self.data = mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_COPY)

    @classmethod
    def of(cls, path: Path) -> MappedFile:
        """The mapped file; one that `hashed_ahead` has mapped already is used again."""
        try:
            kept = _ahead.get(_key(path.stat()))
        except OSError:
            kept = None
        return kept or cls(path)

    def hash_aside(self) -> None:
        """Start hashing the file in a thread."""
        if self._thread is None:
            self._thread = Thread(target=self._hash, daemon=True)
            self._thread.start()

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, in hexadecimal."""
        self.hash_aside()
        assert self._thread is not None
        self._thread.join()
        return self._digest

    def forget(self) -> None:
        """Free the memory that reading the mapped file used; the bytes are read again from the disk when needed. Only
        for arrays that were not changed."""
        if isinstance(self.data, mmap.mmap):
            self.data.madvise(mmap.MADV_DONTNEED)

    def _hash(self) -> None:
        state, view = hashlib.sha256(), memoryview(self.data)
        for start in range(0, len(view), _BLOCK):
            state.update(view[start : start + _BLOCK])
        self._digest = state.hexdigest()


@contextmanager
def hashed_ahead(*paths: Path) -> Iterator[None]:
    """Hash files while the modules that need the digests are still being imported. Files that cannot be read are
    skipped; the later reader reports the error."""
    files = []
    for path in paths:
        try:
            files.append(MappedFile(path))
        except (OSError, ValueError):
            continue
    _ahead.update({file.key: file for file in files})
    for file in files:
        file.hash_aside()
    try:
        yield
    finally:
        for file in files:
            _ahead.pop(file.key, None)


def _key(status: os.stat_result) -> tuple[int, ...]:
    """An identifier of the file and its present version."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
