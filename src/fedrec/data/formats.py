"""Which format a file has, told by its name and first lines."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fedrec.data.files import check_path, compression_of, line_chunks, open_bytes
from fedrec.errors import InputError, suggestion

__all__ = ["FORMATS", "Dialect", "detect_format", "dialect_of"]

FORMATS = ("csv", "tsv", "::", "jsonl", "parquet", "inter", "lists")
"""Names of the formats that `format=` accepts."""

_ENDINGS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".inter": "inter",
    ".item": "inter",
    ".link": "inter",
    ".user": "inter",
}


@dataclass(frozen=True)
class Dialect:
    """How a line is divided into fields.

    Args:
        separator: text between two fields.
        quoted: whether a field may stand in double quotes.
    """

    separator: str
    quoted: bool


def detect_format(path: Path, format: str | None = None, encoding: str = "utf-8") -> str:
    """The format of a file: `format` if given, else told by its name, else by its first lines.

    Raises:
        InputError: an unknown `format`, an empty file, or one whose format cannot be told.
    """
    if format is not None:
        if format not in FORMATS:
            raise InputError(f"format {format!r} is not one{suggestion(format, FORMATS)}")
        return format
    check_path(path)
    name = path.name.lower()
    bare = Path(name.removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd"))
    with open_bytes(path) as stream:
        magic = b"" if compression_of(path) == "zstd" else _start(stream)
    if magic == b"PAR1":
        return "parquet"
    known = _ENDINGS.get(bare.suffix)
    # ML-100K calls its tables u.item and u.user, RecBole's have names such as books.item.
    if known is not None and not (bare.stem == "u" and known == "inter"):
        if known == "parquet":
            raise InputError(f"{path}: has the name of a Parquet file but does not begin like one; is it damaged?")
        return known
    if magic[:2] == b"PK":
        raise InputError(f"{path}: is a zip archive. Unpack it and give the file inside")
    return _by_lines(path, encoding)


def _start(stream: object) -> bytes:
    try:
        return bytes(stream.read(4))  # type: ignore[attr-defined]
    except (OSError, EOFError):
        return b""


def _by_lines(path: Path, encoding: str) -> str:
    chunk = next(line_chunks(path, encoding, 1 << 16), None)
    if chunk is None:
        raise InputError(f"{path}: is empty")
    lines = chunk.texts.head(50).to_list()
    first = lines[0]
    if first.lstrip().startswith("{"):
        return "jsonl"
    for mark, format in (("::", "::"), ("\t", "tsv"), (",", "csv"), (";", "csv"), ("|", "csv")):
        if mark in first:
            return format
    counts = {len(line.split()) for line in lines}
    if len(lines) >= 5 and counts <= {3, 4} and len(counts) == 1:
        raise InputError(
            f"{path}: each line holds {counts.pop()} words; are they columns, or a user and items? "
            f"Say format='lists' for 'user item item …'; for columns, put tabs or commas between them"
        )
    if max(counts) < 2:
        raise InputError(
            f"{path}: the format cannot be told from line {chunk.numbers[0]}. Say format=, one of {FORMATS}"
        )
    return "lists"


def dialect_of(format: str, first_line: str) -> Dialect:
    """How lines of a delimited format are divided; a CSV may use `,`, `;`, `|` or tabs.

    >>> dialect_of("csv", "user;item;rating")
    Dialect(separator=';', quoted=True)
    >>> dialect_of("csv", "1|24|M|technician")
    Dialect(separator='|', quoted=False)
    """
    if format == "csv":
        outside = re.sub(r'"[^"]*"', "", first_line)
        separator = max((",", ";", "|", "\t"), key=outside.count)
        return Dialect(separator, quoted=separator != "|")
    return Dialect({"tsv": "\t", "inter": "\t", "::": "::"}[format], quoted=format == "tsv")
