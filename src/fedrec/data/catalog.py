"""The agreed, public list of items and their features."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from fedrec.data.arguments import check_arguments, check_fields
from fedrec.data.identifiers import Identifiers
from fedrec.data.reading.nested import levels_of, levels_of_type, many_brackets
from fedrec.documents import parse_json
from fedrec.errors import DamagedError, InputError

__all__ = ["Catalog", "table_of_lines"]

_FEW_CELLS = 1 << 22
_MOST_KEYS = 256
_MOST_LEVELS = 8
"""Lists and objects within each other on a line of a catalog, the object of the item among them."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """Items in ascending order of their id; position = index of the item in every array.

    Args:
        items: item ids.
        features: one row per item in the same order: optional `title` (text), `genres` (list of text) and any other
            public column; without an id column.

    Example:
        >>> import polars as pl
        >>> table = pl.DataFrame({"item_id": [7, 3], "title": ["Seven", "Three"]})
        >>> catalog = Catalog.of(table)
        >>> len(catalog), catalog.title(0)
        (2, 'Three')
    """

    items: Identifiers
    features: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.features is not None and self.features.height != len(self.items):
            raise InputError(f"catalog has {len(self.items)} items but {self.features.height} rows of features")
        for name, kind in () if self.features is None else self.features.schema.items():
            if levels_of_type(kind) >= _MOST_LEVELS:
                raise InputError(
                    f"feature {name!r} of the catalog holds lists or structs nested deeper than {_MOST_LEVELS - 1} "
                    "levels; remove the feature, or flatten it"
                )

    @classmethod
    def of(cls, table: pl.DataFrame) -> Catalog:
        """Make a catalog from a table with a column `item_id` and any features. Repeated ids are an error."""
        check_arguments(cls.of, locals())
        if "item_id" not in table.columns:
            raise InputError(f"a catalog needs a column item_id; its columns are {', '.join(table.columns)}")
        repeated = table.filter(pl.col("item_id").is_duplicated())
        if repeated.height:
            raise InputError(f"catalog lists item {repeated['item_id'][0]!r} more than once")
        ids = Identifiers.of(table["item_id"])
        ordered = table.with_columns(pl.col("item_id").cast(ids.series.dtype)).sort("item_id").drop("item_id")
        return cls(ids, ordered if ordered.width else None)

    def to_json_lines(self) -> bytes:
        """Ids and features as JSON lines, one line for each item."""
        table = pl.DataFrame({"item_id": self.items.series})
        if self.features is not None:
            table = table.hstack(self.features)
        return table.write_ndjson().encode()

    @classmethod
    def from_json_lines(cls, text: bytes, where: str) -> Catalog:
        """Read what `to_json_lines` wrote.

        Raises:
            DamagedError: if the text is not a catalog.
        """
        try:
            return cls.of(table_of_lines(text))
        except (OSError, ValueError, RecursionError, InputError, pl.exceptions.PolarsError) as error:
            raise DamagedError(f"{where} is not a catalog: {str(error)[:500]}") from None

    def __len__(self) -> int:
        return len(self.items)

    def title(self, position: int) -> str:
        """The title of the item at `position`, or its id if it has no title."""
        if self.features is not None and "title" in self.features.columns:
            title = self.features["title"][int(position)]
            if title is not None:
                return str(title)
        return str(self.items[position])

    @property
    def has_titles(self) -> bool:
        """Whether items have titles."""
        return self.features is not None and "title" in self.features.columns

    @cached_property
    def digest(self) -> str:
        """SHA-256 over type and ids in order: equal for catalogs with the same items and any features;
        `features_digest` covers features too."""
        state = hashlib.sha256()
        state.update(b"fedrec catalog 1 text " if self.items.is_text else b"fedrec catalog 1 int64 ")
        if self.items.is_text:
            state.update(self.items.series.str.len_bytes().to_numpy().astype("<u4").tobytes())
            state.update("".join(self.items.series.to_list()).encode())
        else:
            state.update(self.items.series.to_numpy().astype("<i8").tobytes())
        return state.hexdigest()

    @cached_property
    def features_digest(self) -> str:
        """SHA-256 over the items and all their features: for models that learn from features. Equal for catalogs with
        equal JSON lines, with columns in any order.

        >>> import polars as pl
        >>> one, other = (Catalog.of(pl.DataFrame({"item_id": [7], "title": [title]})) for title in ("Seven", "Se7en"))
        >>> one.digest == other.digest, one.features_digest == other.features_digest
        (True, False)
        """
        state = hashlib.sha256(b"fedrec features 1 " + self.digest.encode())
        if self.features is not None:
            state.update(self.features.select(sorted(self.features.columns)).write_ndjson().encode())
        return state.hexdigest()

    @property
    def digests(self) -> tuple[str, ...]:
        """The digest of the items and, if something is known of them, that of their features: what owners agree on."""
        return (self.digest,) if self.features is None else (self.digest, self.features_digest)

    def with_unknown_item(self) -> Catalog:
        """The catalog with one more item behind all others, which has no features.

        Raises:
            InputError: if the largest id is the largest 64-bit number.

        Example:
            >>> import polars as pl
            >>> wider = Catalog.of(pl.DataFrame({"item_id": [3], "title": ["Three"]})).with_unknown_item()
            >>> list(wider.items), wider.features["title"].to_list()
            ([3, 4], ['Three', None])
        """
        last = self.items[len(self) - 1]
        if last == 2**63 - 1:
            raise InputError(f"the catalog has item {last}, above which there is no id for an unknown item")
        more = pl.Series([last + "~" if isinstance(last, str) else last + 1])
        features = self.features
        if features is not None:
            features = pl.concat([features, features.clear(1)])
        return Catalog(Identifiers(pl.concat([self.items.series, more.cast(self.items.series.dtype)])), features)

    def take(self, positions: np.ndarray) -> Catalog:
        """The catalog of the items at ascending `positions` only."""
        chosen = pl.Series(np.asarray(positions, dtype=np.int64))
        features = None if self.features is None else self.features[chosen.to_list()]
        return Catalog(Identifiers(self.items.series.gather(chosen)), features)


def table_of_lines(text: bytes) -> pl.DataFrame:
    """The table that JSON lines hold.

    Raises:
        InputError: if a line is nested too deep, or lines have so many keys of their own that the table would be huge.
        polars.exceptions.PolarsError: if the lines are not JSON objects.
    """
    _check_levels(text)
    if not _as_wide_as_long(text):
        raise InputError("its lines have different keys; every line needs the same keys")
    return pl.read_ndjson(text, infer_schema_length=None)


def _check_levels(text: bytes) -> None:
    """Refuse a line that is nested too deep."""
    for first, line in many_brackets(text, _MOST_LEVELS):
        if levels_of(line) > _MOST_LEVELS:
            number = text.count(b"\n", 0, first) + 1
            raise InputError(f"line {number} is nested deeper than {_MOST_LEVELS} levels")


def _as_wide_as_long(text: bytes) -> bool:
    """Whether JSON lines become a table about as large as they are: its columns are the keys of all lines together,
    and lines with keys of their own would make it as wide as it is long."""
    lines = text.count(b"\n") + 1
    keys = text.count(b'":')
    if lines * keys <= _FEW_CELLS:
        return True
    first = parse_json(text[: text.find(b"\n")])
    known = {key: text.count(json.dumps(key, ensure_ascii=False).encode() + b":") for key in list(first)[:_MOST_KEYS]}
    if sum(known.values()) == keys:  # no key stands anywhere but those of the first line
        return True
    found = pl.scan_ndjson(io.BytesIO(text), infer_schema_length=None).collect_schema()
    cells: int = lines * sum(_leaves(kind) for kind in found.dtypes())
    return cells <= _FEW_CELLS + 2 * keys


def _leaves(kind: object) -> int:
    """Columns that values of a type take."""
    if isinstance(kind, pl.List):
        return _leaves(kind.inner)
    if isinstance(kind, pl.Struct):
        return sum(_leaves(field.dtype) for field in kind.fields)
    return 1
