"""Distributes users over nodes that one process simulates."""

from __future__ import annotations

import math

import numpy as np
import polars as pl

from fedrec.data.interactions import Interactions
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.errors import InputError, suggestion

__all__ = ["partition"]


def partition(data: Interactions, how: str, nodes: int, seed: int = 0) -> np.ndarray:
    """The node [users] int64 of every user.

    Args:
        data: all users.
        how: `hash` spreads users evenly; `by:COLUMN` puts users with the same value of a user column together (more
            values than nodes share them in turn); `dirichlet:A` draws for each taste (a user's most frequent genre, or
            their activity where there are no genres) shares of the nodes from Dirichlet(A): the smaller A, the less
            alike the nodes (Hsu et al. 2019).
        nodes: number of nodes, at least 1.
        seed: seed of the draws.

    Raises:
        InputError: if `how` or the column is unknown, or if there are more nodes than users.

    Example:
        >>> import fedrec as fr
        >>> data = fr.interactions_from({"user_id": [1, 2, 3], "item_id": [1, 1, 2]})
        >>> len(partition(data, "hash", nodes=2))
        3
    """
    if nodes < 1:
        raise InputError(f"nodes must be at least 1, not {nodes}")
    if nodes > max(data.n_users, 1):
        raise InputError(f"{nodes} nodes, but only {data.n_users} users: every node needs at least one user")
    name, colon, argument = how.partition(":")
    source = KeyedSource.from_seed(seed).child("partition")
    if name == "hash" and not colon:
        return (client_keys(source, data.users) % np.uint64(nodes)).astype(np.int64)
    if name == "by" and argument:
        return _by_column(data, argument) % nodes
    if name == "dirichlet" and argument:
        return _dirichlet(data, argument, nodes, source)
    raise InputError(f"partition {how!r} is not known{suggestion(how, ['hash', 'by:COLUMN', 'dirichlet:0.5'])}")


def _by_column(data: Interactions, column: str) -> np.ndarray:
    known = [] if data.user_features is None else data.user_features.columns
    if data.user_features is None or column not in known:
        raise InputError(f"users have no column {column!r}{suggestion(column, known)}")
    values = data.user_features[column].cast(pl.String).fill_null("")
    return values.rank("dense").to_numpy().astype(np.int64) - 1


def _dirichlet(data: Interactions, argument: str, nodes: int, source: KeyedSource) -> np.ndarray:
    try:
        concentration = float(argument)
    except ValueError:
        concentration = math.nan
    if not (concentration > 0 and math.isfinite(concentration)):
        raise InputError(
            f"partition 'dirichlet:{argument}': the concentration (the number after the colon) must be positive"
        )
    tastes = _tastes(data)
    rng = source.generator()
    shares = rng.dirichlet(np.full(nodes, concentration), size=int(tastes.max(initial=0)) + 1)
    shares = np.nan_to_num(shares, nan=1.0 / nodes)
    draws = client_keys(source, data.users).astype(np.float64) / 2.0**64
    return np.minimum((np.cumsum(shares, axis=1)[tastes] < draws[:, None]).sum(axis=1), nodes - 1)


def _tastes(data: Interactions) -> np.ndarray:
    """A group [users] for every user: the most frequent genre of their items, or a tenth by activity."""
    features = data.catalog.features
    if features is None or "genres" not in features.columns:
        order = np.argsort(np.argsort(data.lengths, kind="stable"), kind="stable")
        return order * 10 // max(data.n_users, 1)
    first = features["genres"].list.first().fill_null("").rank("dense").to_numpy().astype(np.int64) - 1
    counts = np.zeros((data.n_users, int(first.max(initial=0)) + 1), dtype=np.int32)
    np.add.at(counts, (data.rows_of_users(), first[data.items]), 1)
    return counts.argmax(axis=1)
