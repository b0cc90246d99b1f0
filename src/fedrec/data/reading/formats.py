"""Detects the format of a file from its name, or from its first lines."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fedrec.data.reading.files import check_path, compression_of, line_chunks, open_bytes
from fedrec.data.reading.records import Dialect, fields_of
from fedrec.errors import InputError, suggestion

__all__ = ["FORMATS", "MATRICES", "detect_format", "dialect_of"]

MATRICES = ("mtx", "konect")
"""Formats with a head of their own and columns divided by blanks."""

FORMATS = ("csv", "tsv", "::", "blanks", "jsonl", "parquet", "inter", "lists", *MATRICES)
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
_SEPARATORS = (",", ";", "\t", "|")
_SAMPLE = 50
_ID = re.compile(r"[A-Za-z_]*\d\w*")
_WORKBOOKS = (".xlsx", ".xlsm", ".xls", ".ods")


def detect_format(path: Path, format: str | None = None, encoding: str = "utf-8") -> str:
    """The format of a file: `format` if given, otherwise from the name of the file or its first lines.

    Raises:
        InputError: if `format` is unknown, the file is empty, or its format cannot be detected.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"format {format!r} is not known{suggestion(format, FORMATS)}")
    check_path(path)
    name = path.name.lower()
    bare = Path(name.removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd"))
    with open_bytes(path) as stream:
        magic = b"" if compression_of(path) == "zstd" else _start(stream)
    _check_no_archive(path, magic, bare.suffix)
    if format is not None:
        return format
    if magic == b"PAR1":
        return "parquet"
    known = _ENDINGS.get(bare.suffix)
    # ML-100K calls its tables u.item and u.user, RecBole's have names such as books.item.
    if known is not None and not (bare.stem == "u" and known == "inter"):
        if known == "parquet":
            raise InputError(
                f"{path}: has the name of a Parquet file but not its content. Copy or create the file again, or rename "
                "it"
            )
        return known
    return _by_lines(path, encoding)


def _start(stream: object) -> bytes:
    try:
        return bytes(stream.read(4))  # type: ignore[attr-defined]
    except (OSError, EOFError):
        return b""


def _check_no_archive(path: Path, magic: bytes, ending: str) -> None:
    if magic not in (b"PK\3\4", b"\xd0\xcf\x11\xe0"):
        return
    if magic[:2] != b"PK" or ending in _WORKBOOKS:
        raise InputError(
            f"{path}: is a spreadsheet. Save the sheet as CSV, or read it with pandas.read_excel or "
            "polars.read_excel and pass the table to interactions_from"
        )
    raise InputError(f"{path}: is a zip archive. Unpack the archive and name the file inside")


def _by_lines(path: Path, encoding: str) -> str:
    chunk = next(line_chunks(path, encoding, 1 << 16), None)
    if chunk is None:
        raise InputError(f"{path}: is empty")
    lines = chunk.texts.head(_SAMPLE).to_list()
    first = lines[0].strip()
    where = f"{path}, line {chunk.numbers[0]}: {first[:80]!r}"
    if first.startswith("{"):
        if first.endswith("}"):
            return "jsonl"
        raise InputError(
            f"{where} begins a JSON object that spans several lines. Write one object per line, for example "
            "with jq -c ."
        )
    if first.startswith("["):
        raise InputError(
            f"{where} begins a JSON array. Write one object per line, for example with jq -c '.[]', and let the file "
            "name end in .jsonl"
        )
    if first.startswith("%%MatrixMarket"):
        return "mtx"
    if re.match(r"%\s*(sym|asym|bip)\s", first + " "):
        return "konect"
    if first.startswith(("%", "#")):
        raise InputError(f"{where} is a comment, not a row. Remove such lines, and set format= to one of {FORMATS}")
    for format, separators in (("::", ("::",)), ("tsv", ("\t",)), ("csv", (",", ";", "|"))):
        if any(_divides(separator, lines) for separator in separators):
            return format
    return _of_words(where, lines)


def _divides(separator: str, lines: list[str]) -> bool:
    """Whether a separator stands in the first line, and as often in most others."""
    counts = [len(fields_of(line, Dialect(separator, separator in ",;"))) for line in lines]
    return counts[0] > 1 and 2 * counts.count(counts[0]) > len(counts)


def _of_words(where: str, lines: list[str]) -> str:
    """`lists`, if the lines are ids divided by blanks and not as many on each; never columns, numbers or sentences."""
    words = [line.split() for line in lines]
    counts = {len(row) for row in words}
    if max(counts) < 2:
        raise InputError(
            f"{where}: the format of the file is not recognised. Set format= to one of {FORMATS} (--format)"
        )
    if not all(_ID.fullmatch(word) for row in words for word in row):
        raise InputError(
            f"{where} is not recognised as columns or as a list of ids. Set the format: format='lists' for "
            f"'user item item …', format='blanks' for columns separated by blanks, or another of {FORMATS} (--format)"
        )
    if len(counts) == 1 and counts != {2}:
        raise InputError(
            f"{where}: each line holds {counts.pop()} words, which may be columns, or a user and items. "
            f"Set format='blanks' for columns (user, item, rating, timestamp, or as in columns=), or format='lists' "
            f"for 'user item item …' (--format)"
        )
    return "lists"


def dialect_of(format: str, lines: Sequence[str]) -> Dialect:
    """How lines of a delimited format are divided, by the first of them; a CSV may use `,`, `;`, `|` or tabs.

    >>> dialect_of("csv", ["user;item;rating", "1;2;4,5"])
    Dialect(separator=';', quoted=True)
    >>> dialect_of("csv", ["1|24|M|technician"])
    Dialect(separator='|', quoted=False)
    """
    if format == "csv":
        separator = max(_SEPARATORS, key=lambda mark: _agreement(mark, lines))
        return Dialect(separator, quoted=separator != "|")
    return Dialect({"tsv": "\t", "inter": "\t", "::": "::"}.get(format, " "), quoted=False)


def _agreement(separator: str, lines: Sequence[str]) -> tuple[bool, float, int]:
    """Whether the first line is divided, the share of lines that have as many fields, and how many fields."""
    counts = [len(fields_of(line, Dialect(separator, True))) for line in lines[:_SAMPLE]]
    return counts[0] > 1, counts.count(counts[0]) / len(counts), counts[0]
