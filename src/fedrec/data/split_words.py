"""The numbers and words of which the text of a split is made, as in `last:5@rows`."""

from __future__ import annotations

import math
import re

from fedrec.errors import InputError

__all__ = ["CROSS_DOMAIN", "cuts_in", "domain_in", "positions_in", "says_rows", "share_in"]

CROSS_DOMAIN = "cross-domain"
_MOST_POSITIONS = 1000


def share_in(text: str, number: str) -> float:
    """A share of a split."""
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise InputError(f"split {text!r}: the share must be a number between 0 and 1")
    return share


def cuts_in(text: str, name: str, share: str | None, times: str) -> tuple[float, float]:
    """The times at which `temporal` cuts."""
    if name == "leave-last-out":
        raise InputError(f"split {text!r}: write leave-last-out, or leave-last-out@rows if the rows are in order")
    try:
        first, second = (float(cut) for cut in times.split(","))
    except ValueError:
        raise InputError(f"split {text!r}: write two times in seconds after @, as in temporal@8e8,9e8") from None
    if name != "temporal" or share is not None or not first <= second:
        raise InputError(
            f"split {text!r}: only temporal takes times after @; they must ascend, and a share must not be given "
            "beside them"
        )
    return first, second


def positions_in(text: str, number: str | None) -> int:
    """How many positions a split holds out."""
    if number is None or not re.fullmatch(r"[0-9]{1,4}", number) or not 1 <= int(number) <= _MOST_POSITIONS:
        raise InputError(
            f"split {text!r}: write how many interactions of each user are held out, from 1 to {_MOST_POSITIONS}, as "
            "in last:5"
        )
    return int(number)


def says_rows(text: str, after: str | None) -> bool:
    """Whether a split says that rows are in order."""
    if after not in (None, "rows"):
        raise InputError(f"split {text!r}: write last:5, or last:5@rows if the rows are in order")
    return after is not None


def domain_in(text: str) -> str:
    """Which domain a split holds out from."""
    domain = text.strip().partition(":")[2]
    if not domain:
        raise InputError(f"split {text!r}: write the domain whose items are held out, as in {CROSS_DOMAIN}:books")
    return domain
