"""Whether the order of users' interactions is known, and what to do where it is not."""

from __future__ import annotations

from fedrec.data.interactions import Interactions, RowOrder
from fedrec.errors import PlanError

__all__ = ["check_order", "how_to_order"]

NO_ORDER = "Otherwise use ratio:0.8, which needs no order"


def check_order(data: Interactions, by_rows: bool, what: str, otherwise: str = NO_ORDER) -> None:
    """Check that the order of users' interactions is known: by their times, or because the source is in order.

    Args:
        data: interactions of some users.
        by_rows: rows without times count as being in order, oldest first.
        what: what needs the order, for the message.
        otherwise: what to do where there is none, a sentence without a full stop.

    Raises:
        PlanError: if the data has no times, and the order of its rows is not declared.

    Example:
        >>> import fedrec as fr
        >>> check_order(fr.interactions_from({"user": [1, 1], "item": [5, 6], "time": [1, 2]}), False, "decay")
    """
    if data.order.by in ("time", "sequence") or (by_rows and data.order.by == "rows") or len(data) == 0:
        return
    reason = (
        "rows of a database have no order unless they have times"
        if data.order.by == "chance"
        else "the data has no times, and the order of its rows is not declared"
    )
    raise PlanError(
        f"{what} needs the order of each user's interactions: {reason}. {how_to_order(data.order, otherwise)}"
    )


def how_to_order(order: RowOrder, otherwise: str = NO_ORDER) -> str:
    """What to do about data without times: which of its columns could be the time, and what needs none."""
    shown = ", ".join(repr(name) for name in order.unread[:20]) + (", …" if len(order.unread) > 20 else "")
    words = f"Columns that were not read: {shown}. " if order.unread else ""
    if order.like_times:
        like, name = ", ".join(map(repr, order.like_times)), order.like_times[0]
        words += (
            f"{like} look{'s' if len(order.like_times) == 1 else ''} like times: set columns={{'timestamp': {name!r}}} "
            f"(--columns timestamp={name}). "
        )
    else:
        words += (
            "If a column holds times or a serial number, name it: columns={'timestamp': …} (--columns timestamp=…). "
        )
    rows = (
        ""
        if order.by == "chance"
        else "If the rows are in order, oldest first, say so with @rows after the name of the split, as in "
        "leave-last-out@rows (leave_last_out(…, by_rows=True)). "
    )
    return f"{words}{rows}{otherwise}"
