"""The interactions that a run keeps, so that it recommends and measures whatever becomes of its source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.digests import digest_of
from fedrec.data.identifiers import Identifiers
from fedrec.data.interactions import PARTS, Interactions
from fedrec.data.sources import LoadedSource
from fedrec.documents import MOST_LINES, parse_json, read_file
from fedrec.engines.local import LocalEngine
from fedrec.errors import DamagedError
from fedrec.federation.plan import Plan
from fedrec.privacy.chance import has_secret
from fedrec.record.durable import replace_table
from fedrec.record.files import FILES, check_file, read_files
from fedrec.runs.loading import public_digest

__all__ = ["KEPT", "Closed", "Kept", "closed_run", "keep_interactions", "reading_facts"]

KEPT = "private/interactions.parquet"
"""In the folder of a run: one row per interaction, in the order in which training took them."""
_NODE = "node"
_KINDS = {"user_id": (pl.Int64, pl.String), "item_id": (pl.Int64, pl.String), "rating": (pl.Float32,),
          "timestamp": (pl.Float64,), "part": (pl.String,), _NODE: (pl.Int64,)}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Kept:
    """What a run kept of its users.

    Args:
        data: their interactions, as training was given them.
        places: the node of each user [users] int64; `None` where there is one node.
    """

    data: Interactions
    places: np.ndarray | None = None

    @classmethod
    def of_run(cls, folder: Path, plan: Plan) -> Kept | None:
        """What a finished run kept; `None` if it is not finished, keeps nothing, or its catalog is not the plan's.

        Raises:
            DamagedError: if the interactions were changed.
        """
        path = folder / "model" / "catalog.jsonl"
        if not (folder / KEPT).exists() or not (folder / "model" / "model.json").exists():
            return None
        try:
            catalog = Catalog.from_json_lines(read_file(path), str(path))
        except (OSError, ValueError, DamagedError):
            return None
        return cls.read(folder, plan, catalog) if catalog.digest == plan.catalog else None

    @classmethod
    def read(cls, folder: Path, plan: Plan, catalog: Catalog) -> Kept | None:
        """What the run in `folder` kept; `None` if it keeps nothing, as runs of earlier versions.

        Args:
            folder: of the run.
            plan: the run's.
            catalog: of its model.

        Raises:
            DamagedError: if the file was changed.
        """
        path = folder / KEPT
        if not path.exists():
            return None
        try:
            if (folder / FILES).exists() and (line := read_files(folder)[0].get(KEPT)) is not None:
                check_file(folder, KEPT, line.get("sha256"), "the list of files")
            table = pl.read_parquet(read_file(path))
            kept = _placed(table, catalog)
            if plan.data.digest is not None:
                if plan.privacy is not None and not has_secret(folder / "private"):
                    raise DamagedError("the secret beside it, without which the plan's digest says nothing, is missing")
                if public_digest(plan, digest_of(kept.data), folder) != plan.data.digest:
                    raise DamagedError("it is not the data that the plan's digest is of")
        except (OSError, ValueError, pl.exceptions.PolarsError, DamagedError) as error:
            raise _damaged(folder, str(error)) from None
        return kept


@dataclass(frozen=True, eq=False)
class Closed:
    """What a run that was closed says of its data.

    Args:
        kept: the interactions.
        told: what its report says of how the source was read; see `reading_facts`.
    """

    kept: Kept
    told: dict[str, Any]


def closed_run(folder: Path, plan: Plan) -> Closed | None:
    """The data of a run that was closed, without its source; `None` if it was not closed, or keeps nothing.

    Raises:
        DamagedError: if the interactions were changed.
    """
    try:
        said = parse_json(read_file(folder / "report.json", MOST_LINES))["data"]
        told = {name: said[name] for name in ("left_out", "columns", "not_read", "notes")}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kept = Kept.of_run(folder, plan)
    return None if kept is None else Closed(kept, told)


def reading_facts(source: LoadedSource) -> dict[str, Any]:
    """What a report says of how a source was read."""
    return {
        "left_out": source.left_out_counts,
        "columns": source.report.columns,
        "not_read": list(source.report.unread),
        "notes": list(source.report.notes),
    }


def keep_interactions(folder: Path, data: Interactions, nodes: LocalEngine) -> None:
    """Keep interactions and where their users live in the private part of a run."""
    table = data.to_frame()
    idle = np.flatnonzero(data.lengths == 0)
    if len(idle):
        table = pl.concat([table, pl.DataFrame({"user_id": data.users.take(idle)})], how="diagonal")
        table = table.sort("user_id", maintain_order=True)
    if len(nodes.nodes) > 1:
        places = np.zeros(data.n_users, dtype=np.int64)
        for node in nodes.nodes:
            for shard in node.shards:
                places[data.users.find(shard.data.users.series)] = int(node.name.removeprefix("node-"))
        owners = np.repeat(np.arange(data.n_users), np.maximum(data.lengths, 1))
        table = table.with_columns(pl.Series(_NODE, places[owners]))
    replace_table(folder / KEPT, table)


def _placed(table: pl.DataFrame, catalog: Catalog) -> Kept:
    """The rows of the file as interactions.

    Raises:
        DamagedError: naming the column that does not hold what it must.
    """
    for name, kinds in _KINDS.items():
        if name in table.columns and table.schema[name] not in kinds:
            raise DamagedError(f"column {name} is {table.schema[name]}")
    if not {"user_id", "item_id"} <= set(table.columns) or table["user_id"].null_count():
        raise DamagedError("user_id or item_id is missing")
    users = table["user_id"]
    first = np.flatnonzero(users.ne_missing(users.shift(1)).to_numpy())
    ids = users.gather(pl.Series(first))
    if not ids.is_sorted() or ids.n_unique() < len(ids):
        raise DamagedError("its users are not in order")
    real = table["item_id"].is_not_null().to_numpy()  # a row without an item is of a user who has none
    rows = table if real.all() else table.filter(pl.Series(real))
    items = catalog.items.find(rows["item_id"]) if rows.height else np.empty(0, dtype=np.int64)
    if (items < 0).any():
        raise DamagedError("it names an item that the catalog has not")
    indptr = np.concatenate([[0], np.cumsum(np.add.reduceat(real, first, dtype=np.int64))]) if len(first) else [0]
    data = Interactions(
        Identifiers(ids.rename("user_id")),
        catalog,
        np.asarray(indptr, dtype=np.int64),
        items.astype(np.int32),
        _numbers(rows, "rating"),
        _numbers(rows, "timestamp"),
        _parts(rows),
    )
    if _NODE not in table.columns:
        return Kept(data)
    places = _numbers(table, _NODE)
    assert places is not None
    return Kept(data, places[first])


def _numbers(table: pl.DataFrame, name: str) -> np.ndarray | None:
    """A column [rows] as an array; `None` where there is none."""
    if name not in table.columns:
        return None
    if table[name].null_count():
        raise DamagedError(f"column {name} has rows without a value")
    return np.require(table[name].to_numpy(), requirements=["C", "W"])


def _parts(table: pl.DataFrame) -> np.ndarray | None:
    if "part" not in table.columns:
        return None
    codes = table["part"].replace_strict({name: code for code, name in enumerate(PARTS)}, default=-1)
    parts = codes.fill_null(-1).to_numpy().astype(np.int8)
    if (parts < 0).any():
        raise DamagedError(f"column part holds something else than {', '.join(PARTS)}")
    return parts


def _damaged(folder: Path, why: str) -> DamagedError:
    return DamagedError(
        f"{folder / KEPT} was changed: {why}. 'fedrec verify {folder}' checks all files. Restore it; or take it away, "
        "and name the data that the run was trained on, or newer data, with --data (data= in Python)"
    )
