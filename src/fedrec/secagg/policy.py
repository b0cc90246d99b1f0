"""What a party insists on, whatever the coordinator offers, and what it remembers of earlier sums."""

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
"""Parties below which a secure sum hides nobody."""


@dataclass(frozen=True)
class Floors:
    """A party's own conditions. Fingerprints come from the other owners by other means than the coordinator.

    Args:
        coordinator: its pinned Ed25519 public key.
        pinned: Ed25519 public keys of the parties this one knows, itself included.
        parties: fewest pinned parties, in the manifest and among the survivors; at least 3.
        clients: fewest clients that the survivors vouch for together, however many those claim who may be lying.
        strangers: most parties that are not pinned.
        threshold: lowest threshold, besides what the graph needs.
        noise: smallest noise multiplier.
        colluding: share of the pinned parties that may work with the coordinator, be they all in a sum of few.
        dropping: share of parties that may drop out; above 50 parties the graph must bear it.
        layout: the vectors this party agreed to sum; `None` leaves that to whoever hands over the values.
        run: name of the run, under which numbers of sums are counted; `None` for any.
        model, transcript: digests of the model and of all that this party was asked; `None` leaves that to whoever
            hands over the values.
        survivors: of a vector that was summed before, who was left then: the second sum must be over the same, or the
            difference would show single parties. `None` for a vector that was not.

    Raises:
        PlanError: for floors that protect nothing.
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
                f"a secure sum protects nobody among fewer than {FEWEST_PARTIES} parties; the floor is {self.parties}"
            )
        if min(self.clients, self.strangers, self.noise) < 0 or self.threshold < 2:
            raise PlanError("floors of a secure sum are not negative, and the threshold is at least 2")

    def check(self, manifest: Manifest) -> None:
        """Compare a manifest with the floors.

        Raises:
            AbortError: with the first reason why it is refused.
        """
        if manifest.coordinator != self.coordinator:
            raise AbortError(Reason.UNKNOWN_COORDINATOR, f"it names {manifest.coordinator.hex()}")
        n = len(manifest.parties)
        self.check_parties(manifest.parties)
        if manifest.min_parties < self.parties:
            raise AbortError(Reason.TOO_FEW_PARTIES, f"{manifest.min_parties} survivors would do, of {self.parties}")
        if manifest.min_clients < self.clients:
            raise AbortError(Reason.TOO_FEW_CLIENTS, f"{manifest.min_clients} clients would do, of {self.clients}")
        colluders = floor_of(self.colluding, len(self.pinned))
        if n < colluders + 2:
            words = f"{n}, where {colluders} of the {len(self.pinned)} pinned ones may be the coordinator's"
            raise AbortError(Reason.TOO_FEW_PARTIES, words)
        shape, colluding = manifest.topology, share_among(n, len(self.pinned), self.colluding)
        needed = max(self.threshold, complete_threshold(n, colluding) if shape.complete else 2)
        if manifest.threshold < needed:
            raise AbortError(Reason.LOW_THRESHOLD, f"{manifest.threshold}, where {n} parties need {needed}")
        if not is_safe(shape, colluding, self.dropping):
            raise AbortError(Reason.WEAK_GRAPH, str(shape))
        if manifest.noise < self.noise:
            raise AbortError(Reason.LOW_NOISE, f"{manifest.noise:g}, where {self.noise:g} is the least")
        if self.layout is not None and manifest.layout != self.layout:
            raise AbortError(Reason.OTHER_LAYOUT)
        if self.run is not None and manifest.run != self.run:
            raise AbortError(Reason.OTHER_TRANSCRIPT, "it names another run")
        if self.transcript is not None and manifest.transcript != self.transcript:
            theirs, own = manifest.transcript.hex()[:12], self.transcript.hex()[:12]
            raise AbortError(Reason.OTHER_TRANSCRIPT, f"{theirs}…, this party answered {own}…")
        if self.model is not None and manifest.model != self.model:
            raise AbortError(Reason.OTHER_TRANSCRIPT, "it names another model")

    def check_present(self, manifest: Manifest, present: Mapping[int, int], own: int) -> None:
        """Compare those who are still there, and the clients they vouch for, with manifest and floors.

        Args:
            manifest: of the sum.
            present: clients by party, this one included.
            own: clients that this party vouches for.

        Raises:
            AbortError: if there are too few, or all of them are this party's: the sum would be its part alone.
        """
        if len(present) < manifest.min_parties:
            raise AbortError(Reason.TOO_FEW_PARTIES, f"{len(present)} of {manifest.min_parties}")
        self.check_parties(tuple(manifest.parties[index] for index in present))
        others = sorted(present.values())
        others.remove(own)
        known = max(len(manifest.parties), len(self.pinned))
        clients = own + borne_out(others, known, self.colluding)
        if clients < manifest.min_clients:
            words = f"{clients} of {manifest.min_clients}, without the largest claims, which may be false"
            raise AbortError(Reason.TOO_FEW_CLIENTS, words)
        if 0 < sum(present.values()) <= own:
            raise AbortError(Reason.TOO_FEW_CLIENTS, "no other party vouches for any")

    def check_survivors(self, survivors: frozenset[bytes]) -> None:
        """Compare those who are left at the end with those of an earlier sum of the same vector.

        Raises:
            AbortError: if they are others.
        """
        if self.survivors is not None and survivors != self.survivors:
            raise AbortError(Reason.OTHER_SURVIVORS, f"{len(survivors)} now, {len(self.survivors)} then")

    def check_parties(self, parties: tuple[bytes, ...]) -> None:
        """Check a list of parties, which is all of them or the survivors: enough, and enough of them known.

        Raises:
            AbortError: if there are too few.
        """
        if len(parties) < self.parties:
            raise AbortError(Reason.TOO_FEW_PARTIES, f"{len(parties)}, where {self.parties} are the least")
        known = sum(key in self.pinned for key in parties)
        if known < self.parties or len(parties) - known > self.strangers:
            raise AbortError(Reason.UNPINNED_PARTIES, f"{known} of {len(parties)} are pinned")


def borne_out(claims: Sequence[int], parties: int, colluding: float = COLLUDING) -> int:
    """Clients that are there even if those who claim most are lying.

    Args:
        claims: clients that each other party vouches for.
        parties: of the sum, or that are known, if these are more.
        colluding: share of parties that may work with the coordinator; at least one may lie.

    Example:
        >>> borne_out([20, 1 << 62, 20], parties=4)
        40
    """
    liars = max(1, floor_of(colluding, parties))
    return sum(sorted(claims)[: max(0, len(claims) - liars)])


@dataclass(frozen=True)
class Attempts:
    """The highest round of each run that a party has begun, and of which it has revealed shares.

    Plain data: `to_data` is for a file, and a party that lost it has to take a new identity.

    >>> attempts = Attempts().begin("run", 4)
    >>> attempts.to_data()
    {'begun': {'run': 4}, 'answered': {}}
    >>> Attempts.from_data(attempts.to_data()) == attempts
    True
    """

    begun: Mapping[str, int] = field(default_factory=dict)
    answered: Mapping[str, int] = field(default_factory=dict)

    def begin(self, run: str, round: int) -> Attempts:
        """With a round begun.

        Raises:
            AbortError: if it, or a later one, was begun before.
        """
        if round <= self.begun.get(run, -1):
            raise AbortError(Reason.ROUND_REUSED, f"round {round}, where {self.begun[run]} was begun")
        return replace(self, begun={**self.begun, run: round})

    def answer(self, run: str, round: int) -> Attempts:
        """With the shares of a round revealed.

        Raises:
            AbortError: if they were revealed before.
        """
        if round <= self.answered.get(run, -1):
            raise AbortError(Reason.ALREADY_ANSWERED, f"round {round}")
        return replace(self, answered={**self.answered, run: round})

    def to_data(self) -> dict[str, dict[str, int]]:
        """As dictionaries of text and numbers."""
        return {"begun": dict(self.begun), "answered": dict(self.answered)}

    @classmethod
    def from_data(cls, data: Any) -> Attempts:
        """From what `to_data` gave.

        Raises:
            DamagedError: if it is anything else.
        """
        kinds = ("begun", "answered")
        if not isinstance(data, dict) or set(data) != set(kinds):
            raise DamagedError("the record of begun rounds does not have the form that it must have")
        for kind in kinds:
            rounds = data[kind]
            if not isinstance(rounds, dict) or not all(
                isinstance(run, str) and type(number) is int and number >= 0 for run, number in rounds.items()
            ):
                raise DamagedError(f"the record of {kind} rounds holds something else than rounds by run")
        return cls(dict(data["begun"]), dict(data["answered"]))
