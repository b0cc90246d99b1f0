"""Paths, compression and encodings: from a file to numbered lines of text, a chunk at a time."""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

import polars as pl

from fedrec.data.databases.urls import is_url
from fedrec.errors import InputError, suggestion

__all__ = ["STANDARD_INPUT", "Lines", "check_path", "compression_of", "line_chunks", "open_bytes", "standard_input"]

STANDARD_INPUT = "-"
"""The path that stands for what is piped into the command."""

_CHUNK = 1 << 26
_SYSTEM = (("/", "proc"), ("/", "sys"))
_FREE = 1 << 28
_MOST_RATIO = 200
"""Bytes that a byte of a compressed file may stand for, beyond `_FREE` in all: text has ten, a bomb thousands."""
_ZSTD_BLOCK = 1 << 17
_LONGEST_LINE = 1 << 28
_QUOTED = re.compile(rb'"[^"]*"')


class Lines(NamedTuple):
    """Consecutive lines of a file: their numbers, counted from 1, and their text without the line end."""

    numbers: pl.Series
    texts: pl.Series


def check_path(path: str | os.PathLike[str], *, read_once: bool = False) -> Path:
    """The path, if it is a readable file or folder, or with `read_once` a pipe.

    Raises:
        InputError: if nothing exists at the path (the message has similar file names), or the path cannot be read. Also
            if it is a pipe or a device, which can be read only once while a file is opened several times, or a file of
            the system about itself, which a plan of somebody else could name.
    """
    if is_url(os.fspath(path)):  # not shown: it may hold a password
        raise InputError("a URL is not a file; read databases with load_data")
    place = Path(path)
    try:
        if not place.exists():
            if place.parent.is_dir():
                near = suggestion(place.name, [entry.name for entry in place.parent.iterdir()])
                raise InputError(f"{place}: no such file{near if near.startswith('. Did') else ''}")
            raise InputError(f"{place}: there is no such file, and no folder {place.parent}")
        plain = place.is_file() or place.is_dir()
        if not read_once and (not plain or place.resolve().parts[:2] in _SYSTEM):
            raise InputError(
                f"{place}: is a pipe, a device or a system file, and fedrec needs a file that it can read more than "
                "once. Save the rows to a file first; 'fedrec data describe -' reads standard input"
            )
        if place.is_file() and not os.access(place, os.R_OK):
            raise PermissionError
        if place.is_dir():
            next(place.iterdir(), None)
    except PermissionError:
        raise InputError(
            f"{place}: no permission to read the file. Change its permissions, or read it as its owner"
        ) from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None
    return place


@contextmanager
def standard_input() -> Iterator[Path]:
    """A temporary file with the standard input of the command, which only its user may read; it is removed afterwards.

    Raises:
        InputError: if standard input is closed or a terminal. Errors of the block call the file standard input.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError(
            "standard input is empty: nothing is piped in. Name a file, or pipe one: zcat log.gz | fedrec … -"
        )
    with tempfile.TemporaryDirectory(prefix="fedrec-") as folder:
        place = Path(folder) / "stdin"
        with place.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, _CHUNK)
        try:
            yield place
        except InputError as error:
            raise type(error)(str(error).replace(str(place), "standard input")) from None


def compression_of(path: Path) -> Literal["none", "gzip", "zstd"]:
    """The compression of a file, detected from its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except PermissionError:
        raise InputError(
            f"{path}: no permission to read the file. Change its permissions, or read it as its owner"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if start == b"\x28\xb5\x2f\xfd" else "none"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading its uncompressed bytes.

    Raises:
        InputError: here or while reading, if a compressed file becomes far too large.
    """
    kind = compression_of(path)
    if kind == "gzip":
        return cast(BinaryIO, _Measured(cast(BinaryIO, gzip.open(path, "rb")), path))
    return _open_zstd(path) if kind == "zstd" else path.open("rb")


class _Measured(io.RawIOBase):
    """Counts what comes out of a compressed file, so that a few bytes cannot fill the memory."""

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._most, self._read = _most_of(path), 0

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, or all bytes if `size` is negative."""
        parts: list[bytes] = []
        while size != 0 and (data := self._stream.read(min(size, _CHUNK) if size > 0 else _CHUNK)):
            parts.append(data)
            size -= len(data) if size > 0 else 0
            self._read += len(data)
            if self._read > self._most:
                raise _swollen(self._path)
        return b"".join(parts)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()


def _most_of(path: Path) -> int:
    return max(_FREE, _MOST_RATIO * path.stat().st_size)


def _swollen(path: Path) -> InputError:
    return InputError(
        f"{path}: grows to more than {_most_of(path):,} bytes when it is decompressed, which no table of interactions "
        "does. If it is one, decompress it yourself"
    )


def _check_zstd(path: Path) -> None:
    """Check how far a file grows by the headers of its blocks, each of 128 KiB at most, before any is decompressed.

    Raises:
        InputError: if it is too far. A file that is not whole is for who decompresses it.
    """
    size, most = 0, _most_of(path)
    with path.open("rb") as file:
        while len(magic := file.read(4)) == 4:
            number = int.from_bytes(magic, "little")
            if number >> 4 == 0x184D2A5:  # a frame to be skipped
                file.seek(int.from_bytes(file.read(4), "little"), os.SEEK_CUR)
                continue
            kind = file.read(1)
            if number != 0xFD2FB528 or not kind:
                return
            single, dictionary, content = kind[0] >> 5 & 1, kind[0] & 3, kind[0] >> 6
            sizes = (0, 1, 2, 4)[dictionary], (single, 2, 4, 8)[content]
            file.seek((1 - single) + sum(sizes), os.SEEK_CUR)
            last = False
            while not last:
                header = file.read(3)
                if len(header) < 3:
                    return
                block = int.from_bytes(header, "little")
                last, length = bool(block & 1), block >> 3
                file.seek(1 if block >> 1 & 3 == 1 else length, os.SEEK_CUR)
                size += length if block >> 1 & 3 < 2 else _ZSTD_BLOCK
                if size > most:
                    raise _swollen(path)
            file.seek(4 * (kind[0] >> 2 & 1), os.SEEK_CUR)


def _open_zstd(path: Path) -> BinaryIO:
    for name in ("compression.zstd", "zstandard"):
        try:
            return cast(BinaryIO, _Measured(importlib.import_module(name).open(path, "rb"), path))
        except ImportError:
            continue
    _check_zstd(path)
    # Polars decompresses what it reads as CSV; with a separator that no text holds, its one column is the lines.
    options = {"has_header": False, "separator": "\x1f", "quote_char": None, "schema": {"line": pl.String}}
    try:
        lines = pl.read_csv(path, **options)["line"]  # type: ignore[arg-type]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{path}: cannot be decompressed ({error}). Decompress the file with `zstd -d {path.name}`, "
            f"or install the package zstandard; if both fail, copy the file again"
        ) from None
    return io.BytesIO("\n".join(lines.fill_null("").to_list()).encode())


def line_chunks(
    path: Path, encoding: str = "utf-8", chunk_bytes: int = _CHUNK, *, whole: bool = False
) -> Iterator[Lines]:
    """Read the lines of a text file, plain or compressed, about `chunk_bytes` at a time.

    Lines end with LF or CRLF, or with CR if the first lines do. Blank lines are skipped, unless `whole` asks for every
    line, with the CR of a CRLF.

    Raises:
        InputError: if bytes are not text, are not in `encoding`, or end too early.
    """
    try:
        codec = codecs.lookup(encoding).name
    except (LookupError, ValueError):  # a name with a NUL character is a ValueError
        raise InputError(f"encoding {encoding!r} is unknown; use for example 'utf-8' or 'latin-1'") from None
    wide = codec.startswith(("utf-16", "utf-32"))
    first, rest = 1, b""
    end: str | None = None
    with open_bytes(path) as stream:
        while True:
            data = _read(stream, path, -1 if wide else chunk_bytes, first)
            if not data and not rest:
                return
            block, rest = rest + data, b""
            if end is None and not wide:
                end = _line_end(block, data == b"")
            if data and not wide:
                cut = block.rfind((end or "\n").encode()) + 1
                block, rest = block[:cut], block[cut:]
                if len(rest) > _LONGEST_LINE:
                    raise InputError(
                        f"{path}, line {first}: the line is longer than 256 MiB. Check that the file is text"
                    )
                if not block:
                    continue
            text = _decode(block, encoding, path, first, wide, end or "\n")
            end = end or _line_end(text.encode(errors="replace"), True) or "\n"
            lines = _lines(text, first, end, whole)
            first += text.count(end)
            if len(lines.texts):
                yield lines


def _line_end(start: bytes, whole: bool) -> str | None:
    """How lines end, told by the first one outside of double quotes; `None` where more must be read to tell."""
    bare = _QUOTED.sub(b"", start[: 1 << 20])
    carriage, feed = bare.find(b"\r"), bare.find(b"\n")
    if carriage >= 0 and (feed < 0 or carriage < feed - 1):
        if carriage == len(bare) - 1 and not whole:
            return None
        return "\r" if bare.count(b"\r") > 2 * bare.count(b"\n") else "\n"
    return "\n" if feed >= 0 or whole else None


def _read(stream: BinaryIO, path: Path, size: int, line: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        what = "is cut off" if isinstance(error, EOFError) else "is damaged"
        raise InputError(
            f"{path}: the compressed file {what} after line {max(line - 1, 0)}. Copy or download the file again"
        ) from None
    except Exception as error:  # zstd readers have their own error types
        if isinstance(error, OSError) or "zst" in type(error).__module__.lower():
            raise InputError(f"{path}: cannot be read ({error}). Copy or download the file again") from None
        raise


def _decode(block: bytes, encoding: str, path: Path, first: int, wide: bool, end: str) -> str:
    if not wide and b"\0" in block:
        if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path}: the file is not {encoding} text. It looks like UTF-16: set encoding='utf-16'")
        line = first + block[: block.index(b"\0")].count(end.encode())
        raise InputError(
            f"{path}, line {line}: the line holds zero bytes, so the file is not text. If the file is Parquet or an "
            "archive, set format= or unpack it"
        )
    try:
        text = block.decode(encoding)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(
                f"{path}: the file is not {encoding} text. It looks like UTF-16: set encoding='utf-16'"
            ) from None
        line = first + block[:start].count(end.encode())
        hint = "encoding='utf-8'" if encoding.lower() in ("ascii", "us-ascii") else "encoding='latin-1'"
        raise InputError(
            f"{path}, line {line}: byte 0x{block[start]:02X} is not {encoding} text. "
            f"Set the encoding of the file, often {hint}"
        ) from None
    return text.removeprefix("\ufeff") if first == 1 else text


def _lines(text: str, first: int, end: str, whole: bool) -> Lines:
    texts = pl.Series("line", [text]).str.split(end).explode()
    if text.endswith(end):
        texts = texts.head(len(texts) - 1)
    numbers = pl.int_range(first, first + len(texts), dtype=pl.Int64, eager=True)
    if whole:
        return Lines(numbers, texts)
    if "\r" in text:
        texts = texts.str.strip_suffix("\r")
    table = pl.DataFrame({"number": numbers, "line": texts}).filter(pl.col("line").str.contains(r"\S"))
    return Lines(table["number"], table["line"])
