"""Why a party or the coordinator ends a secure sum without an outcome."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fedrec.errors import FedrecError

__all__ = ["Abort", "Reason"]


class Reason(enum.IntEnum):
    """The reasons, with the numbers they travel under."""

    UNKNOWN_COORDINATOR = 1
    NOT_INVITED = 2
    ROUND_REUSED = 3
    TOO_FEW_PARTIES = 4
    UNPINNED_PARTIES = 5
    TOO_FEW_CLIENTS = 6
    LOW_THRESHOLD = 7
    WEAK_GRAPH = 8
    LOW_NOISE = 9
    OTHER_LAYOUT = 10
    LEFT_OUT = 11
    KEYS_SWAPPED = 12
    TOO_FEW_NEIGHBOURS = 13
    BAD_SHARE = 14
    UNKNOWN_SURVIVORS = 15
    ALIVE_AND_DEAD = 16
    INCOMPLETE_SETS = 17
    DECLARED_DEAD = 18
    INPUT_CHANGED = 19
    TOO_FEW_SIGNATURES = 20
    FORGED_SIGNATURE = 21
    SECOND_UNMASK = 22
    TWO_VERSIONS = 23
    ALREADY_ANSWERED = 24
    MALFORMED = 25
    SECRETS_LOST = 26
    CANCELLED = 27
    OTHER_SURVIVORS = 28
    OTHER_TRANSCRIPT = 29


_WORDS = {
    Reason.UNKNOWN_COORDINATOR: "the manifest is not signed by the pinned coordinator",
    Reason.NOT_INVITED: "this party is not in the manifest",
    Reason.ROUND_REUSED: "this round, or a later one of the run, was begun before; a round has one attempt",
    Reason.TOO_FEW_PARTIES: "fewer parties than the floor",
    Reason.UNPINNED_PARTIES: "too few parties have pinned fingerprints, or there are strangers among them",
    Reason.TOO_FEW_CLIENTS: "fewer clients than the floor",
    Reason.LOW_THRESHOLD: "the threshold is too low",
    Reason.WEAK_GRAPH: "the graph has too few neighbours, or a threshold too low, for the colluders to be borne",
    Reason.LOW_NOISE: "less noise than the floor",
    Reason.OTHER_LAYOUT: "other vectors than this party agreed to sum",
    Reason.LEFT_OUT: "this party was left out of a list that it belongs to",
    Reason.KEYS_SWAPPED: "a public key is not the one its owner signed",
    Reason.TOO_FEW_NEIGHBOURS: "fewer neighbours than shares are needed",
    Reason.BAD_SHARE: "a sealed share was changed or is not for this party",
    Reason.UNKNOWN_SURVIVORS: "somebody is listed who did not take part before",
    Reason.ALIVE_AND_DEAD: "somebody is listed both as alive and as dead",
    Reason.INCOMPLETE_SETS: "somebody who sent shares is listed neither as alive nor as dead",
    Reason.DECLARED_DEAD: "this party is listed as dead",
    Reason.INPUT_CHANGED: "the masked vector listed for this party is not the one it sent",
    Reason.TOO_FEW_SIGNATURES: "fewer neighbours signed the list of survivors than the threshold",
    Reason.FORGED_SIGNATURE: "a signature under the list of survivors is not its signer's",
    Reason.SECOND_UNMASK: "shares were asked for a second time",
    Reason.TWO_VERSIONS: "the coordinator sent two unlike versions of one message",
    Reason.ALREADY_ANSWERED: "shares of this round were revealed before",
    Reason.MALFORMED: "a signed message does not have the form that it must have",
    Reason.SECRETS_LOST: "the shares that came do not open a mask",
    Reason.CANCELLED: "the other side ended the secure sum",
    Reason.OTHER_SURVIVORS: "the same vector was summed among other survivors before; the sums could be subtracted",
    Reason.OTHER_TRANSCRIPT: "the manifest is for another call than the one that this party answered",
}


@dataclass(frozen=True)
class Abort:
    """An ended secure sum: the reason, and the public figures or parties it is about.

    >>> print(Abort(Reason.LOW_THRESHOLD, "3, where 7 parties need 5"))
    the threshold is too low: 3, where 7 parties need 5
    """

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return _WORDS[self.reason] + (f": {self.detail}" if self.detail else "")


class AbortError(FedrecError):
    """Raised inside a state machine, and turned into its outcome there."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.abort = Abort(reason, detail)
        super().__init__(str(self.abort))
