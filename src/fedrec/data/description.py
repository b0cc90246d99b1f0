"""Describes a data set in figures."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from fedrec.data.interactions import Interactions
from fedrec.inequality import gini

__all__ = ["describe_data"]

_NO_TIMES = {
    "time": "order only",
    "sequence": "order only",
    "rows": "none; rows are in the order of the source, which may mean nothing",
    "chance": "none; rows have no order",
}


def describe_data(data: Interactions) -> dict[str, Any]:
    """Sizes, activity, popularity and time span of interactions.

    >>> from fedrec.data.reading.frames import interactions_from
    >>> facts = describe_data(interactions_from({"user_id": [1, 1, 2], "item_id": [5, 6, 5]}))
    >>> facts["users"], facts["items"], facts["interactions"], facts["per_user"]["median"]
    (2, 2, 3, 1.5)
    """
    counts = np.bincount(data.items, minlength=data.n_items)
    facts: dict[str, Any] = {
        "users": data.n_users,
        "items": data.n_items,
        "interactions": len(data),
        "density": len(data) / max(data.n_users * data.n_items, 1),
        "per_user": _spread(data.lengths),
        "per_item": _spread(counts),
        "gini_of_items": gini(counts),
        "most_popular": [data.catalog.title(int(item)) for item in np.argsort(-counts, kind="stable")[:3]],
    }
    if data.values is not None and len(data):
        facts["ratings"] = {
            "min": float(data.values.min()),
            "mean": float(data.values.mean()),
            "max": float(data.values.max()),
        }
    if data.times is not None and len(data):
        facts["from"], facts["to"] = (_day(moment) for moment in (data.times.min(), data.times.max()))
    else:
        facts["times"] = _NO_TIMES[data.order.by]
    if data.user_features is not None:
        facts["user_columns"] = data.user_features.columns
    if data.catalog.features is not None:
        facts["item_columns"] = data.catalog.features.columns
    return facts


def _spread(counts: np.ndarray) -> dict[str, float]:
    if len(counts) == 0:
        return {}
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "max": int(counts.max()),
    }


def _day(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(float(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
