"""A coordinator that lies: every party ends the sum, says why, and has revealed nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fedrec.errors import DamagedError
from fedrec.secagg import bodies
from fedrec.secagg.graph import neighbours, share_among
from fedrec.secagg.layout import Layout, Slot
from fedrec.secagg.policy import Attempts
from fedrec.secagg.primitives import digest
from fedrec.secagg.reasons import Reason
from fedrec.secagg.wire import COORDINATOR, Stage, compose
from secagg_in_test import COORDINATOR_KEY, Cohort, identity

N = 7
LISTED = frozenset(identity(number).public for number in range(N))


def assert_all_abort(cohort: Cohort, frames: list[tuple[int, bytes]], reason: Reason) -> None:
    """Every party told this ends with this reason, tells it, and never answers again."""
    for index, frame in frames:
        client = cohort.clients[index]
        answers = client.receive(frame)
        assert client.aborted is not None, f"party {index} goes on"
        assert client.aborted.reason is reason
        assert [answer[5] for answer in answers] in ([], [Stage.ABORT])
        assert client.receive(frame) == []
        assert not client.answered
        assert not any(kept.answered for kept in cohort.kept[index])
        if answers:
            cohort.server.receive(answers[0])
            assert cohort.server.left[index].reason is reason


MANIFESTS = {
    "stranger": ({"floors": {"pinned": LISTED - {identity(3).public}}}, Reason.UNPINNED_PARTIES),
    "sybils": (
        {"floors": {"pinned": frozenset(identity(number).public for number in (0, 1)), "strangers": 9}},
        Reason.UNPINNED_PARTIES,
    ),
    "small cohort": ({"floors": {"parties": 8}}, Reason.TOO_FEW_PARTIES),
    "few survivors": ({"change": lambda m: replace(m, min_parties=2)}, Reason.TOO_FEW_PARTIES),
    "few clients": ({"min_clients": 31}, Reason.TOO_FEW_CLIENTS),
    "low threshold": ({"change": lambda m: replace(m, threshold=4)}, Reason.LOW_THRESHOLD),
    "own threshold": ({"floors": {"threshold": 7}}, Reason.LOW_THRESHOLD),
    "sparse graph": ({"change": lambda m: replace(m, neighbours=4, threshold=4)}, Reason.WEAK_GRAPH),
    "little noise": ({"floors": {"noise": 1.0}, "noise": 0.5}, Reason.LOW_NOISE),
    "other vectors": ({"floors": {"layout": Layout((Slot("other", 5, 32),))}}, Reason.OTHER_LAYOUT),
    "other transcript": ({"floors": {"transcript": b"\1" * 32}}, Reason.OTHER_TRANSCRIPT),
    "other run": ({"floors": {"run": "other"}}, Reason.OTHER_TRANSCRIPT),
    "other model": ({"floors": {"model": b"\1" * 32}}, Reason.OTHER_TRANSCRIPT),
    "other coordinator": ({"floors": {"coordinator": identity(5).public}}, Reason.UNKNOWN_COORDINATOR),
    "reused round": ({"attempts": Attempts({"run": 1})}, Reason.ROUND_REUSED),
    "earlier round": ({"attempts": Attempts({"run": 8})}, Reason.ROUND_REUSED),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifest_below_the_floors_is_refused_by_all(case: str) -> None:
    settings, reason = MANIFESTS[case]
    cohort = Cohort(N, **settings)
    assert_all_abort(cohort, cohort.server.invite(), reason)
    assert all(not kept for kept in cohort.kept), "a refused manifest begins no round"


def test_parties_of_unlike_transcripts_never_open_a_sum() -> None:
    """One party is shown a manifest of its own; its advert, and those that it is shown, belong to another sum."""
    common, own = Cohort(N), Cohort(N, transcript=b"\1" * 32)
    index = 2
    (advert,) = own.clients[index].receive(own.server.invite()[index][1])
    for other, frame in common.server.invite():
        for sent in common.clients[other].receive(frame) if other != index else [advert]:
            if other == index:
                with pytest.raises(DamagedError, match="belongs to another sum"):
                    common.server.receive(sent)
            else:
                common.server.receive(sent)
    adverts = {**common.server._adverts, index: bodies.decode_advert(advert[48:-64], advert[-64:])}
    roster = bodies.encode_roster(adverts, N)
    for other in range(N):
        cohort = own if other == index else common
        cohort.clients[other].receive(cohort.sign(Stage.ROSTER, roster))
        aborted = cohort.clients[other].aborted
        assert aborted is not None
        assert aborted.reason is Reason.KEYS_SWAPPED


@pytest.mark.parametrize("claims", [[1, 1 << 62, 1], [0, 0, 40], [1] * 32, [1, 1 << 30, 1 << 30] + [1] * 17])
def test_nobody_makes_up_the_clients_of_a_sum_by_claiming_many(claims: list[int]) -> None:
    cohort = Cohort(len(claims), clients=0)
    for client, claim in zip(cohort.clients, claims, strict=True):
        client._clients = claim
    frames = cohort.server.invite()
    for index, frame in frames:
        for sent in cohort.clients[index].receive(frame):
            cohort.server.receive(sent)
    roster = bodies.encode_roster(cohort.server._adverts, len(claims))
    for client in cohort.clients:
        if client._clients < 32:  # whoever speaks for 32 needs nobody's word
            client.receive(cohort.sign(Stage.ROSTER, roster))
            assert client.aborted is not None
            assert client.aborted.reason is Reason.TOO_FEW_CLIENTS
    cohort.server.close()
    assert cohort.server.aborted is not None


@pytest.mark.parametrize(("pinned", "n", "refused"), [(20, 3, True), (20, 4, False), (19, 3, False), (50, 6, True)])
def test_a_sum_of_few_hides_a_party_from_a_tenth_of_all_that_are_pinned(pinned: int, n: int, refused: bool) -> None:
    keys = frozenset(identity(number).public for number in range(pinned))
    few = Cohort(n, clients=40, floors={"pinned": keys}, colluding=share_among(n, pinned))
    if refused:
        assert_all_abort(few, few.server.invite(), Reason.TOO_FEW_PARTIES)
    else:
        few.until(Stage.REVEAL)
        assert few.server.result is not None


def test_a_sum_of_some_has_the_threshold_that_bears_a_tenth_of_all_that_are_pinned() -> None:
    keys = frozenset(identity(number).public for number in range(50))
    assert_all_abort(*_invited(Cohort(9, floors={"pinned": keys})), Reason.LOW_THRESHOLD)


def _invited(cohort: Cohort) -> tuple[Cohort, list[tuple[int, bytes]]]:
    return cohort, cohort.server.invite()


def test_graph_for_fewer_colluders_is_refused() -> None:
    for change in (lambda m: replace(m, threshold=m.threshold - 1), lambda m: replace(m, neighbours=4, threshold=3)):
        cohort = Cohort(60, clients=5, change=change)
        assert not cohort.manifest.topology.complete
        assert_all_abort(cohort, cohort.server.invite(), Reason.WEAK_GRAPH)


def test_uninvited_party_stays_away() -> None:
    cohort = Cohort(N)
    outsider = Cohort(N + 1).clients
    stranger = next(client for client in outsider if client.public not in LISTED)
    assert stranger.receive(cohort.server.invite()[0][1]) == []
    assert stranger.aborted is not None
    assert stranger.aborted.reason is Reason.NOT_INVITED


def roster_of(cohort: Cohort) -> tuple[list[tuple[int, bytes]], dict[int, bodies.Advert]]:
    frames = cohort.until(Stage.ROSTER)
    return frames, bodies.decode_roster(frames[0][1][48:-64], len(cohort.manifest.parties))


@pytest.mark.parametrize("key", ["mask_key", "channel_key", "commitment", "clients"])
def test_swapped_keys(key: str) -> None:
    cohort = Cohort(N)
    frames, adverts = roster_of(cohort)
    adverts[2] = replace(adverts[2], **{key: 99 if key == "clients" else adverts[3].mask_key})
    body = bodies.encode_roster(adverts, N)
    assert_all_abort(cohort, [(index, cohort.sign(Stage.ROSTER, body)) for index, _ in frames], Reason.KEYS_SWAPPED)


def test_the_coordinator_makes_up_no_clients_of_parties_far_away_in_a_sparse_graph() -> None:
    """Eight false claims are more than a tenth of 60 parties; the order on the circle is tried out until they are not
    the neighbours of whom they are told to."""
    cohort = Cohort(60, clients=0)
    for index, frame in cohort.server.invite():
        for sent in cohort.clients[index].receive(frame):
            cohort.server.receive(sent)
    adverts = cohort.server._adverts
    victim, false = 0, range(1, 9)
    for trial in range(1 << 20):
        forged = {index: replace(adverts[index], clients=1000 + trial) for index in false}
        body = bodies.encode_roster({**adverts, **forged}, 60)
        seed = digest(b"graph", cohort.manifest.digest, body)
        if not set(neighbours(cohort.manifest.topology, seed, victim)) & set(false):
            break
    assert_all_abort(cohort, [(victim, cohort.sign(Stage.ROSTER, body))], Reason.KEYS_SWAPPED)


def test_adverts_of_another_sum_or_party_do_not_pass() -> None:
    old = roster_of(Cohort(N, round=0))[1]
    cohort = Cohort(N)
    frames, adverts = roster_of(cohort)
    for forged in (old[2], adverts[3]):
        body = bodies.encode_roster({**adverts, 2: forged}, N)
        cohort = Cohort(N)
        cohort.until(Stage.ROSTER)
        assert_all_abort(cohort, [(i, cohort.sign(Stage.ROSTER, body)) for i, _ in frames], Reason.KEYS_SWAPPED)


def test_short_rosters() -> None:
    cohort = Cohort(N)
    frames, adverts = roster_of(cohort)
    few = bodies.encode_roster({index: adverts[index] for index in range(4)}, N)
    told = [(index, cohort.sign(Stage.ROSTER, few)) for index, _ in frames]
    assert_all_abort(cohort, told[:4], Reason.TOO_FEW_PARTIES)
    assert_all_abort(cohort, told[4:], Reason.LEFT_OUT)


def delivery(cohort: Cohort, frame: bytes, sharing: range | list[int]) -> bytes:
    """The delivery in `frame`, cut down to those in `sharing`."""
    index = int.from_bytes(frame[6:8], "little")
    near = [other for other in range(N) if other != index]
    texts = bodies.decode_delivery(frame[48:-64], N, near)[1]
    body = bodies.encode_set(sharing, N) + b"".join(texts.get(i, bytes(148)) for i in sharing if i != index)
    return cohort.sign(Stage.DELIVERY, body, index)


def test_changed_shares_and_smaller_deliveries() -> None:
    cohort = Cohort(N)
    frames = cohort.until(Stage.DELIVERY)
    told = [(index, delivery(cohort, frame, range(4))) for index, frame in frames]
    assert_all_abort(cohort, told[:4], Reason.TOO_FEW_PARTIES)
    assert_all_abort(cohort, told[4:], Reason.LEFT_OUT)
    cohort = Cohort(N)
    spoiled = []
    for index, frame in cohort.until(Stage.DELIVERY):
        body = bytearray(frame[48:-64])
        body[10] ^= 1
        spoiled.append((index, cohort.sign(Stage.DELIVERY, bytes(body), index)))
    assert_all_abort(cohort, spoiled, Reason.BAD_SHARE)


def test_delivery_of_somebody_who_never_advertised() -> None:
    cohort = Cohort(N)
    _frames, adverts = roster_of(cohort)
    del adverts[6]
    roster = cohort.sign(Stage.ROSTER, bodies.encode_roster(adverts, N))
    for index in range(6):
        assert cohort.clients[index].receive(roster)
        body = bodies.encode_set(range(N), N) + bytes(148 * 5)
        frame = cohort.sign(Stage.DELIVERY, body, index)
        assert_all_abort(cohort, [(index, frame)], Reason.UNKNOWN_SURVIVORS)


SETS = {
    "overlap": (range(7), [0, 1, 2, 3, 4, 5, 6], Reason.ALIVE_AND_DEAD),
    "one in both": (range(7), [6], Reason.ALIVE_AND_DEAD),
    "forgotten": (range(1, 7), [], Reason.INCOMPLETE_SETS),
    "all dead": ([], range(7), Reason.DECLARED_DEAD),
}


@pytest.mark.parametrize("case", SETS)
def test_lists_of_survivors_that_cannot_be(case: str) -> None:
    alive, dead, reason = SETS[case]
    cohort = Cohort(N)
    frames = cohort.until(Stage.SURVIVORS)
    roots = dict.fromkeys(range(N), bytes(32))
    frame = cohort.sign(Stage.SURVIVORS, bodies.Survivors(tuple(alive), tuple(dead), roots).encode(N))
    assert_all_abort(cohort, [(index, frame) for index, _ in frames], reason)


def test_survivors_who_never_shared_and_too_few_survivors() -> None:
    for alive, dead, reason in (
        (range(7), (), Reason.UNKNOWN_SURVIVORS),
        (range(4), (4, 5), Reason.TOO_FEW_PARTIES),
    ):
        cohort = Cohort(N)
        frames = cohort.until(Stage.ROSTER)
        for index, frame in frames[:6]:
            cohort.server.receive(cohort.answers(index, frame)[0])
        for index, frame in cohort.server.close():
            cohort.answers(index, frame)
        said = bodies.Survivors(tuple(alive), tuple(dead), dict.fromkeys(range(N), bytes(32)))
        frame = cohort.sign(Stage.SURVIVORS, said.encode(N))
        assert_all_abort(cohort, [(index, frame) for index in range(4)], reason)


def test_another_masked_vector_than_was_sent() -> None:
    cohort = Cohort(N)
    frames = cohort.until(Stage.SURVIVORS)
    said = bodies.Survivors.decode(frames[0][1][48:-64], N)
    changed = replace(said, roots={index: bytes(32) for index in said.roots})
    frame = cohort.sign(Stage.SURVIVORS, changed.encode(N))
    assert_all_abort(cohort, [(index, frame) for index, _ in frames], Reason.INPUT_CHANGED)


def unmask(cohort: Cohort, frame: bytes, keep: int, spoil: bool = False) -> bytes:
    """The request for shares in `frame` with the first `keep` signatures."""
    signatures = dict(list(bodies.decode_signatures(frame[48:-64], N).items())[:keep])
    if spoil:
        signatures[0] = bytes(64)
    body = bodies.encode_set(signatures, N) + b"".join(signatures[index] for index in sorted(signatures))
    return cohort.sign(Stage.UNMASK, body, int.from_bytes(frame[6:8], "little"))


def test_unmasking_without_enough_true_signatures() -> None:
    for keep, spoil, reason in ((4, False, Reason.TOO_FEW_SIGNATURES), (6, True, Reason.FORGED_SIGNATURE)):
        cohort = Cohort(N)
        frames = [(index, unmask(cohort, frame, keep, spoil)) for index, frame in cohort.until(Stage.UNMASK)]
        assert_all_abort(cohort, frames, reason)


def test_second_unmask_and_repeated_one() -> None:
    cohort = Cohort(N)
    frames = cohort.until(Stage.UNMASK)
    for index, frame in frames:
        client = cohort.clients[index]
        first = client.receive(frame)
        assert client.answered
        assert cohort.kept[index][-1].answered == {"run": 1}
        assert client.receive(frame) == first, "the same request again gets the same bytes again"
        (answer,) = client.receive(unmask(cohort, frame, 5))
        assert answer[5] == Stage.ABORT
        assert client.aborted is not None
        assert client.aborted.reason is Reason.SECOND_UNMASK
        assert client.receive(frame) == []


@pytest.mark.parametrize("stage", [Stage.ROSTER, Stage.DELIVERY, Stage.SURVIVORS])
def test_two_versions_of_one_message(stage: Stage) -> None:
    cohort = Cohort(N)
    told = []
    for index, frame in cohort.until(stage):
        assert cohort.answers(index, frame)
        changed = bytearray(frame[48:-64])
        changed[-1] ^= 1
        recipient = int.from_bytes(frame[6:8], "little")
        told.append((index, cohort.sign(stage, bytes(changed), recipient)))
    assert_all_abort(cohort, told, Reason.TWO_VERSIONS)


def test_two_views_of_who_survived_open_nothing() -> None:
    """Half of the parties hear that 6 is alive, half that it is dead: neither half can show enough signatures."""
    cohort = Cohort(N)
    frames = cohort.until(Stage.SURVIVORS)
    said = bodies.Survivors.decode(frames[0][1][48:-64], N)
    other = bodies.Survivors(said.alive[:6], (6,), said.roots)
    views = {index: (said if index in (0, 1, 2, 6) else other).encode(N) for index in range(N)}
    signatures = {}
    for index in range(N):
        (consent,) = cohort.clients[index].receive(cohort.sign(Stage.SURVIVORS, views[index]))
        signatures[index] = consent[-64:]
    for shown in (range(6), range(N)):
        body = bodies.encode_set(shown, N) + b"".join(signatures[index] for index in shown)
        for index in range(6):
            client = cohort.clients[index]
            client.receive(cohort.sign(Stage.UNMASK, body, index))
            assert client.aborted is not None
            assert client.aborted.reason in (Reason.FORGED_SIGNATURE, Reason.UNKNOWN_SURVIVORS)
            assert not client.answered


def test_malformed_but_signed() -> None:
    for stage in (Stage.ROSTER, Stage.DELIVERY, Stage.SURVIVORS, Stage.UNMASK):
        cohort = Cohort(N)
        frames = cohort.until(stage)
        told = [(i, cohort.sign(stage, frame[48:-65], int.from_bytes(frame[6:8], "little"))) for i, frame in frames]
        assert_all_abort(cohort, told, Reason.MALFORMED)


def test_frames_of_others_change_nothing() -> None:
    cohort = Cohort(N)
    frames = cohort.until(Stage.SURVIVORS)
    forged = compose(Stage.SURVIVORS, COORDINATOR, cohort.manifest.digest, frames[0][1][48:-64], identity(2))
    later = cohort.sign(Stage.UNMASK, bytes(1), 0)
    elsewhere = compose(Stage.SURVIVORS, COORDINATOR, bytes(32), frames[0][1][48:-64], COORDINATOR_KEY)
    misdirected = cohort.sign(Stage.SURVIVORS, frames[0][1][48:-64], 3)
    for frame in (forged, later, elsewhere, misdirected, frames[0][1][:-1], b""):
        with pytest.raises(DamagedError):
            cohort.clients[0].receive(frame)
    assert cohort.clients[0].aborted is None
    assert cohort.clients[0].receive(frames[0][1])[0][5] == Stage.CONSENT


def test_no_share_is_revealed_before_the_record_is_safe() -> None:
    cohort = Cohort(N)
    frames = cohort.until(Stage.UNMASK)
    client = cohort.clients[0]

    def fail(attempts: Attempts) -> None:
        raise OSError("disk full")

    client._persist = fail
    with pytest.raises(OSError, match="disk full"):
        client.receive(frames[0][1])
    assert not client.answered
    client.attempts = client.attempts.answer("run", 1)
    client._persist = cohort.kept[0].append
    (answer,) = client.receive(frames[0][1])
    assert answer[5] == Stage.ABORT
    assert client.aborted is not None
    assert client.aborted.reason is Reason.ALREADY_ANSWERED
