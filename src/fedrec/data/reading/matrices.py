"""Reads matrices and networks in text: the heads of MatrixMarket and KONECT files, with blanks between columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fedrec.data.reading.files import Lines
from fedrec.errors import InputError

__all__ = ["Matrix", "read_matrix"]

_VALUES = {
    "weighted": "rating",
    "multiweighted": "rating",
    "signed": "rating",
    "positive": "weight",
    "posweighted": "weight",
    "multisigned": "rating",
    "dynamic": "weight",
}


class Matrix(NamedTuple):
    """The entries of a matrix.

    Args:
        names: names of the columns: rows of the matrix are users, columns are items.
        chunks: lines of entries.
    """

    names: list[str]
    chunks: Iterator[Lines]


def read_matrix(chunks: Iterator[Lines], format: str, source: str) -> Matrix:
    """The entries of a MatrixMarket file (`mtx`) or a KONECT network (`konect`), whose head describes it.

    Raises:
        InputError: if the head does not describe a sparse matrix of users and items.
    """
    first = next(chunks, None)
    if first is None:
        raise InputError(f"{source}: is empty")
    head = first.texts[0].lower().split()
    entries = _entries([first], chunks)
    if format == "konect":
        return _konect(head, entries, source)
    if (
        head[1:3] != ["matrix", "coordinate"]
        or head[4:5] != ["general"]
        or head[3] not in ("real", "integer", "pattern")
    ):
        raise InputError(
            f"{source}, line {first.numbers[0]}: {first.texts[0][:80]!r} is not the header of a sparse matrix of "
            "users and items. Expected '%%MatrixMarket matrix coordinate real general' (or integer, or pattern)"
        )
    return Matrix(["user_id", "item_id", *(["rating"] if head[3] != "pattern" else [])], _counted(entries, source))


def _konect(head: list[str], entries: Iterator[Lines], source: str) -> Matrix:
    kind = head[0].removeprefix("%") or (head[1] if len(head) > 1 else "")
    said = head[1:] if head[0] != "%" else head[2:]
    if kind != "bip":
        raise InputError(
            f"{source}: '% {kind}' describes a network with one kind of nodes, not users and items. If its links "
            "are interactions, remove the comment lines and set format='blanks'"
        )
    first = next(entries, None)
    if first is None:
        raise InputError(f"{source}: holds no interactions")
    width = len(first.texts[0].split())
    value = _VALUES.get(said[0] if said else "", "-")
    names = ["user_id", "item_id", value, "timestamp"][:width]

    def again() -> Iterator[Lines]:
        yield first
        yield from entries

    return Matrix(names, again())


def _entries(before: list[Lines], chunks: Iterator[Lines]) -> Iterator[Lines]:
    for part in (before, chunks):
        for numbers, texts in part:
            entries = ~texts.str.starts_with("%")
            if entries.any():
                yield Lines(numbers.filter(entries), texts.filter(entries))


def _counted(entries: Iterator[Lines], source: str) -> Iterator[Lines]:
    """Entries without the line of sizes, once there are as many as it says."""
    expected, found = -1, 0
    for numbers, texts in entries:
        lines = Lines(numbers, texts)
        if expected < 0:
            sizes = texts[0].split()
            if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
                raise InputError(
                    f"{source}, line {numbers[0]}: {texts[0][:80]!r} must hold the sizes as 'rows columns entries'"
                )
            expected = int(sizes[2])
            lines = Lines(numbers[1:], texts[1:])
        found += len(lines.texts)
        if len(lines.texts):
            yield lines
    if found != expected:
        raise InputError(
            f"{source}: holds {found:,} entries, but its header announces {max(expected, 0):,}. Copy or create the "
            "file again"
        )
