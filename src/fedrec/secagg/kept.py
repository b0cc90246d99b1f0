"""What a party keeps during a secure sum; most of it is secret, and all of it is dropped at an abort."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedrec.secagg.bodies import Advert
from fedrec.secagg.primitives import ExchangeKey

__all__ = ["Kept"]


@dataclass(repr=False)
class Kept:
    """A party's memory of one sum.

    Args:
        secret: of the X25519 key from which pairs derive their masks; until the masks are made.
        seed: of its own mask; as long.
        channel: the key pair under which shares are sealed; as long.
        advert, roster, consent: bytes that were sent or agreed to.
        near: neighbours that advertised.
        holders: who holds shares of its secrets.
        sharing: who sent shares.
        alive: who sent a masked vector.
        adverts: of all parties.
        held: shares of others' seeds and keys, by owner; until it has answered.
        masks: what its upload adds, until the upload begins.
        root: of its masked vector, from the end of the upload on.
    """

    secret: bytes = b""
    seed: bytes = b""
    channel: ExchangeKey | None = None
    advert: bytes = b""
    roster: bytes = b""
    consent: bytes = b""
    near: tuple[int, ...] = ()
    holders: tuple[int, ...] = ()
    sharing: tuple[int, ...] = ()
    alive: frozenset[int] = frozenset()
    adverts: dict[int, Advert] = field(default_factory=dict)
    held: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    masks: list[tuple[int, bytes]] | None = None
    root: bytes | None = None
