"""The bytes of a sum.

A frame is `FRSUM001`, the header's length (4 bytes, little endian), the header (canonical JSON), the arrays, and 16
bytes of BLAKE2b over all before. The receiver knows the spec: every size follows from it and is checked before anything
is allocated. An array travels dense or as its non-zero rows, whichever is shorter, in the narrowest signed width; so a
frame is never longer than its arrays dense in their rings, a short header and the checksum.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.documents import parse_json
from fedrec.errors import DamagedError

__all__ = ["decode_sum", "encode_sum", "encoded_size"]

_MAGIC = b"FRSUM001"
_DIGEST = 16
_HEADER_LIMIT = 512
_DESCRIPTION_LIMIT = 64
_COUNT_LIMIT = 1 << 62


def encode_sum(total: Sum) -> bytes:
    """Encode a sum; `decode_sum(encode_sum(s), s.spec)` has the same bits."""
    layouts = [_layout(total.arrays[array.name]) for array in total.spec.arrays]
    parts = [_prefix(total, layouts)]
    for array, layout in zip(total.spec.arrays, layouts, strict=True):
        parts += _encode_array(total.arrays[array.name], layout)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for part in parts:
        digest.update(part)
    return b"".join([*parts, digest.digest()])


def encoded_size(total: Sum) -> int:
    """Length of `encode_sum(total)` without making it."""
    layouts = [_layout(total.arrays[array.name]) for array in total.spec.arrays]
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
    plans = [_plan(described, array) for described, array in zip(header["arrays"], spec.arrays, strict=True)]
    if place + sum(size for _, _, size in plans) != len(body):
        raise DamagedError(
            f"a sum holds {len(body) - place} bytes of arrays, but its header describes a different size"
        )
    for (rows, width, size), array in zip(plans, spec.arrays, strict=True):
        total.arrays[array.name] = _decode_array(body[place : place + size], array, rows, width)
        place += size
    return total


@dataclass(frozen=True)
class _Layout:
    """How an array travels: its non-zero rows (`None`: dense), bytes per value, bytes in all."""

    touched: np.ndarray | None
    width: int
    size: int


def _layout(array: np.ndarray) -> _Layout:
    low, high = int(array.min()), int(array.max())
    width = next(width for width in (1, 2, 4, 8) if -(2 ** (8 * width - 1)) <= low and high < 2 ** (8 * width - 1))
    dense = array.size * width
    if array.ndim > 1:
        touched = np.flatnonzero(array.reshape(len(array), -1).any(axis=1))
        size = len(touched) * (4 + dense // len(array))
        if size < dense:
            return _Layout(touched, width, size)
    return _Layout(None, width, dense)


def _prefix(total: Sum, layouts: list[_Layout]) -> bytes:
    arrays = [{"rows": None if part.touched is None else len(part.touched), "width": part.width} for part in layouts]
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
    dtype = f"<i{layout.width}"
    if layout.touched is None:
        return [array.astype(dtype).tobytes()]
    rows = array.reshape(len(array), -1)[layout.touched]
    return [layout.touched.astype("<u4").tobytes(), rows.astype(dtype).tobytes()]


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


def _plan(described: object, array: ArraySpec) -> tuple[int | None, int, int]:
    """Check one array's description: (non-zero rows or None, width, bytes)."""
    if not isinstance(described, dict) or set(described) != {"rows", "width"}:
        raise DamagedError(f"the description of array {array.name!r} of a sum is malformed")
    rows, width = described["rows"], described["width"]
    if type(width) is not int or width not in (1, 2, 4, 8) or width > array.ring // 8:
        raise DamagedError(f"array {array.name!r} of a sum has an impossible width")
    if rows is None:
        return None, width, array.size * width
    if type(rows) is not int or len(array.shape) < 2 or not 0 <= rows <= array.shape[0]:
        raise DamagedError(f"array {array.name!r} of a sum has an impossible number of rows")
    return rows, width, rows * (4 + width * (array.size // array.shape[0]))


def _decode_array(data: memoryview, array: ArraySpec, rows: int | None, width: int) -> np.ndarray:
    dtype = np.dtype(f"i{array.ring // 8}")
    if rows is None:
        return np.frombuffer(data, dtype=f"<i{width}").astype(dtype).reshape(array.shape)
    touched = np.frombuffer(data, dtype="<u4", count=rows).astype(np.int64)
    if rows and (touched[-1] >= array.shape[0] or np.any(np.diff(touched) <= 0)):
        raise DamagedError(f"array {array.name!r} of a sum has rows out of order or out of range")
    columns = array.size // array.shape[0]
    out = np.zeros((array.shape[0], columns), dtype=dtype)
    out[touched] = np.frombuffer(data, dtype=f"<i{width}", offset=4 * rows).reshape(rows, columns)
    return out.reshape(array.shape)
