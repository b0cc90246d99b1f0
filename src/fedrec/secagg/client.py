"""A party of secure aggregation, as a state machine: frames as input and output, no clock, no network, no file.

It passes the stages manifest, roster, delivery, upload, list of survivors and unmasking, once each. A frame that the
coordinator did not sign, or that belongs to another sum, is refused and changes nothing. A frame that the coordinator
signed, and that breaks a rule, ends the sum for this party.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping

import numpy as np

from fedrec.errors import DamagedError, RunError
from fedrec.secagg import bodies, primitives, shamir
from fedrec.secagg.graph import holders, neighbours
from fedrec.secagg.kept import Kept
from fedrec.secagg.layout import Block
from fedrec.secagg.manifest import Manifest, decode_manifest
from fedrec.secagg.masks import pair_key, pair_sign, self_key
from fedrec.secagg.policy import Attempts, Floors
from fedrec.secagg.primitives import ExchangeKey, Identity
from fedrec.secagg.reasons import Abort, AbortError, Reason
from fedrec.secagg.uploading import Values, masked_blocks, reader
from fedrec.secagg.wire import ANYBODY, COORDINATOR, Data, Message, Stage, compose, header, limits, parse, signed_by

__all__ = ["Client"]


class Client:
    """One party in one attempt of one sum.

    Args:
        identity: long-term key pair of the party.
        floors: requirements of the party.
        persist: called with the new record of attempts before the party sends its first frame, and again before it
            reveals a share. It must return only when the record is safe; if it raises, nothing is revealed.
        attempts: the record that was persisted last.
        clients: number of clients that the party declares; public.
    """

    def __init__(
        self,
        identity: Identity,
        floors: Floors,
        persist: Callable[[Attempts], None],
        attempts: Attempts | None = None,
        clients: int = 0,
    ) -> None:
        self.attempts = attempts or Attempts()
        self.aborted: Abort | None = None
        self.answered = False
        self.manifest: Manifest | None = None
        self.survivors: frozenset[bytes] = frozenset()
        self._identity, self._floors, self._persist, self._clients = identity, floors, persist, clients
        self._index = COORDINATOR
        self._next: Stage | None = Stage.MANIFEST
        self._answers: dict[Stage, tuple[bytes, list[bytes]]] = {}
        self._kept = Kept()

    def __repr__(self) -> str:
        place = f"aborted: {self.aborted}" if self.aborted else f"waits for {self._next.name if self._next else 'none'}"
        return f"Client({self._identity.fingerprint[:16]}…, {place})"

    @property
    def public(self) -> bytes:
        """The party's Ed25519 public key."""
        return self._identity.public

    @property
    def wants_values(self) -> bool:
        """Whether `upload` can be called now."""
        return self._kept.masks is not None and self.aborted is None

    def receive(self, frame: Data) -> list[bytes]:
        """Process a frame of the coordinator; returns the frames to send back.

        Repeating a frame repeats its answer. After an abort nothing is answered.

        Raises:
            DamagedError: if the frame is damaged, forged, of another sum or of another stage; nothing changes then.
        """
        message = parse(frame, limits(self.manifest), self.manifest.digest if self.manifest else None)
        if self.aborted is not None:
            return []
        manifest = self.manifest or _read_manifest(message)
        if message.sender != COORDINATOR or not signed_by(manifest.coordinator, message):
            raise DamagedError(f"a message of stage {message.stage.name} is not signed by the coordinator")
        own = message.stage in (Stage.DELIVERY, Stage.UNMASK)
        if message.recipient != (self._index if own else ANYBODY):
            raise DamagedError(f"a message of stage {message.stage.name} is addressed to another party")
        try:
            return self._take(manifest, message)
        except AbortError as error:
            return self._abort(manifest, error.abort)

    def upload(self, values: Values) -> Iterator[Data]:
        """Mask the party's values and yield the frames to send, block by block, in constant memory.

        Args:
            values: integers in the rings of the layout, by name; or a function from a `Block` to its integers.

        Raises:
            RunError: if this is not the stage for an upload, or the upload began before: a mask covers one vector only.
            InputError: if the values do not match the layout.
        """
        manifest, masks = self.manifest, self._kept.masks
        if manifest is None or masks is None or self.aborted is not None:
            raise RunError("upload can be called once, after the delivery of shares and before the list of survivors")
        read = reader(manifest.layout, values)
        self._kept.masks = None
        return self._upload(manifest, masks, read)

    def _upload(
        self, manifest: Manifest, masks: list[tuple[int, bytes]], read: Callable[[Block], np.ndarray]
    ) -> Iterator[Data]:
        root = yield from masked_blocks(manifest, self._index, masks, read)
        masks.clear()
        if self.aborted is not None:
            return
        self._kept.root = root
        yield self._say(Stage.MASKED, root)

    def _take(self, manifest: Manifest, message: Message) -> list[bytes]:
        stage = message.stage
        if stage in self._answers:
            seen, answer = self._answers[stage]
            if seen == message.fingerprint:
                return list(answer)
            raise AbortError(Reason.SECOND_UNMASK if stage is Stage.UNMASK else Reason.TWO_VERSIONS, stage.name)
        if stage is Stage.ABORT:
            raise AbortError(Reason.CANCELLED)
        if stage is not self._next or (stage is Stage.SURVIVORS and self._kept.root is None):
            raise DamagedError(f"a message of stage {stage.name} does not belong to the present stage")
        steps = {
            Stage.MANIFEST: self._on_manifest,
            Stage.ROSTER: self._on_roster,
            Stage.DELIVERY: self._on_delivery,
            Stage.SURVIVORS: self._on_survivors,
            Stage.UNMASK: self._on_unmask,
        }
        try:
            answer = steps[stage](manifest, bytes(message.body))
        except DamagedError as error:
            raise AbortError(Reason.MALFORMED, str(error)) from None
        self._answers[stage] = (message.fingerprint, answer)
        return list(answer)

    def _on_manifest(self, manifest: Manifest, body: bytes) -> list[bytes]:
        self._floors.check(manifest)
        if self._identity.public not in manifest.parties:
            raise AbortError(Reason.NOT_INVITED)
        begun = self.attempts.begin(manifest.run, manifest.round)
        self._persist(begun)
        self.attempts = begun
        self.manifest, self._index = manifest, manifest.parties.index(self._identity.public)
        self._kept.secret, self._kept.seed = primitives.fresh_secret(), primitives.fresh_secret()
        self._kept.channel = ExchangeKey(primitives.fresh_secret())
        sealed = primitives.commitment(self._kept.seed, manifest.digest, self._index)
        mask_key = ExchangeKey(self._kept.secret).public
        self._kept.advert = bodies.Advert(mask_key, self._kept.channel.public, sealed, self._clients).body
        self._next = Stage.ROSTER
        return [self._say(Stage.ADVERT, self._kept.advert)]

    def _on_roster(self, manifest: Manifest, body: bytes) -> list[bytes]:
        adverts = bodies.decode_roster(body, len(manifest.parties))
        if self._index not in adverts:
            raise AbortError(Reason.LEFT_OUT, "the roster")
        if adverts[self._index].body != self._kept.advert:
            raise AbortError(Reason.KEYS_SWAPPED, f"party {self._index}, which is this party")
        self._check_cohort(manifest, adverts, adverts)
        for index, advert in adverts.items():  # also of parties that are not neighbours, as their clients count too
            if index != self._index and not advert.is_signed(manifest.parties[index], manifest.digest, index):
                raise AbortError(Reason.KEYS_SWAPPED, f"party {index}")
        shape = manifest.topology
        near = neighbours(shape, primitives.digest(b"graph", manifest.digest, body), self._index)
        self._kept.near = tuple(index for index in near if index in adverts)
        self._kept.holders = holders(shape, self._kept.near, self._index)
        self._check_neighbours(manifest, adverts)
        seeds = shamir.split(self._kept.seed, manifest.threshold, self._kept.holders)
        keys = shamir.split(self._kept.secret, manifest.threshold, self._kept.holders)
        self._kept.held = {index: (seeds[index], keys[index]) for index in self._kept.holders if index == self._index}
        sealed = []
        for index in self._kept.near:
            key, context = self._channel_to(manifest, adverts[index], self._index, index)
            sealed.append(primitives.seal(key, seeds[index] + keys[index], context))
        self._kept.adverts, self._kept.roster = adverts, body
        self._next = Stage.DELIVERY
        return [self._say(Stage.SHARES, b"".join(sealed))]

    def _on_delivery(self, manifest: Manifest, body: bytes) -> list[bytes]:
        sharing, sealed = bodies.decode_delivery(body, len(manifest.parties), self._kept.near)
        if not set(sharing) <= set(self._kept.adverts):
            raise AbortError(Reason.UNKNOWN_SURVIVORS, "in the list of parties that sent shares")
        if self._index not in sharing:
            raise AbortError(Reason.LEFT_OUT, "the list of parties that sent shares")
        self._check_cohort(manifest, sharing, self._kept.adverts)
        self._check_neighbours(manifest, sharing)
        own = ExchangeKey(self._kept.secret)
        masks = [(1, self_key(self._kept.seed, manifest.digest, self._index))]
        for index, text in sealed.items():
            key, context = self._channel_to(manifest, self._kept.adverts[index], index, self._index)
            try:
                both = primitives.unseal(key, text, context)
            except DamagedError:
                raise AbortError(Reason.BAD_SHARE, f"from party {index}") from None
            self._kept.held[index] = (both[: shamir.SHARE_BYTES], both[shamir.SHARE_BYTES :])
            shared = own.agree(self._kept.adverts[index].mask_key)
            masks.append((pair_sign(self._index, index), pair_key(shared, manifest.digest, self._index, index)))
        self._kept.sharing = sharing
        self._kept.seed = self._kept.secret = b""
        self._kept.channel = None
        self._kept.masks = masks
        self._next = Stage.SURVIVORS
        return []

    def _on_survivors(self, manifest: Manifest, body: bytes) -> list[bytes]:
        survivors = bodies.Survivors.decode(body, len(manifest.parties))
        alive, dead, sharing = set(survivors.alive), set(survivors.dead), set(self._kept.sharing)
        if alive & dead:
            raise AbortError(Reason.ALIVE_AND_DEAD, f"{len(alive & dead)} parties")
        if self._index in dead:
            raise AbortError(Reason.DECLARED_DEAD)
        if not alive | dead <= sharing:
            raise AbortError(Reason.UNKNOWN_SURVIVORS, f"{len((alive | dead) - sharing)} parties")
        if alive | dead != sharing:
            raise AbortError(Reason.INCOMPLETE_SETS, f"{len(sharing - alive - dead)} parties")
        self._check_cohort(manifest, survivors.alive, self._kept.adverts)
        self._check_neighbours(manifest, alive)
        self.survivors = frozenset(manifest.parties[index] for index in alive)
        self._floors.check_survivors(self.survivors)
        if survivors.roots[self._index] != self._kept.root:
            raise AbortError(Reason.INPUT_CHANGED)
        self._kept.alive = frozenset(alive)
        self._kept.consent = bodies.consent_digest(
            manifest.digest, self._kept.roster, bodies.encode_set(self._kept.sharing, len(manifest.parties)), body
        )
        self._next = Stage.UNMASK
        return [self._say(Stage.CONSENT, self._kept.consent)]

    def _on_unmask(self, manifest: Manifest, body: bytes) -> list[bytes]:
        signatures = bodies.decode_signatures(body, len(manifest.parties))
        near = self._kept.alive.intersection(self._kept.holders)
        for index in signatures:
            if index not in near:
                raise AbortError(Reason.UNKNOWN_SURVIVORS, f"party {index} signed and is not a surviving neighbour")
        if len(signatures) < manifest.threshold:
            raise AbortError(Reason.TOO_FEW_SIGNATURES, f"{len(signatures)} of {manifest.threshold}")
        for index, signature in signatures.items():
            text = header(Stage.CONSENT, index, manifest.digest, len(self._kept.consent)) + self._kept.consent
            if not primitives.verify(manifest.parties[index], signature, text):
                raise AbortError(Reason.FORGED_SIGNATURE, f"party {index}")
        answered = self.attempts.answer(manifest.run, manifest.round)
        self._persist(answered)
        self.attempts, self.answered = answered, True
        shares = [self._kept.held[owner][0 if owner in self._kept.alive else 1] for owner in sorted(self._kept.held)]
        self._kept.held = {}
        self._next = None
        return [self._say(Stage.REVEAL, b"".join(shares))]

    def _check_cohort(self, manifest: Manifest, present: Iterable[int], adverts: Mapping[int, bodies.Advert]) -> None:
        self._floors.check_present(manifest, {index: adverts[index].clients for index in present}, self._clients)

    def _check_neighbours(self, manifest: Manifest, present: Container[int]) -> None:
        left = sum(index in present for index in self._kept.holders)
        if left < manifest.threshold:
            raise AbortError(Reason.TOO_FEW_NEIGHBOURS, f"{left} of {manifest.threshold}")

    def _channel_to(self, manifest: Manifest, advert: bodies.Advert, source: int, target: int) -> tuple[bytes, bytes]:
        """Key and context with which `source` seals shares for `target`; this party is one of the two."""
        ends = source.to_bytes(4, "little") + target.to_bytes(4, "little")
        assert self._kept.channel is not None
        shared = self._kept.channel.agree(advert.channel_key)
        return primitives.derive(shared, b"channel", manifest.digest, ends), manifest.digest + ends

    def _say(self, stage: Stage, body: bytes) -> bytes:
        assert self.manifest is not None
        return compose(stage, self._index, self.manifest.digest, body, self._identity)

    def _abort(self, manifest: Manifest, abort: Abort) -> list[bytes]:
        self.aborted = abort
        self._next = None
        self._answers = {}
        self._kept = Kept()
        if self.public not in manifest.parties:
            return []
        index = manifest.parties.index(self.public)
        return [compose(Stage.ABORT, index, manifest.digest, bytes([abort.reason]), self._identity)]


def _read_manifest(message: Message) -> Manifest:
    manifest = decode_manifest(bytes(message.body))
    if manifest.digest != message.context:
        raise DamagedError("a manifest has the digest of another manifest")
    return manifest
