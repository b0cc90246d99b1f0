"""What a run, and what it was made from, still hold of users that another run has forgotten."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from fedrec.federation.plan import Plan
from fedrec.record.files import names_in
from fedrec.runs.kept import KEPT

__all__ = ["holders", "sources"]

_HOLDS = {
    KEPT: "interactions",
    "private/left_out.parquet": "rows that reading and cleaning left out",
    "private/*/receipts.jsonl": "digests of sums that they are in",
    "private/*.safetensors": "private rows of a model",
    "checkpoint/*": "sums and models that they are in",
    "model/shared.safetensors": "the model that learned from them",
    "transfer/*": "",
    "private/placement.json": "",
    "private/secret": "",
    "private/*/secret": "",
    "private/*/budget.jsonl": "",
    "record/*": "",
    "model/model.json": "",
    "plan.yaml": "",
    "ledger.jsonl": "",
    "progress.jsonl": "",
    "report.json": "",
    "forgotten.json": "",
    ".lock": "",
}
"""What each file of a run holds of a user; nothing but digests, counts and means where the text is empty."""


def holders(folder: Path, items: int) -> dict[str, str]:
    """The files of a run that hold something of its users, and what they hold.

    Args:
        folder: of the run.
        items: number of items that only forgotten users have.
    """
    found = {}
    for name in names_in(folder):
        if name == "model/catalog.jsonl":
            holds = "items that only they have" if items else ""
        else:
            fits = (words for pattern, words in _HOLDS.items() if fnmatchcase(name, pattern))
            holds = next(fits, "unknown: fedrec did not write this file here")
        if holds:
            found[name] = holds
    return found


def sources(plan: Plan) -> list[str]:
    """What a run was made from, which forgetting leaves as it is: data, a log of events, and other runs.

    Generated data, which is of nobody, is none of them, and neither is data that only the run keeps.
    """
    earlier = [each.run for each in (plan.warm_start, plan.transfer) if each is not None]
    named = [plan.data.source, *([] if plan.data.events is None else [plan.data.events]), *earlier]
    return [source for source in named if source not in (KEPT, "memory") and not source.startswith("synthetic")]
