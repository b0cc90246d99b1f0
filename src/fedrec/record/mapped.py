"""Files that are used where they lie: mapped into memory, not read into it, and hashed meanwhile."""

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
"""Files of fewer bytes are read: that is as quick, and whoever changes them later does not change what was read."""
_BLOCK = 1 << 26
"""Bytes that are hashed at a time: a thread that hashes waits for those that run Python between two blocks."""
_ahead: dict[tuple[int, ...], MappedFile] = {}


class MappedFile:
    """The bytes of a file, which belong to this process: what is written to them reaches no disk.

    A file of a run is replaced as a whole, so that the bytes stay as they were, whatever comes in its place. A file
    that is cut in place while it is mapped ends the process (SIGBUS), as it does for every program that maps files.

    Args:
        path: of a regular file; a link to one is one.

    Raises:
        OSError: if there is no such file, or it cannot be read.
        DocumentError: if it is a device, a pipe or a socket.
    """

    def __init__(self, path: Path) -> None:
        self._thread: Thread | None = None
        self._digest = ""
        with open_file(path) as file:
            found = os.fstat(file.fileno())
            self.key = _key(found)
            self.data: mmap.mmap | bytearray
            if found.st_size < _SMALL:
                self.data = bytearray(file.read(found.st_size))
            else:
                # Private and writable: kernels take arrays that may be written to, and change none of these.
                self.data = mmap.mmap(file.fileno(), found.st_size, access=mmap.ACCESS_COPY)

    @classmethod
    def of(cls, path: Path) -> MappedFile:
        """The file, or what is being hashed of it ahead."""
        try:
            kept = _ahead.get(_key(path.stat()))
        except OSError:
            kept = None
        return kept or cls(path)

    def hash_aside(self) -> None:
        """Begin to hash the file in a thread."""
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
        """Give the memory back that looking through the file took; it comes again from the disk, or its cache. For
        arrays that nobody has written to."""
        if isinstance(self.data, mmap.mmap):
            self.data.madvise(mmap.MADV_DONTNEED)

    def _hash(self) -> None:
        state, view = hashlib.sha256(), memoryview(self.data)
        for start in range(0, len(view), _BLOCK):
            state.update(view[start : start + _BLOCK])
        self._digest = state.hexdigest()


@contextmanager
def hashed_ahead(*paths: Path) -> Iterator[None]:
    """Hash files while the program that will ask for their digests is still being loaded; what cannot be read is left
    to who asks for it."""
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


def _key(found: os.stat_result) -> tuple[int, ...]:
    """What tells a file from any other, and from itself as it was before."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
