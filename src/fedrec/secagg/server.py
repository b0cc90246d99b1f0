"""The coordinator of secure aggregation, as a state machine: frames as input and output, no clock, no network, no file.

Each stage collects frames until the caller calls `close`, when all parties have answered or the time is up. Frames may
arrive twice, late, in any order or damaged; frames that cannot be used are refused and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable

import numpy as np

from fedrec.errors import DamagedError, InputError
from fedrec.secagg import bodies, primitives
from fedrec.secagg.graph import holders, neighbours
from fedrec.secagg.manifest import Manifest
from fedrec.secagg.opening import masks_left, take_off
from fedrec.secagg.policy import borne_out
from fedrec.secagg.primitives import ExchangeKey, Identity
from fedrec.secagg.reasons import Abort, AbortError, Reason
from fedrec.secagg.uploads import Spool, Uploads
from fedrec.secagg.wire import COORDINATOR, Data, Message, Stage, compose, limits, parse, signed_by

__all__ = ["Frames", "Server"]

Frames = list[tuple[int, bytes]]
_HEARD = (Stage.ADVERT, Stage.SHARES, Stage.BLOCK, Stage.MASKED, Stage.CONSENT, Stage.REVEAL, Stage.ABORT)


class Server:
    """The coordinator in one attempt of one sum.

    Args:
        manifest: the manifest of the sum.
        identity: the coordinator's key pair, whose public key is in the manifest.
        total: unsigned arrays by name for the sum, for instance mapped from a file.
        spool: storage for blocks of incomplete vectors, by party and block.
    """

    def __init__(
        self,
        manifest: Manifest,
        identity: Identity,
        total: dict[str, np.ndarray] | None = None,
        spool: Spool | None = None,
    ) -> None:
        if identity.public != manifest.coordinator:
            raise InputError("the coordinator's key in the manifest is not the public key of `identity`")
        self.manifest = manifest
        self.aborted: Abort | None = None
        self.left: dict[int, Abort] = {}
        self.liars: frozenset[int] = frozenset()
        self.survivors: tuple[int, ...] = ()
        self.result: dict[str, np.ndarray] | None = None
        self._identity = identity
        self._uploads = Uploads(manifest.layout, total, spool)
        self._limits = {stage: size for stage, size in limits(manifest).items() if stage in _HEARD}
        self._stage: Stage | None = Stage.ADVERT
        self._expected: frozenset[int] = frozenset(range(len(manifest.parties)))
        self._heard: dict[tuple[int, Stage], bytes] = {}
        self._done: set[int] = set()
        self._adverts: dict[int, bodies.Advert] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._sharing: tuple[int, ...] = ()
        self._dead: dict[int, tuple[int, ...]] = {}
        self._consents: dict[int, bytes] = {}
        self._shares: dict[int, dict[int, bytes]] = {}
        self._shape = manifest.topology
        self._near: dict[int, tuple[int, ...]] = {}
        self._roster = self._consent = b""

    def __repr__(self) -> str:
        place = f"aborted: {self.aborted}" if self.aborted else self._stage.name if self._stage else "done"
        return f"Server({self.manifest.run!r}, round {self.manifest.round}, {place})"

    @property
    def stage(self) -> Stage | None:
        """The present stage; `None` when the sum is done or aborted."""
        return self._stage

    @property
    def waiting(self) -> frozenset[int]:
        """Parties whose message of the present stage is missing, and that have not left."""
        return self._expected - self._done - set(self.left) - self._uploads.refused if self._stage else frozenset()

    def invite(self) -> Frames:
        """Frames with the manifest, one for each party."""
        return self._to(range(len(self.manifest.parties)), Stage.MANIFEST, self.manifest.body)

    def receive(self, frame: Data, sender: int | None = None) -> None:
        """Process a frame of a party; the caller must not change the frame afterwards. Repeated frames are ignored.

        Args:
            frame: the frame as it arrived.
            sender: the party of the connection, if known. Blocks have no signatures, so without `sender` anybody who
                reaches the coordinator can spoil the upload of a party (but never the sum).

        Raises:
            DamagedError: if the frame is damaged, forged, of another sum or stage, or contradicts an earlier frame.
                Nothing changes then, except that a vector that does not match its root is refused for good.
        """
        message = parse(frame, self._limits, self.manifest.digest)
        party, stage = message.sender, message.stage
        if sender is not None and party != sender:
            raise DamagedError(f"party {sender} sent a message of stage {stage.name} in the name of another party")
        if party >= len(self.manifest.parties):
            raise DamagedError(f"a message of stage {stage.name} comes from a party that is not in the manifest")
        if stage is not Stage.BLOCK and not signed_by(self.manifest.parties[party], message):
            raise DamagedError(f"a message of stage {stage.name} is not signed by party {party}")
        seen = None if stage is Stage.BLOCK else self._heard.get((party, stage))
        if seen is not None:
            if seen != message.fingerprint:
                raise DamagedError(f"party {party} sent two versions of its message of stage {stage.name}")
            return
        if stage is Stage.ABORT:
            self._on_abort(party, message)
        else:
            self._on_stage(party, message)
        if stage is not Stage.BLOCK:
            self._heard[party, stage] = message.fingerprint

    def close(self) -> Frames:
        """End the present stage with the frames that have arrived, and begin the next stage.

        Returns:
            Frames to send, by party; none after the last stage, which sets `result`. If the sum cannot continue,
            `aborted` is set and the frames tell the parties.
        """
        if self._stage is None:
            return []
        steps: dict[Stage, Callable[[], Frames]] = {
            Stage.ADVERT: self._end_adverts,
            Stage.SHARES: self._end_shares,
            Stage.MASKED: self._end_vectors,
            Stage.CONSENT: self._end_consents,
            Stage.REVEAL: self._end_shares_revealed,
        }
        try:
            return steps[self._stage]()
        except AbortError as error:
            return self.cancel(error.abort)

    def cancel(self, abort: Abort) -> Frames:
        """End the sum without a result; returns frames that tell the parties that have not left."""
        self.aborted, self._stage = abort, None
        self._uploads.drop_unfinished()
        self._shares = {}
        present = [index for index in self._adverts if index not in self.left]
        return self._to(present, Stage.ABORT, bytes([abort.reason]))

    def _on_abort(self, party: int, message: Message) -> None:
        try:
            reason = Reason(message.body[0])
        except (ValueError, IndexError):
            raise DamagedError(f"party {party} left with an unknown reason") from None
        self.left[party] = Abort(reason, f"party {party}")

    def _on_stage(self, party: int, message: Message) -> None:
        stage, body = message.stage, message.body
        gathered = Stage.MASKED if stage is Stage.BLOCK else stage
        if gathered is not self._stage:
            raise DamagedError(
                f"a message of stage {stage.name} from party {party} does not belong to the present stage"
            )
        if party not in self._expected:
            raise DamagedError(f"a message of stage {stage.name} is not expected from party {party}")
        if stage is Stage.BLOCK:
            self._uploads.add_block(party, body)
        elif stage is Stage.MASKED:
            self._uploads.close_vector(party, bytes(body))
        elif stage is Stage.ADVERT:
            self._adverts[party] = _checked(bodies.decode_advert(body, message.signature))
        elif stage is Stage.SHARES:
            self._sealed[party] = bodies.decode_sealed(body, self._near[party])
        elif stage is Stage.CONSENT:
            if bytes(body) != self._consent:
                raise DamagedError(f"party {party} agreed to another list of survivors")
            self._consents[party] = message.signature
        else:
            owners = sorted({*holders(self._shape, self._near[party], party)} & set(self._sharing))
            for owner, share in bodies.decode_shares(body, owners).items():
                self._shares.setdefault(owner, {})[party] = share
        if gathered is not Stage.MASKED or party in self._uploads.roots:
            self._done.add(party)

    def _end_adverts(self) -> Frames:
        manifest = self.manifest
        self._check_cohort(self._adverts)
        self._roster = bodies.encode_roster(self._adverts, len(manifest.parties))
        seed = primitives.digest(b"graph", manifest.digest, self._roster)
        self._near = {
            party: tuple(other for other in neighbours(self._shape, seed, party) if other in self._adverts)
            for party in self._adverts
        }
        return self._go_on(Stage.SHARES, self._to(self._adverts, Stage.ROSTER, self._roster), self._adverts)

    def _end_shares(self) -> Frames:
        self._sharing = tuple(sorted(self._sealed))
        self._check_cohort(self._sharing)
        bits = bodies.encode_set(self._sharing, len(self.manifest.parties))
        frames: Frames = []
        for party in self._sharing:
            texts = [self._sealed[other][party] for other in self._near[party] if other in self._sealed]
            frames.append(self._for(party, Stage.DELIVERY, bits + b"".join(texts)))
        return self._go_on(Stage.MASKED, frames, self._sharing)

    def _end_vectors(self) -> Frames:
        self._uploads.drop_unfinished()
        alive = tuple(sorted(self._uploads.roots))
        self._check_cohort(alive)
        gone = tuple(sorted(set(self._sharing) - set(alive)))
        near_alive = {
            party: tuple(other for other in self._near[party] if other in self._uploads.roots) for party in gone
        }
        self._dead = {party: others for party, others in near_alive.items() if others}
        self.survivors = alive
        self._check_openable(alive, Reason.TOO_FEW_NEIGHBOURS)
        survivors = bodies.Survivors(alive, gone, self._uploads.roots).encode(len(self.manifest.parties))
        sharing = bodies.encode_set(self._sharing, len(self.manifest.parties))
        self._consent = bodies.consent_digest(self.manifest.digest, self._roster, sharing, survivors)
        return self._go_on(Stage.CONSENT, self._to(alive, Stage.SURVIVORS, survivors), alive)

    def _end_consents(self) -> Frames:
        signed = {party: self._signed_near(party) for party in self._consents}
        revealing = {party: near for party, near in signed.items() if len(near) >= self.manifest.threshold}
        self._check_openable(revealing, Reason.TOO_FEW_SIGNATURES)
        frames: Frames = []
        for party, near in revealing.items():
            texts = [self._consents[other] for other in near]
            body = bodies.encode_set(near, len(self.manifest.parties)) + b"".join(texts)
            frames.append(self._for(party, Stage.UNMASK, body))
        return self._go_on(Stage.REVEAL, frames, revealing)

    def _end_shares_revealed(self) -> Frames:
        masks, self.liars = masks_left(self.manifest, self._adverts, self.survivors, self._dead, self._shares)
        take_off(self.manifest, self._uploads.total, masks)
        self.result = self._uploads.total
        self._stage, self._shares = None, {}
        return []

    def _go_on(self, stage: Stage, frames: Frames, expected: Iterable[int]) -> Frames:
        self._stage, self._expected, self._done = stage, frozenset(expected), set()
        return frames

    def _signed_near(self, party: int) -> tuple[int, ...]:
        return tuple(other for other in holders(self._shape, self._near[party], party) if other in self._consents)

    def _check_cohort(self, present: Collection[int]) -> None:
        if len(present) < self.manifest.min_parties:
            raise AbortError(Reason.TOO_FEW_PARTIES, f"{len(present)} of {self.manifest.min_parties}")
        claims = sorted(self._adverts[party].clients for party in present)
        clients = claims[0] + borne_out(
            claims[1:], len(self.manifest.parties)
        )  # as the party with the smallest declaration counts them
        if clients < self.manifest.min_clients:
            words = f"{clients} of {self.manifest.min_clients}, without the largest declarations, which may be false"
            raise AbortError(Reason.TOO_FEW_CLIENTS, words)

    def _check_openable(self, present: Container[int], reason: Reason) -> None:
        """Check that the present parties have enough shares of every secret that must be recovered."""
        for owner in (*self.survivors, *self._dead):
            held = sum(other in present for other in holders(self._shape, self._near[owner], owner))
            if held < self.manifest.threshold:
                raise AbortError(reason, f"party {owner}: {held} of {self.manifest.threshold}")

    def _for(self, party: int, stage: Stage, body: bytes) -> tuple[int, bytes]:
        return party, compose(stage, COORDINATOR, self.manifest.digest, body, self._identity, party)

    def _to(self, parties: Iterable[int], stage: Stage, body: bytes) -> Frames:
        frame = compose(stage, COORDINATOR, self.manifest.digest, body, self._identity)
        return [(party, frame) for party in parties]


def _checked(advert: bodies.Advert) -> bodies.Advert:
    """The advert, checked to have keys that are strong enough for a key exchange.

    Raises:
        DamagedError: if a key is too weak.
    """
    probe = ExchangeKey(primitives.fresh_secret())
    probe.agree(advert.mask_key)
    probe.agree(advert.channel_key)
    return advert
