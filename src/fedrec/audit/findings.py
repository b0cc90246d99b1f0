"""The finding of an attack."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Verdict"]

Verdict = Literal["pass", "fail", "out of scope"]


@dataclass(frozen=True)
class Finding:
    """The finding of one attack on one plan.

    Args:
        attack: name of the attack.
        against: observer of the attack: `release`, `cohort`, `server` or `clients`.
        measure: what `value` measures.
        value: value that the attack reached.
        limit: maximum value of a protected run; `None` if nothing is promised.
        verdict: `fail` if the attack exceeds the limit, or works on a run without a promise; `out of scope` if the plan
            promises nothing against this observer.
        says: the finding in one sentence.
    """

    attack: str
    against: str
    measure: str
    value: float
    limit: float | None
    verdict: Verdict
    says: str

    @property
    def of_nodes(self) -> bool:
        """Whether the finding is about a promise of nodes against a lying coordinator, which holds for every plan."""
        return self.against == "server" and self.limit is not None

    def to_json(self) -> dict[str, Any]:
        """All fields as a dictionary."""
        return asdict(self)
