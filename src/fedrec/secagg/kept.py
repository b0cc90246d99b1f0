"""The state of a party during one sum, most of which is secret; an abort deletes all of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from fedrec.secagg.bodies import Advert
from fedrec.secagg.primitives import ExchangeKey

__all__ = ["Kept"]


@dataclass(repr=False)
class Kept:
    """The state of a party during one sum.

    Args:
        secret: secret of the X25519 key from which pairs derive their masks; kept until the masks are made.
        seed: seed of the party's own mask; kept as long.
        channel: key pair with which shares are sealed; kept as long.
        advert: bytes of the party's advert.
        roster: bytes of the roster.
        consent: digest of the list of survivors that the party agreed to.
        near: neighbours that sent adverts.
        holders: parties that have shares of this party's secrets.
        sharing: parties that sent shares.
        alive: parties that sent a masked vector.
        adverts: adverts of all parties.
        held: shares of seeds and keys of other parties, by owner; kept until this party reveals shares.
        masks: masks of the upload; kept until the upload begins.
        root: root of the masked vector, set at the end of the upload.
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
