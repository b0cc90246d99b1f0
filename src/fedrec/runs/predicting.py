"""Ratings that a trained model predicts for pairs of user and item."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers, typed_ids
from fedrec.data.interactions import Interactions
from fedrec.data.reading.frames import as_table
from fedrec.data.reading.picking import Picking
from fedrec.data.reading.readers import read_pairs
from fedrec.errors import InputError
from fedrec.evaluation.errors import cut
from fedrec.models.base import Arrays, Recommender
from fedrec.models.outline import reads_item_features
from fedrec.models.registry import models_where
from fedrec.models.values import rating_scale
from fedrec.node.shard import Shard
from fedrec.runs.finished import OpenedRun
from fedrec.runs.visitors import Unknown, check_unknown, some_of

__all__ = ["predict_pairs"]


def predict_pairs(
    opened: OpenedRun,
    pairs: object,
    unknown: Unknown = "raise",
    unknown_items: Unknown = "raise",
    columns: Mapping[str, str] | None = None,
) -> pl.DataFrame:
    """Predicted ratings of pairs, cut to the scale, row by row: columns `user_id`, `item_id`, `rating` Float32.

    Args:
        opened: the model and its nodes.
        pairs: a table, `Interactions`, or the path of a file.
        unknown: `raise` refuses a user of whom nothing is known; `warn` and `ignore` predict for one what the model
            says of a user without ratings.
        unknown_items: the same of an item that is not in the catalog, and of what the model says of an item that
            nobody rated.
        columns: standard names to names in the table or file.

    Raises:
        InputError: if the model predicts no ratings, there are no such columns, or an id is unknown.
    """
    check_unknown(unknown, "unknown")
    check_unknown(unknown_items, "unknown_items")
    scale = rating_scale(opened.model)
    if scale is None:
        raise InputError(
            f"model {opened.model.name!r} ranks items and predicts no ratings; "
            f"{models_where(lambda model: model.traits.reads_ratings)} predicts them"
        )
    table = _read(pairs, columns)
    users, catalog, shared = opened.data.users, opened.data.catalog, opened.trained.state.shared
    owners = _found(users, table["user_id"], unknown, "user")
    items = _found(catalog.items, table["item_id"], unknown_items, "item")
    public = opened.agreement.public
    if (items < 0).any():
        items = np.where(items < 0, len(catalog), items)
        shared, public = _grown(opened.model, shared, len(catalog)), _grown_public(opened.model, public, catalog)
    ratings = np.empty(table.height)
    for shard in opened.engine.shards:
        places = np.append(shard.data.users.find(users.series), -1)  # the last is that of unknown users
        _fill(ratings, shard, places[owners], items, shared, public, opened.trained.round)
    if (owners < 0).any():
        nothing = np.zeros(2, dtype=np.int64), np.empty(0, dtype=np.int32)
        stranger = opened.with_visitors(Interactions(Identifiers.of([0]), catalog, *nothing))
        _fill(ratings, stranger, np.where(owners < 0, 0, -1), items, shared, public, opened.trained.round)
    return table.with_columns(pl.Series("rating", cut(ratings, scale), dtype=pl.Float32))


def _read(pairs: object, columns: Mapping[str, str] | None) -> pl.DataFrame:
    """`user_id` and `item_id` of every pair."""
    if isinstance(pairs, str | Path):
        return read_pairs(pairs, columns)
    frame = pairs.to_frame() if isinstance(pairs, Interactions) else as_table(pairs)
    picking = Picking("pairs", columns)
    picking.pick(frame.columns, frame.head(1000))
    return pl.DataFrame({name: typed_ids(frame[picking.picked[name]]) for name in ("user_id", "item_id")})


def _found(ids: Identifiers, wanted: pl.Series, policy: Unknown, what: str) -> np.ndarray:
    """Positions [pairs] of ids; −1 for unknown ones, of which is told as `policy` says."""
    places = ids.look_up(wanted)
    missing = wanted.filter(pl.Series(places < 0, dtype=pl.Boolean)).unique(maintain_order=True)
    if len(missing) and policy != "ignore":
        message = f"{len(missing):,} unknown {what}{'s' if len(missing) > 1 else ''}: {some_of(missing)}"
        if policy == "raise":
            option = "unknown" if what == "user" else "unknown_items"
            raise InputError(
                f"{message}{ids.explain_unknown(missing[0])}. With {option}='warn' or 'ignore' (--"
                f"{option.replace('_', '-')}) such {what}s are predicted as {what}s without ratings"
            )
        warnings.warn(f"{message}; predicted as {what}s without ratings", stacklevel=4)
    return places


def _grown(model: Recommender, shared: Arrays, n_items: int) -> Arrays:
    """Shared arrays with one more item, that nobody rated: zeros."""
    shapes = model.shapes(n_items + 1).states[-1].shared
    grown = {}
    for name, shape in shapes.items():
        axes = zip(shape.axes, shared[name].shape, strict=True)
        more = [(0, axis - length if isinstance(axis, int) else 0) for axis, length in axes]
        grown[name] = np.pad(shared[name], more)
    return grown


def _grown_public(model: Recommender, public: Arrays, catalog: Catalog) -> Arrays:
    """Public arrays with one more item, of which the catalog says nothing.

    Raises:
        InputError: if the model makes none for such an item, or arrays that do not go with its shared ones.
    """
    if not reads_item_features(model):
        return public
    refused = f"model {model.name!r} cannot predict items that are not in the catalog; leave these items out"
    try:
        grown = model.public(catalog.with_unknown_item())
    except Exception as error:  # whatever a model makes of missing features
        raise InputError(f"{refused} ({error!r} without features)") from error
    for name, array in public.items():
        if name not in grown or not _fits(grown[name].shape, array.shape, len(catalog)):
            raise InputError(f"{refused} (its array {name!r} has another shape without features)")
    return grown


def _fits(grown: tuple[int, ...], shape: tuple[int, ...], n_items: int) -> bool:
    """Whether no axis is longer but those of items, which may have one more."""
    return len(grown) == len(shape) and all(
        new in (old, old + (old == n_items)) for new, old in zip(grown, shape, strict=False)
    )


def _fill(
    ratings: np.ndarray,
    shard: Shard,
    there: np.ndarray,
    items: np.ndarray,
    shared: Arrays,
    public: Arrays,
    round: int,
) -> None:
    """Write the predictions of the pairs [pairs] whose users are at positions `there` [pairs] of a shard; −1 for other
    users."""
    rows = np.flatnonzero(there >= 0)
    rows = rows[np.argsort(there[rows], kind="stable")]
    owners = there[rows]
    for chosen, scores in shard.predictions(shared, round, np.unique(owners), public):
        low, high = np.searchsorted(owners, chosen[0]), np.searchsorted(owners, chosen[-1], side="right")
        places = np.searchsorted(chosen, owners[low:high])
        ratings[rows[low:high]] = scores[places, items[rows[low:high]]]
