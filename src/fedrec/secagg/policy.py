"""What a party requires of secure aggregation, and its record of earlier sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedrec.errors import DamagedError, PlanError
from fedrec.secagg.graph import COLLUDING, complete_threshold, floor_of, is_safe, share_among
from fedrec.secagg.layout import Layout
from fedrec.secagg.manifest import Manifest
from fedrec.secagg.reasons import AbortError, Reason

__all__ = ["FEWEST_PARTIES", "Attempts", "Floors", "borne_out"]

FEWEST_PARTIES = 3
"""Minimum number of parties; with fewer, secure aggregation hides nobody."""


@dataclass(frozen=True)
class Floors:
    """A party's own requirements. Owners exchange keys directly, not through the coordinator.

    Args:
        coordinator: Ed25519 public key of the coordinator.
        pinned: Ed25519 public keys of the parties that this party knows, its own included.
        parties: minimum number of known parties, in the manifest and among the survivors; at least 3.
        clients: minimum number of clients that the survivors declare together, without the declarations of parties
            that may lie.
        strangers: maximum number of unknown parties.
        threshold: minimum threshold, in addition to what the graph needs.
        noise: minimum noise multiplier.
        colluding: share of the known parties that may collude with the coordinator, even if all of them are in one sum.
        dropping: share of parties that may drop out; above 50 parties the graph must tolerate it.
        layout: the vectors that this party agreed to sum; `None` leaves the check to the caller.
        run: name of the run, for which numbers of sums are counted; `None` for any.
        model: digest of the model; `None` leaves the check to the caller.
        transcript: digest of the requests that this party answered; `None` leaves the check to the caller.
        survivors: for a vector that was summed before, the survivors of that sum: the next sum must have the same, or
            the difference would reveal single parties. `None` for a new vector.

    Raises:
        PlanError: if the requirements would protect nobody.
    """

    coordinator: bytes
    pinned: frozenset[bytes]
    parties: int = FEWEST_PARTIES
    clients: int = 32
    strangers: int = 0
    threshold: int = 2
    noise: float = 0.0
    colluding: float = COLLUDING
    dropping: float = 0.1
    layout: Layout | None = None
    run: str | None = None
    model: bytes | None = None
    transcript: bytes | None = None
    survivors: frozenset[bytes] | None = None

    def __post_init__(self) -> None:
        if self.parties < FEWEST_PARTIES:
            raise PlanError(
                f"secure aggregation protects nobody among fewer than {FEWEST_PARTIES} parties; raise parties from "
                f"{self.parties}"
            )
        if min(self.clients, self.strangers, self.noise) < 0 or self.threshold < 2:
            raise PlanError("clients, strangers and noise must not be negative, and the threshold must be at least 2")

    def check(self, manifest: Manifest) -> None:
        """Compare a manifest with the requirements.

        Raises:
            AbortError: with the first reason why the party refuses.
        """
        if manifest.coordinator != self.coordinator:
            raise AbortError(Reason.UNKNOWN_COORDINATOR, f"the manifest names {manifest.coordinator.hex()}")
        n = len(manifest.parties)
        self.check_parties(manifest.parties)
        if manifest.min_parties < self.parties:
            raise AbortError(
                Reason.TOO_FEW_PARTIES,
                f"the manifest allows {manifest.min_parties} survivors, and this party needs {self.parties}",
            )
        if manifest.min_clients < self.clients:
            raise AbortError(
                Reason.TOO_FEW_CLIENTS,
                f"the manifest allows {manifest.min_clients}, and this party needs {self.clients}",
            )
        colluders = floor_of(self.colluding, len(self.pinned))
        if n < colluders + 2:
            words = f"{n}, while {colluders} of the {len(self.pinned)} known parties may collude with the coordinator"
            raise AbortError(Reason.TOO_FEW_PARTIES, words)
        shape, colluding = manifest.topology, share_among(n, len(self.pinned), self.colluding)
        needed = max(self.threshold, complete_threshold(n, colluding) if shape.complete else 2)
        if manifest.threshold < needed:
            raise AbortError(Reason.LOW_THRESHOLD, f"{manifest.threshold}, and {n} parties need {needed}")
        if not is_safe(shape, colluding, self.dropping):
            raise AbortError(Reason.WEAK_GRAPH, str(shape))
        if manifest.noise < self.noise:
            raise AbortError(Reason.LOW_NOISE, f"{manifest.noise:g}, and the minimum is {self.noise:g}")
        if self.layout is not None and manifest.layout != self.layout:
            raise AbortError(Reason.OTHER_LAYOUT)
        if self.run is not None and manifest.run != self.run:
            raise AbortError(Reason.OTHER_TRANSCRIPT, "the manifest names another run")
        if self.transcript is not None and manifest.transcript != self.transcript:
            theirs, own = manifest.transcript.hex()[:12], self.transcript.hex()[:12]
            raise AbortError(Reason.OTHER_TRANSCRIPT, f"the manifest has {theirs}…, this party answered {own}…")
        if self.model is not None and manifest.model != self.model:
            raise AbortError(Reason.OTHER_TRANSCRIPT, "the manifest names another model")

    def check_present(self, manifest: Manifest, present: Mapping[int, int], own: int) -> None:
        """Compare the remaining parties, and the clients they declare, with the manifest and the requirements.

        Args:
            manifest: manifest of the sum.
            present: declared clients by party, this party included.
            own: clients that this party declares.

        Raises:
            AbortError: if there are too few parties or clients, or no other party declares a client, so that the sum
                would be the part of this party alone.
        """
        if len(present) < manifest.min_parties:
            raise AbortError(Reason.TOO_FEW_PARTIES, f"{len(present)} of {manifest.min_parties}")
        self.check_parties(tuple(manifest.parties[index] for index in present))
        others = sorted(present.values())
        others.remove(own)
        parties = max(len(manifest.parties), len(self.pinned))
        clients = own + borne_out(others, parties, self.colluding)
        if clients < manifest.min_clients:
            words = f"{clients} of {manifest.min_clients}, without the largest declarations, which may be false"
            raise AbortError(Reason.TOO_FEW_CLIENTS, words)
        if 0 < sum(present.values()) <= own:
            raise AbortError(Reason.TOO_FEW_CLIENTS, "no other party declares a client")

    def check_survivors(self, survivors: frozenset[bytes]) -> None:
        """Compare the survivors with those of an earlier sum of the same vector.

        Raises:
            AbortError: if the survivors differ.
        """
        if self.survivors is not None and survivors != self.survivors:
            raise AbortError(Reason.OTHER_SURVIVORS, f"{len(survivors)} now, {len(self.survivors)} before")

    def check_parties(self, parties: tuple[bytes, ...]) -> None:
        """Check that a list of parties is long enough and has enough known parties.

        Raises:
            AbortError: if there are too few parties, too few known ones, or too many unknown ones.
        """
        if len(parties) < self.parties:
            raise AbortError(Reason.TOO_FEW_PARTIES, f"{len(parties)}, and the minimum is {self.parties}")
        pinned = sum(key in self.pinned for key in parties)
        if pinned < self.parties or len(parties) - pinned > self.strangers:
            raise AbortError(Reason.UNPINNED_PARTIES, f"{pinned} of {len(parties)} are known")


def borne_out(claims: Sequence[int], parties: int, colluding: float = COLLUDING) -> int:
    """Number of clients without the largest declarations, which may be false.

    Args:
        claims: clients that each other party declares.
        parties: number of parties of the sum, or of known parties if there are more.
        colluding: share of parties that may collude with the coordinator and lie; at least one party counts as lying.

    Example:
        >>> borne_out([20, 1 << 62, 20], parties=4)
        40
    """
    liars = max(1, floor_of(colluding, parties))
    return sum(sorted(claims)[: max(0, len(claims) - liars)])


@dataclass(frozen=True)
class Attempts:
    """The last round of each run that a party began, and the last one of which it revealed shares.

    `to_data` is for a file; a party that lost the file must use a new identity.

    >>> attempts = Attempts().begin("run", 4)
    >>> attempts.to_data()
    {'begun': {'run': 4}, 'answered': {}}
    >>> Attempts.from_data(attempts.to_data()) == attempts
    True
    """

    begun: Mapping[str, int] = field(default_factory=dict)
    answered: Mapping[str, int] = field(default_factory=dict)

    def begin(self, run: str, round: int) -> Attempts:
        """The record with a round begun.

        Raises:
            AbortError: if this round, or a later one, began before.
        """
        if round <= self.begun.get(run, -1):
            raise AbortError(Reason.ROUND_REUSED, f"round {round}, and round {self.begun[run]} began before")
        return replace(self, begun={**self.begun, run: round})

    def answer(self, run: str, round: int) -> Attempts:
        """The record with the shares of a round revealed.

        Raises:
            AbortError: if shares of this round, or a later one, were revealed before.
        """
        if round <= self.answered.get(run, -1):
            raise AbortError(Reason.ALREADY_ANSWERED, f"round {round}")
        return replace(self, answered={**self.answered, run: round})

    def to_data(self) -> dict[str, dict[str, int]]:
        """The record as dictionaries of text and numbers."""
        return {"begun": dict(self.begun), "answered": dict(self.answered)}

    @classmethod
    def from_data(cls, data: Any) -> Attempts:
        """The record from the result of `to_data`.

        Raises:
            DamagedError: if the data is malformed.
        """
        kinds = ("begun", "answered")
        if not isinstance(data, dict) or set(data) != set(kinds):
            raise DamagedError("the record of begun rounds is malformed; restore the file")
        for kind in kinds:
            rounds = data[kind]
            if not isinstance(rounds, dict) or not all(
                isinstance(run, str) and type(number) is int and number >= 0 for run, number in rounds.items()
            ):
                raise DamagedError(f"the record of {kind} rounds is malformed; restore the file")
        return cls(dict(data["begun"]), dict(data["answered"]))
