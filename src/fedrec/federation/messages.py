"""The bytes between a coordinator and its nodes: signed requests and replies.

A frame is `FRMSG002`, the number of its parts, the sizes of its head and of them, the SHA-256 of the parts, the head
(JSON), an Ed25519 signature over all before, and the parts. So what goes to many nodes, as a model does, is hashed and
held once. Sizes are checked before anything is read. A request says which run and which node it is for and has a number
that only grows, so that it can neither be replayed nor handed to somebody else. A reply names the request it answers by
the digest of what is signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fedrec.documents import parse_json
from fedrec.errors import DamagedError, RunError
from fedrec.models.base import Arrays
from fedrec.record.keys import PublicKey, SigningKey
from fedrec.record.layout import arrays_in, pieces_of

__all__ = [
    "Frame",
    "Reply",
    "Request",
    "open_reply",
    "open_request",
    "pack_arrays",
    "request_digest",
    "unpack_arrays",
]

_MAGIC = b"FRMSG002"
_HEAD_LIMIT = 1 << 24
_PARTS_LIMIT = 1 << 16
_SIGNATURE = 64
_DIGEST = 32
_REQUEST = b"fedrec request\n"
_REPLY = b"fedrec reply\n"


@dataclass(frozen=True)
class Frame:
    """A signed request on its way.

    Args:
        head: all that is signed, and the signature.
        parts: what follows; requests to many nodes may share them.
    """

    head: bytes
    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return len(self.head) + sum(map(len, self.parts))

    @property
    def digest(self) -> str:
        """By which a reply names the request."""
        return hashlib.sha256(self.head).hexdigest()

    def whole(self) -> bytes:
        """One piece, as a node gets it."""
        return b"".join([self.head, *self.parts])


@dataclass(frozen=True)
class Request:
    """What a coordinator asks of one node.

    Args:
        kind: which question.
        run: number of the run, in hexadecimal.
        to: name of the node.
        number: grows from request to request.
        fields: what JSON can say of it.
        parts: what it cannot.
    """

    kind: str
    run: str
    to: str
    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[bytes] = ()

    def sign(self, key: SigningKey, digest: bytes | None = None) -> Frame:
        """The frame.

        Args:
            key: the coordinator's.
            digest: SHA-256 of the parts in a row, where it is known.
        """
        head = {"kind": self.kind, "run": self.run, "to": self.to, "number": self.number, "fields": dict(self.fields)}
        return _frame(_REQUEST, head, self.parts, key, digest)


@dataclass(frozen=True)
class Reply:
    """What a node answers.

    Args:
        name: of the node.
        about: digest of the request.
        problem: why there is no answer: a word for programs; `None` where there is one.
        fields: what JSON can say of it; under `text`, the problem in words.
        parts: what it cannot.
    """

    name: str
    about: str
    problem: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[bytes] = ()

    def sign(self, key: SigningKey) -> bytes:
        """The frame."""
        head = {"name": self.name, "about": self.about, "problem": self.problem, "fields": dict(self.fields)}
        return _frame(_REPLY, head, self.parts, key).whole()


def open_request(frame: bytes, key: PublicKey, limit: int) -> tuple[Request, str]:
    """Check and read a request; also returns its digest.

    Args:
        frame: as it arrived.
        key: the coordinator's, pinned.
        limit: most bytes that are accepted.

    Raises:
        DamagedError: if it is damaged, too long, not a request, or not signed by `key`.
    """
    head, parts = _open(frame, _REQUEST, key, limit, "request")
    kinds = {"kind": str, "run": str, "to": str, "number": int, "fields": dict}
    _check(head, kinds, "request")
    return Request(**head, parts=parts), request_digest(frame)


def open_reply(frame: bytes, key: PublicKey, about: str, limit: int) -> Reply:
    """Check and read a node's reply to the request with digest `about`.

    Raises:
        DamagedError: if it is damaged, too long, not signed by `key`, or an answer to something else.
    """
    head, parts = _open(frame, _REPLY, key, limit, "reply")
    _check(head, {"name": str, "about": str, "problem": (str, type(None)), "fields": dict}, "reply")
    if head["about"] != about or head["name"] != key.name:
        raise DamagedError(f"a reply of {head['name']!r} answers another request than the one to {key.name!r}")
    return Reply(**head, parts=parts)


def request_digest(frame: bytes) -> str:
    """The digest by which a reply names the request; of all of it where it has not the form of one."""
    found = _sizes(frame)
    end = len(frame) if found is None else found.signed + _SIGNATURE
    return hashlib.sha256(memoryview(frame)[:end]).hexdigest()


def pack_arrays(arrays: Arrays) -> bytes:
    """Named arrays as safetensors."""
    return b"".join(pieces_of(arrays))


def unpack_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Named arrays from safetensors.

    Raises:
        DamagedError: if they are not.
    """
    return arrays_in(bytearray(data), "the arrays of a message")


def _frame(
    purpose: bytes, head: Mapping[str, Any], parts: Sequence[bytes], key: SigningKey, digest: bytes | None = None
) -> Frame:
    text = json.dumps(head, sort_keys=True, separators=(",", ":")).encode()
    if len(text) > _HEAD_LIMIT:
        raise RunError(f"a message of {len(text)} bytes beside its parts; at most {_HEAD_LIMIT} can be sent")
    sizes = np.array([len(text), *(len(part) for part in parts)], dtype="<u8").tobytes()
    if digest is None:
        hashed = hashlib.sha256()
        for part in parts:
            hashed.update(part)
        digest = hashed.digest()
    signed = b"".join([_MAGIC, len(parts).to_bytes(4, "little"), sizes, digest, text])
    return Frame(signed + key.sign(purpose + hashlib.sha256(signed).digest()), tuple(parts))


class _Sizes(NamedTuple):
    """Where the head begins, where what is signed ends, and how long the parts are."""

    head: int
    signed: int
    parts: list[int]


def _sizes(frame: bytes) -> _Sizes | None:
    """What a frame says of its sizes, if they fit it."""
    if not isinstance(frame, bytes) or not frame.startswith(_MAGIC) or len(frame) < 12:
        return None
    count = int.from_bytes(frame[8:12], "little")
    start = 12 + 8 * (count + 1) + _DIGEST
    if count > _PARTS_LIMIT or start > len(frame):
        return None
    head, *parts = np.frombuffer(frame, dtype="<u8", count=count + 1, offset=12).tolist()
    if head > _HEAD_LIMIT or start + head + _SIGNATURE + sum(parts) != len(frame):
        return None
    return _Sizes(start, start + head, parts)


def _open(
    frame: bytes, purpose: bytes, key: PublicKey, limit: int, what: str
) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    if isinstance(frame, bytes) and len(frame) > limit:
        raise DamagedError(f"a {what} of {len(frame)} bytes; at most {limit} are accepted")
    sizes = _sizes(frame)
    if sizes is None:
        raise DamagedError(f"these bytes are not a {what}: they are cut, or longer than they say, or something else")
    view, place = memoryview(frame), sizes.signed + _SIGNATURE
    key.check(purpose + hashlib.sha256(view[: sizes.signed]).digest(), frame[sizes.signed : place])
    if hashlib.sha256(view[place:]).digest() != frame[sizes.head - _DIGEST : sizes.head]:
        raise DamagedError(f"the parts of a {what} are not those that were signed")
    try:
        head = parse_json(frame[sizes.head : sizes.signed])
    except ValueError as error:
        raise DamagedError(f"the head of a {what} cannot be read: {error}") from None
    if not isinstance(head, dict):
        raise DamagedError(f"the head of a {what} is not a mapping")
    parts = []
    for size in sizes.parts:
        parts.append(frame[place : place + size])
        place += size
    return head, tuple(parts)


def _check(head: Mapping[str, Any], kinds: Mapping[str, Any], what: str) -> None:
    if set(head) != set(kinds) or not all(isinstance(head[name], kind) for name, kind in kinds.items()):
        raise DamagedError(f"the head of a {what} does not have the fields that it must have")
