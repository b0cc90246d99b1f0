"""Against which candidates a held-out item is ranked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedrec.errors import InputError, PlanError, suggestion
from fedrec.evaluation.metrics import Metric

__all__ = ["Protocol", "check_protocol", "parse_protocol"]


@dataclass(frozen=True)
class Protocol:
    """`full`: every item of the catalog that is not in the user's history. `sampled:n`: n items the user never touched.
    `cold`: the items that a split holds out whole, so that nobody has them in training. `known`: every item, as with
    `full`, but only items that are not held out whole are to be found. After `@`, how many items the history of a user
    holds, of those that the model recommends: `full@0`, `full@1-5`, `full@6-`.

    Args:
        negatives: number of sampled items, or `None` for the whole catalog.
        cold: whether items that training knows are no candidates.
        known: whether only items that training knows are to be found.
        least, most: fewest and most items in the history of a user who is measured; `None` for no bound.

    Raises:
        InputError: fewer than one sampled item, or bounds that no user can meet.

    Example:
        >>> str(Protocol()), str(Protocol(99)), str(Protocol(least=1, most=5))
        ('full', 'sampled:99', 'full@1-5')
    """

    negatives: int | None = None
    cold: bool = False
    known: bool = False
    least: int = 0
    most: int | None = None

    def __post_init__(self) -> None:
        if self.most is not None and self.least > self.most:
            raise InputError(f"protocol {self}: write the fewest items of a history first, as in full@1-5")
        if self.negatives is not None and self.negatives < 1:
            raise InputError(f"protocol sampled:{self.negatives}: sample at least 1 item")

    def __str__(self) -> str:
        among = "full" if self.negatives is None else f"sampled:{self.negatives}"
        if self.cold or self.known:
            among = "cold" if self.cold else "known"
        if self.most is None:
            return f"{among}@{self.least}-" if self.least else among
        return f"{among}@{self.least}" if self.least == self.most else f"{among}@{self.least}-{self.most}"

    @property
    def of_all_users(self) -> bool:
        """Whether users are measured whatever their history."""
        return self.least == 0 and self.most is None

    def measures(self, known: np.ndarray) -> np.ndarray:
        """Which users are measured [users] bool, by how many items their histories hold [users].

        >>> Protocol(least=1, most=5).measures(np.array([0, 1, 5, 6])).tolist()
        [False, True, True, False]
        """
        return (known >= self.least) & (known <= (np.inf if self.most is None else self.most))


def parse_protocol(text: str) -> Protocol:
    """Read `full`, `cold`, `known` or `sampled:n`, and the bounds of histories after an `@`.

    Raises:
        InputError: anything else.

    Example:
        >>> parse_protocol("sampled:99").negatives
        99
        >>> parse_protocol("sampeld:99")
        Traceback (most recent call last):
        fedrec.errors.InputError: unknown protocol 'sampeld:99'. Did you mean 'sampled:99'?
    """
    among, at, histories = text.strip().lower().partition("@")
    name, colon, count = among.partition(":")
    least, most = _bounds(text, histories) if at else (0, None)
    if name == "full" and not colon:
        return Protocol(least=least, most=most)
    if name in ("cold", "known") and not colon:
        return Protocol(None, name == "cold", name == "known", least, most)
    if name == "sampled" and count.isascii() and count.isdigit() and len(count) <= 9:
        return Protocol(int(count), least=least, most=most)
    if name == "sampled":
        raise InputError(
            f"protocol {text!r:.80} needs a whole number of sampled items, of 9 digits at most, as in sampled:99"
        )
    raise InputError(f"unknown protocol {text!r}{suggestion(text, ['full', 'cold', 'known', 'sampled:99'])}")


def _bounds(text: str, histories: str) -> tuple[int, int | None]:
    """Fewest and most items of a history."""
    match = re.fullmatch(r"([0-9]{1,9})(?:(-)([0-9]{1,9})?)?", histories)
    if match is None:
        raise InputError(
            f"protocol {text!r:.80}: write after @ how many items the history of a user holds, as in full@0, full@1-5 "
            "or full@6-"
        )
    least = int(match[1])
    return least, (int(match[3]) if match[3] else None) if match[2] else least


def check_protocol(metrics: Iterable[Metric], protocol: Protocol) -> None:
    """Check that metrics are defined under a protocol.

    Raises:
        PlanError: for metrics of lists, intra-list distance and graded relevance under `sampled`.
    """
    for metric in metrics:
        if protocol.negatives is not None and (metric.of_lists or metric.of_items):
            raise PlanError(f"{metric} is not defined under {protocol}, which produces no lists; use protocol: full")
        if protocol.negatives is not None and metric.graded:
            raise PlanError(
                f"{metric} is not defined under {protocol}, which ranks every held-out item alone, so that values "
                f"make no difference; use protocol: full, or ndcg@{metric.k}"
            )
