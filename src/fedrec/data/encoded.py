"""Texts of the catalog as vectors of an encoder on this machine: the kind `text:PATH` of `fedrec.data.features`.

An encoder is named `text:PATH`, or `text:PATH@DIGEST` where it is held to a digest, as in every plan that is resolved.
What was encoded is kept in the user's cache by the digests of encoder and texts: a machine encodes a catalog once.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fedrec.data.catalog import Catalog
from fedrec.data.datasets import cache_folder
from fedrec.errors import InputError, suggestion
from fedrec.language.folders import ModelFolder, model_folder

__all__ = [
    "encode_texts",
    "encoder_folder",
    "is_encoder",
    "joined_texts",
    "named_encoder",
    "pinned_encoders",
    "text_mean",
    "text_vectors",
    "with_vectors",
]

_DECIMALS = 4
"""Of vectors that are written to a file: catalogs travel as text, and no model tells the difference."""
_KIND = re.compile(r"text:(?P<path>.+?)(?:@(?P<digest>[0-9a-f]{64}))?")


def is_encoder(kind: str) -> bool:
    """Whether a kind of features names an encoder.

    >>> is_encoder("text:/models/minilm"), is_encoder("text")
    (True, False)
    """
    return _KIND.fullmatch(kind) is not None


def pinned_encoders(settings: Any) -> Any:
    """Settings of a model with the digest of every encoder in `item_features`, at any depth.

    Raises:
        InputError: if there is no such encoder on this machine.

    >>> pinned_encoders({"name": "ease", "item_features": {"title": {"year": 1.0}}})
    {'name': 'ease', 'item_features': {'title': {'year': 1.0}}}
    """
    if isinstance(settings, list):
        return [pinned_encoders(part) for part in settings]
    if not isinstance(settings, dict):
        return settings
    columns = settings.get("item_features")
    pinned = {key: pinned_encoders(value) for key, value in settings.items()}
    if isinstance(columns, dict):
        pinned["item_features"] = {
            column: {_pinned(kind): weight for kind, weight in kinds.items()} for column, kinds in columns.items()
        }
    return pinned


def with_vectors(catalog: Catalog, columns: str, path: str, name: str) -> tuple[pl.DataFrame, str]:
    """The table of a catalog with the vectors of its texts as one more column, and the digest of the encoder.

    Args:
        catalog: of the items.
        columns: what to encode: a column, or several with `+` between their names.
        path: folder of the encoder, or the package that brings it.
        name: of the column of vectors [width] float32, null where there is no text.

    Raises:
        InputError: if there is no such column or encoder, or the name is taken.
    """
    table = pl.DataFrame() if catalog.features is None else catalog.features
    texts = joined_texts(table, columns)
    if texts is None:
        raise InputError(f"the catalog has no column {columns!r}{suggestion(columns, table.columns)}")
    if name in table.columns or name == "item_id":
        raise InputError(f"the catalog has a column {name!r} already; choose another name for the vectors (--name)")
    folder = model_folder(path)
    there, distinct, places = _distinct(texts)
    vectors = np.round(encode_texts(distinct, path, folder.digest), _DECIMALS)
    rows: list[np.ndarray | None] = [None] * len(texts)
    for row, place in zip(np.flatnonzero(there), places, strict=True):
        rows[row] = vectors[place]
    column = pl.Series(name, rows, dtype=pl.Array(pl.Float32, vectors.shape[1]))
    return pl.DataFrame([catalog.items.series.alias("item_id"), *table, column]), folder.digest


def text_vectors(texts: pl.Series, kind: str) -> np.ndarray:
    """The vectors of texts [n, width] float64, less their mean; zeros where there is no text.

    Args:
        texts: of the items; null where nothing is said.
        kind: `text:PATH` or `text:PATH@DIGEST`.

    Raises:
        InputError: if there is no such encoder, its digest is another, or it does not encode.
    """
    rows, there = _rows_of(texts, kind)
    rows[there] -= _mean(rows, there)
    return rows


def text_mean(texts: pl.Series, kind: str) -> np.ndarray:
    """The mean [width] float64 of the vectors of texts, as `text_vectors` takes it off them; zeros without texts.

    Args:
        texts: of the items; null where nothing is said.
        kind: `text:PATH` or `text:PATH@DIGEST`.

    Raises:
        InputError: if there is no such encoder, its digest is another, or it does not encode.
    """
    return _mean(*_rows_of(texts, kind))


def named_encoder(kind: str) -> tuple[str, str | None]:
    """Folder or package of an encoder, and the digest that it is held to.

    >>> named_encoder("text:/models/minilm")
    ('/models/minilm', None)
    """
    match = _KIND.fullmatch(kind)
    assert match is not None, "a kind of features that names an encoder"
    return match["path"], match["digest"]


def encoder_folder(kind: str) -> ModelFolder:
    """The folder of an encoder.

    Args:
        kind: `text:PATH` or `text:PATH@DIGEST`.

    Raises:
        InputError: if there is no such encoder, or its digest is another.
    """
    path, digest = named_encoder(kind)
    folder = model_folder(path)
    if digest is not None and folder.digest != digest:
        raise InputError(
            f"encoder {path}: its digest is {folder.digest[:12]}…, but the plan expects {digest[:12]}…; put the "
            "encoder that the plan was made with into this folder"
        )
    return folder


def encode_texts(texts: Sequence[str], path: str, digest: str | None = None) -> np.ndarray:
    """The vectors of texts [n, width] float32 of length 1, from the cache if they were encoded before.

    Args:
        texts: to encode.
        path: folder of the encoder, or the package that brings it.
        digest: that the encoder must have.

    Raises:
        InputError: if there is no such encoder, its digest is another, or it does not encode.
    """
    folder = None
    if digest is None:
        folder = model_folder(path)
        digest = folder.digest
    state = hashlib.sha256(f"fedrec text vectors 1 {digest}".encode())
    for text in texts:
        data = text.encode()
        state.update(len(data).to_bytes(8, "little") + data)
    kept = cache_folder() / "text-vectors" / f"{state.hexdigest()}.npy"
    vectors = _read(kept, len(texts))
    if vectors is None:
        folder = folder or encoder_folder(f"text:{path}@{digest}")
        from fedrec.language.encoders import encoded

        vectors = encoded(folder, texts)
        _keep(kept, vectors)
    return vectors


def joined_texts(table: pl.DataFrame, columns: str) -> pl.Series | None:
    """The texts of a column, or of several with `+` between their names, joined by a semicolon; `None` where the table
    lacks a column.

    Raises:
        InputError: if a column does not hold text or lists of text.

    >>> joined_texts(pl.DataFrame({"title": ["Heat"], "genres": [["Crime", "Drama"]]}), "title+genres").to_list()
    ['Heat; Crime, Drama']
    """
    names = [columns] if columns in table.columns else columns.split("+")
    if any(name not in table.columns for name in names):
        return None
    parts = []
    for name in names:
        column = table[name]
        if isinstance(column.dtype, pl.List | pl.Array) and column.dtype.inner == pl.String:
            column = column.cast(pl.List(pl.String)).list.join(", ")
        elif column.dtype != pl.String:
            raise InputError(
                f"column {name!r} of the catalog holds {column.dtype}, which cannot be encoded: that takes text, or "
                "lists of text"
            )
        parts.append(pl.select(pl.when(column != "").then(column).alias(name)).to_series())
    return pl.DataFrame(parts).select(pl.concat_str(pl.all(), separator="; ", ignore_nulls=True)).to_series()


def _distinct(texts: pl.Series) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Where there are texts [n] bool, the distinct ones in order, and which of them stands at each of those places."""
    there = (texts.is_not_null() & (texts.str.strip_chars() != "")).fill_null(False)
    known = texts.filter(there)
    distinct = known.unique().sort()
    return there.to_numpy(), distinct.to_list(), distinct.search_sorted(known).to_numpy()


def _rows_of(texts: pl.Series, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of texts [n, width] float64, zeros where there is no text, and where there are texts [n] bool."""
    there, distinct, places = _distinct(texts)
    vectors = encode_texts(distinct, *named_encoder(kind))
    rows = np.zeros((len(texts), vectors.shape[1]))
    rows[there] = vectors[places]
    return rows, there


def _mean(rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    mean: np.ndarray = rows[there].mean(axis=0) if there.any() else np.zeros(rows.shape[1])
    return mean


def _pinned(kind: str) -> str:
    match = _KIND.fullmatch(kind)
    if match is None or match["digest"] is not None:
        return kind
    return f"text:{match['path']}@{model_folder(match['path']).digest}"


def _read(path: Path, texts: int) -> np.ndarray | None:
    """Kept vectors, if they are there and whole."""
    try:
        vectors: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    whole = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == texts
    return vectors if whole and bool(np.isfinite(vectors).all()) else None


def _keep(path: Path, vectors: np.ndarray) -> None:
    """Keep vectors for another time, where the cache can be written to."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as aside:
            np.save(aside, vectors, allow_pickle=False)
        os.replace(aside.name, path)
    except OSError:
        return
