"""Secure aggregation as a whole: the exact sum of the survivors or a clean abort, in any schedule; nothing leaks."""

from __future__ import annotations

import logging
import os
import re
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedrec.aggregation.specs import ArraySpec, SumSpec
from fedrec.errors import DamagedError, InputError, PlanError, RunError
from fedrec.secagg import bodies
from fedrec.secagg.layout import Layout, Slot
from fedrec.secagg.policy import Attempts, Floors
from fedrec.secagg.primitives import Identity
from fedrec.secagg.reasons import Abort, Reason
from fedrec.secagg.rounds import Party, run_round, secure_sum
from fedrec.secagg.server import Server
from fedrec.secagg.wire import Stage, compose
from secagg_in_test import COORDINATOR_KEY, Cohort, check_schedule, identity

SCHEDULES = int(os.environ.get("FEDREC_SECAGG_SCHEDULES", "60"))


@pytest.mark.parametrize("schedules", [range(3, 15), pytest.param(range(SCHEDULES), marks=pytest.mark.exhaustive)])
def test_random_schedules_end_in_the_exact_sum_or_an_abort(schedules: range) -> None:
    outcomes = [check_schedule(seed) for seed in schedules]
    assert outcomes.count("sum") > len(schedules) / 3
    assert outcomes.count("abort") > len(schedules) / 8


@given(st.integers(3, 8), st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_secure_sum_is_the_plain_sum(n: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    parties = [Party(Identity(), clients=16) for _ in range(n)]
    vectors = [
        {
            "table": draw.integers(-(2**31), 2**31, (7, 3), dtype=np.int32),
            "gram": draw.integers(-(2**63), 2**63 - 1, 5, dtype=np.int64),
            "counts": draw.integers(0, 2**32, 4, dtype=np.uint32),
        }
        for _ in range(n)
    ]
    total = secure_sum(vectors, run="r", round=0, parties=parties, coordinator=Identity())
    with np.errstate(over="ignore"):
        for name in vectors[0]:
            plain = np.add.reduce([vector[name] for vector in vectors], dtype=vectors[0][name].dtype)
            assert total[name].tobytes() == plain.tobytes()
            assert (total[name].dtype, total[name].shape) == (plain.dtype, plain.shape)


def test_sparse_graph_with_dropouts() -> None:
    cohort = Cohort(60, clients=5)
    assert not cohort.manifest.topology.complete
    frames = cohort.until(Stage.SURVIVORS, without=frozenset(range(0, 60, 11)))
    while frames:
        for index, frame in frames:
            for sent in cohort.answers(index, frame):
                cohort.server.receive(sent)
        frames = cohort.server.close()
    server = cohort.server
    assert server.result is not None
    assert len(server.survivors) == 54
    for name, values in cohort.plain_sum(server.survivors).items():
        assert np.array_equal(server.result[name], values)


def test_three_parties_bear_no_dropout() -> None:
    cohort = Cohort(3)
    assert cohort.until(Stage.SURVIVORS, without=frozenset({1})) == []
    assert cohort.server.aborted is not None
    assert cohort.server.aborted.reason is Reason.TOO_FEW_PARTIES


def test_a_party_that_reveals_false_shares_is_named_and_does_no_harm() -> None:
    cohort = Cohort(6)
    for index, frame in cohort.until(Stage.UNMASK):
        (answer,) = cohort.answers(index, frame)
        if index == 0:
            body = os.urandom(len(answer) - 48 - 64)
            key = cohort.manifest.parties[0]
            owner = next(identity(number) for number in range(6) if identity(number).public == key)
            answer = compose(Stage.REVEAL, 0, cohort.manifest.digest, body, owner)
        cohort.server.receive(answer)
    cohort.server.close()
    assert cohort.server.liars == {0}
    assert cohort.server.result is not None
    for name, values in cohort.plain_sum(tuple(range(6))).items():
        assert np.array_equal(cohort.server.result[name], values)


def test_shares_that_open_nothing_end_the_sum() -> None:
    cohort = Cohort(3)
    for index, frame in cohort.until(Stage.UNMASK):
        (answer,) = cohort.answers(index, frame)
        owner = next(i for i in map(identity, range(3)) if i.public == cohort.manifest.parties[index])
        cohort.server.receive(compose(Stage.REVEAL, index, cohort.manifest.digest, bytes(len(answer) - 112), owner))
    cohort.server.close()
    assert cohort.server.result is None
    assert cohort.server.aborted is not None
    assert cohort.server.aborted.reason is Reason.SECRETS_LOST


def test_a_round_has_one_attempt() -> None:
    parties = [Party(Identity(), clients=20) for _ in range(3)]
    vectors = [{"x": np.arange(4, dtype=np.int32)} for _ in parties]
    coordinator = Identity()
    secure_sum(vectors, run="r", round=5, parties=parties, coordinator=coordinator)
    assert {str(party.attempts) for party in parties} == {str(Attempts({"r": 5}, {"r": 5}))}
    for again in (5, 4):
        with pytest.raises(RunError, match="each round has one attempt"):
            secure_sum(vectors, run="r", round=again, parties=parties, coordinator=coordinator)
    secure_sum(vectors, run="r", round=6, parties=parties, coordinator=coordinator)
    secure_sum(vectors, run="other", round=0, parties=parties, coordinator=coordinator)
    assert parties[0].attempts is not None
    assert Attempts.from_data(parties[0].attempts.to_data()) == parties[0].attempts


def test_upload_happens_once() -> None:
    cohort = Cohort(3)
    (index, frame), *_ = cohort.until(Stage.DELIVERY)
    client = cohort.clients[index]
    with pytest.raises(RunError, match="upload can be called once"):
        client.upload(cohort.values[index])
    client.receive(frame)
    with pytest.raises(InputError, match="must have the names"):
        client.upload({})
    blocks = client.upload(cohort.values[index])
    next(blocks)
    with pytest.raises(RunError, match="upload can be called once"):
        client.upload(cohort.values[index])
    assert not client.wants_values


def test_an_abort_stops_an_upload() -> None:
    cohort = Cohort(3)
    (index, frame), *_ = cohort.until(Stage.DELIVERY)
    client = cohort.clients[index]
    client.receive(frame)
    blocks = client.upload(cohort.values[index])
    next(blocks)
    client.receive(cohort.sign(Stage.ABORT, bytes([Reason.CANCELLED])))
    assert [part[5] for part in blocks if part[5] != Stage.BLOCK] == [], "no root is signed"


def test_values_that_do_not_fit_a_block() -> None:
    cohort = Cohort(3)
    (index, frame), *_ = cohort.until(Stage.DELIVERY)
    cohort.clients[index].receive(frame)
    with pytest.raises(InputError, match=r"block 0 of vector 'counts' must have 5 integers of 32 bits, not \(4,\)"):
        next(cohort.clients[index].upload(lambda block: np.zeros(4, np.int32)))


def test_bytes_are_little_more_than_the_vectors() -> None:
    layout = Layout((Slot("x", 1_000_000, 32),))
    cohort = Cohort(5, layout=layout)
    outcome = run_round(cohort.server, cohort.clients, cohort.values)
    assert outcome.arrays is not None
    assert layout.nbytes < outcome.upload_bytes < 1.001 * layout.nbytes
    assert outcome.download_bytes < 5000


def test_total_and_spool_can_be_given() -> None:
    cohort = Cohort(3)
    total, spool = cohort.manifest.layout.zeros(), {}
    server = Server(cohort.manifest, COORDINATOR_KEY, total, spool)
    outcome = run_round(server, cohort.clients, cohort.values)
    assert outcome.arrays is not None
    for name, values in cohort.plain_sum((0, 1, 2)).items():
        assert np.array_equal(total[name], values)
    assert spool == {}


def test_layout_of_a_sum() -> None:
    spec = SumSpec((ArraySpec("a", "dense", (2, 3), bound=1.0), ArraySpec("b", "dense", (4,), bound=1e9, scale_bits=9)))
    assert Layout.of(spec.fit(100)) == Layout((Slot("a", 6, 8), Slot("b", 4, 47)))


def test_impossible_sums() -> None:
    with pytest.raises(PlanError, match="3 or more"):
        secure_sum([], run="r", round=0, parties=[], coordinator=Identity())
    with pytest.raises(PlanError, match="fewer than 3"):
        Floors(bytes(32), frozenset(), parties=2)
    with pytest.raises(PlanError, match="must not be negative"):
        Floors(bytes(32), frozenset(), noise=-1)
    with pytest.raises(InputError, match="is not the public key of"):
        Server(Cohort(3).manifest, identity(1))
    with pytest.raises(PlanError, match="cannot have 9"):
        Cohort(4, min_parties=9)


def test_the_coordinator_can_cancel() -> None:
    cohort = Cohort(3)
    cohort.until(Stage.SURVIVORS)
    for index, frame in cohort.server.cancel(Abort(Reason.CANCELLED)):
        cohort.clients[index].receive(frame)
        assert cohort.clients[index].aborted == Abort(Reason.CANCELLED)
    assert cohort.server.close() == []
    assert cohort.server.waiting == frozenset()


def test_no_secret_is_in_texts_or_logs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Every secret the parties draw and every value they add is searched for wherever text can come from."""
    drawn: list[bytes] = []
    plain = secrets.token_bytes

    def recorded(size: int) -> bytes:
        drawn.append(plain(size))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", recorded)
    caplog.set_level(logging.DEBUG)
    cohort = Cohort(4)
    for values in cohort.values:
        values["gram"][:] = 0x1CEB00DA_C0FFEE11
    texts: list[str] = []
    sent: list[bytes] = []

    def look() -> None:
        for machine in (cohort.server, *cohort.clients, cohort.manifest, cohort.floors, cohort.server._uploads):
            texts.extend((repr(machine), str(machine)))
        for client in cohort.clients:
            texts.extend((repr(client._kept), repr(client.attempts), repr(client._kept.adverts)))

    frames = cohort.server.invite()
    while frames:
        for index, frame in frames:
            sent += (answers := cohort.answers(index, frame))
            for answer in answers:
                cohort.server.receive(answer)
            for spoiled in (frame[:-1], bytes([frame[0]]), frame[:48] + bytes(len(frame) - 48)):
                with pytest.raises(DamagedError) as caught:
                    cohort.clients[index].receive(spoiled)
                texts.append(repr(caught.value))
            look()
        frames = cohort.server.close()
    shares = [share for held in cohort.server._shares.values() for share in held.values()]
    assert shares == [], "the coordinator drops the shares once the sum is open"
    assert len(drawn) >= 3 * 4
    everything = "\n".join(texts) + caplog.text
    needles = [secret.hex() for secret in drawn] + [repr(secret)[2:-1] for secret in drawn]
    needles += [str(0x1CEB00DA_C0FFEE11), f"{0x1CEB00DA_C0FFEE11:x}"]
    for needle in needles:
        assert needle not in everything
    assert not re.search(r"[0-9a-f]{128,}", everything), "nothing as long as a share"
    wire = b"".join(sent)
    for secret in drawn:
        assert secret not in wire
    assert (0x1CEB00DA_C0FFEE11).to_bytes(8, "little") not in wire


def test_a_party_drops_its_secrets() -> None:
    cohort = Cohort(3)
    frames = cohort.until(Stage.SURVIVORS)
    for client in cohort.clients:
        kept = client._kept
        assert kept.secret == kept.seed == b""
        assert kept.channel is None
        assert kept.masks is None
    said = bodies.Survivors((0, 1, 2), (0,), dict.fromkeys(range(3), bytes(32)))
    client = cohort.clients[frames[0][0]]
    client.receive(cohort.sign(Stage.SURVIVORS, said.encode(3)))
    assert client._kept.held == {}
