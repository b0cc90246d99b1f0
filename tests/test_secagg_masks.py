"""Masks: a published cipher, blocks that can be masked alone, pairs that cancel, memory that does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.packing import packed_size
from fedrec.errors import InputError
from fedrec.secagg.layout import BLOCK_BYTES, Layout, Slot, add_plainly
from fedrec.secagg.masks import add_masks, pair_key, pair_sign, self_key
from fedrec.secagg.wire import Stage
from secagg_in_test import Cohort

KEY = bytes(range(32))


def keystream(key: bytes, start: int, size: int) -> bytes:
    """Bytes from `start` of AES-256 over counters, one block of 16 at a time: a second implementation."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    blocks = range(start // 16, -(-(start + size) // 16))
    return b"".join(cipher.update(number.to_bytes(16, "big")) for number in blocks)[start % 16 :][:size]


def test_published_cipher() -> None:
    """FIPS 197, appendix C.3, is the counter block 00112233…ff under the key 000102…1f."""
    number = int("00112233445566778899aabbccddeeff", 16)
    assert keystream(KEY, 16 * number, 16).hex() == "8ea2b7ca516745bfeafc49904b496089"


@given(
    st.integers(0, 2000),
    st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64]),
    st.integers(1, 40_000),
    st.sampled_from([1, -1]),
)
@settings(max_examples=25, deadline=None)
def test_masks_are_the_stream_from_the_block_on(block: int, dtype: type, length: int, sign: int) -> None:
    values = np.arange(length, dtype=dtype)
    masked = values.copy()
    add_masks(masked, [(sign, KEY), (1, bytes(32))], block)
    streams = [np.frombuffer(keystream(key, block * BLOCK_BYTES, values.nbytes), dtype) for key in (KEY, bytes(32))]
    expected = values + streams[0] if sign > 0 else values - streams[0]
    assert np.array_equal(masked, expected + streams[1])


def test_pairs_cancel_and_keys_have_one_use() -> None:
    shared, context = bytes(range(32)), b"manifest"
    assert pair_key(shared, context, 3, 8) == pair_key(shared, context, 8, 3)
    assert pair_sign(3, 8) == -pair_sign(8, 3)
    keys = {pair_key(shared, context, 3, 8), pair_key(shared, context, 3, 9), pair_key(shared, b"other", 3, 8)}
    assert len(keys | {self_key(shared, context, 3), self_key(shared, context, 8)}) == 5


@given(st.lists(st.tuples(st.integers(1, 700_000), st.integers(1, 64)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_blocks_cover_every_coordinate_once(shapes: list[tuple[int, int]]) -> None:
    layout = Layout(tuple(Slot(str(index), length, ring) for index, (length, ring) in enumerate(shapes)))
    blocks = list(layout)
    assert [block.index for block in blocks] == list(range(len(layout)))
    assert max(block.nbytes for block in blocks) <= BLOCK_BYTES
    for slot in layout.slots:
        own = [block for block in blocks if block.slot == slot]
        assert [block.start for block in own] == [0, *(block.stop for block in own[:-1])]
        assert own[-1].stop == slot.length
    with pytest.raises(IndexError):
        layout[len(layout)]


@pytest.mark.parametrize(
    "slots",
    [
        (),
        (Slot("x", 0, 32),),
        (Slot("x", 1, 0),),
        (Slot("x", 1, 65),),
        (Slot("", 1, 32),),
        (Slot("x" * 65, 1, 32),),
        (Slot("x", 1, 32), Slot("x", 2, 32)),
        (Slot("x", 1 << 50, 64),),
    ],
)
def test_impossible_layouts(slots: tuple[Slot, ...]) -> None:
    with pytest.raises(InputError):
        Layout(slots)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"x": np.zeros(3, np.int32)},
        {"x": np.zeros(4, np.int64)},
        {"x": np.zeros(4, np.float32)},
        {"x": np.zeros((4, 2), np.int32)[:, 0]},
        {"x": np.zeros(4, np.int32), "y": np.zeros(4, np.int32)},
    ],
)
def test_arrays_that_do_not_fit(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(InputError):
        Layout((Slot("x", 4, 32),)).flat(arrays)


def test_a_masked_vector_looks_random_and_memory_stays_flat() -> None:
    """4 million coordinates are 16 MB; a party that streams them needs a few blocks of 1 MiB."""
    layout = Layout((Slot("x", 4_000_000, 32),))
    cohort = Cohort(3, layout=layout)
    for index, frame in cohort.until(Stage.DELIVERY):
        cohort.clients[index].receive(frame)
    ones = np.ones(BLOCK_BYTES // 4, np.uint32)
    tracemalloc.start()
    counted, bits = 0, 0
    for frame in cohort.clients[0].upload(lambda block: ones[: block.stop - block.start]):
        if frame[5] == Stage.BLOCK:
            masked = np.frombuffer(frame, "<u4", offset=56)
            counted += len(masked)
            bits += int(np.bitwise_count(masked).sum())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted == layout.slots[0].length
    assert abs(bits / (32 * counted) - 0.5) < 1e-3
    assert peak < 4 * BLOCK_BYTES


@pytest.mark.parametrize("ring", [1, 7, 8, 11, 33])
def test_a_narrow_ring_costs_its_bits_and_its_masked_numbers_look_random(ring: int) -> None:
    layout = Layout((Slot("x", 300_000, ring),))
    cohort = Cohort(3, layout=layout)
    for index, frame in cohort.until(Stage.DELIVERY):
        cohort.clients[index].receive(frame)
    values = {"x": np.ones(300_000, layout.slots[0].dtype)}
    frames = [frame for frame in cohort.clients[0].upload(values) if frame[5] == Stage.BLOCK]
    masked = np.frombuffer(b"".join(frame[56:] for frame in frames), np.uint8)
    assert len(masked) == sum(packed_size(block.stop - block.start, ring) for block in layout)
    assert 300_000 * ring <= 8 * len(masked) < 300_000 * ring + 8 * len(frames)
    assert abs(int(np.bitwise_count(masked).sum()) / (300_000 * ring) - 0.5) < 5e-3


def test_plain_sum_wraps_in_its_ring() -> None:
    layout = Layout((Slot("x", 2, 32),))
    parts = [{"x": np.array([2**31, 5], np.uint32)}, {"x": np.array([2**31 + 1, -6], np.int64).astype(np.uint32)}]
    assert add_plainly(layout, parts)["x"].tolist() == [1, 2**32 - 1]
    narrow = Layout((Slot("x", 2, 3),))
    assert add_plainly(narrow, [{"x": np.array([7, 250], np.uint8)}] * 2)["x"].tolist() == [6, 4]
