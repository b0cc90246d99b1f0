"""What an attack found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Finding", "Verdict"]

Verdict = Literal["pass", "fail", "out of scope"]


@dataclass(frozen=True)
class Finding:
    """One attack on one plan.

    Args:
        attack: its name.
        against: whose view it has: `release`, `cohort` or `server`.
        measure: what the value is.
        value: what the attacker reached.
        limit: what a protected run must keep it below or at; `None` where nothing was promised.
        verdict: `fail` where the attack beats the limit, or works on a run that promises nothing; `out of scope` where
            the plan promises nothing against this view and says so.
        says: one sentence.
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
        """Whether it is about what nodes promise a lying coordinator's victims, whatever the plan says of privacy."""
        return self.against == "server" and self.limit is not None

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)
