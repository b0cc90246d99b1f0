"""Paths, compression and encodings: from a file to numbered lines of text, a chunk at a time."""

from __future__ import annotations

import codecs
import gzip
import importlib
import io
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

import polars as pl

from fedrec.data.database_urls import is_url
from fedrec.errors import InputError, suggestion

__all__ = ["STANDARD_INPUT", "Lines", "check_path", "compression_of", "line_chunks", "open_bytes", "standard_input"]

STANDARD_INPUT = "-"
"""The path that stands for what is piped into the command."""

_CHUNK = 1 << 26
_LONGEST_LINE = 1 << 28
_QUOTED = re.compile(rb'"[^"]*"')


class Lines(NamedTuple):
    """Consecutive lines of a file: their numbers, counted from 1, and their text without the line end."""

    numbers: pl.Series
    texts: pl.Series


def check_path(path: str | os.PathLike[str], *, read_once: bool = False) -> Path:
    """The path, if a readable file or folder is there; with `read_once` a pipe will do.

    Raises:
        InputError: nothing is there (with near file names), or the path cannot be read, or it is a pipe or a device,
            which gives what it holds only once, while a file is opened several times.
    """
    if is_url(os.fspath(path)):  # not shown: it may hold a password
        raise InputError("a URL is no file; databases are read with load_data")
    place = Path(path)
    try:
        if not place.exists():
            if place.parent.is_dir():
                near = suggestion(place.name, [entry.name for entry in place.parent.iterdir()])
                raise InputError(f"{place}: no such file{near if near.startswith('. Did') else ''}")
            raise InputError(f"{place}: no such file, and no folder {place.parent}")
        kind = place.stat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or read_once):
            raise InputError(
                f"{place}: is a pipe or a device, not a file, and can be read only once. Save it to a file first; "
                "'fedrec data describe -' reads standard input"
            )
        if place.is_file() and not os.access(place, os.R_OK):
            raise PermissionError
        if place.is_dir():
            next(place.iterdir(), None)
    except PermissionError:
        raise InputError(f"{place}: no permission to read it. Change its permissions or read it as its owner") from None
    except OSError as error:
        raise InputError(f"{place}: cannot be read ({error.strerror})") from None
    return place


@contextmanager
def standard_input() -> Iterator[Path]:
    """What is piped into the command, in a file that only its user may read and that goes afterwards.

    Raises:
        InputError: standard input is closed or a terminal; and whatever the block raises, in which the file is called
            standard input.
    """
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise InputError("standard input: nothing is piped in. Give a file, or pipe one in: zcat log.gz | fedrec … -")
    with tempfile.TemporaryDirectory(prefix="fedrec-") as folder:
        place = Path(folder) / "stdin"
        with place.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file, _CHUNK)
        try:
            yield place
        except InputError as error:
            raise type(error)(str(error).replace(str(place), "standard input")) from None


def compression_of(path: Path) -> Literal["none", "gzip", "zstd"]:
    """How a file is compressed, told by its first bytes, whatever its name."""
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except PermissionError:
        raise InputError(f"{path}: no permission to read it. Change its permissions or read it as its owner") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if start[:2] == b"\x1f\x8b":
        return "gzip"
    return "zstd" if start == b"\x28\xb5\x2f\xfd" else "none"


def open_bytes(path: Path) -> BinaryIO:
    """Open a file for reading its uncompressed bytes."""
    kind = compression_of(path)
    if kind == "gzip":
        return cast(BinaryIO, gzip.open(path, "rb"))
    return _open_zstd(path) if kind == "zstd" else path.open("rb")


def _open_zstd(path: Path) -> BinaryIO:
    for name in ("compression.zstd", "zstandard"):
        try:
            return cast(BinaryIO, importlib.import_module(name).open(path, "rb"))
        except ImportError:
            continue
    # Polars decompresses what it reads as CSV; with a separator that no text holds, its one column is the lines.
    options = {"has_header": False, "separator": "\x1f", "quote_char": None, "schema": {"line": pl.String}}
    try:
        lines = pl.read_csv(path, **options)["line"]  # type: ignore[arg-type]
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{path}: cannot be decompressed here ({error}). If it is whole, decompress it with `zstd -d {path.name}` "
            f"or install the package zstandard"
        ) from None
    return io.BytesIO("\n".join(lines.fill_null("").to_list()).encode())


def line_chunks(
    path: Path, encoding: str = "utf-8", chunk_bytes: int = _CHUNK, *, whole: bool = False
) -> Iterator[Lines]:
    """Read the lines of a text file, plain or compressed, about `chunk_bytes` at a time.

    Lines end with LF or CRLF; with CR where the first lines do. Blank lines are skipped, unless `whole` asks for every
    line, with the CR of a CRLF.

    Raises:
        InputError: bytes that are not text, not in `encoding`, or that break off.
    """
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise InputError(f"encoding {encoding!r} is unknown; try 'utf-8' or 'latin-1'") from None
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
                    raise InputError(f"{path}, line {first}: longer than 256 MiB; is this a text file?")
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
        what = "breaks off" if isinstance(error, EOFError) else "is damaged"
        raise InputError(
            f"{path}: the compressed file {what} after line {max(line - 1, 0)} or later. Copy or download it again"
        ) from None
    except Exception as error:  # zstd readers have their own error types
        if isinstance(error, OSError) or "zst" in type(error).__module__.lower():
            raise InputError(f"{path}: cannot be read ({error}). Copy or download it again") from None
        raise


def _decode(block: bytes, encoding: str, path: Path, first: int, wide: bool, end: str) -> str:
    if not wide and b"\0" in block:
        if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path}: is not {encoding} text. It looks like UTF-16: say encoding='utf-16'")
        line = first + block[: block.index(b"\0")].count(end.encode())
        raise InputError(f"{path}, line {line}: holds zero bytes, so it is not text. Is it Parquet or an archive?")
    try:
        text = block.decode(encoding)
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
        if block[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise InputError(f"{path}: is not {encoding} text. It looks like UTF-16: say encoding='utf-16'") from None
        line = first + block[:start].count(end.encode())
        hint = "encoding='utf-8'" if encoding.lower() in ("ascii", "us-ascii") else "encoding='latin-1'"
        raise InputError(
            f"{path}, line {line}: byte 0x{block[start]:02X} is not {encoding} text. "
            f"Say which encoding it is, often {hint}"
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
