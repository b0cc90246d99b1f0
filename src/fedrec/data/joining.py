"""Joins the events of a log to interactions that were read, and leaves out users who asked to be forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.databases.logs import event_database, read_events
from fedrec.data.interactions import Interactions
from fedrec.data.reading.catalogs import with_items, with_user_features
from fedrec.data.reading.frames import table_with_report
from fedrec.data.reading.reports import Loaded
from fedrec.errors import InputError

__all__ = ["with_events"]


def with_events(
    loaded: Loaded, source: str, catalog: Catalog | None = None, unknown_items: Literal["raise", "skip"] = "raise"
) -> Loaded:
    """The interactions with those of a log after them, and without users whom the log says to forget.

    Events have the columns that the interactions have: without ratings there, the values of events are not read, and
    without times there, an event is newer than every row of its user. An event without a value among ratings has none.

    Args:
        loaded: interactions, and how they were read.
        source: path or URL of the log.
        catalog: the agreed items; `None` takes those of both.
        unknown_items: what to do with items of events that are not in `catalog`.

    Raises:
        InputError: if the log cannot be read, its ids are of another type, or the interactions have a given split.
    """
    data, table, shown = loaded.interactions, read_events(source), event_database(source).shown
    if data.part is not None:
        raise InputError(f"{shown}: events cannot join data with a given split; leave out the column of parts")
    for ids, ours, name in (
        (data.users, table.interactions["user_id"], "user"),
        (data.catalog.items, table.interactions["item_id"], "item"),
    ):
        if len(ours) and ours.dtype != ids.series.dtype:
            kinds = ("text", "whole numbers") if ids.is_text else ("whole numbers", "text")
            raise InputError(
                f"{shown}: the {name} ids of the data are {kinds[0]}, those of events {kinds[1]}; write both alike"
            )
    kept, forgotten, gone = _without(data, table.forgotten["user_id"])
    events = table.interactions.drop("rating" if data.values is None else [], "timestamp" if data.times is None else [])
    base = kept.to_frame()
    notes = [f"{events.height:,} events of {shown} joined"]
    if forgotten:
        notes.append(f"{gone:,} rows of {forgotten:,} users who asked to be forgotten left out")
    if events.height:
        both = pl.concat(
            [base, events.select(base.columns).cast({"rating": pl.Float32} if "rating" in base.columns else {})]
        )
        read = table_with_report(both, catalog=catalog, unknown_items=unknown_items, keep_missing=True)
        joined = read.interactions if catalog is not None else with_items(read.interactions, data.catalog)
        if kept.user_features is not None:
            features = kept.user_features.with_columns(kept.users.series.alias("user_id"))
            joined = with_user_features(joined, features)
        left_out = pl.concat([loaded.report.left_out, read.report.left_out])
        kept = replace(joined, order=data.order, judged=data.judged)
    else:
        left_out = loaded.report.left_out
    report = replace(
        loaded.report,
        rows=loaded.report.rows + events.height,
        left_out=left_out,
        notes=(*loaded.report.notes, *notes),
    )
    return Loaded(kept, report)


def _without(data: Interactions, forgotten: pl.Series) -> tuple[Interactions, int, int]:
    """The data without some users; how many of them it had, and how many rows of theirs."""
    if not len(forgotten) or forgotten.dtype != data.users.series.dtype:
        return data, 0, 0
    places = data.users.find(forgotten)
    leaving = np.zeros(data.n_users, dtype=np.bool_)
    leaving[places[places >= 0]] = True
    return data.take_users(np.flatnonzero(~leaving)), int(leaving.sum()), int(data.lengths[leaving].sum())
