"""Bytes from outside: read in full or refused with one class of error, within the declared size."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.errors import DamagedError, InputError
from fedrec.secagg import bodies
from fedrec.secagg.client import Client
from fedrec.secagg.layout import Layout, Slot
from fedrec.secagg.manifest import MANIFEST_LIMIT, decode_manifest, invite
from fedrec.secagg.policy import Attempts
from fedrec.secagg.wire import Stage, limits, parse
from secagg_in_test import COORDINATOR_KEY, SMALL, Cohort, identity, machines, spoil

KEYS = [identity(number).public for number in range(5)]
MANIFEST = invite("run", 3, COORDINATOR_KEY.public, KEYS, SMALL)

slots = st.lists(
    st.builds(Slot, st.text(min_size=1, max_size=8), st.integers(1, 1 << 30), st.sampled_from([32, 64])),
    min_size=1,
    max_size=4,
    unique_by=lambda slot: slot.name,
)


@given(
    st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=64),
    st.integers(0, (1 << 63) - 1),
    st.floats(0, 1e6),
    slots,
)
@settings(max_examples=50, deadline=None)
def test_manifests_survive_their_bytes(run: str, round: int, noise: float, parts: list[Slot]) -> None:
    manifest = invite(run, round, COORDINATOR_KEY.public, KEYS, Layout(tuple(parts)), noise=noise)
    assert decode_manifest(manifest.body) == manifest
    assert len(manifest.body) <= MANIFEST_LIMIT
    assert manifest.digest != replace(manifest, round=round ^ 1).digest


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_manifests_are_other_manifests_or_refused(data: st.DataObject) -> None:
    body = bytearray(MANIFEST.body)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(body) - 1))
        body[place] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    for changed in (bytes(body), cut, bytes(body) + b"\0"):
        try:
            manifest = decode_manifest(changed)
        except DamagedError:
            continue
        assert manifest.body == changed
        assert (manifest == MANIFEST) == (changed == MANIFEST.body)


@pytest.mark.parametrize(
    "change",
    [
        {"run": ""},
        {"run": "x" * 65},
        {"round": -1},
        {"model": b""},
        {"coordinator": b""},
        {"parties": tuple(KEYS)[:2]},
        {"parties": tuple(sorted(KEYS, reverse=True))},
        {"neighbours": 3},
        {"threshold": 1},
        {"min_parties": 6},
        {"noise": float("nan")},
        {"noise": -1.0},
    ],
    ids=str,
)
def test_impossible_manifests(change: dict) -> None:
    with pytest.raises(InputError):
        replace(MANIFEST, **change)


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_by_every_reader(data: bytes) -> None:
    readers = [
        lambda: parse(data, limits(None), None),
        lambda: parse(data, limits(MANIFEST), MANIFEST.digest),
        lambda: parse(MANIFEST_FRAME[:6] + data, limits(MANIFEST), None),
        lambda: decode_manifest(data),
        lambda: bodies.decode_roster(data, 5),
        lambda: bodies.decode_advert(data, bytes(64)),
        lambda: bodies.decode_delivery(data, 5, (0, 1, 2)),
        lambda: bodies.decode_signatures(data, 5),
        lambda: bodies.decode_shares(data, (0, 1)),
        lambda: bodies.Survivors.decode(data, 5),
    ]
    for reader in readers:
        with contextlib.suppress(DamagedError):
            reader()


MANIFEST_FRAME = Cohort(5, round=3).server.invite()[0][1]


@pytest.fixture(scope="module")
def stages() -> list[tuple[object, list[bytes]]]:
    return machines()


@given(st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_spoiled_frames_change_no_machine(stages: list[tuple[object, list[bytes]]], seed: int) -> None:
    dice = random.Random(seed)
    machine, frames = dice.choice(stages)
    frame = dice.choice(frames)
    spoiled = spoil(frame, dice)
    if spoiled == frame or spoiled[5:6] == bytes([Stage.BLOCK]):
        return
    before = repr(machine)
    with pytest.raises(DamagedError):
        machine.receive(spoiled)  # type: ignore[attr-defined]
    assert repr(machine) == before


def test_nothing_is_allocated_for_what_a_header_claims() -> None:
    cohort = Cohort(3)
    claims = bytearray(cohort.server.invite()[0][1])
    client = cohort.clients[0]
    tracemalloc.start()
    for length in (2**32 - 1, 2**31, MANIFEST_LIMIT + 1):
        claims[12:16] = length.to_bytes(4, "little")
        with pytest.raises(DamagedError, match="are allowed"):
            client.receive(bytes(claims))
    body = bytearray(cohort.manifest.body)
    place = body.rindex(bytes([6]) + (5).to_bytes(8, "little"))
    body[place + 1 : place + 9] = (1 << 37).to_bytes(8, "little")  # a vector of half a terabyte
    large = decode_manifest(bytes(body))
    other = Client(identity(0), cohort.floors, lambda attempts: None)
    other.receive(
        b"".join((cohort.server.invite()[0][1][:12], len(body).to_bytes(4, "little"), large.digest, body))
        + COORDINATOR_KEY.sign(
            cohort.server.invite()[0][1][:12], len(body).to_bytes(4, "little"), large.digest, bytes(body)
        )
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_blocks_that_do_not_belong() -> None:
    cohort = Cohort(3)
    index, frame = cohort.until(Stage.DELIVERY)[0]
    blocks = cohort.answers(index, frame)
    server = cohort.server
    with pytest.raises(DamagedError, match="in the name of another"):
        server.receive(blocks[0], sender=index + 1)
    server.receive(blocks[0], sender=index)
    server.receive(blocks[0])
    for changed in (
        blocks[0][:56] + bytes(20),
        blocks[0][:48] + (9).to_bytes(8, "little") + blocks[0][56:],
        blocks[0][:48] + blocks[1][48:56] + blocks[0][56:],
        blocks[0][:8] + (7).to_bytes(4, "little") + blocks[0][12:],
    ):
        with pytest.raises(DamagedError):
            server.receive(changed)
    *others, closing = blocks[1:]
    server.receive(closing)
    assert index in server.waiting, "its other blocks are on their way"
    for block in others:
        server.receive(block)
    assert index not in server.waiting


def test_a_vector_at_odds_with_its_root_is_left_out() -> None:
    cohort = Cohort(4, min_parties=3)
    for index, frame in cohort.until(Stage.DELIVERY):
        blocks = cohort.answers(index, frame)
        if index == 2:
            changed = np.frombuffer(blocks[0], np.uint8).copy()
            changed[-1] ^= 1
            blocks[0] = changed.tobytes()
        for block in blocks[:-1]:
            cohort.server.receive(block)
        if index == 2:
            with pytest.raises(DamagedError, match="does not match the root"):
                cohort.server.receive(blocks[-1])
            with pytest.raises(DamagedError, match="refused before"):
                cohort.server.receive(blocks[-1])
        else:
            cohort.server.receive(blocks[-1])
    assert cohort.server.waiting == frozenset()
    frames = cohort.server.close()
    while frames:
        for index, frame in frames:
            for sent in cohort.answers(index, frame):
                cohort.server.receive(sent)
        frames = cohort.server.close()
    assert cohort.server.survivors == (0, 1, 3)
    assert cohort.server.result is not None
    assert all(
        np.array_equal(cohort.server.result[name], values) for name, values in cohort.plain_sum((0, 1, 3)).items()
    )


@pytest.mark.parametrize(
    "data", [None, [], {"begun": {}}, {"begun": {"r": -1}, "answered": {}}, {"begun": [], "answered": {}}]
)
def test_records_of_attempts_that_are_none(data: object) -> None:
    with pytest.raises(DamagedError):
        Attempts.from_data(data)
