"""The lines of a run's ledger: which fields each kind has."""

from __future__ import annotations

from typing import Any

from fedrec.errors import DamagedError
from fedrec.record.files import LEDGER

__all__ = ["Lines", "check_fields"]

Lines = list[dict[str, Any]]
_MOST = 1 << 62
_FIELDS: dict[str, dict[str, type]] = {
    "start": {"plan": str, "catalog": str, "leaky": bool},
    "round": {"round": int, "model": str, "checkpoint": str, "sums": list, "cohort": int, "bytes": dict},
    "validation": {"round": int, "metrics": dict},
    "end": {"kept": int, "files": dict},
}


def check_fields(lines: Lines) -> None:
    """Check that lines have the fields of their kinds.

    Raises:
        DamagedError: naming the line and the field.
    """
    for number, line in enumerate(lines, 1):
        for key, kind in _FIELDS.get(line["kind"], {"of a known kind": type(None)}).items():
            if key not in line or type(line[key]) is not kind:
                raise DamagedError(f"{LEDGER}, line {number}: {key} is missing or wrong")
        if line["kind"] == "round" and not _has_counts(line):
            raise DamagedError(f"{LEDGER}, line {number}: left_out, saturated, bytes or nodes are missing or wrong")


def _has_counts(line: dict[str, Any]) -> bool:
    """Whether what a report adds up is there: numbers, or nothing where they are not public."""
    moved = [line["bytes"].get(kind) for kind in ("plain_per_node", "secure_per_party")]
    if not {"left_out", "saturated"} <= line.keys():
        return False
    counts = [line["left_out"] or 0, line["saturated"] or 0]
    counts += [part.get(way) if isinstance(part, dict) else None for part in moved for way in ("up", "down")]
    nodes = line.get("nodes", [])
    named = isinstance(nodes, list) and all(isinstance(name, str) for name in nodes)
    return named and all(type(count) is int and 0 <= count < _MOST for count in counts)
