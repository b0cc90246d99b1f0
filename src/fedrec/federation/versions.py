"""Which version of the model each node works on, as the ledger of an asynchronous run tells.

A line of a round has the `parts` of its sum (whose, computed from which version, how stale, of how many clients, and
what its changes were multiplied by, in steps of 2⁻¹⁶), those that came too `late`, and the `time` at which the buffer
was full. A node begins with the version that a round with its sum makes, or, where it was too late, with the newest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedrec.aggregation.buffered import Asynchronous
from fedrec.errors import DamagedError

__all__ = ["Standing", "busiest_node", "check_versions", "standings"]


@dataclass(frozen=True)
class Standing:
    """Where a node stands.

    Args:
        version: what it works on.
        since: when it began, in seconds since training began.
        clients: of its last sum in a committed round; `None` before the first.
        staleness: of that sum.
    """

    version: int = 0
    since: float = 0.0
    clients: int | None = None
    staleness: int = 0


def standings(
    lines: Sequence[Mapping[str, Any]], names: Sequence[str], before: Mapping[str, Standing] | None = None
) -> dict[str, Standing]:
    """Where nodes stand after some lines of rounds, from the beginning or from where they stood `before`.

    >>> part = {"node": "a", "version": 0, "staleness": 0, "clients": 7}
    >>> standings([{"round": 0, "time": 2.0, "parts": [part], "late": []}], ["a", "b"])["a"]
    Standing(version=1, since=2.0, clients=7, staleness=0)
    """
    found = dict(before) if before is not None else {name: Standing() for name in names}
    for line in lines:
        for late in line["late"]:
            found[late["node"]] = replace(found[late["node"]], version=line["round"], since=late["time"])
        for part in line["parts"]:
            found[part["node"]] = Standing(line["round"] + 1, line["time"], part["clients"], part["staleness"])
    return found


def busiest_node(lines: Sequence[Mapping[str, Any]]) -> str | None:
    """The node with most sums in some lines of rounds; `None` where lines do not say whose they are."""
    found = Counter(part["node"] for line in lines for part in line.get("parts", ()))
    return found.most_common(1)[0][0] if found else None


def check_versions(terms: Asynchronous, rounds: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Check that sums are of the versions that their nodes worked on, and used as the plan says.

    Args:
        terms: of the plan.
        rounds: (where, line) of every round, in order.

    Raises:
        DamagedError: naming the first line that is not so.
    """
    standing: dict[str, Standing] = {}
    now = 0.0
    for where, line in rounds:
        parts, late, time = _parts(where, line, "parts"), _parts(where, line, "late"), line.get("time")
        if not isinstance(time, float) or not time >= now:
            raise DamagedError(f"{where}: no time, or one before that of the round before")
        if len({part["node"] for part in parts}) != terms.buffer or len(parts) != terms.buffer:
            raise DamagedError(f"{where}: a buffer takes {terms.buffer} sums of as many nodes")
        if sum(part["clients"] for part in parts) != line.get("cohort"):
            raise DamagedError(f"{where}: its parts are not of as many clients as its cohort")
        now = time
        for part, too_late in [*((part, True) for part in late), *((part, False) for part in parts)]:
            node, version, staleness = part["node"], part["version"], part["staleness"]
            begun = standing.setdefault(node, Standing()).version
            if version != begun or staleness != line["round"] - version:
                raise DamagedError(
                    f"{where}: {node} worked on version {begun}; its sum is said to be of version {version}, and "
                    f"{staleness} versions old"
                )
            if terms.too_stale(staleness) != too_late:
                raise DamagedError(f"{where}: a sum {staleness} versions old is not used as the plan says")
            if too_late:
                standing[node] = replace(standing[node], version=line["round"])
        standing = standings([line], (), standing)


def _parts(where: str, line: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    parts = line.get(key)
    kinds = {"node": str, "version": int, "staleness": int}
    kinds |= {"time": float} if key == "late" else {"clients": int, "weight": int}
    if not isinstance(parts, list) or not all(
        isinstance(part, dict) and all(type(part.get(name)) is kind for name, kind in kinds.items()) for part in parts
    ):
        raise DamagedError(f"{where}: its {key} are missing or wrong")
    return parts
