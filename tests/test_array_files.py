"""Files of named arrays: those of the safetensors library byte for byte, used where they lie, hashed as they are."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedrec.errors import DamagedError, InputError
from fedrec.record import mapped
from fedrec.record.durable import arrays_digest, load_arrays, save_arrays
from fedrec.record.layout import arrays_in, pieces_of
from fedrec.record.mapped import MappedFile, hashed_ahead

KINDS = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
ARRAYS = st.dictionaries(
    st.text(max_size=8).filter(lambda name: name != "__metadata__" and name.isascii()),
    st.sampled_from(KINDS).flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=1, min_side=0, max_side=3))),
    max_size=6,
)


@given(ARRAYS)
def test_a_file_is_the_one_that_the_library_writes(arrays: dict[str, np.ndarray]) -> None:
    assert b"".join(pieces_of(arrays)) == save(arrays)
    assert arrays_digest(arrays) == hashlib.sha256(save(arrays)).hexdigest()


@pytest.mark.parametrize("name", ['é"\n\x7f\x01/\u2028', "日本", "\\", "a\tb", "😀"])
def test_any_name_is_written_as_the_library_writes_it(name: str) -> None:
    arrays = {name: np.ones(3), "a": np.zeros((2, 0), np.float32)}
    assert b"".join(pieces_of(arrays)) == save(arrays)
    assert arrays_in(save(arrays), "here").keys() == arrays.keys()


@given(ARRAYS)
def test_what_the_library_writes_is_read_as_the_library_reads_it(arrays: dict[str, np.ndarray]) -> None:
    theirs, ours = load(save(arrays)), arrays_in(bytearray(save(arrays)), "here")
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
        assert array.tobytes() == theirs[name].tobytes()


def test_rows_that_are_not_in_one_piece_are_written_as_they_are_read() -> None:
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    for array in (table.T, table[:, ::2], table.astype(">f4")):
        assert np.array_equal(arrays_in(b"".join(pieces_of({"x": array})), "here")["x"], array)
    with pytest.raises(TypeError, match="'x' has type object"):
        pieces_of({"x": np.array([None])})


HONEST = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(header: Any, body: bytes = bytes(8), size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + body


def hostile() -> Iterator[bytes]:
    """Headers that are not believed."""
    yield b""
    yield b"\xff" * 7
    yield file_of(HONEST, size=2**63)
    yield file_of(HONEST, size=10)
    yield file_of(b" " * (1 << 21))
    for header in ([], 7, None, {"x": 7}, {"x": {**HONEST["x"], "more": 1}}, {"x": {"dtype": "F32"}}):
        yield file_of(header)
    for dtype in ("F31", "BF16", 7, None, ["F32"]):
        yield file_of({"x": {**HONEST["x"], "dtype": dtype}})
    for shape in ([3], [1], [-2, -1], [2.0], [True, 2], "2", [2**40, 2**40], [2, 1, 1, 0], [[2]], 10**300):
        yield file_of({"x": {**HONEST["x"], "shape": shape}})
    yield file_of({"x": {"dtype": "F32", "shape": [1] * 80 + [2], "data_offsets": [0, 8]}})
    yield file_of({"x": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b"")
    for ends in ([0, 9], [1, 9], [8, 0], [-8, 0], [0], [0, 8, 8], [0, 2**70], None, ["0", "8"]):
        yield file_of({"x": {**HONEST["x"], "data_offsets": ends}})
    yield file_of({**HONEST, "y": HONEST["x"]})
    yield file_of(HONEST, bytes(7))
    yield file_of(HONEST, bytes(9))
    yield file_of(b'{"x":' + json.dumps(HONEST["x"]).encode() + b',"x":' + json.dumps(HONEST["x"]).encode() + b"}")
    yield file_of(b"[" * 100_000)
    yield file_of({"x": {"dtype": "BOOL", "shape": [8], "data_offsets": [0, 8]}}, b"\x02" * 8)


@pytest.mark.parametrize("data", list(hostile()), ids=range(len(list(hostile()))))
def test_a_header_that_does_not_fit_the_bytes_is_damage(data: bytes) -> None:
    with pytest.raises(DamagedError, match="here"):
        arrays_in(data, "here")


@given(st.integers(0, 140), st.integers(1, 255))
def test_whatever_byte_of_a_header_changes_nothing_else_than_damage_comes_of_it(place: int, change: int) -> None:
    data = bytearray(save({"a": np.arange(3, dtype=np.int64), "b": np.ones(5, np.float32)}))
    data[place % len(data)] ^= change
    try:
        theirs = load(bytes(data))
    except (SafetensorError, ValueError, KeyError, TypeError):
        theirs = None
    try:
        ours = arrays_in(data, "here")
    except DamagedError:
        return
    assert theirs is not None, "what the library refuses is refused"
    assert {name: array.tobytes() for name, array in ours.items()} == {n: a.tobytes() for n, a in theirs.items()}


def test_an_array_that_stands_where_its_type_cannot_is_moved() -> None:
    data = file_of(b'{"x":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}', np.array([7.5]).tobytes())
    assert (len(data) - 8) % 8 != 0
    array = arrays_in(bytearray(data), "here")["x"]
    assert array.tolist() == [7.5]
    assert array.flags.aligned


@pytest.fixture
def large(tmp_path: Path) -> Path:
    save_arrays(tmp_path / "large.safetensors", {"x": np.arange(1 << 20, dtype=np.float32), "y": np.ones(3)})
    return tmp_path / "large.safetensors"


def test_what_is_done_to_mapped_arrays_reaches_no_disk_and_no_other_reader(large: Path) -> None:
    before = large.read_bytes()
    first, second = load_arrays(large), load_arrays(large)
    first["x"][:] = -1
    assert first["x"].flags.c_contiguous
    assert second["x"][5] == 5
    assert large.read_bytes() == before


def test_mapped_arrays_stay_whole_when_the_file_is_replaced(large: Path) -> None:
    arrays = load_arrays(large)
    save_arrays(large, {"x": np.zeros(3)})
    assert arrays["x"].sum() == pytest.approx(math.comb(1 << 20, 2), rel=1e-6)
    large.unlink()
    assert arrays["y"].tolist() == [1, 1, 1]


def test_a_mapped_file_costs_no_memory_for_what_nobody_looks_at(large: Path) -> None:
    file = mapped.MappedFile(large)
    assert not isinstance(file.data, bytearray)
    array = arrays_in(file.data, "here")["x"]
    start = array.__array_interface__["data"][0]
    whole = np.frombuffer(file.data, np.uint8).__array_interface__["data"][0]
    assert whole <= start < whole + large.stat().st_size, "it is a part of the mapping, not a copy"


def test_memory_that_is_given_back_comes_again(large: Path) -> None:
    file = MappedFile(large)
    array = arrays_in(file.data, "here")["x"]
    before = array.tobytes()
    file.forget()
    assert array.tobytes() == before


@pytest.mark.parametrize("block", [1 << 10, 1 << 26])
def test_the_digest_is_that_of_the_bytes(large: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped, "_BLOCK", block)
    assert MappedFile(large).digest == hashlib.sha256(large.read_bytes()).hexdigest()


def test_a_digest_that_was_begun_ahead_is_of_the_file_that_is_there_now(large: Path) -> None:
    with hashed_ahead(large, large.with_name("nothing")):
        assert MappedFile.of(large) is MappedFile.of(large)
        before = MappedFile.of(large).digest
        save_arrays(large, {"x": np.zeros(1 << 20, dtype=np.float32)})
        assert MappedFile.of(large).digest != before
    assert MappedFile.of(large) is not MappedFile.of(large)


def test_a_pipe_is_not_waited_for_and_a_missing_file_is_said(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedError, match="pipe"):
        load_arrays(tmp_path / "pipe")
    with pytest.raises(InputError, match="does not exist"):
        load_arrays(tmp_path / "none")
