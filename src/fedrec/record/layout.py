"""The layout of safetensors files: a header in JSON, then the bytes of all arrays one after the other.

Headers are byte for byte those that the safetensors library writes, so that a digest of arrays is the digest of their
file. A header from elsewhere is checked against the bytes of the file before anything is allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedrec.documents import MOST_SETTINGS, parse_json
from fedrec.errors import DamagedError

__all__ = ["arrays_in", "pieces_of"]

_TYPES = {
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
    "F32": "<f4",
    "U32": "<u4",
    "I32": "<i4",
    "F16": "<f2",
    "U16": "<u2",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "|b1",
}
"""NumPy's types by safetensors' names, in the order of arrays in a file."""
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}
_RANKS = {name: rank for rank, name in enumerate(_TYPES)}
_SIZE = 8
_METADATA = "__metadata__"
_FIELDS = {"dtype", "shape", "data_offsets"}


def pieces_of(arrays: Mapping[str, np.ndarray]) -> list[bytes | memoryview]:
    """The bytes of a file of named arrays, in pieces: the header without metadata (whose order is not stable), then
    each array, without a copy if the array is contiguous.

    Raises:
        TypeError: if an array has a type that safetensors files do not support.

    >>> b"".join(pieces_of({"x": np.zeros(1, dtype=np.int32)}))[8:]
    b'{"x":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}  \\x00\\x00\\x00\\x00'
    """
    rows = []
    for name, array in arrays.items():
        kind = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
        if kind not in _NAMES:
            raise TypeError(f"array {name!r} has type {array.dtype}, which a safetensors file cannot contain")
        rows.append((_RANKS[_NAMES[kind]], name, np.ascontiguousarray(array, dtype=kind)))
    rows.sort(key=lambda row: (row[0], row[1].encode()))
    header, place = {}, 0
    for _, name, row in rows:
        ends = [place, place + row.nbytes]
        header[name] = {"dtype": _NAMES[row.dtype], "shape": list(row.shape), "data_offsets": ends}
        place = ends[1]
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _SIZE)
    return [len(text).to_bytes(_SIZE, "little") + text, *(row.reshape(-1).view(np.uint8).data for _, _, row in rows)]


def arrays_in(data: Any, where: str) -> dict[str, np.ndarray]:
    """Named arrays as views of a buffer; only arrays that are not aligned for their type are copied.

    Args:
        data: bytes or another buffer, such as a file that is mapped into memory.
        where: name of the file, for error texts.

    Raises:
        DamagedError: if the header is malformed or does not match the bytes, or an array has an unsupported type.
    """
    length = len(data)
    size = int.from_bytes(bytes(data[:_SIZE]), "little") if length >= _SIZE else length
    start = _SIZE + size
    if start > length or size > MOST_SETTINGS:
        raise DamagedError(f"{where} is damaged: it is incomplete, or not a safetensors file")
    try:
        header = parse_json(bytes(data[_SIZE:start]))
    except ValueError as error:
        raise DamagedError(f"{where} is damaged: its header is {error}") from None
    if not isinstance(header, dict):
        raise DamagedError(f"{where} is damaged: its header is not a mapping")
    entries = [(name, _entry(name, info, where)) for name, info in header.items() if name != _METADATA]
    entries.sort(key=lambda entry: entry[1][2:])
    arrays: dict[str, np.ndarray] = {}
    place = 0
    for name, (kind, shape, begin, end) in entries:
        count = math.prod(shape)
        if begin != place or end - begin != count * kind.itemsize or start + end > length:
            raise DamagedError(f"{where} is damaged: the position of array {name!r} in the header is wrong")
        try:
            array = np.frombuffer(data, kind, count, start + begin) if count else np.empty(0, kind)
            array = np.require(array.reshape(shape), requirements="A")
        except (ValueError, OverflowError, MemoryError) as error:
            raise DamagedError(f"{where} is damaged: array {name!r}: {error}") from None
        # NumPy uses the bytes of Booleans as numbers and trusts that they are 0 or 1
        if kind.kind == "b" and count and array.view(np.uint8).max() > 1:
            raise DamagedError(f"{where}: array {name!r} has Boolean values that are neither 0 nor 1")
        arrays[name], place = array, end
    if start + place != length:
        raise DamagedError(f"{where} is damaged: it has more bytes than its arrays")
    return arrays


def _entry(name: str, info: Any, where: str) -> tuple[np.dtype[Any], list[int], int, int]:
    """Type, shape, begin and end of an array, from the header."""
    if not isinstance(info, dict) or info.keys() != _FIELDS:
        raise DamagedError(f"{where} is damaged: its header does not describe array {name!r}")
    kind, shape, ends = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise DamagedError(f"{where} is damaged: array {name!r} has type {kind!r:.40}, which fedrec does not support")
    numbers = isinstance(shape, list) and isinstance(ends, list) and len(ends) == 2
    if not numbers or not all(type(number) is int and 0 <= number < 1 << 63 for number in (*shape, *ends)):
        raise DamagedError(f"{where} is damaged: the shape or position of array {name!r} is wrong")
    return np.dtype(_TYPES[kind]), shape, ends[0], ends[1]
