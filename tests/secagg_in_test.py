"""Secure aggregation to play with: a cohort in single stages, a network that loses and spoils, and an oracle."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from fedrec.errors import DamagedError
from fedrec.secagg.client import Client
from fedrec.secagg.graph import holders
from fedrec.secagg.layout import Layout, Slot, add_plainly
from fedrec.secagg.manifest import Manifest, invite
from fedrec.secagg.policy import Attempts, Floors
from fedrec.secagg.primitives import Identity
from fedrec.secagg.reasons import Reason
from fedrec.secagg.server import Server
from fedrec.secagg.wire import ANYBODY, COORDINATOR, HEADER_BYTES, Stage, compose

Array = np.ndarray
SMALL = Layout((Slot("counts", 5, 32), Slot("gram", 3, 64), Slot("pairs", 9, 5), Slot("wide", 4, 37)))
GATHERED = (Stage.ADVERT, Stage.SHARES, Stage.MASKED, Stage.CONSENT, Stage.REVEAL)


@functools.cache
def identity(number: int) -> Identity:
    """The same key pair for the same number."""
    return Identity(number.to_bytes(32, "little"))


COORDINATOR_KEY = identity(999_999)


def some_values(layout: Layout, seed: int) -> dict[str, Array]:
    """Numbers of the whole type, some of them outside a narrower ring."""
    draw = np.random.default_rng(seed)
    return {
        slot.name: draw.integers(0, 2 ** (8 * slot.dtype.itemsize), slot.length, dtype=slot.dtype)
        for slot in layout.slots
    }


class Cohort:
    """One sum: a coordinator, its parties, their values and what each persisted."""

    def __init__(
        self,
        n: int,
        *,
        round: int = 1,
        layout: Layout = SMALL,
        clients: int = 20,
        floors: dict | None = None,
        change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
        attempts: Attempts | None = None,
        **invitation: object,
    ) -> None:
        keys = [identity(number).public for number in range(n)]
        manifest = invite("run", round, COORDINATOR_KEY.public, keys, layout, **invitation)  # type: ignore[arg-type]
        self.manifest = change(manifest)
        self.floors = Floors(**{"coordinator": COORDINATOR_KEY.public, "pinned": frozenset(keys), **(floors or {})})
        owners = {identity(number).public: identity(number) for number in range(n)}
        self.kept: list[list[Attempts]] = [[] for _ in self.manifest.parties]
        self.clients = [
            Client(owners[key], self.floors, self.kept[index].append, attempts, clients)
            for index, key in enumerate(self.manifest.parties)
        ]
        self.server = Server(self.manifest, COORDINATOR_KEY)

    @functools.cached_property
    def values(self) -> list[dict[str, Array]]:
        """What each party adds."""
        n, round = len(self.manifest.parties), self.manifest.round
        return [some_values(self.manifest.layout, 100 * round + index) for index in range(n)]

    def sign(self, stage: Stage, body: bytes, recipient: int = ANYBODY) -> bytes:
        """A frame that the coordinator signed."""
        return compose(stage, COORDINATOR, self.manifest.digest, body, COORDINATOR_KEY, recipient)

    def answers(self, index: int, frame: bytes) -> list[bytes]:
        """What a party sends on a frame, its upload included."""
        client = self.clients[index]
        sent = client.receive(frame)
        return sent + [bytes(part) for part in client.upload(self.values[index])] if client.wants_values else sent

    def until(self, stage: Stage, without: frozenset[int] = frozenset()) -> list[tuple[int, bytes]]:
        """Play fairly until the coordinator is about to send frames of `stage`; some stay away from then on."""
        frames = self.server.invite()
        while frames and frames[0][1][5] != stage:
            for index, frame in frames:
                if index in without and frame[5] == Stage.DELIVERY:
                    continue
                for sent in self.answers(index, frame):
                    self.server.receive(sent)
            frames = self.server.close()
        return frames

    def plain_sum(self, survivors: tuple[int, ...]) -> dict[str, Array]:
        return add_plainly(self.manifest.layout, [self.values[index] for index in survivors])


@dataclass
class Schedule:
    """What happens to a cohort: who is lost at which stage, and how untidy the network is."""

    seed: int
    n: int
    lost: dict[int, Stage]
    untidy: float
    invitation: dict = field(default_factory=dict)
    clients: int = 20

    @classmethod
    def draw(cls, seed: int) -> Schedule:
        dice = random.Random(seed)
        low, high = dice.choices([(3, 12), (13, 40), (41, 100)], [75, 20, 5])[0]
        n = dice.randint(low, high)
        rate = dice.choice([0, 0.03, 0.1, 0.1, 0.2, 0.4])
        when = dice.choice([(stage,) for stage in GATHERED] + [GATHERED] * 5)
        lost = {index: dice.choice(when) for index in range(n) if dice.random() < rate}
        invitation: dict = {"min_clients": 32}
        if dice.random() < 0.5:
            invitation["min_parties"] = dice.randint(3, max(3, n // 2))
        return cls(seed, n, lost, dice.choice([0, 0.1, 0.5]), invitation, dice.choice([1, 12, 20, 50]))


def oracle(schedule: Schedule, manifest: Manifest, near: dict[int, tuple[int, ...]]) -> frozenset[int] | None:
    """Whose exact sum is due, or `None` for an abort: sets and counts only, no cryptography."""
    shape = manifest.topology
    held = {index: set(holders(shape, others, index)) for index, others in near.items()}

    def stay(present: set[int], stage: Stage) -> set[int]:
        return {index for index in present if schedule.lost.get(index) is not stage}

    def enough(present: set[int]) -> bool:
        liars = max(1, schedule.n // 10)  # their claims count for nothing
        sure = (1 + max(0, len(present) - 1 - liars)) * schedule.clients
        return len(present) >= manifest.min_parties and sure >= manifest.min_clients

    def with_holders(present: set[int], of: set[int]) -> set[int]:
        return {index for index in of if len(held[index] & present) >= manifest.threshold}

    advertised = stay(set(range(schedule.n)), Stage.ADVERT)
    if not enough(advertised):
        return None
    shared = stay(with_holders(advertised, advertised), Stage.SHARES)
    if not enough(shared):
        return None
    alive = stay(with_holders(shared, shared), Stage.MASKED)
    if not enough(alive):
        return None
    secrets = alive | {index for index in shared - alive if set(near[index]) & alive}
    consenting = stay(with_holders(alive, alive), Stage.CONSENT)
    asked = with_holders(consenting, consenting)
    revealing = stay(asked, Stage.REVEAL)
    fine = all(with_holders(present, secrets) == secrets for present in (alive, asked, revealing))
    return frozenset(alive) if fine else None


class Network:
    """Between parties and coordinator: copies, old frames, frames of another sum, damaged ones, in any order."""

    def __init__(self, dice: random.Random, untidy: float, foreign: list[bytes]) -> None:
        self.dice, self.untidy, self.foreign = dice, untidy, foreign
        self.past: list[bytes] = []

    def mess_up(self, frames: list[bytes]) -> list[bytes]:
        """The frames in another order, with others among them that must not matter."""
        dice, more = self.dice, []
        for frame in frames:
            while dice.random() < self.untidy:
                more.append(dice.choice([frame, frame, *self.past[-50:], *self.foreign[:50]]))
            if dice.random() < self.untidy and frame[5] != Stage.BLOCK:
                place = dice.randrange(len(frame))
                more.append(frame[:place] + bytes([frame[place] ^ 1 << dice.randrange(8)]) + frame[place + 1 :])
        self.past += frames
        mixed = frames + more
        dice.shuffle(mixed)
        return mixed


def play(schedule: Schedule, foreign: list[bytes]) -> tuple[Cohort, frozenset[int] | None]:
    """Play a schedule; returns the cohort afterwards, and what the oracle says is due."""
    dice = random.Random(schedule.seed)
    cohort = Cohort(schedule.n, round=7, clients=schedule.clients, **schedule.invitation)
    server, down, up = cohort.server, Network(dice, schedule.untidy, foreign), Network(dice, schedule.untidy, foreign)
    frames, late = server.invite(), []
    down_by_party: dict[int, list[bytes]] = {}
    while frames:
        for index, frame in frames:
            down_by_party.setdefault(index, []).append(frame)
        sent: list[tuple[int, bytes]] = []
        for index, frame in frames:
            old = dice.choice(down_by_party[index]) if dice.random() < schedule.untidy else frame
            for copy in down.mess_up([frame, old]):
                sent += [(index, answer) for answer in _try(functools.partial(cohort.answers, index), copy)]
        on_time, held_back = [], []
        for index, frame in sent:
            stage = Stage.MASKED if frame[5] == Stage.BLOCK else Stage(frame[5])
            gone = schedule.lost.get(index) is stage and not (frame[5] == Stage.BLOCK and dice.random() < 0.5)
            (held_back if gone else on_time).append(frame)
        for frame in up.mess_up(on_time):
            _try(server.receive, frame)
        frames = server.close()
        late += held_back
        for frame in late:
            _try(server.receive, frame)
    return cohort, oracle(schedule, cohort.manifest, server._near)


def _try(take: Callable[[bytes], list[bytes] | None], frame: bytes) -> list[bytes]:
    try:
        return take(frame) or []
    except DamagedError:
        return []


@functools.cache
def foreign_frames() -> list[bytes]:
    """All frames of another sum among the same first parties, to be replayed."""
    cohort = Cohort(5, round=6)
    frames, all_frames = cohort.server.invite(), []
    while frames:
        for index, frame in frames:
            sent = cohort.answers(index, frame)
            all_frames += [frame, *sent]
            for answer in sent:
                cohort.server.receive(answer)
        frames = cohort.server.close()
    return [frame for frame in all_frames if frame[5] != Stage.MANIFEST]  # a party's record of rounds refuses that one


def check_schedule(seed: int) -> str:
    """Play one drawn schedule and compare with the oracle; says what came of it."""
    cohort, due = play(Schedule.draw(seed), foreign_frames())
    server = cohort.server
    if due is None:
        assert server.result is None, f"seed {seed}: a sum where an abort was due"
        assert server.aborted is not None, f"seed {seed}: neither sum nor abort"
        return "abort"
    assert server.result is not None, f"seed {seed}: {server.aborted} where a sum of {len(due)} was due"
    assert set(server.survivors) == due, f"seed {seed}: the sum is over others"
    for name, values in cohort.plain_sum(server.survivors).items():
        assert np.array_equal(server.result[name], values), f"seed {seed}: a wrong sum"
    assert all(left.reason is Reason.TOO_FEW_NEIGHBOURS for left in server.left.values())
    return "sum"


def machines() -> list[tuple[object, list[bytes]]]:
    """A party and a coordinator at every stage, each with the fair frames that it is due."""
    found: list[tuple[object, list[bytes]]] = []
    for stage in (Stage.MANIFEST, Stage.ROSTER, Stage.DELIVERY, Stage.SURVIVORS, Stage.UNMASK):
        cohort = Cohort(4)
        frames = cohort.until(stage)
        found.append((cohort.clients[0], [frames[0][1]]))
        cohort = Cohort(4)
        sent = [part for index, frame in cohort.until(stage) for part in cohort.answers(index, frame)]
        found.append((cohort.server, sent))
    return found


def spoil(frame: bytes, dice: random.Random) -> bytes:
    """A frame with some bytes changed, put in, or cut."""
    data = bytearray(frame)
    for _ in range(dice.randint(1, 4)):
        kind, place = dice.randrange(4), dice.randrange(len(data) + 1)
        if kind == 0 and data:
            data[place % len(data)] = dice.randrange(256)
        elif kind == 1 and data:
            data[place % min(len(data), HEADER_BYTES)] ^= 1 << dice.randrange(8)
        elif kind == 2:
            data[place:place] = dice.randbytes(dice.randint(1, 9))
        else:
            del data[place : place + dice.randint(1, 9)]
    return bytes(data)
