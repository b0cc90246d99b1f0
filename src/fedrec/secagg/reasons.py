"""Reasons for which a party or the coordinator ends secure aggregation without a result."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from fedrec.errors import FedrecError

__all__ = ["Abort", "Reason"]


class Reason(enum.IntEnum):
    """The reasons, with their numbers in messages."""

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
    Reason.UNKNOWN_COORDINATOR: "the manifest is not signed by the coordinator that this party obeys",
    Reason.NOT_INVITED: "this party is not in the manifest",
    Reason.ROUND_REUSED: "this round, or a later round of the run, began before; each round has one attempt",
    Reason.TOO_FEW_PARTIES: "too few parties",
    Reason.UNPINNED_PARTIES: "too few parties have keys that this party knows, or too many have unknown keys",
    Reason.TOO_FEW_CLIENTS: "too few clients",
    Reason.LOW_THRESHOLD: "the threshold is too low",
    Reason.WEAK_GRAPH: "the graph has too few neighbours or too low a threshold for the assumed colluders",
    Reason.LOW_NOISE: "too little noise",
    Reason.OTHER_LAYOUT: "the vectors are not those that this party agreed to sum",
    Reason.LEFT_OUT: "this party is missing in a list",
    Reason.KEYS_SWAPPED: "a public key is not the key that its owner signed",
    Reason.TOO_FEW_NEIGHBOURS: "fewer neighbours than needed shares",
    Reason.BAD_SHARE: "a sealed share was changed, or is for another party",
    Reason.UNKNOWN_SURVIVORS: "a listed party did not take part before",
    Reason.ALIVE_AND_DEAD: "a party is listed both as surviving and as dropped",
    Reason.INCOMPLETE_SETS: "a party that sent shares is listed neither as surviving nor as dropped",
    Reason.DECLARED_DEAD: "this party is listed as dropped",
    Reason.INPUT_CHANGED: "the masked vector listed for this party is not the vector that it sent",
    Reason.TOO_FEW_SIGNATURES: "fewer neighbours signed the list of survivors than the threshold",
    Reason.FORGED_SIGNATURE: "a signature of the list of survivors is forged",
    Reason.SECOND_UNMASK: "the coordinator requested shares a second time",
    Reason.TWO_VERSIONS: "the coordinator sent two different versions of a message",
    Reason.ALREADY_ANSWERED: "shares of this round were revealed before",
    Reason.MALFORMED: "a signed message is malformed",
    Reason.SECRETS_LOST: "the received shares do not open a mask",
    Reason.CANCELLED: "the other side ended secure aggregation",
    Reason.OTHER_SURVIVORS: "the same vector was summed with other survivors before; two such sums reveal parties",
    Reason.OTHER_TRANSCRIPT: "the manifest is for another request than the request that this party answered",
}


@dataclass(frozen=True)
class Abort:
    """Why secure aggregation ended: the reason, with the numbers or parties concerned.

    >>> print(Abort(Reason.LOW_THRESHOLD, "3, where 7 parties need 5"))
    the threshold is too low: 3, where 7 parties need 5
    """

    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        return _WORDS[self.reason] + (f": {self.detail}" if self.detail else "")


class AbortError(FedrecError):
    """Raised inside a state machine, which stores the abort as its result."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.abort = Abort(reason, detail)
        super().__init__(str(self.abort))
