"""Makes tables of recommendations, and streams long tables to one file."""

from __future__ import annotations

import os
import queue
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from fedrec.data.catalog import Catalog
from fedrec.data.identifiers import Identifiers
from fedrec.errors import FedrecError, InputError, suggestion

__all__ = ["recommendation_schema", "recommendation_table", "write_parquet_stream"]

_WAITING = 2  # batches between the caller and the Parquet writer


def recommendation_schema(users: Identifiers, catalog: Catalog) -> pl.Schema:
    """Columns and types of a table of recommendations: `user_id`, `item_id`, `score`, `rank`."""
    ids = {"user_id": users.series.dtype, "item_id": catalog.items.series.dtype}
    return pl.Schema({**ids, "score": pl.Float32(), "rank": pl.Int32()})


def recommendation_table(
    users: Identifiers, positions: np.ndarray, items: np.ndarray, scores: np.ndarray, catalog: Catalog
) -> pl.DataFrame:
    """Ranked lists as a table with one row per recommendation, and with the original ids of users and items.

    Args:
        users: the ids that `positions` point into.
        positions: [c] positions of the clients.
        items: [c, n] item positions, best first; −1 = nothing, such places are left out.
        scores: [c, n] float32.
        catalog: the items.

    Returns:
        Columns `user_id`, `item_id` (typed as given), `score` Float32 and `rank` Int32, 1 for the best.

    Raises:
        InputError: if the shapes do not fit together.

    Example:
        >>> import numpy as np
        >>> users, catalog = Identifiers.of([7, 8]), Catalog(Identifiers.of(["a", "b"]))
        >>> items, scores = np.array([[1, 0], [0, -1]]), np.array([[0.5, 0.25], [1.0, -np.inf]], dtype=np.float32)
        >>> recommendation_table(users, np.array([0, 1]), items, scores, catalog).rows()
        [(7, 'b', 0.5, 1), (7, 'a', 0.25, 2), (8, 'a', 1.0, 1)]
    """
    if items.ndim != 2 or items.shape != scores.shape or positions.shape != items.shape[:1]:
        raise InputError(
            f"positions {positions.shape}, items {items.shape} and scores {scores.shape} must be [c], [c, n] and [c, n]"
        )
    present = items >= 0
    ranks = np.cumsum(present, axis=1, dtype=np.int32)[present]
    columns = {
        "user_id": users.take(np.repeat(positions, present.sum(axis=1))),
        "item_id": catalog.items.take(items[present]),
        "score": pl.Series(scores[present], dtype=pl.Float32),
        "rank": pl.Series(ranks),
    }
    return pl.DataFrame(columns, schema=recommendation_schema(users, catalog))


def write_parquet_stream(
    path: str | os.PathLike[str], batches: Iterable[pl.DataFrame], schema: Mapping[str, pl.DataType]
) -> int:
    """Write `batches` one after the other to one file, with memory for a few batches only, and return the row count.

    The suffix names the format: `.parquet` (zstd), `.csv` or `.jsonl`. The file appears whole or not at all: rows go
    to a temporary file in the same folder, which takes the place of `path` when all are on disk. Batches are made in
    the calling thread.

    Args:
        path: the file to make or replace; its folder must exist.
        batches: tables with the columns and types of `schema`, in that order.
        schema: column names and types; makes the file also when there are no batches.

    Raises:
        InputError: if the suffix is unknown, the folder does not exist, or a batch does not fit the schema.
        FedrecError: if the file cannot be written, because the disk is full or the folder is read-only.

    Example:
        >>> import tempfile, polars as pl
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_parquet_stream(folder / "n.parquet", (pl.DataFrame({"n": [i]}) for i in range(3)), {"n": pl.Int64()})
        3
        >>> pl.read_parquet(folder / "n.parquet")["n"].to_list()
        [0, 1, 2]
    """
    target = Path(path)
    writers = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_jsonl}
    suffix = target.suffix.lower()
    if suffix not in writers:
        raise InputError(
            f"cannot write a table to {str(target)!r}: unknown suffix {suffix!r}{suggestion(suffix, writers)}"
        )
    if not target.parent.is_dir():
        raise InputError(f"cannot write {str(target)!r}: there is no folder {str(target.parent)!r}")
    if target.is_dir():
        raise InputError(f"cannot write {str(target)!r}: it is a folder; name a file")
    wanted = pl.Schema(schema)
    counted = _Counted(batches, wanted)
    with _appears_whole(target) as temporary:
        writers[suffix](temporary, iter(counted), wanted)
    return counted.rows


class _Counted:
    """Batches checked against the schema; counts their rows."""

    def __init__(self, batches: Iterable[pl.DataFrame], schema: pl.Schema) -> None:
        self.batches, self.schema, self.rows = batches, schema, 0

    def __iter__(self) -> Iterator[pl.DataFrame]:
        for number, batch in enumerate(self.batches, start=1):
            if list(batch.schema.items()) != list(self.schema.items()):
                raise InputError(f"batch {number} has columns {dict(batch.schema)}, expected {dict(self.schema)}")
            self.rows += batch.height
            yield batch


@contextmanager
def _appears_whole(target: Path) -> Iterator[Path]:
    """Give a temporary file beside `target`; move it there when the block ends well, remove it when not."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        temporary.touch(exist_ok=False)
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, target)
    except (OSError, pl.exceptions.PolarsError) as error:
        temporary.unlink(missing_ok=True)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
        raise FedrecError(f"{target} cannot be written ({reason}); free disk space, or name another file") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write_csv(path: Path, batches: Iterator[pl.DataFrame], schema: pl.Schema) -> None:
    with path.open("wb") as file:
        pl.DataFrame(schema=schema).write_csv(file)
        for batch in batches:
            batch.write_csv(file, include_header=False)


def _write_jsonl(path: Path, batches: Iterator[pl.DataFrame], schema: pl.Schema) -> None:
    with path.open("wb") as file:
        for batch in batches:
            batch.write_ndjson(file)


class _BatchesError(Exception):
    """The caller's batches failed, so the Parquet writer must not finish the file."""


def _write_parquet(path: Path, batches: Iterator[pl.DataFrame], schema: pl.Schema) -> None:
    """Feed the streaming engine, which runs in a thread of its own, from a short queue."""
    waiting: queue.Queue[pl.DataFrame | BaseException | None] = queue.Queue(maxsize=_WAITING)
    failures: list[BaseException] = []

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        while (batch := waiting.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch if columns is None else batch.select(columns)

    def sink() -> None:
        try:
            register_io_source(source, schema=schema).sink_parquet(path, compression="zstd")
        except BaseException as error:
            failures.append(error)

    def offer(batch: pl.DataFrame | BaseException | None) -> None:
        while writer.is_alive():
            try:
                return waiting.put(batch, timeout=0.1)
            except queue.Full:
                continue
        return None

    writer = threading.Thread(target=sink, name="parquet writer", daemon=True)
    writer.start()
    try:
        for batch in batches:
            offer(batch)
            if failures:
                break
        offer(None)
    except BaseException:
        offer(_BatchesError("the batches ended with an error"))
        raise
    finally:
        writer.join()
    if failures:
        raise failures[0]
