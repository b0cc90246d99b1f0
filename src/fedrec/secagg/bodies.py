"""The bodies of messages. Every size follows from the manifest and earlier messages, and must match exactly."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from fedrec.errors import DamagedError
from fedrec.secagg.primitives import KEY_BYTES, SIGNATURE_BYTES, digest, verify
from fedrec.secagg.shamir import SHARE_BYTES
from fedrec.secagg.wire import ADVERT_BYTES, SEALED_BYTES, Stage, header

__all__ = ["Advert", "Survivors", "decode_roster", "decode_set", "encode_roster", "encode_set"]

_ADVERT = struct.Struct("<32s32s32sQ")
_Bytes = bytes | memoryview


@dataclass(frozen=True)
class Advert:
    """The public values of a party for one sum.

    Args:
        mask_key: X25519 key from which pairs derive their masks.
        channel_key: X25519 key with which shares are sealed.
        commitment: commitment to the seed of the party's own mask.
        clients: number of clients that the party declares; public, and not more than it has.
        signature: Ed25519 signature of the other fields.
    """

    mask_key: bytes
    channel_key: bytes
    commitment: bytes
    clients: int
    signature: bytes = field(default=b"", repr=False)

    @property
    def body(self) -> bytes:
        """The bytes of the advert, without the signature."""
        return _ADVERT.pack(self.mask_key, self.channel_key, self.commitment, self.clients)

    def is_signed(self, public: bytes, context: bytes, index: int) -> bool:
        """Whether the party with this index signed the advert for the sum of this manifest."""
        return verify(public, self.signature, header(Stage.ADVERT, index, context, ADVERT_BYTES), self.body)


@dataclass(frozen=True)
class Survivors:
    """Parties that sent a masked vector, parties that sent shares but no vector, and the roots of the vectors."""

    alive: tuple[int, ...]
    dead: tuple[int, ...]
    roots: Mapping[int, bytes] = field(repr=False)

    def encode(self, parties: int) -> bytes:
        """The bytes of the list."""
        roots = b"".join(self.roots[index] for index in self.alive)
        return encode_set(self.alive, parties) + encode_set(self.dead, parties) + roots

    @classmethod
    def decode(cls, body: _Bytes, parties: int) -> Survivors:
        """Read the bytes of a list.

        Raises:
            DamagedError: if the size is wrong.
        """
        bits = _set_bytes(parties)
        alive, dead = decode_set(body[:bits], parties), decode_set(body[bits : 2 * bits], parties)
        return cls(alive, dead, dict(zip(alive, _pieces(body[2 * bits :], len(alive), KEY_BYTES), strict=True)))


def decode_advert(body: _Bytes, signature: bytes) -> Advert:
    """Read an advert.

    Raises:
        DamagedError: if the size is wrong, or the number of clients is impossible.
    """
    if len(body) != _ADVERT.size:
        raise DamagedError(f"an advert must have {_ADVERT.size} bytes, not {len(body)}")
    mask_key, channel_key, sealed, clients = _ADVERT.unpack(body)
    if clients >= 1 << 63:
        raise DamagedError("an advert declares an impossible number of clients")
    return Advert(mask_key, channel_key, sealed, clients, signature)


def encode_set(indices: Collection[int], parties: int) -> bytes:
    """A set of parties, one bit each.

    >>> encode_set([0, 9], 10), decode_set(bytes([1, 2]), 10)
    (b'\\x01\\x02', (0, 9))
    """
    bits = bytearray(_set_bytes(parties))
    for index in indices:
        bits[index >> 3] |= 1 << (index & 7)
    return bytes(bits)


def decode_set(data: _Bytes, parties: int) -> tuple[int, ...]:
    """Read a set of parties, in ascending order.

    Raises:
        DamagedError: if the size is wrong, or the set contains an index beyond the last party.
    """
    if len(data) != _set_bytes(parties):
        raise DamagedError("a set of parties has a wrong size")
    if int.from_bytes(data, "little") >> parties:
        raise DamagedError("a set of parties contains an index beyond the last party")
    return tuple(index for index in range(parties) if data[index >> 3] >> (index & 7) & 1)


def encode_roster(adverts: Mapping[int, Advert], parties: int) -> bytes:
    """All adverts with their signatures."""
    listed = sorted(adverts)
    return encode_set(listed, parties) + b"".join(adverts[index].body + adverts[index].signature for index in listed)


def decode_roster(body: _Bytes, parties: int) -> dict[int, Advert]:
    """Read all adverts, by party; signatures are not checked here.

    Raises:
        DamagedError: if a size is wrong.
    """
    bits = _set_bytes(parties)
    listed = decode_set(body[:bits], parties)
    pieces = _pieces(body[bits:], len(listed), ADVERT_BYTES + SIGNATURE_BYTES)
    return {
        index: decode_advert(piece[:ADVERT_BYTES], piece[ADVERT_BYTES:])
        for index, piece in zip(listed, pieces, strict=True)
    }


def decode_sealed(body: _Bytes, owners: Sequence[int]) -> dict[int, bytes]:
    """Read one sealed pair of shares for, or from, each of some parties.

    Raises:
        DamagedError: if the number of shares is wrong.
    """
    return dict(zip(owners, _pieces(body, len(owners), SEALED_BYTES), strict=True))


def decode_delivery(body: _Bytes, parties: int, near: Collection[int]) -> tuple[tuple[int, ...], dict[int, bytes]]:
    """Read the parties that sent shares, and the sealed shares of the neighbours among them for this party.

    Raises:
        DamagedError: if a size is wrong.
    """
    bits = _set_bytes(parties)
    sharing = decode_set(body[:bits], parties)
    return sharing, decode_sealed(body[bits:], [index for index in sharing if index in near])


def decode_signatures(body: _Bytes, parties: int) -> dict[int, bytes]:
    """Read signatures by party.

    Raises:
        DamagedError: if a size is wrong.
    """
    bits = _set_bytes(parties)
    signers = decode_set(body[:bits], parties)
    return dict(zip(signers, _pieces(body[bits:], len(signers), SIGNATURE_BYTES), strict=True))


def decode_shares(body: _Bytes, owners: Sequence[int]) -> dict[int, bytes]:
    """Read one revealed share per owner.

    Raises:
        DamagedError: if the number of shares is wrong.
    """
    return dict(zip(owners, _pieces(body, len(owners), SHARE_BYTES), strict=True))


def consent_digest(context: bytes, roster: bytes, sharing: _Bytes, survivors: _Bytes) -> bytes:
    """The digest that survivors sign: of keys, parties that sent shares, survivors, and roots of masked vectors."""
    return digest(b"survivors", context, digest(b"roster", roster), bytes(sharing), bytes(survivors))


def _set_bytes(parties: int) -> int:
    return (parties + 7) // 8


def _pieces(data: _Bytes, count: int, size: int) -> list[bytes]:
    if len(data) != count * size:
        raise DamagedError(f"a list must have {count} × {size} bytes, not {len(data)}")
    return [bytes(data[at : at + size]) for at in range(0, len(data), size)]
