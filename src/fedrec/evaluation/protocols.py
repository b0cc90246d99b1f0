"""Against which candidates a held-out item is ranked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedrec.errors import InputError, PlanError, suggestion
from fedrec.evaluation.metrics import Metric

__all__ = ["Protocol", "check_protocol", "parse_protocol"]


@dataclass(frozen=True)
class Protocol:
    """`full`: every item of the catalog that is not in the user's history. `sampled:n`: n items the user never touched.
    `cold`: the items that a split holds out whole, so that nobody has them in training. `known`: every item, as with
    `full`, but only items that are not held out whole are to be found.

    Args:
        negatives: number of sampled items, or `None` for the whole catalog.
        cold: whether items that training knows are no candidates.
        known: whether only items that training knows are to be found.

    Raises:
        InputError: fewer than one sampled item.

    Example:
        >>> str(Protocol()), str(Protocol(99))
        ('full', 'sampled:99')
    """

    negatives: int | None = None
    cold: bool = False
    known: bool = False

    def __post_init__(self) -> None:
        if self.negatives is not None and self.negatives < 1:
            raise InputError(f"protocol sampled:{self.negatives}: sample at least 1 item")

    def __str__(self) -> str:
        if self.cold or self.known:
            return "cold" if self.cold else "known"
        return "full" if self.negatives is None else f"sampled:{self.negatives}"


def parse_protocol(text: str) -> Protocol:
    """Read `full`, `cold`, `known` or `sampled:n`.

    Raises:
        InputError: anything else.

    Example:
        >>> parse_protocol("sampled:99").negatives
        99
        >>> parse_protocol("sampeld:99")
        Traceback (most recent call last):
        fedrec.errors.InputError: unknown protocol 'sampeld:99'. Did you mean 'sampled:99'?
    """
    name, colon, count = text.strip().lower().partition(":")
    if name == "full" and not colon:
        return Protocol()
    if name in ("cold", "known") and not colon:
        return Protocol(cold=name == "cold", known=name == "known")
    if name == "sampled" and count.isascii() and count.isdigit() and len(count) <= 9:
        return Protocol(int(count))
    if name == "sampled":
        raise InputError(
            f"protocol {text!r:.80} needs a whole number of sampled items, of 9 digits at most, as in sampled:99"
        )
    raise InputError(f"unknown protocol {text!r}{suggestion(text, ['full', 'cold', 'known', 'sampled:99'])}")


def check_protocol(metrics: Iterable[Metric], protocol: Protocol) -> None:
    """Check that metrics are defined under a protocol.

    Raises:
        PlanError: for coverage and graded relevance under `sampled`.
    """
    for metric in metrics:
        if protocol.negatives is not None and metric.of_lists:
            raise PlanError(f"{metric} is not defined under {protocol}, which produces no lists; use protocol: full")
        if protocol.negatives is not None and metric.graded:
            raise PlanError(
                f"{metric} is not defined under {protocol}, which ranks every held-out item alone, so that values "
                f"make no difference; use protocol: full, or ndcg@{metric.k}"
            )
