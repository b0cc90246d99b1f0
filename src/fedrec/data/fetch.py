"""Fetches a named set: checks size and SHA-256 before unpacking, and leaves the whole set or nothing."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from fedrec.data.datasets import Archive, DataSet, cache_folder, dataset
from fedrec.errors import InputError

__all__ = ["fetch", "fetch_set"]

_BLOCK = 1 << 20
_MOST_FILES = 10_000
Progress = Callable[[int, int], None]


def fetch(
    name: str, *, cache: str | os.PathLike[str] | None = None, url: str | None = None, progress: Progress | None = None
) -> Path:
    """Fetch a named set into the cache, if the cache does not have it yet, and return its folder.

    Args:
        name: a set of the registry that has an archive.
        cache: folder of the cache; `$FEDREC_CACHE` or `~/.cache/fedrec` if `None`.
        url: another address of the same archive, such as a mirror; size and digest must still match.
        progress: called with the number of bytes so far and the total.

    Raises:
        InputError: if the set is unknown or has no archive, if the address cannot be reached, or if the bytes differ
            from the registered ones. No file is left behind.
    """
    return fetch_set(dataset(name.split("/")[0]), cache=cache, url=url, progress=progress)


def fetch_set(
    entry: DataSet,
    *,
    cache: str | os.PathLike[str] | None = None,
    url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """`fetch` for a data set that need not be in the registry."""
    home = Path(cache) if cache is not None else cache_folder()
    target = home / entry.name
    if target.is_dir() and all((target / file).is_file() for file in entry.files):
        return target
    if target.exists():
        raise InputError(
            f"{target}: the folder exists but lacks files of {entry.name}. Remove the folder and fetch again"
        )
    if entry.archive is None:
        raise InputError(f"{entry.name} cannot be downloaded. Put {', '.join(entry.files)} into {target}")
    address = url or entry.archive.url
    if not address.lower().startswith(("https://", "http://")):
        raise InputError(
            f"{address}: the address must begin with http:// or https://. If you have the files, put them into {target}"
        )
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=home) as work:
            archive = Path(work) / "archive.zip"
            _download(entry, address, archive, target, progress)
            unpacked = Path(work) / "files"
            _unpack(archive, unpacked, entry.archive.unpacked_bytes)
            _publish(_root(unpacked, entry), target, entry)
    except OSError as error:
        raise InputError(
            f"{error.filename or home}: cannot be written ({error.strerror or error}). "
            f"Choose another cache folder with FEDREC_CACHE"
        ) from None
    return target


def _download(entry: DataSet, address: str, to: Path, target: Path, progress: Progress | None) -> None:
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    wanted = entry.archive
    assert wanted is not None
    by_hand = (
        f"By hand: download {wanted.url} elsewhere, check its SHA-256 ({wanted.sha256}) and unpack it so that "
        f"{entry.files[0]} is in {target}"
    )
    state, done = hashlib.sha256(), 0
    try:
        with urlopen(Request(address, headers={"User-Agent": "fedrec"}), timeout=30) as answer, to.open("wb") as file:
            while block := answer.read(min(_BLOCK, wanted.bytes + 1 - done)):
                done += len(block)
                state.update(block)
                file.write(block)
                if progress is not None:
                    progress(min(done, wanted.bytes), wanted.bytes)
                if done > wanted.bytes:
                    break
    except HTTPError as error:
        raise InputError(f"{address}: the server answered {error.code} {error.reason}. {by_hand}") from None
    except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise InputError(f"{address}: the download failed ({reason}). {by_hand}") from None
    _check(address, wanted, done, state.hexdigest(), by_hand)


def _check(address: str, wanted: Archive, done: int, digest: str, by_hand: str) -> None:
    if done != wanted.bytes:
        size = f"more than {wanted.bytes:,}" if done > wanted.bytes else f"{done:,}"
        raise InputError(
            f"{address}: has {size} bytes instead of {wanted.bytes:,}; the download is incomplete or a different file. "
            f"Nothing was unpacked. Try again. {by_hand}"
        )
    if digest != wanted.sha256:
        raise InputError(
            f"{address}: has SHA-256 {digest} instead of {wanted.sha256}, so it is a different file. "
            f"Nothing was unpacked. {by_hand}"
        )


def _unpack(archive: Path, to: Path, most_bytes: int) -> None:
    """Unpack a zip file; refuse members outside of it, links, and more than `most_bytes`."""
    left = most_bytes
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            if len(members) > _MOST_FILES:
                raise InputError(
                    f"the archive holds {len(members):,} files, more than the allowed {_MOST_FILES:,}; nothing was "
                    "unpacked"
                )
            for member in members:
                place = to / _safe(member)
                if member.is_dir():
                    place.mkdir(parents=True, exist_ok=True)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, place.open("xb") as file:
                    while block := source.read(_BLOCK):
                        left -= len(block)
                        if left < 0:
                            raise InputError(
                                f"the archive unpacks to more than the allowed {most_bytes:,} bytes; unpacking was "
                                "stopped"
                            )
                        file.write(block)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, FileExistsError) as error:
        raise InputError(f"the archive cannot be unpacked ({error})") from None


def _safe(member: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(member.filename)
    outside = path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename or ":" in member.filename
    if outside or not path.parts or "\0" in member.orig_filename:
        raise InputError(
            f"the archive holds {member.orig_filename!r}, a path outside the archive; nothing was unpacked"
        )
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"the archive holds {member.filename!r}, which is not a regular file; nothing was unpacked")
    return path


def _root(unpacked: Path, entry: DataSet) -> Path:
    """The folder within that holds the files of the set: the top, or its only folder."""
    folders = [unpacked, *sorted(place for place in unpacked.glob("*") if place.is_dir())]
    for folder in folders:
        if all((folder / file).is_file() for file in entry.files):
            return folder
    raise InputError(
        f"the archive of {entry.name} lacks some of {', '.join(entry.files)}; nothing was written to the cache"
    )


def _publish(folder: Path, target: Path, entry: DataSet) -> None:
    try:
        os.rename(folder, target)
    except OSError:
        if not all((target / file).is_file() for file in entry.files):  # else another process was quicker
            raise
