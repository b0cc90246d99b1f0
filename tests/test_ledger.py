"""Files that are whole or absent, and a ledger that keeps what was committed."""

import json
import os

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.errors import DamagedError, InputError
from fedrec.federation.ledger_fields import check_fields
from fedrec.record import durable
from fedrec.record.durable import append_line, arrays_digest, load_arrays, replace_file, save_arrays
from fedrec.record.ledger import Ledger


def filled(path):
    ledger = Ledger(path)
    ledger.append("start", plan="ab")
    for round in range(3):
        ledger.append("round", round=round, model=f"{round:064x}", note="ümlaut\n日本")
    return ledger


def test_a_ledger_is_read_as_it_was_written(tmp_path):
    ledger = filled(tmp_path / "ledger.jsonl")
    again = Ledger(tmp_path / "ledger.jsonl")
    assert again.lines == ledger.lines == filled(None).lines
    assert [line["round"] for line in again.of_kind("round")] == [0, 1, 2]
    assert again.of_kind("nothing") == Ledger(tmp_path / "absent.jsonl").lines == []
    assert len((tmp_path / "ledger.jsonl").read_bytes().splitlines()) == 4


def test_a_line_cut_anywhere_was_never_committed(tmp_path):
    path = tmp_path / "ledger.jsonl"
    lines = filled(path).lines
    data = path.read_bytes()
    last = data[:-1].rfind(b"\n") + 1
    for end in range(last, len(data)):
        path.write_bytes(data[:end])
        ledger = Ledger(path)
        assert ledger.lines == lines[:-1]
        assert path.read_bytes() == data[:last]
        ledger.append("round", **{key: value for key, value in lines[-1].items() if key != "kind"})
        assert path.read_bytes() == data


def test_a_ledger_of_nothing_but_a_torn_line_is_empty(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b'{"kind":"sta')
    assert Ledger(path).lines == []
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "damage",
    [b"{", b"", b"null", b"[]", b'"round"', b"{}", b'{"kind":3}', b"\xff\xfe", b"\0\0\0", b"[" * 100_000],
    ids=lambda damage: repr(damage[:12]),
)
@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_damaged_line_is_named(tmp_path, damage, number):
    path = tmp_path / "ledger.jsonl"
    filled(path)
    lines = path.read_bytes().splitlines()
    lines[number - 1] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(DamagedError, match=f"ledger.jsonl, line {number}: not a line of a ledger"):
        Ledger(path)


def test_a_line_that_cannot_be_written_changes_neither_file_nor_memory(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = filled(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        ledger.append("round", model=np.zeros(2))
    assert (path.read_bytes(), len(ledger.lines)) == (before, 4)


def test_a_line_counts_only_once_it_is_on_the_disk(tmp_path, monkeypatch):
    ledger = filled(tmp_path / "ledger.jsonl")

    def broken(handle):
        raise OSError("disk")

    monkeypatch.setattr(durable.os, "fsync", broken)
    with pytest.raises(OSError, match="disk"):
        ledger.append("round", round=3)
    assert len(ledger.lines) == 4


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("old", [b"old", None])
def test_replacing_a_file_leaves_the_old_or_the_new_one(tmp_path, monkeypatch, call, moment, old):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    whole = getattr(os, call)

    def crash(*args):
        if moment == "after":
            whole(*args)
        raise OSError("crash")

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, crash)
        with pytest.raises(OSError, match="crash"):
            replace_file(path, b"new" * 1000)
    found = path.read_bytes() if path.exists() else None
    assert found == (b"new" * 1000 if (call, moment) == ("replace", "after") else old)
    replace_file(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        whole = getattr(os, name)
        monkeypatch.setattr(durable.os, name, lambda *args, n=name, w=whole: (calls.append(n), w(*args))[1])
    replace_file(tmp_path / "file", b"x")
    assert calls == ["fsync", "replace", "fsync"]  # the data, the name, the folder
    calls.clear()
    append_line(tmp_path / "lines", "a")
    append_line(tmp_path / "lines", "b")
    assert calls == ["fsync", "fsync", "fsync"]  # line and folder, then the line
    assert (tmp_path / "lines").read_bytes() == b"a\nb\n"


dtypes = st.sampled_from(["f4", "f8", "i1", "i4", "i8", "u1", "u8", "bool"])
shapes = st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple)


@settings(deadline=None, max_examples=40)
@given(st.dictionaries(st.text("abcxyz._", min_size=1, max_size=4), st.tuples(dtypes, shapes), max_size=5), st.data())
def test_arrays_come_back_and_have_the_same_bytes_in_any_order(tmp_path_factory, described, data):
    rng = np.random.default_rng(0)
    arrays = {name: rng.integers(0, 2, shape).astype(dtype) for name, (dtype, shape) in described.items()}
    folder = tmp_path_factory.mktemp("arrays")
    digest = save_arrays(folder / "a", arrays)
    order = data.draw(st.permutations(list(arrays)))
    strided = {name: np.asfortranarray(arrays[name]) for name in order}
    assert save_arrays(folder / "b", strided) == digest == arrays_digest(strided)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert b"__metadata__" not in (folder / "a").read_bytes()
    found = load_arrays(folder / "a")
    assert set(found) == set(arrays)
    for name, array in found.items():
        assert (array.dtype, array.shape) == (arrays[name].dtype, arrays[name].shape)
        assert np.array_equal(array, arrays[name])
        assert array.flags.writeable
        assert array.flags.c_contiguous


def test_digest_changes_with_names_types_shapes_and_values():
    a = np.zeros((2, 3), dtype=np.float32)
    variants = [{"a": a}, {"b": a}, {"a": a.astype("f8")}, {"a": a.reshape(3, 2)}, {"a": a + 1}, {"a": a, "b": a}, {}]
    assert len({arrays_digest(arrays) for arrays in variants}) == len(variants)


def test_damaged_arrays_are_found_whatever_is_cut_or_changed(tmp_path):
    path = tmp_path / "arrays.safetensors"
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3)}
    save_arrays(path, arrays)
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedError, match=r"arrays\.safetensors is damaged"):
            load_arrays(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(DamagedError):
        load_arrays(path)
    for place in range(len(data)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= change
            path.write_bytes(damaged)
            try:
                found = load_arrays(path)
            except DamagedError:
                continue
            assert arrays_digest(found) != arrays_digest(arrays)  # callers that must know compare digests


def test_missing_arrays_say_which_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.safetensors does not exist"):
        load_arrays(tmp_path / "nowhere.safetensors")


def test_lines_are_plain_json(tmp_path):
    filled(tmp_path / "ledger.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert lines[0] == {"kind": "start", "plan": "ab"}
    assert lines[1]["note"] == "ümlaut\n日本"


def test_a_line_of_a_round_has_all_that_a_report_adds_up():
    moved = {kind: {"up": 1, "down": 2} for kind in ("plain_per_node", "secure_per_party")}
    line = {"kind": "round", "round": 0, "model": "a", "checkpoint": "b", "sums": [], "cohort": 1, "bytes": moved,
            "left_out": 0, "saturated": None}  # fmt: skip
    check_fields([line])
    for key in line.keys() - {"kind"}:
        with pytest.raises(DamagedError, match=f"line 1: .*{key}.* missing or wrong"):
            check_fields([{name: value for name, value in line.items() if name != key}])
