"""The ledger: what was committed, one line each, in order. A round counts once its line is on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedrec.errors import DamagedError
from fedrec.record.durable import append_line

__all__ = ["Ledger"]


class Ledger:
    """Lines of JSON, appended and flushed one by one; in memory only where there is no file.

    A line that a crash cut short was never committed: it is removed when the ledger is opened.

    Args:
        path: `ledger.jsonl` of a run, or `None`.

    Example:
        >>> ledger = Ledger(None)
        >>> ledger.append("round", round=0, model="ab12")
        >>> ledger.of_kind("round")
        [{'kind': 'round', 'round': 0, 'model': 'ab12'}]
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []
        if path is not None and path.exists():
            self.lines = _read(path)

    def append(self, kind: str, **fields: Any) -> None:
        """Commit a line."""
        line = {"kind": kind, **fields}
        if self.path is not None:
            append_line(self.path, json.dumps(line, separators=(",", ":")))
        self.lines.append(line)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The lines of one kind, in order."""
        return [line for line in self.lines if line["kind"] == kind]


def _read(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)
    lines = []
    for number, text in enumerate(data[:whole].splitlines(), 1):
        try:
            line = json.loads(text)
            if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
                raise ValueError
        except (ValueError, RecursionError):
            raise DamagedError(f"{path}, line {number}: not a line of a ledger; the file was changed") from None
        lines.append(line)
    return lines
