"""Where compiled kernels are kept, and under which name: that of everything that they were compiled from.

Numba notices that a kernel's own file has changed. It does not notice a change of a function that the kernel has taken
in from another file, and would run the old one. Here a kernel's name is made of the contents of its file and of all
files of this folder that it imports, so what is kept always fits; unlike versions lie side by side, and a fresh copy of
the same source finds what another copy compiled.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import FunctionCache, _CacheLocator

__all__ = ["KernelLocator", "cache_folder", "fingerprint", "found_by_content", "imported_kernels"]

_IMPORT = re.compile(r"^from fedrec\.kernels\.(\w+) import", re.MULTILINE)
_HERE = Path(__file__).parent


def imported_kernels(path: Path) -> list[Path]:
    """The files of its folder that a file imports.

    >>> [path.name for path in imported_kernels(_HERE / "topk.py")]
    ['threads.py']
    """
    return [path.parent / f"{name}.py" for name in _IMPORT.findall(path.read_text(encoding="utf-8"))]


@functools.cache
def fingerprint(path: Path) -> str:
    """SHA-256 of a file and of all files of its folder that it imports, directly or not.

    >>> sums, weighted = (fingerprint(_HERE / f"{name}.py") for name in ("sums", "weighted_sums"))
    >>> len(sums), sums == weighted
    (64, False)
    """
    found, queue = {}, [path]
    while queue:
        file = queue.pop()
        if file not in found:
            found[file] = file.read_bytes()
            queue += imported_kernels(file)
    digest = hashlib.sha256()
    for file in sorted(found):
        digest.update(f"{file.name} {len(found[file])}\n".encode() + found[file])
    return digest.hexdigest()


@functools.cache
def cache_folder() -> Path | None:
    """The folder of compiled kernels: NUMBA_CACHE_DIR, else the user's cache, else beside the source.

    `None` where none of them can be written to; kernels are then compiled in every process.
    """
    own = Path(config.CACHE_DIR) if config.CACHE_DIR else None  # type: ignore[attr-defined]
    for folder in (own, _of_user() / "fedrec" / "kernels", _HERE / "__pycache__"):
        if folder is None:
            continue
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            continue
        return folder
    return None


def _of_user() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    named = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(named) if named else Path.home() / ".cache"


class KernelLocator(_CacheLocator):
    """Tells Numba where the kernels of this folder are kept, and when they fit."""

    def __init__(self, file: str) -> None:
        self._stamp = fingerprint(Path(file))

    def get_cache_path(self) -> str:
        """The folder."""
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        """What a kernel was compiled from."""
        return self._stamp

    def get_disambiguator(self) -> str:
        """A part of the file name that sets versions apart."""
        return self._stamp[:16]

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> KernelLocator | None:
        """The locator of a kernel."""
        return cls(py_file)


@contextmanager
def found_by_content() -> Iterator[None]:
    """Let Numba look for kernels that are made inside the block by what they are compiled from."""
    kept: Any = FunctionCache._impl_class
    before = kept._locator_classes
    kept._locator_classes = [KernelLocator]
    try:
        yield
    finally:
        kept._locator_classes = before
