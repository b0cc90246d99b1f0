"""By what users are grouped when they are measured: a column of theirs, or how many interactions they have."""

from __future__ import annotations

import polars as pl

from fedrec.data.interactions import Interactions
from fedrec.errors import InputError, PlanError, suggestion
from fedrec.evaluation.groups import INTERACTIONS, Groups

__all__ = ["check_grouping", "grouping_column"]


def grouping_column(data: Interactions, column: str, history: Interactions) -> pl.Series:
    """What groups users: one value for each.

    Args:
        data: of the users, with their columns.
        column: one of these, or `interactions`.
        history: what is known of each user when held-out items are predicted.

    Raises:
        InputError: if users have no such column, or one that is named `interactions`.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [1, 1, 2], "item_id": [1, 2, 1]})
        >>> grouping_column(data, "interactions", data).to_list()
        [2, 1]
    """
    if not data.n_users:
        return pl.Series(column, [], dtype=pl.String)
    known = [] if data.user_features is None else data.user_features.columns
    if column == INTERACTIONS:
        if column in known:
            raise InputError(
                f"users have a column {column!r}, which is the name of the groups by how many items a history holds; "
                "rename the column"
            )
        return pl.Series(column, history.lengths)
    if data.user_features is None or column not in known:
        table = "a table with one row per user (--users; users= in Python)"
        if not known:
            raise InputError(
                f"users have no columns here, so they cannot be grouped by {column!r}; name {table}, or group them by "
                f"{INTERACTIONS}"
            )
        hint = suggestion(column, [*known, INTERACTIONS]).rstrip(".")
        raise InputError(f"users have no column {column!r}{hint}{'' if hint.endswith('?') else '.'} Or name {table}")
    return data.user_features[column]


def check_grouping(data: Interactions, groups: Groups | None) -> None:
    """Check that a node can group its users as agreed, in words that tell nothing of them.

    Raises:
        PlanError: if it cannot.
    """
    if groups is None:
        return
    try:
        groups.places(grouping_column(data, groups.column, data))
    except InputError:
        raise PlanError(
            f"evaluation.by: the users of this node cannot be grouped by {groups.column!r}, as the plan says; its "
            "owner adds the column to the table of users, as text or as numbers as the groups are"
        ) from None
