"""SipHash-2-4 and SplitMix64 against their published outputs, and sources of randomness with names."""

import hashlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy import stats

from fedrec.data.identifiers import Identifiers
from fedrec.data.keys import KeyedSource, client_keys
from fedrec.kernels import keyed

KEY = bytes(range(16))
# The first sixteen of `vectors_sip64` in the authors' reference implementation: messages 00, 00 01, … of length 0 … 15.
OFFICIAL = [
    "310e0edd47db6f72", "fd67dc93c539f874", "5a4fa9d909806c0d", "2d7efbd796666785",
    "b7877127e09427cf", "8da699cd64557618", "cee3fe586e46c9cb", "37d1018bf50002ab",
    "6224939a79f5f593", "b0e4a90bdf82009e", "f3b9dd94c5bb5d7a", "a7ad6b22462fb3f4",
    "fbe50e86bc8f1e75", "903d84c02756ea14", "eef27a8e90ca23f7", "e545be4961ca29a1",
]  # fmt: skip


def sip(key: bytes, messages: list[bytes]) -> np.ndarray:
    k0, k1 = np.frombuffer(key, dtype="<u8")
    buffer = np.frombuffer(bytearray(b"".join(messages) + b"\0"), dtype=np.uint8)
    offsets = np.cumsum([0, *map(len, messages)]).astype(np.int64)
    out = np.empty(len(messages), dtype=np.uint64)
    keyed.sip_bytes(k0, k1, buffer, offsets, out)
    return out


def plain_sip(key: bytes, message: bytes) -> int:
    """SipHash-2-4 in Python's own integers, from the paper."""
    mask = (1 << 64) - 1
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turn(x, bits):
        return ((x << bits) | (x >> (64 - bits))) & mask

    def rounds(n):
        for _ in range(n):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & mask
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    padded = message + b"\0" * (7 - len(message) % 8) + bytes([len(message) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def test_siphash_gives_the_official_vectors():
    found = sip(KEY, [bytes(range(length)) for length in range(16)])
    assert [value.tobytes().hex() for value in found.astype("<u8")] == OFFICIAL


@settings(deadline=None, max_examples=100)
@given(st.binary(min_size=16, max_size=16), st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_siphash_equals_the_paper_for_any_key_and_messages(key, messages):
    assert sip(key, messages).tolist() == [plain_sip(key, message) for message in messages]


@given(st.binary(min_size=16, max_size=16), st.lists(st.integers(0, 2**64 - 1), max_size=9))
def test_hash_of_a_word_is_the_hash_of_its_eight_bytes(key, words):
    found = KeyedSource(key).seeds(np.array(words, dtype=np.uint64))
    assert found.tolist() == [plain_sip(key, word.to_bytes(8, "little")) for word in words]


def test_splitmix_gives_its_known_outputs():
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    found = [int(keyed.mix(np.uint64((1234567 + n * golden) & mask))) for n in range(1, 6)]
    assert found == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert int(keyed.mix(np.uint64(golden))) == 0xE220A8397B1DCDAF  # the first output of seed 0


def test_normal_rows_are_standard_normal_and_depend_on_their_own_seed_only():
    seeds = KeyedSource.from_seed(5).seeds(np.arange(4000, dtype=np.uint64))
    rows = np.empty((4000, 8), dtype=np.float32)
    keyed.normal_rows(seeds, 0.5, rows)
    assert stats.kstest(rows.ravel() / 0.5, "norm").pvalue > 0.01
    alone = np.empty((3, 8), dtype=np.float32)
    keyed.normal_rows(seeds[[7, 0, 3999]], 0.5, alone)
    assert np.array_equal(alone, rows[[7, 0, 3999]])


def test_client_key_is_the_same_wherever_the_user_lives():
    source = KeyedSource.from_seed(3)
    for ids in (list(range(-20, 20)), [f"user {n}" for n in range(40)] + ["", "ü", "日本語", "a\0b"]):
        everyone = Identifiers.of(ids)
        keys = client_keys(source, everyone)
        assert len(set(keys.tolist())) == len(everyone)
        for part in (ids[:7], ids[7:8], ids[8:], ids[::3]):
            node = Identifiers.of(part)
            assert client_keys(source, node).tolist() == keys[everyone.find(part)[np.argsort(part)]].tolist()


def test_client_key_is_the_keyed_hash_of_the_id_and_its_type():
    source = KeyedSource.from_seed(3)
    texts, numbers = Identifiers.of(["1", "é"]), Identifiers.of([1, -1])
    expected = [plain_sip(source.child("client", "text").key, text.encode()) for text in texts]
    assert client_keys(source, texts).tolist() == expected
    expected = [plain_sip(source.child("client", "int64").key, int(n).to_bytes(8, "little", signed=True))
                for n in numbers]  # fmt: skip
    assert client_keys(source, numbers).tolist() == expected
    assert client_keys(source, Identifiers.of([1]))[0] != client_keys(source, Identifiers.of(["1"]))[0]
    assert client_keys(source, Identifiers.of([])).shape == (0,)


def test_client_keys_change_with_the_secret():
    users = Identifiers.of(range(100))
    a, b = (client_keys(KeyedSource.from_seed(seed), users) for seed in (0, 1))
    assert not set(a.tolist()) & set(b.tolist())
    assert not set(a.tolist()) & set(client_keys(KeyedSource.from_system(), users).tolist())


names = st.lists(st.one_of(st.text(max_size=4), st.integers(-20, 20)), max_size=4)


@given(names, names)
def test_children_are_equal_only_for_equal_names(first, second):
    source = KeyedSource.from_seed(0)
    same = [(type(name), name) for name in first] == [(type(name), name) for name in second]
    assert (source.child(*first).key == source.child(*second).key) == same


def test_children_differ_from_parents_siblings_and_grandchildren():
    source = KeyedSource.from_seed(0)
    keys = [source.key, source.child().key, source.child("a").key, source.child("b").key, source.child("a", "b").key,
            source.child("a").child("b").key, source.child("ab").key, source.child(1).key, source.child("1").key,
            source.child("a", 1).key, source.child("a;int:1:1").key,
            KeyedSource.from_seed(1).child("a").key]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 16 for key in keys)


def test_whole_numbers_name_the_same_child_whatever_their_type():
    source = KeyedSource.from_seed(0)
    assert {source.child("round", n).key for n in (3, np.int64(3), np.int32(3), np.uint8(3))} == {
        source.child("round", 3).key
    }
    assert source.child(np.str_("round")).key == source.child("round").key


def test_from_seed_is_the_same_everywhere_and_the_system_never_repeats():
    expected = hashlib.blake2b(b"fedrec seed 7", digest_size=16).digest()
    assert KeyedSource.from_seed(7) == KeyedSource.from_seed(7) == KeyedSource(expected)
    assert KeyedSource.from_system() != KeyedSource.from_system()


def test_key_is_not_shown():
    source = KeyedSource(b"0123456789abcdef")
    assert "0123" not in repr(source)
    assert source.key.hex() not in repr(source)


@pytest.mark.parametrize("seed", [0, 1])
def test_generator_repeats_for_the_same_names(seed):
    source = KeyedSource.from_seed(seed)
    a, b = source.child("x").generator(), source.child("x").generator()
    assert np.array_equal(a.integers(2**60, size=8), b.integers(2**60, size=8))
    other = source.child("y").generator().integers(2**60, size=8)
    assert not np.array_equal(source.child("x").generator().integers(2**60, size=8), other)
