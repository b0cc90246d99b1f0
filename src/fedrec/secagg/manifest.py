"""The manifest of secure aggregation and its bytes: the parties, the vectors, and the protection."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import cached_property

from fedrec.errors import DamagedError, InputError, PlanError
from fedrec.secagg.graph import COLLUDING, MAX_PARTIES, Topology, topology
from fedrec.secagg.layout import MAX_NAME, MAX_SLOTS, Layout, Slot
from fedrec.secagg.primitives import KEY_BYTES, digest

__all__ = ["MANIFEST_LIMIT", "Manifest", "decode_manifest", "invite"]

_MAX_RUN = 64
_FIXED = struct.Struct("<Q32s32s32sIIIIQdIH")
_SLOT = struct.Struct("<BQB")
MANIFEST_LIMIT = 1 + _MAX_RUN + _FIXED.size + KEY_BYTES * MAX_PARTIES + (_SLOT.size + MAX_NAME) * MAX_SLOTS


@dataclass(frozen=True)
class Manifest:
    """The terms of a sum, which the coordinator signs and every party compares with its own requirements first.

    Args:
        run: name of the run, 1 to 64 bytes.
        round: number of the sum in the run; a party begins each number once, in ascending order.
        model: SHA-256 of the model from which contributions are computed.
        transcript: SHA-256 of the requests to the parties, which every party checks, so that masks of different
            requests never cancel.
        coordinator: Ed25519 public key of the coordinator.
        parties: Ed25519 public keys of the parties in ascending order; the index of a party is its place here.
        neighbours: see `Topology`.
        threshold: see `Topology`.
        colluders: see `Topology`.
        min_parties: minimum number of survivors of a sum that may be opened.
        min_clients: minimum number of clients that the survivors declare together.
        noise: minimum noise multiplier of the survivors' shares of noise together; 0 for no noise.
        layout: the vectors.

    Raises:
        InputError: if a value is impossible.
    """

    run: str
    round: int
    model: bytes
    transcript: bytes
    coordinator: bytes
    parties: tuple[bytes, ...]
    neighbours: int
    threshold: int
    colluders: int
    min_parties: int
    min_clients: int
    noise: float
    layout: Layout

    def __post_init__(self) -> None:
        n = len(self.parties)
        fits = {
            "run": 1 <= len(self.run.encode(errors="replace")) <= _MAX_RUN and self.run.isprintable(),
            "round": 0 <= self.round < 1 << 63,
            "model": len(self.model) == KEY_BYTES,
            "transcript": len(self.transcript) == KEY_BYTES,
            "coordinator": len(self.coordinator) == KEY_BYTES,
            "parties": 3 <= n <= MAX_PARTIES and all(len(key) == KEY_BYTES for key in self.parties),
            "neighbours": self.neighbours == n - 1 or (2 <= self.neighbours < n - 1 and self.neighbours % 2 == 0),
            "threshold": 2 <= self.threshold <= n,
            "colluders": 0 <= self.colluders <= n,
            "min_parties": 2 <= self.min_parties <= n,
            "min_clients": 0 <= self.min_clients < 1 << 63,
            "noise": math.isfinite(self.noise) and self.noise >= 0,
        }
        for name, fit in fits.items():
            if not fit:
                raise InputError(f"the manifest has an impossible value of {name}")
        if any(one >= other for one, other in zip(self.parties, self.parties[1:], strict=False)):
            raise InputError("the parties of a manifest are not in ascending order, or a party is listed twice")

    @property
    def topology(self) -> Topology:
        """Graph and threshold of the sum."""
        return Topology(len(self.parties), self.neighbours, self.threshold, self.colluders)

    @cached_property
    def body(self) -> bytes:
        """The canonical bytes of the manifest."""
        run = self.run.encode()
        fixed = _FIXED.pack(
            self.round,
            self.model,
            self.transcript,
            self.coordinator,
            self.neighbours,
            self.threshold,
            self.colluders,
            self.min_parties,
            self.min_clients,
            self.noise,
            len(self.parties),
            len(self.layout.slots),
        )
        slots = [
            _SLOT.pack(len(slot.name.encode()), slot.length, slot.ring) + slot.name.encode()
            for slot in self.layout.slots
        ]
        return b"".join([bytes([len(run)]), run, fixed, *self.parties, *slots])

    @cached_property
    def digest(self) -> bytes:
        """The digest of the manifest, to which every message, key and signature of the sum is bound."""
        return digest(b"manifest", self.body)


def invite(
    run: str,
    round: int,
    coordinator: bytes,
    parties: list[bytes],
    layout: Layout,
    *,
    model: bytes = bytes(KEY_BYTES),
    transcript: bytes = bytes(KEY_BYTES),
    min_parties: int | None = None,
    min_clients: int = 32,
    noise: float = 0.0,
    colluding: float = COLLUDING,
    dropping: float = 0.1,
) -> Manifest:
    """A manifest whose graph and threshold are chosen by `topology`.

    Args:
        parties: public keys in any order.
        min_parties: minimum number of survivors; by default the number that `dropping` leaves, or the threshold in a
            complete graph.
        colluding: maximum share of parties that collude with the coordinator.
        dropping: maximum share of parties that drop out.

    Other arguments are fields of `Manifest`.

    Raises:
        PlanError: if `min_parties` is more than the number of parties.
    """
    shape = topology(len(parties), colluding, dropping)
    least = max(3, math.ceil((1 - dropping) * len(parties)) if min_parties is None else min_parties)
    if shape.complete:
        least = shape.threshold if min_parties is None else max(least, shape.threshold)
    if least > len(parties):
        raise PlanError(
            f"secure aggregation of {len(parties)} parties cannot have {least} survivors; lower min_parties"
        )
    return Manifest(
        run=run,
        round=round,
        model=model,
        transcript=transcript,
        coordinator=coordinator,
        parties=tuple(sorted(parties)),
        neighbours=shape.neighbours,
        threshold=shape.threshold,
        colluders=shape.colluders,
        min_parties=least,
        min_clients=min_clients,
        noise=noise,
        layout=layout,
    )


def decode_manifest(body: bytes) -> Manifest:
    """Read the bytes of a manifest.

    Raises:
        DamagedError: if the bytes are not a valid manifest in canonical form.
    """
    if not body or len(body) > MANIFEST_LIMIT:
        raise DamagedError("a manifest is empty or too long")
    place = 1 + body[0]
    if len(body) < place + _FIXED.size:
        raise DamagedError("a manifest is incomplete")
    *numbers, n, slots = _FIXED.unpack_from(body, place)
    names = (
        *("round", "model", "transcript", "coordinator", "neighbours", "threshold", "colluders"),
        *("min_parties", "min_clients", "noise"),
    )
    fields = dict(zip(names, numbers, strict=True))
    start = place + _FIXED.size
    end = start + KEY_BYTES * n
    if n > MAX_PARTIES or slots > MAX_SLOTS or len(body) < end:
        raise DamagedError("a manifest lists too many parties or vectors, or is incomplete")
    parties = tuple(body[at : at + KEY_BYTES] for at in range(start, end, KEY_BYTES))
    try:
        run = body[1:place].decode()
        manifest = Manifest(run=run, parties=parties, layout=_read_layout(body[end:], slots), **fields)
    except (InputError, UnicodeDecodeError) as error:
        raise DamagedError(
            f"a manifest is wrong: {error if isinstance(error, InputError) else 'the run is not text'}"
        ) from None
    if manifest.body != body:
        raise DamagedError("a manifest is not in canonical form")
    return manifest


def _read_layout(data: bytes, count: int) -> Layout:
    slots, place = [], 0
    for _ in range(count):
        if len(data) < place + _SLOT.size:
            raise DamagedError("a manifest is incomplete in its list of vectors")
        size, length, ring = _SLOT.unpack_from(data, place)
        place += _SLOT.size
        slots.append(Slot(data[place : place + size].decode(), length, ring))
        place += size
    if place != len(data):
        raise DamagedError("a manifest has bytes after its vectors, or is incomplete")
    return Layout(tuple(slots))
