"""The bytes between a coordinator and its nodes."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.errors import DamagedError
from fedrec.evaluation.metrics import parse_metrics
from fedrec.evaluation.protocols import Protocol
from fedrec.federation.call_fields import call_fields, decode_call
from fedrec.federation.calls import CountCall, EvaluationCall, RoundCall
from fedrec.federation.messages import (
    Reply,
    Request,
    open_reply,
    open_request,
    pack_arrays,
    request_digest,
    unpack_arrays,
)
from fedrec.privacy.guard import RoundTerms
from fedrec.record.keys import SigningKey

COORDINATOR = SigningKey("coordinator", bytes(31) + b"c")
NODE = SigningKey("shop-a", bytes(31) + b"a")
SPEC = SumSpec((ArraySpec("x", "dense", (2, 3), bound=1.5, scale_bits=8, ring=32, denominator="count"),), 64)
SHARED = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(0, dtype=np.int64)}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.text(max_size=10),
    st.text(max_size=10),
    st.integers(0, 2**62),
    JSON,
    st.lists(st.binary(max_size=40), max_size=4),
)
def test_a_request_is_read_as_it_was_written(kind: str, to: str, number: int, value: Any, parts: list[bytes]) -> None:
    request = Request(kind, "ab" * 16, to, number, {"value": value}, tuple(parts))
    frame = request.sign(COORDINATOR)
    found, about = open_request(frame.whole(), COORDINATOR.public(), 1 << 20)
    assert found == request
    assert about == frame.digest == request_digest(frame.whole())
    assert len(frame.whole()) == frame.size
    reply = Reply("shop-a", about, None, {"value": value}, tuple(parts))
    assert open_reply(reply.sign(NODE), NODE.public(), about, 1 << 20) == reply


FRAME = Request("contribute", "ab" * 16, "shop-a", 7, {"round": 3}, (b"one", b"two" * 9)).sign(COORDINATOR).whole()


@pytest.mark.parametrize("place", range(len(FRAME)))
def test_no_changed_byte_passes(place: int) -> None:
    changed = bytearray(FRAME)
    changed[place] ^= 1 << (place % 8)
    with pytest.raises(DamagedError):
        open_request(bytes(changed), COORDINATOR.public(), 1 << 20)


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda rest: FRAME[:8] + rest))
def test_anything_else_is_an_error(data: bytes) -> None:
    with pytest.raises(DamagedError):
        open_request(data, COORDINATOR.public(), 1 << 20)


@given(st.integers(0, len(FRAME) - 1), st.binary(max_size=9))
def test_a_signed_frame_is_cut_or_longer(cut: int, more: bytes) -> None:
    for data in (FRAME[:cut], FRAME + b"x" + more):
        with pytest.raises(DamagedError):
            open_request(data, COORDINATOR.public(), 1 << 20)


@given(st.binary(max_size=120))
@settings(max_examples=300)
def test_whoever_has_the_key_cannot_make_a_reader_fail_otherwise(body: bytes) -> None:
    """A coordinator or node that signs nonsense gets an error, and nothing large is made."""
    data = FRAME[:8] + bytes(4) + len(body).to_bytes(8, "little") + hashlib.sha256().digest() + body
    signed = data + COORDINATOR.sign(b"fedrec request\n" + hashlib.sha256(data).digest())
    with pytest.raises(DamagedError):
        open_request(signed, COORDINATOR.public(), 1 << 20)


def test_a_frame_for_one_purpose_is_none_for_another() -> None:
    with pytest.raises(DamagedError):
        open_reply(FRAME, COORDINATOR.public(), "", 1 << 20)
    _, about = open_request(FRAME, COORDINATOR.public(), 1 << 20)
    reply = Reply("shop-a", about).sign(NODE)
    with pytest.raises(DamagedError):
        open_request(reply, NODE.public(), 1 << 20)
    with pytest.raises(DamagedError, match="answers another request"):
        open_reply(reply, NODE.public(), "0" * 64, 1 << 20)
    with pytest.raises(DamagedError):
        open_reply(reply, SigningKey("shop-a", bytes(31) + b"b").public(), about, 1 << 20)


def test_a_frame_that_is_too_long_is_not_read() -> None:
    with pytest.raises(DamagedError, match="at most 100 are accepted"):
        open_request(FRAME, COORDINATOR.public(), 100)


TERMS = RoundTerms("ab", 1.25, 1.0, 1e-5, honest=2, parties="cd")
CALLS = [
    ("contribute", RoundCall(3, 1, SHARED, SPEC, 0.25, privacy=TERMS, groups=2)),
    ("contribute", RoundCall(0, -1, SHARED, SPEC, 1.0, change=True)),
    ("contribute", RoundCall(0, -1, SHARED, SPEC, 1.0, counts=np.array([3, 0, 64]))),
    ("count", CountCall(SPEC, 2.5)),
    ("evaluate", EvaluationCall(2, SHARED, "valid", Protocol(99), parse_metrics("ndcg@10,hr@5"), 64, 3)),
]


@pytest.mark.parametrize(("kind", "call"), CALLS)
def test_a_call_is_the_same_at_the_other_end(kind: str, call: Any) -> None:
    request = Request(kind, "ab" * 16, "shop-a", 1, call_fields(call))
    read, _ = open_request(request.sign(COORDINATOR).whole(), COORDINATOR.public(), 1 << 20)
    found = decode_call(kind, read.fields, SHARED)
    assert type(found) is type(call)
    for name, value in vars(call).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(found, name), value)
        elif name != "model":
            assert getattr(found, name) == value or name == "shared"


@pytest.mark.parametrize(("kind", "call"), CALLS)
@given(data=st.data())
@settings(max_examples=60)
def test_a_call_with_a_field_of_another_kind_is_an_error_or_a_call(kind: str, call: Any, data: Any) -> None:
    fields = call_fields(call)
    name = data.draw(st.sampled_from(sorted(fields)))
    fields[name] = data.draw(JSON)
    try:
        decode_call(kind, fields, SHARED)
    except DamagedError:
        return


def test_arrays_come_back_with_their_bits() -> None:
    found = unpack_arrays(pack_arrays(SHARED))
    assert {name: (array.dtype, array.shape, array.tobytes()) for name, array in found.items()} == {
        name: (array.dtype, array.shape, array.tobytes()) for name, array in SHARED.items()
    }
    assert pack_arrays(dict(reversed(SHARED.items()))) == pack_arrays(SHARED)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_arrays(data: bytes) -> None:
    with pytest.raises(DamagedError):
        unpack_arrays(b"\xff" * 8 + data)
