"""Shows objects in notebooks as a short table instead of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape

__all__ = ["day", "html_table"]


def html_table(title: str, facts: Mapping[str, object]) -> str:
    """A title and one row per fact, as HTML.

    >>> html_table("a < b", {"users": 3})
    '<table><caption>a &lt; b</caption><tr><th>users</th><td>3</td></tr></table>'
    """
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>" for name, value in facts.items())
    return f"<table><caption>{escape(title)}</caption>{rows}</table>"


def day(seconds: float) -> str:
    """A time in seconds since 1970 as a date, or as the number itself if it is outside of the calendar.

    >>> day(0.0)
    '1970-01-01'
    """
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g}"
