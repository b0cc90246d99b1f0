"""New items for a finished run, without training: a run of its own, with a larger catalog."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.documents import MOST_SETTINGS, parse_json, read_file
from fedrec.errors import InputError
from fedrec.federation.agreement import Agreement
from fedrec.federation.coordinator import Trained
from fedrec.models.base import State
from fedrec.models.more_items import with_more_items
from fedrec.record.durable import arrays_digest, replace_file
from fedrec.record.files import list_files
from fedrec.runs.finished import OpenedRun
from fedrec.runs.saved import FEDERATED, open_model, save_model, save_run
from fedrec.threads import one_blas_thread

__all__ = ["ADDED", "Extended", "add_items", "extended"]

ADDED = "catalog_added.json"
"""In the folder of a run to whose catalog items were added: from which run, and the digests of both."""

_AGREED = {"catalog": "the catalog", "features": "the catalog with its features", "model": "the model"}


@dataclass(frozen=True, eq=False)
class Extended:
    """A run with more items.

    Args:
        run: the model with the larger catalog, and the users of the run that it is from.
        added: ids of the new items.
        known: items of the file that the run had already, which stay as they were agreed.
        left_out: columns of the file that the catalog of the run does not have.
        record: digests of both runs.
    """

    run: OpenedRun
    added: tuple[Any, ...]
    known: int
    left_out: tuple[str, ...]
    record: dict[str, Any]


def extended(opened: OpenedRun, items: Catalog) -> Extended:
    """A finished run with the items of a catalog besides its own.

    Raises:
        InputError: if all items are known, ids or columns have other types, or the model cannot score new items.
    """
    plan, catalog, shared = opened.plan, opened.catalog, opened.trained.state.shared
    if plan.items is not None:
        raise InputError(
            f"the plan of the run serves items that {plan.items.least} users have, and nobody has a new one; train "
            "without items, or again when the new items have users"
        )
    larger, new = _larger(catalog, items)
    places = larger.items.find(catalog.items.series)
    changed = plan.model_copy(
        update={
            "catalog": larger.digest,
            "features": None if plan.features is None else larger.features_digest,
        }
    )
    agreement = Agreement.of(changed, larger)
    with one_blas_thread():  # parties compare digests
        arrays = with_more_items(opened.model, shared, opened.agreement.public, agreement.public, places)
    record = {
        "from": _digests(plan.digest, catalog, shared),
        "to": _digests(changed.digest, larger, arrays),
        "items": len(new),
    }
    trained = Trained(State(arrays), opened.trained.round, opened.trained.rounds)
    own = () if catalog.features is None else catalog.features.columns
    named = () if items.features is None else items.features.columns
    return Extended(
        OpenedRun(agreement, trained, opened.home),
        tuple(new),
        len(items) - len(new),
        tuple(name for name in named if name not in own),
        record,
    )


def add_items(origin: Path, items: Catalog, folder: Path, agreed: Path | None = None) -> Extended:
    """Make a run of a finished one, with more items and with its users; or, of a run over a federation, its model.

    Args:
        origin: the finished run.
        items: what the new items are; those that the run knows stay as they were agreed.
        folder: of the run that is made.
        agreed: record of another party that added the same items to the same model.

    Raises:
        InputError: see `extended`, and if the model is another one than the record says.
        RunError: if the folder is not empty.
    """
    made = extended(open_model(origin), items)
    if agreed is not None:
        _check_agreed(made.record, agreed)
    if (origin / FEDERATED).exists():
        save_model(made.run, folder, origin)
    else:
        save_run(made.run, folder)
    replace_file(folder / ADDED, json.dumps(made.record, indent=1).encode() + b"\n")
    list_files(folder)
    return made


def _check_agreed(record: dict[str, Any], path: Path) -> None:
    """Check that another party made the same model of the same one."""
    try:
        said = parse_json(read_file(path, MOST_SETTINGS))
        other = {end: {key: said[end][key] for key in _AGREED} for end in ("from", "to")}
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a record of added items ({ADDED} in the folder of a run)") from None
    for end, words in (("from", "began with"), ("to", "made")):
        for key, what in _AGREED.items():
            if record[end][key] != other[end][key]:
                raise InputError(
                    f"{path}: whoever wrote it {words} {what} with digest {str(other[end][key])[:12]}…, and here "
                    f"{what} has {record[end][key][:12]}…; take the same run and the same file of items"
                )


def _larger(catalog: Catalog, items: Catalog) -> tuple[Catalog, list[Any]]:
    """A catalog with the new items of another one, and the ids of these."""
    own, theirs = catalog.items, items.items
    if theirs.is_text and not own.is_text:
        raise InputError(
            f"item ids of the run are whole numbers and those of the file text, such as {theirs[0]!r}; write both alike"
        )
    ids = theirs.series.cast(own.series.dtype)
    new = np.flatnonzero(own.look_up(ids) < 0)
    if not len(new):
        raise InputError(f"all {len(items):,} items of the file are in the catalog of the run already")
    rows = pl.DataFrame({"item_id": own.series})
    more = pl.DataFrame({"item_id": ids.gather(pl.Series(new))})
    if catalog.features is not None:
        rows = rows.hstack(catalog.features)
        table = pl.DataFrame() if items.features is None else items.features[new.tolist()]
        more = more.hstack([_column(name, kind, table, len(new)) for name, kind in catalog.features.schema.items()])
    return Catalog.of(pl.concat([rows, more])), more["item_id"].to_list()


def _column(name: str, kind: Any, table: pl.DataFrame, length: int) -> pl.Series:
    """A column of new items with the type that it has in the run."""
    if name not in table.columns:
        return pl.Series(name, [None] * length, dtype=kind)
    try:
        return table[name].cast(kind)
    except pl.exceptions.PolarsError:
        raise InputError(
            f"column {name!r} is {table[name].dtype} in the file and {kind} in the catalog of the run; write both alike"
        ) from None


def _digests(plan: str, catalog: Catalog, arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    return {
        "plan": plan,
        "catalog": catalog.digest,
        "features": catalog.features_digest,
        "model": arrays_digest(arrays),
    }
