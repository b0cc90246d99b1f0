"""Makes records of lines: a field in double quotes may have separators, doubled quotes and line breaks (RFC 4180)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import polars as pl

from fedrec.data.reading.files import Lines
from fedrec.errors import InputError

__all__ = ["NO_LINES", "Dialect", "Records", "field_pattern", "fields_of", "records"]

_LONGEST_RECORD = 1 << 28
_INSIDE = r'[^"]*+(?:""[^"]*+)*+'

NO_LINES = pl.DataFrame(schema={"line": pl.Int64, "value": pl.String, "reason": pl.String})
"""No line that is not a row."""


@dataclass(frozen=True)
class Dialect:
    """How a line is split into fields.

    Args:
        separator: text between two fields; a blank means any number of blanks and tabs.
        quoted: whether a field that begins with a double quote ends with one. Any other quote is text.
    """

    separator: str
    quoted: bool


class Records(NamedTuple):
    """Consecutive records: the numbers of their first lines, their texts, and lines that belong to no valid record.

    Args:
        numbers: [n].
        texts: [n], without the line end; blank records are left out.
        broken: `line`, `value` (the text), `reason`.
    """

    numbers: pl.Series
    texts: pl.Series
    broken: pl.DataFrame


class _Patterns(NamedTuple):
    opens: str
    closes: re.Pattern[str]
    reopens: re.Pattern[str]
    goes_on: re.Pattern[str]


def field_pattern(separator: str, groups: bool = False) -> str:
    """A regular expression for a field, with groups for a text in quotes and a text without quotes.

    >>> bool(re.fullmatch(field_pattern(","), '12" single')), bool(re.fullmatch(field_pattern(","), '"12" single'))
    (True, False)
    """
    mark = re.escape(separator)
    if groups:
        return f'(?:"((?:[^"]|"")*)"|([^"{mark}][^{mark}]*))?'
    return f'(?:"(?:[^"]|"")*"|[^"{mark}][^{mark}]*)?'


@lru_cache
def _patterns(separator: str) -> _Patterns:
    mark = re.escape(separator)
    field = f'(?:"{_INSIDE}"|[^"{mark}][^{mark}]*+)?'  # as field_pattern, without steps back
    return _Patterns(
        opens=f'^(?:{field_pattern(separator)}{mark})*"(?:[^"]|"")*$',
        closes=re.compile(f'{_INSIDE}"(?:{mark}{field})*'),
        reopens=re.compile(f'{_INSIDE}"(?:{mark}{field})*{mark}"{_INSIDE}'),
        goes_on=re.compile(_INSIDE),
    )


def fields_of(text: str, dialect: Dialect) -> list[str]:
    """The fields of one record, whatever its shape.

    >>> fields_of('a,"b, c",12" single', Dialect(",", True))
    ['a', 'b, c', '12" single']
    """
    if dialect.separator == " ":
        return text.split()
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.separator)
    found = re.findall(rf"(?:^|{re.escape(dialect.separator)}){field_pattern(dialect.separator, groups=True)}", text)
    return [quoted.replace('""', '"') or bare for quoted, bare in found]


def records(chunks: Iterator[Lines], dialect: Dialect, source: str) -> Iterator[Records]:
    """Records of the lines of a file, read `whole`.

    Raises:
        InputError: if a quoted field is longer than 256 MiB.
    """
    waiting: Lines | None = None
    for chunk in chunks:
        lines = chunk
        if waiting is not None:
            lines = Lines(pl.concat([waiting.numbers, chunk.numbers]), pl.concat([waiting.texts, chunk.texts]))
        found, waiting = _joined(lines, dialect)
        if waiting is not None and int(waiting.texts.str.len_bytes().sum()) > _LONGEST_RECORD:
            raise InputError(
                f"{source}, line {waiting.numbers[0]}: a double quote is not closed within 256 MiB. Close the quote"
            )
        if len(found.texts) or found.broken.height:
            yield found
    if waiting is not None:
        yield Records(
            waiting.numbers[:0], waiting.texts[:0], _broken(waiting, "opens a double quote that never closes")
        )


def _joined(lines: Lines, dialect: Dialect) -> tuple[Records, Lines | None]:
    """The records that end in these lines, and the lines of the one that does not."""
    numbers, raw = lines
    texts = raw.str.strip_suffix("\r") if raw.str.contains("\r", literal=True).any() else raw
    waiting: Lines | None = None
    broken = [NO_LINES]
    if dialect.quoted and texts.str.contains('"', literal=True).any():
        patterns = _patterns(dialect.separator)
        marked = np.flatnonzero(texts.str.contains('"', literal=True).to_numpy())
        keep = np.ones(len(texts), dtype=bool)
        joined: dict[int, str] = {}
        done = -1
        for start in marked[texts.gather(pl.Series(marked)).str.contains(patterns.opens).to_numpy()].tolist():
            if start <= done:  # it is inside an earlier record
                continue
            end, sound = _end_of(start, texts, marked, patterns)
            if end is None:
                waiting = Lines(numbers[start:], raw[start:])
                keep[start:] = False
                break
            done = end
            keep[start + 1 : end + 1] = False
            if sound:
                joined[start] = "\n".join([*raw[start:end].to_list(), texts[end]])
            else:
                keep[start] = False
                here = Lines(numbers[start : end + 1], texts[start : end + 1])
                broken.append(
                    _broken(here, "has text after the closing quote of a field (write a quote inside a field twice)")
                )
        if joined:
            texts = texts.scatter(list(joined), list(joined.values()))
        if not keep.all():
            texts, numbers = texts.filter(pl.Series(keep)), numbers.filter(pl.Series(keep))
    filled = texts.str.contains(r"\S")
    if not filled.all():
        texts, numbers = texts.filter(filled), numbers.filter(filled)
    return Records(numbers, texts, pl.concat(broken)), waiting


def _end_of(start: int, texts: pl.Series, marked: np.ndarray, patterns: _Patterns) -> tuple[int | None, bool]:
    """The line in which a record that opens a quote in line `start` ends, and whether it is sound."""
    for line in marked[np.searchsorted(marked, start, side="right") :].tolist():
        text = texts[line]
        if patterns.closes.fullmatch(text):
            return line, True
        if not (patterns.reopens.fullmatch(text) or patterns.goes_on.fullmatch(text)):
            return line, False
    return None, True


def _broken(lines: Lines, reason: str) -> pl.DataFrame:
    return pl.DataFrame({"line": lines.numbers, "value": lines.texts, "reason": [reason] * len(lines.texts)})
