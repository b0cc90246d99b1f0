"""The bytes of a sum.

A frame is `FRSUM002`, the header's length (4 bytes, little endian), the header (canonical JSON), the arrays, and 16
bytes of BLAKE2b over all before. The receiver knows the spec: every size follows from it and is checked before anything
is allocated. An array travels in the shortest of three forms, without gaps between its numbers (see
`fedrec.aggregation.packing`):

- `dense`: all numbers, signed, with as many bits as the largest needs;
- `rows`: its non-zero rows;
- `pairs`, of triangles of pairs of items: the diagonal, and then each other entry with as many bits as the smaller of
  the two entries of the diagonal needs, which holds all counts of clients with both items.

So a frame is never longer than its arrays dense in their rings, a short header and the checksum.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.aggregation.packing import bits_of, pack, packed_size, unpack
from fedrec.aggregation.pairs import diagonal_of, entries_by_bits, fits_pairs, width_counts
from fedrec.aggregation.specs import ArraySpec, SumSpec, triangle_size
from fedrec.aggregation.sums import Sum
from fedrec.documents import parse_json
from fedrec.errors import DamagedError

__all__ = ["decode_sum", "encode_sum", "encoded_size"]

_MAGIC = b"FRSUM002"
_DIGEST = 16
_HEADER_LIMIT = 512
_DESCRIPTION_LIMIT = 64
_COUNT_LIMIT = 1 << 62


def encode_sum(total: Sum) -> bytes:
    """Encode a sum; `decode_sum(encode_sum(s), s.spec)` has the same bits."""
    layouts = [_layout(total.arrays[array.name], array) for array in total.spec.arrays]
    parts = [_prefix(total, layouts)]
    for array, layout in zip(total.spec.arrays, layouts, strict=True):
        parts += _encode_array(total.arrays[array.name], layout)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def encoded_size(total: Sum) -> int:
    """Length of `encode_sum(total)` without making it."""
    layouts = [_layout(total.arrays[array.name], array) for array in total.spec.arrays]
    return len(_prefix(total, layouts)) + sum(layout.size for layout in layouts) + _DIGEST


def decode_sum(frame: bytes, spec: SumSpec) -> Sum:
    """Decode a frame that must hold a sum of `spec`.

    Raises:
        DamagedError: if the bytes are cut, changed, of another spec, or not a sum at all.
    """
    if len(frame) < len(_MAGIC) + 4 + _DIGEST or not frame.startswith(_MAGIC):
        raise DamagedError("the bytes are not a sum: the start is wrong, or they are too short")
    limit = _HEADER_LIMIT + _DESCRIPTION_LIMIT * len(spec.arrays)
    if len(frame) > 12 + limit + spec.nbytes + _DIGEST:
        raise DamagedError(f"a sum of {len(frame)} bytes is larger than its spec allows")
    body, digest = memoryview(frame)[:-_DIGEST], frame[-_DIGEST:]
    if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
        raise DamagedError("a sum was damaged in transit: its checksum does not match")
    length = int.from_bytes(body[8:12], "little")
    if length > min(limit, len(body) - 12):
        raise DamagedError(f"a sum's header claims {length} bytes, more than it can have")
    header = _read_header(bytes(body[12 : 12 + length]), spec)
    place = 12 + length
    total = Sum(spec, header["round"], {}, header["clients"], header["left_out"], header["saturated"])
    described = [_check(described, array) for described, array in zip(header["arrays"], spec.arrays, strict=True)]
    for (form, rows, width), array in zip(described, spec.arrays, strict=True):
        size = _size(body[place:], array, form, rows, width)
        if place + size > len(body):
            break
        total.arrays[array.name] = _decode_array(body[place : place + size], array, form, rows, width)
        place += size
    if place != len(body) or len(total.arrays) < len(spec.arrays):
        raise DamagedError(f"a sum of {len(frame)} bytes has another size than its header describes")
    return total


@dataclass(frozen=True)
class _Layout:
    """How an array travels: in which form, bits per value (of the diagonal, of pairs), bytes in all, and its non-zero
    rows."""

    form: str
    width: int
    size: int
    touched: np.ndarray | None = None


def _layout(array: np.ndarray, spec: ArraySpec) -> _Layout:
    width = _width_of(array)
    dense = _Layout("dense", width, packed_size(array.size, width))
    if array.ndim > 1:
        touched = np.flatnonzero(array.reshape(len(array), -1).any(axis=1))
        size = 4 * len(touched) + packed_size(array.size // len(array) * len(touched), width)
        return _Layout("rows", width, size, touched) if size < dense.size else dense
    side = _side(spec)
    diagonal = None if side is None else array[diagonal_of(side)]
    if diagonal is None or diagonal.min() < 0:
        return dense
    pairs = _Layout("pairs", _width_of(diagonal), packed_size(len(diagonal), _width_of(diagonal)) + _beside(diagonal))
    return pairs if pairs.size < dense.size and fits_pairs(array, diagonal) else dense


def _width_of(values: np.ndarray) -> int:
    """Bits of signed numbers as large as these, at least one."""
    low, high = int(values.min()), int(values.max())
    return max(high.bit_length(), (-1 - low).bit_length() if low < 0 else 0) + 1


def _side(spec: ArraySpec) -> int | None:
    """Rows of the triangle that an array is, where it is one of pairs of items."""
    side = (math.isqrt(8 * spec.size + 1) - 1) // 2
    flat = spec.kind in ("rank_one", "pairs") and len(spec.shape) == 1
    return side if flat and triangle_size(side) == spec.size else None


def _beside(diagonal: np.ndarray) -> int:
    """Bytes of the entries of a triangle beside its diagonal."""
    on_it = dict(zip(*np.unique(bits_of(diagonal), return_counts=True), strict=True))
    return sum(packed_size(many - int(on_it[bits]), bits) for bits, many in width_counts(diagonal).items())


def _prefix(total: Sum, layouts: list[_Layout]) -> bytes:
    arrays = [
        {"form": part.form, "rows": 0 if part.touched is None else len(part.touched), "width": part.width}
        for part in layouts
    ]
    header = {
        "arrays": arrays,
        "clients": total.clients,
        "left_out": total.left_out,
        "round": total.round,
        "saturated": total.saturated,
        "spec": total.spec.digest,
    }
    text = _canonical(header)
    return _MAGIC + len(text).to_bytes(4, "little") + text


def _canonical(header: object) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _encode_array(array: np.ndarray, layout: _Layout) -> list[bytes]:
    if layout.touched is not None:
        rows = array.reshape(len(array), -1)[layout.touched]
        return [layout.touched.astype("<u4").tobytes(), pack(rows, layout.width)]
    if layout.form == "dense":
        return [pack(array, layout.width)]
    diagonal = array[diagonal_of((math.isqrt(8 * len(array) + 1) - 1) // 2)]
    beside = (pack(array[places], bits) for bits, places in entries_by_bits(diagonal, diagonal=False))
    return [pack(diagonal, layout.width), *beside]


def _read_header(text: bytes, spec: SumSpec) -> dict[str, Any]:
    try:
        header = parse_json(text)
        canonical = _canonical(header) == text
    except ValueError:
        raise DamagedError("a sum's header is not JSON") from None
    expected = {"arrays", "clients", "left_out", "round", "saturated", "spec"}
    if not isinstance(header, dict) or set(header) != expected:
        raise DamagedError("a sum's header does not have the fields of a sum")
    if not canonical:
        raise DamagedError("a sum's header is not in canonical form")
    if header["spec"] != spec.digest:
        raise DamagedError("a sum was made for a different spec; the node runs a different plan or version")
    for name in ("clients", "left_out", "round", "saturated"):
        if type(header[name]) is not int or not 0 <= header[name] < _COUNT_LIMIT:
            raise DamagedError(f"a sum's header has an impossible {name}")
    if header["clients"] > spec.n_max:
        raise DamagedError(f"a sum claims {header['clients']} clients, more than n_max = {spec.n_max}")
    if not isinstance(header["arrays"], list) or len(header["arrays"]) != len(spec.arrays):
        raise DamagedError("a sum's header describes the wrong number of arrays")
    return header


def _check(described: object, array: ArraySpec) -> tuple[str, int, int]:
    """Check one array's description: (form, non-zero rows, width)."""
    if not isinstance(described, dict) or set(described) != {"form", "rows", "width"}:
        raise DamagedError(f"the description of array {array.name!r} of a sum is malformed")
    form, rows, width = described["form"], described["rows"], described["width"]
    if type(width) is not int or not 1 <= width <= array.ring:
        raise DamagedError(f"array {array.name!r} of a sum has an impossible width")
    shaped = {"dense": True, "rows": len(array.shape) > 1, "pairs": _side(array) is not None}
    if not isinstance(form, str) or not shaped.get(form, False):
        raise DamagedError(f"array {array.name!r} of a sum has an impossible form")
    if type(rows) is not int or not 0 <= rows <= (array.shape[0] if form == "rows" else 0):
        raise DamagedError(f"array {array.name!r} of a sum has an impossible number of rows")
    return form, rows, width


def _size(data: memoryview, array: ArraySpec, form: str, rows: int, width: int) -> int:
    """Bytes of an array, of which `data` begins with; those of pairs follow from their diagonal."""
    if form == "dense":
        return packed_size(array.size, width)
    if form == "rows":
        return 4 * rows + packed_size(rows * (array.size // array.shape[0]), width)
    side = _side(array)
    assert side is not None
    size = packed_size(side, width)
    return size if len(data) < size else size + _beside(_diagonal(data, array, width))


def _diagonal(data: memoryview, array: ArraySpec, width: int) -> np.ndarray:
    side = _side(array)
    assert side is not None
    diagonal = unpack(data[: packed_size(side, width)], side, width, signed=True)
    if diagonal.min() < 0 or int(diagonal.max()).bit_length() >= array.ring:
        raise DamagedError(f"array {array.name!r} of a sum has a diagonal that no clients have")
    return diagonal


def _decode_array(data: memoryview, array: ArraySpec, form: str, rows: int, width: int) -> np.ndarray:
    dtype = np.dtype(f"i{array.word // 8}")
    if form == "dense":
        return unpack(data, array.size, width, signed=True, dtype=dtype).reshape(array.shape)
    if form == "pairs":
        return _decode_pairs(data, array, width)
    touched = np.frombuffer(data, dtype="<u4", count=rows).astype(np.int64)
    if rows and (touched[-1] >= array.shape[0] or np.any(np.diff(touched) <= 0)):
        raise DamagedError(f"array {array.name!r} of a sum has rows out of order or out of range")
    columns = array.size // array.shape[0]
    out = np.zeros((array.shape[0], columns), dtype=dtype)
    out[touched] = unpack(data[4 * rows :], rows * columns, width, signed=True).reshape(rows, columns)
    return out.reshape(array.shape)


def _decode_pairs(data: memoryview, array: ArraySpec, width: int) -> np.ndarray:
    diagonal = _diagonal(data, array, width)
    out = np.zeros(array.shape, dtype=f"i{array.word // 8}")
    out[diagonal_of(len(diagonal))] = diagonal
    place = packed_size(len(diagonal), width)
    for bits, places in entries_by_bits(diagonal, diagonal=False):
        size = packed_size(len(places), bits)
        out[places] = unpack(data[place : place + size], len(places), bits)
        place += size
    return out
