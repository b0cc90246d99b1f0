"""The lines of a run's ledger: which fields each kind has."""

from __future__ import annotations

from typing import Any

from fedrec.errors import DamagedError
from fedrec.record.files import LEDGER

__all__ = ["Lines", "check_fields"]

Lines = list[dict[str, Any]]
_FIELDS: dict[str, dict[str, type]] = {
    "start": {"plan": str, "catalog": str, "leaky": bool},
    "round": {"round": int, "model": str, "checkpoint": str, "sums": list},
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
