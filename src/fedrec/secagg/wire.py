"""The frame of every message of secure aggregation: a header, a body of known size, and a signature.

A frame is a header of 48 bytes (`FRSA`, version, stage, recipient, sender, length, digest of the manifest), the body,
and the sender's Ed25519 signature of both. Blocks of masked values have no signature: the message that ends an
upload signs a digest of all blocks. The length is compared with the limit of the stage before anything else is read.
"""

from __future__ import annotations

import enum
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedrec.errors import DamagedError
from fedrec.secagg.layout import BLOCK_BYTES
from fedrec.secagg.manifest import MANIFEST_LIMIT, Manifest
from fedrec.secagg.primitives import SIGNATURE_BYTES, Identity, verify

__all__ = ["COORDINATOR", "HEADER_BYTES", "Message", "Stage", "compose", "limits", "parse", "signed_by"]

Data = bytes | bytearray

COORDINATOR = 0xFFFF_FFFF
ANYBODY = 0xFFFF
ADVERT_BYTES = 104
SEALED_BYTES = 148
_MAGIC = b"FRSA"
_VERSION = 2
_HEADER = struct.Struct("<4sBBHII32s")
HEADER_BYTES = _HEADER.size


class Stage(enum.IntEnum):
    """Kinds of messages, in the order of a sum."""

    MANIFEST = 1
    ADVERT = 2
    ROSTER = 3
    SHARES = 4
    DELIVERY = 5
    BLOCK = 6
    MASKED = 7
    SURVIVORS = 8
    CONSENT = 9
    UNMASK = 10
    REVEAL = 11
    ABORT = 12


@dataclass(frozen=True)
class Message:
    """A frame that was read and has the right form; its content is not checked yet.

    Args:
        stage: kind of the message.
        sender: index of the party, or `COORDINATOR`.
        recipient: index of the party, or `ANYBODY`.
        context: digest of its manifest.
        body: the bytes between header and signature.
        signature: signature of header and body; empty for a block.
        signed: header and body; empty for a block.
    """

    stage: Stage
    sender: int
    recipient: int
    context: bytes
    body: memoryview = field(repr=False)
    signature: bytes = field(repr=False)
    signed: bytes = field(repr=False)

    @property
    def fingerprint(self) -> bytes:
        """A digest that differs for different versions of a message."""
        return hashlib.sha256(self.signed or self.body).digest()


def header(stage: Stage, sender: int, context: bytes, length: int, recipient: int = ANYBODY) -> bytes:
    """The header of a frame."""
    return _HEADER.pack(_MAGIC, _VERSION, stage, recipient, sender, length, context)


def compose(
    stage: Stage, sender: int, context: bytes, body: bytes, identity: Identity, recipient: int = ANYBODY
) -> bytes:
    """A signed frame."""
    text = header(stage, sender, context, len(body), recipient) + body
    return text + identity.sign(text)


def signed_by(public: bytes, message: Message) -> bool:
    """Whether this key signed the frame."""
    return verify(public, message.signature, message.signed)


def limits(manifest: Manifest | None) -> Mapping[Stage, int]:
    """Maximum length of the body of each stage; without a manifest, only a manifest is allowed."""
    if manifest is None:
        return {Stage.MANIFEST: MANIFEST_LIMIT}
    n, near = len(manifest.parties), manifest.neighbours
    bits = (n + 7) // 8
    return {
        Stage.MANIFEST: len(manifest.body),
        Stage.ADVERT: ADVERT_BYTES,
        Stage.ROSTER: bits + n * (ADVERT_BYTES + SIGNATURE_BYTES),
        Stage.SHARES: near * SEALED_BYTES,
        Stage.DELIVERY: bits + near * SEALED_BYTES,
        Stage.BLOCK: 8 + BLOCK_BYTES,
        Stage.MASKED: 32,
        Stage.SURVIVORS: 2 * bits + 32 * n,
        Stage.CONSENT: 32,
        Stage.UNMASK: bits + (near + 1) * SIGNATURE_BYTES,
        Stage.REVEAL: (near + 1) * 66,
        Stage.ABORT: 1,
    }


def parse(data: Data, allowed: Mapping[Stage, int], context: bytes | None) -> Message:
    """Read a frame.

    Args:
        data: the frame; the body of a block is not copied.
        allowed: maximum length of the body by stage; other stages are refused.
        context: digest of the manifest to which the frame must belong; `None` for any.

    Raises:
        DamagedError: if the frame is malformed, too long, incomplete, of another stage or of another manifest.
    """
    if len(data) < HEADER_BYTES:
        raise DamagedError("these bytes are not a message of secure aggregation: too short")
    magic, version, number, recipient, sender, length, own = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise DamagedError("these bytes are not a message of secure aggregation")
    if version != _VERSION:
        raise DamagedError(
            f"a message has protocol version {version}, and this side has version {_VERSION}; install the same fedrec"
        )
    try:
        stage = Stage(number)
    except ValueError:
        raise DamagedError(f"a message has the unknown stage {number}") from None
    if stage not in allowed:
        raise DamagedError(f"a message of stage {stage.name} is not expected here")
    if length > allowed[stage]:
        raise DamagedError(f"a message of stage {stage.name} has {length} bytes, and {allowed[stage]} are allowed")
    tail = 0 if stage is Stage.BLOCK else SIGNATURE_BYTES
    if len(data) != HEADER_BYTES + length + tail:
        raise DamagedError(f"a message of stage {stage.name} is incomplete, or longer than its header says")
    if context is not None and own != context:
        raise DamagedError(f"a message of stage {stage.name} belongs to another sum")
    end = HEADER_BYTES + length
    body = memoryview(data)[HEADER_BYTES:end]
    if stage is Stage.BLOCK:
        return Message(stage, sender, recipient, own, body, b"", b"")
    return Message(stage, sender, recipient, own, body, bytes(data[end:]), bytes(data[:end]))
