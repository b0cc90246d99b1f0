"""The bytes of a sum: exact both ways, and nothing but a sum of the spec is ever read from them."""

import hashlib
import json
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from fedrec.aggregation.packing import pack
from fedrec.aggregation.pairs import diagonal_of
from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.aggregation.sums import Sum
from fedrec.aggregation.wire import decode_sum, encode_sum, encoded_size
from fedrec.errors import DamagedError

SPEC = SumSpec(
    (
        ArraySpec("t", "rows", (6, 4), 1.0, ring=32),
        ArraySpec("d", "dense", (8,), 1.0, ring=64),
        ArraySpec("s", "rows", (4, 1), 1.0),
        ArraySpec("p", "rank_one", (36,), 1.0, ring=12),
    )
).fit(100)


@st.composite
def sums(draw):
    """Sums with any share of empty rows and integers of any width."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays = []
    for number in range(draw(st.integers(1, 3))):
        shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
        arrays.append(ArraySpec(f"array {number}", "rows", shape, 1.0, ring=draw(st.integers(11, 64))))
    total = Sum.zeros(SumSpec(tuple(arrays)).fit(1000), draw(st.integers(0, 2**40)))
    for array in arrays:
        bits = draw(st.integers(1, array.ring)) - 1
        values = rng.integers(-(2**bits), 2**bits, array.shape, dtype=np.int64)
        values[rng.random(array.shape[0]) < draw(st.sampled_from([0.0, 0.5, 0.9, 1.0]))] = 0
        total.arrays[array.name][:] = values
    total.clients, total.left_out, total.saturated = draw(st.integers(0, 1000)), 7, draw(st.integers(0, 2**61))
    return total


def same(a, b):
    return (a.round, a.clients, a.left_out, a.saturated) == (b.round, b.clients, b.left_out, b.saturated) and all(
        np.array_equal(a.arrays[name], b.arrays[name])
        and a.arrays[name].dtype == b.arrays[name].dtype
        and a.arrays[name].shape == b.arrays[name].shape
        for name in a.arrays | b.arrays
    )


def example():
    total = Sum.zeros(SPEC, 2)
    total.arrays["t"][[1, 4]] = [[1, -2, 3, 0], [100, -128, 127, 9]]
    total.arrays["d"][:] = [2**40, 0, -1, 5, 6, 7, 8, 9]
    total.arrays["p"][diagonal_of(8)] = [900, 40, 2, 0, 55, 1, 3, 3]
    total.arrays["p"][[1, 4, 35]] = [7, 33, 3]
    total.clients, total.left_out, total.saturated = 40, 2, 3
    return total


@settings(deadline=None, max_examples=150)
@given(sums())
def test_decoding_gives_the_sum_back_and_the_size_is_known(total):
    frame = encode_sum(total)
    assert encoded_size(total) == len(frame)
    decoded = decode_sum(frame, total.spec)
    assert same(decoded, total)
    for array in decoded.arrays.values():
        array += 1  # decoded sums can be merged into
    assert encode_sum(decode_sum(frame, total.spec)) == frame
    assert len(frame) < total.spec.nbytes + 512 + 64 * len(total.arrays)


@pytest.mark.parametrize(("value", "bits"), [(7, 4), (8, 5), (-8, 4), (-9, 5), (2**15, 17), (-(2**31), 32)])
def test_values_travel_with_as_many_bits_as_the_largest_needs(value, bits):
    spec = SumSpec((ArraySpec("x", "dense", (8000,), 1.0, ring=32),)).fit(10)
    total = Sum.zeros(spec)
    empty = encoded_size(total)
    total.arrays["x"][5] = value
    assert encoded_size(total) == empty + (bits - 1) * 1000 + (bits > 9)
    assert same(decode_sum(encode_sum(total), spec), total)


def test_few_touched_rows_travel_alone():
    spec = SumSpec((ArraySpec("x", "rows", (10_000, 64), 1.0, scale_bits=20),)).fit(10)
    total = Sum.zeros(spec)
    total.arrays["x"][[3, 9999]] = 2**20
    assert 2 * (4 + 22 * 8) < encoded_size(total) < 2 * (4 + 22 * 8) + 300
    assert same(decode_sum(encode_sum(total), spec), total)


def test_every_changed_byte_is_found():
    frame = encode_sum(example())
    for place in range(len(frame)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(frame)
            damaged[place] ^= change
            with pytest.raises(DamagedError):
                decode_sum(bytes(damaged), SPEC)


def test_every_truncation_is_found():
    frame = encode_sum(example())
    for length in range(len(frame)):
        for part in (frame[:length], frame[length + 1 :]):
            with pytest.raises(DamagedError):
                decode_sum(part, SPEC)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=64), st.data())
def test_every_extension_is_found(extra, data):
    frame = encode_sum(example())
    place = data.draw(st.integers(0, len(frame)))
    with pytest.raises(DamagedError):
        decode_sum(frame[:place] + extra + frame[place:], SPEC)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=400), st.booleans(), st.booleans())
def test_any_other_bytes_are_refused_with_the_same_error(data, start, seal):
    body = (b"FRSUM002" if start else b"") + data
    with pytest.raises(DamagedError):
        decode_sum(sealed(body) if seal else body, SPEC)


def sealed(body):
    return body + hashlib.blake2b(body, digest_size=16).digest()


def frame_of(header, payload=b"", length=None):
    """A frame with a right checksum round any header."""
    text = header if isinstance(header, bytes) else canonical(header)
    return sealed(b"FRSUM002" + (len(text) if length is None else length).to_bytes(4, "little") + text + payload)


def canonical(header):
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def parts():
    """Header and payload of the example."""
    frame = encode_sum(example())
    length = int.from_bytes(frame[8:12], "little")
    return json.loads(frame[12 : 12 + length]), frame[12 + length : -16]


def changed(**fields):
    header, _ = parts()
    return header | fields


def described(number, **fields):
    header, _ = parts()
    header["arrays"][number] |= fields
    return header


HEADERS = {
    "empty": b"",
    "not JSON": b"{clients: 3}",
    "not text": b"\xff\xfe\x00",
    "a list": b"[]",
    "null": b"null",
    "NaN": b"NaN",
    "deeply nested": b"[" * 300 + b"]" * 300,
    "deeper": b"[" * 100_000,
    "many digits": b'{"clients":' + b"9" * 400 + b"}",
    "no fields": {},
    "a field more": changed(more=1),
    "a field less": {key: value for key, value in parts()[0].items() if key != "left_out"},
    "twice the same key": canonical(parts()[0])[:-1] + b',"clients":40}',
    "other order": json.dumps(dict(reversed(parts()[0].items())), separators=(",", ":")).encode(),
    "spaces": json.dumps(parts()[0], sort_keys=True).encode(),
    "spaces after": canonical(parts()[0]) + b"  ",
    "another spec": changed(spec=SumSpec(SPEC.arrays).fit(101).digest),
    "spec is a list": changed(spec=[SPEC.digest]),
    "clients beyond n_max": changed(clients=101),
    "huge count": changed(saturated=10**30),
    "negative count": changed(left_out=-1),
    "float count": changed(clients=40.0),
    "infinite count": changed(clients=float("inf")),
    "NaN count": changed(round=float("nan")),
    "text count": changed(clients="40"),
    "true count": changed(clients=True),
    "no count": changed(round=None),
    "arrays are a mapping": changed(arrays={"t": 1}),
    "arrays are missing": changed(arrays=None),
    "one array less": changed(arrays=parts()[0]["arrays"][:-1]),
    "one array more": changed(arrays=parts()[0]["arrays"] * 2),
    "array is a number": changed(arrays=[1, 2, 3, 4]),
    "array is empty": changed(arrays=[{}] * 4),
    "width 0": described(0, width=0),
    "width beyond the ring": described(0, width=33),
    "huge width": described(0, width=2**62),
    "another width": described(0, width=7),
    "float width": described(0, width=8.0),
    "true width": described(0, width=True),
    "more rows than the table": described(0, rows=7),
    "huge rows": described(0, rows=2**62),
    "negative rows": described(0, rows=-1),
    "float rows": described(0, rows=2.0),
    "true rows": described(0, rows=True),
    "other rows": described(0, rows=3),
    "rows of a flat array": described(1, rows=1),
    "no rows": described(0, rows=None),
    "dense where rows are": described(0, form="dense", rows=0),
    "dense with rows": described(0, form="dense"),
    "another form": described(0, form="sparse"),
    "no form": described(0, form=None),
    "a list of forms": described(0, form=["rows"]),
    "rows of pairs": described(3, rows=1),
    "rows of a triangle": described(3, form="rows", rows=1),
    "pairs that are no triangle": described(0, form="pairs", rows=0),
    "pairs of a flat array": described(1, form="pairs", width=3),
    "another width of pairs": described(3, width=12),
    "a width of pairs beyond the ring": described(3, width=13),
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_with_a_right_checksum_are_refused(name):
    with pytest.raises(DamagedError):
        decode_sum(frame_of(HEADERS[name], parts()[1]), SPEC)


def test_the_right_header_is_read():
    header, payload = parts()
    assert same(decode_sum(frame_of(header, payload), SPEC), example())


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**32 - 1])
def test_wrong_header_lengths_are_refused(length):
    header, payload = parts()
    with pytest.raises(DamagedError):
        decode_sum(frame_of(header, payload, length), SPEC)


@pytest.mark.parametrize("touched", [[4, 1], [1, 1], [1, 6], [2**32 - 1, 1], [1, 2**32 - 1], [6, 7]])
def test_rows_out_of_order_or_range_are_refused(touched):
    header, payload = parts()
    assert np.frombuffer(payload, "<u4", 2).tolist() == [1, 4]
    with pytest.raises(DamagedError, match=r"'t'.*rows out of order or out of range"):
        decode_sum(frame_of(header, np.array(touched, "<u4").tobytes() + payload[8:]), SPEC)


@pytest.mark.parametrize("width", [9, 16, 32, 33, 64])
def test_values_wider_than_their_ring_are_refused_even_where_the_length_fits(width):
    _, payload = parts()
    values = pack(np.frombuffer(payload[8:16], "<i1").astype(np.int64), width)
    frame = frame_of(described(0, width=width), payload[:8] + values + payload[16:])
    if width > 32:
        with pytest.raises(DamagedError, match="'t' of a sum has an impossible width"):
            decode_sum(frame, SPEC)
    else:
        assert same(decode_sum(frame, SPEC), example())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(0, 60))
def test_counts_of_pairs_travel_with_the_bits_that_their_diagonal_allows(seed, items, clients):
    rows = (np.random.default_rng(seed).random((clients, items)) < 0.3).astype(np.int64)
    gram = (rows.T @ rows)[np.triu_indices(items)].astype(np.int32)
    spec = SumSpec((ArraySpec("x", "rank_one", (len(gram),), 1.0),)).fit(100)
    total = Sum.zeros(spec)
    total.arrays["x"][:] = gram
    frame = encode_sum(total)
    assert same(decode_sum(frame, spec), total)
    assert encoded_size(total) == len(frame)
    counts = rows.sum(axis=0)
    by_hand = sum(int(min(a, b)).bit_length() for i, a in enumerate(counts) for b in counts[i:])
    assert len(frame) < 300 + by_hand // 8 + items + 8


@pytest.mark.parametrize(("i", "value"), [(1, 64), (1, -1), (0, -3), (35, -1), (3, 1)])
def test_other_triangles_travel_as_they_are(i, value):
    total = example()
    total.arrays["p"][i] = value
    assert b'"form":"pairs"' not in encode_sum(total)
    assert same(decode_sum(encode_sum(total), SPEC), total)


def test_a_diagonal_that_no_clients_have_is_refused():
    header, payload = parts()
    before = 8 + 8 + 8 * 42 // 8  # rows, their numbers of 8 bits, and numbers of 42 bits
    assert [array["width"] for array in header["arrays"][:2]] == [8, 42]
    assert header["arrays"][3] == {"form": "pairs", "rows": 0, "width": 11}
    for wrong in (-1, -1024):
        diagonal = pack(np.array([900, 40, 2, wrong, 55, 1, 3, 3]), 11)
        with pytest.raises(DamagedError, match="diagonal that no clients have"):
            decode_sum(frame_of(header, payload[:before] + diagonal + payload[before + 11 :]), SPEC)


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["arrays", "clients", "left_out", "round", "saturated", "spec", "rows", "width", "form"]),
    json_like,
    st.integers(0, 3),
)
def test_any_value_in_a_header_is_read_or_refused_and_nothing_else(key, value, number):
    header = described(number, **{key: value}) if key in ("rows", "width", "form") else changed(**{key: value})
    try:
        decoded = decode_sum(frame_of(header, parts()[1]), SPEC)
    except DamagedError:
        return
    for name, array in example().arrays.items():  # counts may have other values, arrays may not
        assert np.array_equal(decoded.arrays[name], array)
    assert type(value) is int or header == parts()[0]


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_hostile_frame_never_allocates_more_than_its_spec_implies():
    def refused(frame):
        with pytest.raises(DamagedError):
            decode_sum(frame, SPEC)

    frames = [frame_of(header, parts()[1]) for header in HEADERS.values()]
    frames += [
        frame_of(described(0, rows=6, width=32), parts()[1]),
        frame_of(b"[" + b"[]," * 300_000 + b"[]]"),
        frame_of(parts()[0], bytes(8 << 20)),
    ]
    for frame in frames:
        assert peak(lambda frame=frame: refused(frame)) < 200_000


def test_decoding_allocates_little_more_than_the_sum():
    spec = SumSpec((ArraySpec("x", "rows", (2000, 500), 1.0, ring=32),)).fit(10)
    total = Sum.zeros(spec)
    total.arrays["x"][:] = np.random.default_rng(0).integers(-(2**31), 2**31, (2000, 500))
    frame = encode_sum(total)
    assert peak(lambda: decode_sum(frame, spec)) < 1.2 * spec.nbytes
    assert peak(lambda: encoded_size(total)) < 0.1 * spec.nbytes
