"""The ledger: one line for each commit, in order. A round is committed once its line is on the disk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from fedrec.documents import MOST_LINES, parse_json
from fedrec.errors import DamagedError
from fedrec.record.durable import append_line, whole_lines
from fedrec.record.merkle import Tree, leaf_hash

__all__ = ["Ledger", "read_lines", "rooted_line"]

_ROOT = re.compile(rb',"root":"([0-9a-f]{64})"\}')
_ROOT_BYTES = len(b',"root":""}') + 64


class Ledger:
    """Lines of JSON, appended and flushed one by one; kept in memory only if there is no file.

    An incomplete last line, left by a crash, was never committed and is removed when the ledger is opened. With
    `rooted`, the lines are the entries of an append-only Merkle log: each ends with the root over all lines up to
    itself, so that changed, moved, added or removed lines are detected; `leaves` are the hashes of the entries.

    Args:
        path: `ledger.jsonl` of a run, or `None`.
        rooted: whether the lines are the entries of a Merkle log.

    Example:
        >>> ledger = Ledger(None, rooted=True)
        >>> ledger.append("round", round=0, model="ab12")
        >>> ledger.of_kind("round")
        [{'kind': 'round', 'round': 0, 'model': 'ab12'}]
        >>> ledger.tree.size, len(ledger.tree.root())
        (1, 32)
    """

    def __init__(self, path: Path | None, rooted: bool = False) -> None:
        self.path = path
        self.rooted = rooted
        self.lines: list[dict[str, Any]] = []
        self.leaves: list[bytes] = []
        self.tree = Tree()
        if path is not None and path.exists():
            self.lines, self.leaves = read_lines(whole_lines(path, MOST_LINES), str(path), rooted)
            for leaf in self.leaves:
                self.tree.append(leaf)

    def append(self, kind: str, **fields: Any) -> None:
        """Commit a line."""
        line = {"kind": kind, **fields}
        text, tree = json.dumps(line, separators=(",", ":")), self.tree.copy()
        entry = leaf_hash(text.encode())
        if self.rooted:
            text = rooted_line(text, tree)
        if self.path is not None:
            append_line(self.path, text)
        self.lines.append(line)
        self.tree = tree
        if self.rooted:
            self.leaves.append(entry)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]


def rooted_line(text: str, tree: Tree) -> str:
    """Add an entry to `tree`; returns its line with the root over all entries so far."""
    tree.append(leaf_hash(text.encode()))
    return f'{text[:-1]},"root":"{tree.root().hex()}"}}'


def read_lines(data: bytes, name: str, rooted: bool) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The lines of a ledger without their roots and, if it is `rooted`, the hashes of the entries.

    Args:
        data: content of the file.
        name: name of the file, for error texts.
        rooted: whether every line ends with a root, which is checked.

    Raises:
        DamagedError: if a line is incomplete, malformed or does not match its root; the text names the first such line.
    """
    lines, leaves, tree = [], [], Tree()
    *texts, rest = data.split(b"\n")
    for number, text in enumerate(texts, 1):
        root = None
        if rooted:
            match = _ROOT.fullmatch(text[-_ROOT_BYTES:])
            root, text = (match[1].decode(), text[:-_ROOT_BYTES] + b"}") if match else (None, text)
        try:
            line = parse_json(text)
            if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
                raise ValueError("the line is not a mapping with a kind")
        except ValueError as error:
            why = f"not a line of a ledger; the file was changed ({error})"
            raise DamagedError(f"{name}, line {number}: {why}") from None
        lines.append(line)
        if rooted:
            leaves.append(leaf_hash(text))
            tree.append(leaves[-1])
            if root != tree.root().hex():
                raise DamagedError(
                    f"{name}, line {number}: the {line['kind']!r} entry does not match its root; this line was "
                    "changed, or lines before it were removed or added"
                )
    if rest:
        raise DamagedError(f"{name}, line {len(texts) + 1}: the line is incomplete")
    return lines, leaves
